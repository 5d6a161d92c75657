"""Which records serve a FreqAI bot, and what runs without one.

What must stay true: a record that was tuned on other features or targets than the strategy has never trains
a model. What the strategy has is known from the first training on, and from then on every load asks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from feeder_mixin.freqai.settings import FreqaiSettings
from feeder_mixin.freqai.targets import TunedOn
from feeder_mixin.live.reload.loader import Loaded, LoadedPair
from feeder_mixin.schema import ParameterRecord, refusal

logger = logging.getLogger(__name__)

_NO_CANDLES: Final = 0
"""A FreqAI record is told by its hashes, not by the length of a candle."""


@dataclass(frozen=True, slots=True)
class FreqaiReader:
    """The `RecordReader` of a FreqAI bot.

    Attributes
    ----------
    known
        Pair -> what its model is trained on, as far as that is known; others write it.
    """

    settings: FreqaiSettings
    known: dict[str, TunedOn] = field(default_factory=dict)

    def refusal(self, record: ParameterRecord) -> str | None:
        """Return why a record can't serve: another model type, other features or targets."""
        reason = refusal(record, self.settings, _NO_CANDLES)
        known = self.known.get(record.pair)
        if reason is not None or known is None:
            return reason
        return known.refusal(record.pair, record.metrics)

    def fallback(self, pair: str) -> LoadedPair:
        """Return the config's own values."""
        return LoadedPair(pair, self.settings.config_parameters, "config", None)

    def say_doubts(self, usable: Mapping[str, ParameterRecord]) -> None:
        """Log which records do not say what they were tuned on."""
        silent = [pair for pair, record in usable.items() if "feature_hash" not in record.metrics]
        if silent:
            logger.warning(
                "Optuna params without a feature_hash are taken as of this strategy's features pairs=%d "
                "of=%d first=%s",
                len(silent),
                len(usable),
                silent[0],
            )

    def log_start(self, loaded: Loaded) -> None:
        """Write the one line that tells which bot this log is of."""
        settings = self.settings
        logger.info(
            "FreqAI bot starts feeder=%s identifier=%s targets=%s timeframe=%s pairs=%d exchange=%s "
            "candles=%s store=%s",
            settings.feeder_id,
            settings.identifier,
            ",".join(map(str, settings.targets)) or "squared error",
            settings.timeframe,
            len(settings.pairs),
            settings.exchange,
            settings.candle_type,
            loaded.store,
        )
