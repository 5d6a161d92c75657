"""From store to validated parameters: what each pair shall run on, and why.

Rules, one per answer of the store: a valid record is taken; a running pair keeps what it runs
whenever the store gives nothing usable; at start, the last good copy serves when the store gave no
answer, a rejected record or only records of the future, the schema's defaults when it answered "none"
or "expired". Nothing here knows of models or candles.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from feeder_mixin.errors import StateError, StoreError
from feeder_mixin.live.last_good import read_last_good
from feeder_mixin.live.status import Source
from feeder_mixin.market.features import FEATURE_HASH
from feeder_mixin.schema import (
    NANOSECONDS,
    ParameterRecord,
    default_parameters,
    format_time_ns,
    hash48,
    mismatch_reason,
)
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.base import MAX_AGE_DAYS, Latest
from feeder_mixin.stores.url import choose_store_url, masked_store_url, open_store

logger = logging.getLogger(__name__)

STORE_TIMEOUT_S: Final = 5.0
"""Longest wait of a load: in all with InfluxDB, for connection and each statement with SQL."""

_DAY_NS: Final = 86_400 * NANOSECONDS


@dataclass(frozen=True, slots=True)
class LoadedPair:
    """What one pair shall run on.

    Attributes
    ----------
    parameters
        The ten values by name; never changed.
    version
        Time of the record in nanoseconds since the epoch; None for defaults.
    beats_rule
        False when the record says that nothing beat the ATR rule: no candle is called safe.
    rejected
        Why the store's newest record was refused, or None.
    saved_ns
        When the store gave the last good copy, in nanoseconds since the epoch; None for other sources.
    """

    pair: str
    parameters: Mapping[str, float]
    source: Source
    version: int | None
    beats_rule: bool = True
    candles_to_s: float | None = None
    rejected: str | None = None
    saved_ns: int | None = field(default=None, compare=False)

    @property
    def version_text(self) -> str:
        """Return the version as shown to users: RFC 3339, or ``defaults``."""
        return "defaults" if self.version is None else format_time_ns(self.version)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The outcome of one load, for every pair of the feeder.

    Attributes
    ----------
    store
        The store and how it was chosen, for messages; without secrets.
    records
        Pair -> record that the store gave just now.
    error
        Why the store gave no answer, or None. Only at start: later a load without answer fails.
    """

    pairs: Mapping[str, LoadedPair]
    store: str
    records: Mapping[str, ParameterRecord] = field(default_factory=dict)
    error: str | None = None
    took_ms: float = 0.0

    @property
    def n_defaulted(self) -> int:
        """Return how many pairs run on the schema's defaults."""
        return sum(pair.source == "default" for pair in self.pairs.values())

    @property
    def n_rejected(self) -> int:
        """Return for how many pairs the store's newest record was refused."""
        return sum(pair.rejected is not None for pair in self.pairs.values())


def load_parameters(
    settings: FeederSettings,
    environ: Mapping[str, str],
    timeframe_s: int,
    running: Mapping[str, LoadedPair] | None,
) -> Loaded:
    """Ask the store once and return what every pair shall run on.

    Parameters
    ----------
    running
        What pairs run on now; None at start.

    Raises
    ------
    StoreError
        When the store gives no answer and something runs already: nothing changes then.
    SettingsError
        When the store's URL or token is wrong.
    """
    started = time.perf_counter()
    url, origin = choose_store_url(None, environ, settings.store_url)
    description = f"{masked_store_url(url)} ({origin})"
    error = None
    try:
        latest = _ask_store(settings, url, environ)
    except StoreError as problem:
        if running is not None:
            raise
        latest, error = Latest(), str(problem)
    for note in latest.notes:
        logger.warning("Stored record passed over: %s", note)
    for pair, time_ns in latest.expired.items():
        logger.warning(
            "Stored record is too old, tune again pair=%s version=%s max_age_days=%g",
            pair,
            format_time_ns(time_ns),
            MAX_AGE_DAYS,
        )
    usable, reasons = _sort_out(settings, latest, timeframe_s)
    copies: dict[str, LoadedPair] = {}
    # A store whose records are all still to come said nothing: the clock is wrong, here or there.
    unsaid = {note.pair for note in latest.notes if note.field == "time"} - latest.expired.keys()
    if running is None and (error is not None or (reasons.keys() | unsaid) - usable.keys()):
        copies = load_last_good(settings, timeframe_s)
    pairs = {}
    for pair in settings.pairs:
        reason = reasons.get(pair)
        if pair in usable:
            pairs[pair] = replace(from_record(usable[pair], "store"), rejected=reason)
        elif running is not None and pair in running:
            pairs[pair] = replace(running[pair], rejected=reason)
        elif (error is not None or reason is not None or pair in unsaid) and pair in copies:
            pairs[pair] = replace(copies[pair], rejected=reason)
        else:
            pairs[pair] = LoadedPair(pair, default_parameters(), "default", None, rejected=reason)
    took_ms = (time.perf_counter() - started) * 1000
    return Loaded(pairs, description, usable, error, took_ms)


