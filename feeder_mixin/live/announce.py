"""What a bot logs: its settings at start, what each load gave, and which pairs the exchange lists."""

from __future__ import annotations

import logging
from collections.abc import Callable

from feeder_mixin.live.reload.loader import Loaded
from feeder_mixin.settings import FeederSettings

logger = logging.getLogger(__name__)


def log_start(settings: FeederSettings, loaded: Loaded) -> None:
    """Write the one line that tells which feeder this log is of."""
    levels = sorted({pair.parameters["quantile_alpha"] for pair in loaded.pairs.values()})
    logger.info(
        "Feeder starts feeder=%s side=%s horizon_candles=%d timeframe=%s max_adverse_ratio=%g "
        "quantile_alpha=%s pairs=%d context=%d context_pairs=%s exchange=%s candles=%s store=%s",
        settings.feeder_id,
        settings.side,
        settings.horizon_candles,
        settings.timeframe,
        settings.max_adverse_ratio,
        ",".join(f"{level:g}" for level in levels),
        len(settings.pairs),
        len(settings.context_pairs),
        ",".join(settings.context_pairs),
        settings.exchange,
        settings.candle_type,
        loaded.store,
    )


def log_loaded(settings: FeederSettings, loaded: Loaded, generation: int) -> None:
    """Write the fixed log lines of one load."""
    if loaded.error is not None:
        logger.error(
            "Store gave no answer feeder=%s store=%s error=%s",
            settings.feeder_id,
            loaded.store,
            loaded.error,
        )
    _log_rejected(loaded)
    for pair, now in loaded.pairs.items():
        if now.source == "default":
            logger.warning(
                "No Optuna params for %s, using defaults generation=%d", pair, generation
            )
        else:
            logger.info(
                "Using Optuna params for %s source=%s version=%s generation=%d",
                pair,
                now.source,
                now.version_text,
                generation,
            )
            values = " ".join(f"{name}={value!r}" for name, value in now.parameters.items())
            logger.debug("Optuna params of %s %s", pair, values)
    if not loaded.records and loaded.error is None:
        logger.warning(
            "No pair has Optuna params from the store feeder=%s store=%s: is it the right one? "
            "(FEEDER_STORE_URL, then feeder.store_url, then the default)",
            settings.feeder_id,
            loaded.store,
        )
    logger.info(
        "Loaded Optuna params for %d pairs feeder=%s loaded=%d defaulted=%d rejected=%d "
        "generation=%d store=%s took_ms=%.0f last_good=%d passed_over=%d",
        len(loaded.records),
        settings.feeder_id,
        len(loaded.records),
        loaded.n_defaulted,
        loaded.n_rejected,
        generation,
        loaded.store,
        loaded.took_ms,
        sum(pair.source == "last_good" for pair in loaded.pairs.values()),
        sum(pair.passed_over is not None for pair in loaded.pairs.values()),
    )


def _log_rejected(loaded: Loaded) -> None:
    """Write the fixed line of every refused pair: operators grep for their pair."""
    for pair, now in loaded.pairs.items():
        if now.rejected is not None:
            logger.error(
                "Rejected Optuna params for %s reason=%s running=%s version=%s",
                pair,
                now.rejected,
                now.source,
                now.version_text,
            )


def warn_unlisted(settings: FeederSettings, is_listed: Callable[[str], bool]) -> None:
    """Say once which pairs of the config the exchange does not list."""
    for key, pairs, effect in (
        ("exchange.pair_whitelist", settings.pairs, "they have no candles and are never safe"),
        ("feeder.context_pairs", settings.context_pairs, "features are built without them"),
    ):
        unlisted = [pair for pair in pairs if not is_listed(pair)]
        if unlisted:
            logger.warning(
                "Exchange does not list %s, %s: leave them out of %s feeder=%s exchange=%s candles=%s",
                ", ".join(unlisted),
                effect,
                key,
                settings.feeder_id,
                settings.exchange,
                settings.candle_type,
            )


def warn_blacklisted(settings: FeederSettings) -> None:
    """Say once which pairs the host's own blacklist takes from this bot."""
    if settings.blacklisted:
        logger.warning(
            "exchange.pair_blacklist covers %s: freqtrade leaves them out, they are never safe; take them "
            "out of one of the two lists feeder=%s",
            ", ".join(settings.blacklisted),
            settings.feeder_id,
        )
