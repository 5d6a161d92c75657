"""Stored records for a run without a bot: backtesting, hyperopt and their relatives.

What must stay true: neither FreqAI's saved models and predictions nor freqtrade's results of earlier backtests
answer for other records. The records' identity is part of the folder that FreqAI finds its own by; what
freqtrade finds by its config is refused, unless the identity is in there, too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from feeder_mixin.errors import SettingsError
from feeder_mixin.freqai.parameters import CONFIG, SPELLINGS
from feeder_mixin.freqai.reader import FreqaiReader
from feeder_mixin.freqai.settings import FreqaiSettings
from feeder_mixin.freqai.targets import TunedOn
from feeder_mixin.live.announce import log_loaded, log_refused, warn_hindsight
from feeder_mixin.live.reload.loader import Loaded, LoadedPair, load_parameters, records_at
from feeder_mixin.schema import hash48
from feeder_mixin.settings import RECORDS_KEY

logger = logging.getLogger(__name__)

GENERATION = 1
"""A run loads once."""


@dataclass(slots=True)
class StoredParameters:
    """What every pair trains with in one run; loaded once."""

    reader: FreqaiReader
    loaded: Loaded

    @classmethod
    def load(cls, settings: FreqaiSettings, environ: Mapping[str, str]) -> StoredParameters:
        """Ask the store for the newest records, or those of ``FEEDER_RECORDS_AT``.

        Raises
        ------
        SettingsError
            When the store's URL or token, or that time, is wrong.
        """
        reader = FreqaiReader(settings)
        return cls(reader, load_parameters(reader, environ, None, records_at(environ)))

    @property
    def identity(self) -> str:
        """Return what tells the models of these parameters from those of others: 12 hex digits."""
        settings = self.reader.settings
        pairs = (f"{pair} {_training_text(one)}" for pair, one in self.loaded.pairs.items())
        block = json.dumps(settings.model_training_parameters, sort_keys=True, default=str)
        number = hash48(block, *map(str, settings.targets), *sorted(pairs))
        return f"{number:012x}"

    def log(self) -> None:
        """Write what was loaded."""
        log_loaded(self.reader.settings, self.loaded, GENERATION)

    def warn_hindsight(self, pair: str, first_s: int) -> None:
        """Say when a pair's parameters were tuned on candles of the backtest."""
        loaded = self.loaded.pairs.get(pair)
        if loaded is not None:
            warn_hindsight(loaded, first_s)

    def parameters_for(self, pair: str, tuned_on: TunedOn) -> tuple[LoadedPair, int]:
        """Return what a pair trains with; a record of other features or targets is refused, once."""
        loaded = self.loaded.pairs.get(pair) or self.reader.fallback(pair)
        reason = tuned_on.refusal(pair, loaded.tuned_on)
        if reason is not None:
            loaded = replace(self.reader.fallback(pair), rejected=reason)
            log_refused(loaded)
            pairs = {**self.loaded.pairs, pair: loaded}
            self.loaded = replace(self.loaded, pairs=pairs)
        return loaded, GENERATION


def separate_models(config: dict[str, Any], stored: StoredParameters) -> None:
    """Let FreqAI keep what it makes with these parameters in a folder of their own."""
    freqai = config["freqai"]
    name = f"{freqai['identifier']}-{stored.identity}"
    # A block of its own: whoever shares the config's keeps the identifier that was written.
    config["freqai"] = {**freqai, "identifier": name}
    logger.info("FreqAI's models of these records are kept apart identifier=%s", name)


def check_result_cache(config: Mapping[str, Any]) -> None:
    """Raise `SettingsError` where freqtrade may answer with an earlier backtest's result.

    It looks for one before it loads a FreqAI model, so only its config can tell of other records.
    """
    if config.get("backtest_cache", "day") != "none" and RECORDS_KEY not in config:
        raise SettingsError(
            "freqtrade may answer this backtest with the result of an earlier one, which knew other records: "
            "run it with --cache none, or derive the strategy from OptunaParamsMixin, too"
        )


def _training_text(loaded: LoadedPair) -> str:
    if loaded.source == CONFIG:
        return CONFIG
    names = (name for name in SPELLINGS if name != "quantile_alpha")
    return " ".join(repr(loaded.parameters[name]) for name in names)