def _sort_out(
    settings: FeederSettings, latest: Latest, timeframe_s: int
) -> tuple[dict[str, ParameterRecord], dict[str, str]]:
    """Return the records that can serve this feeder, and per pair why its newest one can't.

    A pair may be in both: of an incomplete record the older one before it serves.
    """
    context_hash = hash48(*settings.context_pairs)
    usable: dict[str, ParameterRecord] = {}
    reasons = {pair: note.reason for pair, note in latest.rejected.items()}
    for note in latest.notes:
        if note.field != "time":  # one of the future is a wrong clock's, and may still come due
            reasons.setdefault(note.pair, str(note))
    for pair, record in latest.records.items():
        reason = mismatch_reason(
            record, horizon_candles=settings.horizon_candles, timeframe_s=timeframe_s
        )
        if reason is None:
            usable[pair] = record
            _say_other_features(record, context_hash)
        else:
            reasons[pair] = reason
    return usable, reasons


def _ask_store(settings: FeederSettings, url: str, environ: Mapping[str, str]) -> Latest:
    with open_store(
        url,
        root=settings.root,
        feeder_ids=[settings.feeder_id],
        environ=environ,
        timeout_s=STORE_TIMEOUT_S,
    ) as store:
        return store.latest(settings.feeder_id, settings.pairs)


def other_features(record: ParameterRecord, context_hash: int) -> dict[str, int]:
    """Return which hashes differ from this feeder's, name -> value here; a record without one fits."""
    here = {"feature_hash": FEATURE_HASH, "context_hash": context_hash}
    return {n: value for n, value in here.items() if record.metrics.get(n) not in (None, value)}


def _say_other_features(record: ParameterRecord, context_hash: int) -> None:
    for name, here in other_features(record, context_hash).items():
        logger.warning(
            "Optuna params for %s were tuned on other %s, tune again version=%s %s=%.0f here=%d",
            record.pair,
            "context pairs" if name == "context_hash" else "features",
            format_time_ns(record.time_ns),
            name,
            record.metrics[name],
            here,
        )


def from_record(record: ParameterRecord, source: Source) -> LoadedPair:
    """Return what a pair runs on by a record."""
    return LoadedPair(
        record.pair,
        dict(record.parameters),
        source,
        record.time_ns,
        beats_rule=record.metrics.get("beats_rule") != 0.0,
        candles_to_s=record.metrics.get("candles_to_s"),
    )


def load_last_good(settings: FeederSettings, timeframe_s: int) -> dict[str, LoadedPair]:
    """Return pair -> last good copy; empty, with a line in the log, when there is none to use."""
    path = settings.last_good_path
    try:
        copies = read_last_good(settings)
    except StateError as error:
        logger.error("Last good copy can't be used, delete it path=%s error=%s", path, error)  # noqa: TRY400
        return {}
    if copies is None:
        logger.warning("There is no last good copy path=%s", path)
        return {}
    limit, now_ns = settings.last_good_max_days, time.time_ns()
    usable: dict[str, LoadedPair] = {}
    for record, saved_ns in copies:
        age_days = (now_ns - saved_ns) / _DAY_NS
        # A copy of the future is of unknown age: the clock was wrong, then or now.
        if limit is not None and not -1.0 <= age_days <= limit:
            logger.error(
                "Last good copy is too old pair=%s age_days=%.1f feeder.last_good_max_days=%g path=%s",
                record.pair,
                age_days,
                limit,
                path,
            )
        elif not mismatch_reason(
            record, horizon_candles=settings.horizon_candles, timeframe_s=timeframe_s
        ):
            usable[record.pair] = replace(from_record(record, "last_good"), saved_ns=saved_ns)
    if usable:
        oldest = max(now_ns - saved for record, saved in copies if record.pair in usable)
        logger.warning(
            "Last good copy stands in for the store pairs=%d oldest_days=%.1f path=%s",
            len(usable),
            oldest / _DAY_NS,
            path,
        )
    return usable


def check_store(settings: FeederSettings, environ: Mapping[str, str]) -> None:
    """Raise `SettingsError` when the store's URL or token can't be used; does not connect."""
    url, _ = choose_store_url(None, environ, settings.store_url)
    open_store(url, root=settings.root, feeder_ids=[settings.feeder_id], environ=environ).close()


def log_loaded(settings: FeederSettings, loaded: Loaded, generation: int) -> None:
    """Write the fixed log lines of one load."""
    if loaded.error is not None:
        logger.error(
            "Store gave no answer feeder=%s store=%s error=%s",
            settings.feeder_id,
            loaded.store,
            loaded.error,
        )
    for pair, now in loaded.pairs.items():
        if now.rejected is not None:
            logger.error(
                "Rejected Optuna params for %s reason=%s running=%s version=%s",
                pair,
                now.rejected,
                now.source,
                now.version_text,
            )
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
        "generation=%d store=%s took_ms=%.0f last_good=%d",
        len(loaded.records),
        settings.feeder_id,
        len(loaded.records),
        loaded.n_defaulted,
        loaded.n_rejected,
        generation,
        loaded.store,
        loaded.took_ms,
        sum(pair.source == "last_good" for pair in loaded.pairs.values()),
    )
