"""Which records serve a feeder with the built-in model, and what it says of those that fit badly.

The live side and backtests of a feeder load by this reader; doctor asks what a record was tuned on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from feeder_mixin.live.reload.loader import Loaded, LoadedPair, shared_version
from feeder_mixin.market.features import FEATURE_HASH
from feeder_mixin.schema import ParameterRecord, default_parameters, hash48, refusal
from feeder_mixin.settings import FeederSettings
from feeder_mixin.tolerance import setting_text

logger = logging.getLogger(__name__)


TUNED_ON: Final = {
    "feature_hash": "features",
    "context_hash": "context pairs",
    "market_hash": "exchange or candles",
}
"""Hash of a record -> what it is the identity of."""


def other_features(record: ParameterRecord, settings: FeederSettings) -> dict[str, int]:
    """Return which hashes differ from this feeder's, name -> value here; a record without one fits."""
    here = {
        "feature_hash": FEATURE_HASH,
        "context_hash": hash48(*settings.context_pairs),
        "market_hash": hash48(settings.exchange, settings.candle_type),
    }
    return {n: value for n, value in here.items() if record.metrics.get(n) not in (None, value)}


@dataclass(frozen=True, slots=True)
class FeederReader:
    """The `RecordReader` of a feeder.

    Attributes
    ----------
    timeframe_s
        Length of a candle.
    """

    settings: FeederSettings
    timeframe_s: int

    def refusal(self, record: ParameterRecord) -> str | None:
        """Return why a record can't serve: another side, horizon, timeframe or model type."""
        return refusal(record, self.settings, self.timeframe_s)

    def fallback(self, pair: str) -> LoadedPair:
        """Return the schema's defaults."""
        return LoadedPair(pair, default_parameters(), "default", None)

    def say_doubts(self, usable: Mapping[str, ParameterRecord]) -> None:
        """Log which records do not tell a side, and which were tuned on something else."""
        _say_sideless(self.settings, usable)
        _say_other_features(self.settings, usable)

    def log_start(self, loaded: Loaded) -> None:
        """Write the one line that tells which feeder this log is of."""
        settings = self.settings
        levels = sorted({pair.parameters["quantile_alpha"] for pair in loaded.pairs.values()})
        logger.info(
            "Feeder starts feeder=%s side=%s horizon_candles=%d timeframe=%s max_adverse_ratio=%s "
            "quantile_alpha=%s pairs=%d context=%d context_pairs=%s exchange=%s candles=%s store=%s",
            settings.feeder_id,
            settings.side,
            settings.horizon_candles,
            settings.timeframe,
            setting_text(settings.max_adverse_ratio),
            ",".join(f"{level:g}" for level in levels),
            len(settings.pairs),
            len(settings.context_pairs),
            ",".join(settings.context_pairs),
            settings.exchange,
            settings.candle_type,
            loaded.store,
        )


def _say_sideless(settings: FeederSettings, usable: Mapping[str, ParameterRecord]) -> None:
    """Say once how many records do not tell which side they were tuned for."""
    sideless = [pair for pair, record in usable.items() if "side" not in record.metrics]
    if sideless:
        logger.warning(
            "Optuna params without a side are taken as %s, tune again to be sure pairs=%d of=%d "
            "first=%s",
            settings.side,
            len(sideless),
            len(usable),
            sideless[0],
        )


def _say_other_features(settings: FeederSettings, usable: Mapping[str, ParameterRecord]) -> None:
    """Say which records were tuned on something else, each difference once."""
    same: dict[tuple[str, float, int], list[ParameterRecord]] = {}
    for record in usable.values():
        for name, here in other_features(record, settings).items():
            same.setdefault((name, record.metrics[name], here), []).append(record)
    for (name, stored, here), records in same.items():
        logger.warning(
            "Optuna params for %s were tuned on other %s, tune again version=%s %s=%.0f here=%d%s",
            ", ".join(record.pair for record in records),
            TUNED_ON[name],
            shared_version(record.time_ns for record in records),
            name,
            stored,
            here,
            _lacking_context(settings, records[0]) if name == "context_hash" else "",
        )


def _lacking_context(settings: FeederSettings, record: ParameterRecord) -> str:
    """Return which context pairs a record was tuned without: tuning alone does not mend that."""
    then = record.provenance.get("context_pairs")
    lacking = set(settings.context_pairs) - set(then) if isinstance(then, list) else set()
    if not lacking:
        return ""
    names = ",".join(sorted(lacking))
    return f" tuned_without={names}: they had no candles when tuned, download them first"
