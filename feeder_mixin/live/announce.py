"""What a bot logs: what each load gave, and which pairs the exchange lists."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

from feeder_mixin.live.reload.loader import Loaded, LoadedPair
from feeder_mixin.market.blackouts import Blackouts
from feeder_mixin.schema import open_text
from feeder_mixin.settings import BotSettings, FeederSettings
from feeder_mixin.stores.notes import some
from feeder_mixin.tolerance import FALLBACK, setting_text

logger = logging.getLogger(__name__)

NEWEST_TESTED_HOST: Final = "2026.9"
"""Newest release of freqtrade that `make test-hosts` ran."""


def log_loaded(settings: BotSettings, loaded: Loaded, generation: int) -> None:
    """Write the fixed log lines of one load."""
    if loaded.error is not None:
        logger.error(
            "Store gave no answer feeder=%s store=%s error=%s",
            settings.feeder_id,
            loaded.store,
            loaded.error,
        )
    _log_rejected(loaded)
    if isinstance(settings, FeederSettings):
        _say_fallback_tolerance(settings, loaded)
    for pair, now in loaded.pairs.items():
        if now.source == "default":
            logger.warning(
                "No Optuna params for %s, using defaults generation=%d", pair, generation
            )
        elif now.source == "config":
            logger.warning(
                "No Optuna params for %s, using the config's own values generation=%d",
                pair,
                generation,
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


def log_blackouts(settings: BotSettings, blackouts: Blackouts, now_s: float | None = None) -> None:
    """Say how many blackouts were read, and which is next; warn when none is to come.

    Parameters
    ----------
    now_s
        Seconds since the epoch; None in a backtest, of which most blackouts are past.
    """
    if settings.blackouts is None:
        return
    facts = settings.feeder_id, settings.blackouts_path, len(blackouts.windows)
    if now_s is None:
        logger.info("Blackouts read feeder=%s file=%s windows=%d", *facts)
        return
    upcoming = blackouts.next_at(now_s)
    if upcoming is None:
        logger.warning(
            "No blackout is to come: add the next times to the file, or take feeder.blackouts out "
            "feeder=%s file=%s windows=%d",
            *facts,
        )
    else:
        logger.info("Blackouts read feeder=%s file=%s windows=%d next=%s", *facts, upcoming)


def _say_fallback_tolerance(settings: FeederSettings, loaded: Loaded) -> None:
    """Say for which pairs no tolerance was measured, and what stands in for it."""
    unmeasured = [
        pair for pair, now in loaded.pairs.items() if now.tolerance(settings).origin == "fallback"
    ]
    if unmeasured:
        logger.warning(
            "Tolerance was not measured for %s, the fallback stands in, tune them: max_adverse_ratio=%g "
            "feeder.max_adverse_ratio=%s feeder=%s",
            some(unmeasured),
            FALLBACK,
            setting_text(settings.max_adverse_ratio),
            settings.feeder_id,
        )


def _log_rejected(loaded: Loaded) -> None:
    """Write the fixed line of every refused pair: operators grep for their pair."""
    for now in loaded.pairs.values():
        if now.rejected is not None:
            log_refused(now)


def log_refused(now: LoadedPair) -> None:
    """Write the fixed line of a refused record: why, and what the pair runs on instead."""
    logger.error(
        "Rejected Optuna params for %s reason=%s running=%s version=%s",
        now.pair,
        now.rejected,
        now.source,
        now.version_text,
    )


def warn_hindsight(loaded: LoadedPair, first_s: int) -> None:
    """Say when the parameters were tuned on candles of the frame: its result then flatters."""
    if loaded.candles_to_s is not None and loaded.candles_to_s >= first_s:
        logger.warning(
            "Parameters of %s were tuned on candles up to %s: a backtest from %s on is in-sample "
            "and looks better than it is",
            loaded.pair,
            open_text(int(loaded.candles_to_s)),
            open_text(first_s),
        )


def warn_newer_host(settings: FeederSettings, installed: str) -> None:
    """Say once that freqtrade is newer than what was tested; `installed` is its version."""
    if _year_and_month(installed) > _year_and_month(NEWEST_TESTED_HOST):
        logger.warning(
            "freqtrade %s is newer than %s, the newest that this version of feeder_mixin was tested with: "
            "look at the first candles and entries, and upgrade feeder_mixin feeder=%s",
            installed,
            NEWEST_TESTED_HOST,
            settings.feeder_id,
        )


def _year_and_month(release: str) -> tuple[int, ...]:
    """Return what orders releases: ``2026.10-dev`` is 2026, 10."""
    return tuple(map(int, re.findall(r"\d+", release)[:2]))


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
