"""From store to validated parameters: what each pair shall run on, and why.

Rules, one per answer of the store: a valid record is taken; a running pair keeps what it runs
whenever the store gives nothing usable; at start, the last good copy serves when the store gave no
answer, a rejected record or only records of the future, the fallback when it answered "none" or
"expired" (a feeder's: the schema's defaults). Nothing here knows of models or candles; which records serve, a
`RecordReader` knows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from feeder_mixin.errors import StateError, StoreError
from feeder_mixin.live.state.last_good import read_last_good
from feeder_mixin.live.state.status import FALLBACKS, Source
from feeder_mixin.market.blackouts import NO_BLACKOUTS, Blackouts, load_blackouts
from feeder_mixin.schema import (
    NANOSECONDS,
    ParameterRecord,
    format_time_ns,
)
from feeder_mixin.settings import BotSettings, FeederSettings
from feeder_mixin.stores.base import MAX_AGE_DAYS, Latest
from feeder_mixin.stores.masking import masked_store_url
from feeder_mixin.stores.notes import group_notes, group_pairs
from feeder_mixin.stores.operations.point_in_time import parse_moment
from feeder_mixin.stores.other_type import load_other_type
from feeder_mixin.stores.url import choose_store_url, open_store
from feeder_mixin.tolerance import Tolerance

logger = logging.getLogger(__name__)

RECORDS_AT_VARIABLE: Final = "FEEDER_RECORDS_AT"
"""Environment of a backtest: it runs on the records of that time instead of the newest."""

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
        Time of the record in nanoseconds since the epoch; None without one.
    beats_rule
        False when the record says that nothing beat the ATR rule: no candle is called safe.
    auto_tolerance
        The pair's own tolerance as the record has it; None without.
    rejected
        Why the store's newest record was refused, or None. A half-written point is none: it counts
        only where the store holds no complete one.
    passed_over
        The newest point that was passed over for an older one, and why; None without any.
    tuned_on
        Hashes of what the record was tuned on, as far as it names them.
    saved_ns
        When the store gave the last good copy, in nanoseconds since the epoch; None for other sources.
    """

    pair: str
    parameters: Mapping[str, float]
    source: Source
    version: int | None
    beats_rule: bool = True
    auto_tolerance: float | None = None
    candles_to_s: float | None = None
    tuned_on: Mapping[str, float] = field(default_factory=dict, compare=False)
    rejected: str | None = None
    passed_over: str | None = field(default=None, compare=False)
    saved_ns: int | None = field(default=None, compare=False)

    def tolerance(self, settings: FeederSettings) -> Tolerance:
        """Return the tolerance that is in force where this is."""
        return settings.tolerance(self.pair, self.auto_tolerance)

    @property
    def version_text(self) -> str:
        """Return the version as shown to users: RFC 3339, or what runs without a record."""
        if self.version is not None:
            return format_time_ns(self.version)
        return "config" if self.source == "config" else "defaults"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The outcome of one load, for every pair of the feeder.

    Attributes
    ----------
    store
        The store and how it was chosen, for messages; without secrets.
    records
        Pair -> record that the store gave just now.
    times
        Pair -> time of the newest record that the store has of it, usable or not.
    error
        Why the store gave no answer, or None. Only at start: later a load without answer fails.
    blackouts
        When nothing is safe, as the file says that ``feeder.blackouts`` names.
    """

    pairs: Mapping[str, LoadedPair]
    store: str
    records: Mapping[str, ParameterRecord] = field(default_factory=dict)
    error: str | None = None
    times: Mapping[str, int] = field(default_factory=dict)
    took_ms: float = 0.0
    blackouts: Blackouts = NO_BLACKOUTS

    @property
    def n_defaulted(self) -> int:
        """Return how many pairs run on what serves without a record."""
        return sum(pair.source in FALLBACKS for pair in self.pairs.values())

    @property
    def n_rejected(self) -> int:
        """Return for how many pairs the store's newest record was refused."""
        return sum(pair.rejected is not None for pair in self.pairs.values())


class RecordReader(Protocol):
    """What tells a bot of one model type from another: which records serve it, what runs without one."""

    @property
    def settings(self) -> BotSettings:
        """Return the bot's settings."""

    def refusal(self, record: ParameterRecord) -> str | None:
        """Return why a record can't serve the bot, or None."""

    def fallback(self, pair: str) -> LoadedPair:
        """Return what a pair runs on that has neither record nor copy."""

    def say_doubts(self, usable: Mapping[str, ParameterRecord]) -> None:
        """Log what an operator should know of records that serve all the same."""

    def log_start(self, loaded: Loaded) -> None:
        """Write the one line that tells which bot a log is of."""


def records_at(environ: Mapping[str, str]) -> int | None:
    """Return the time whose records a backtest shall run on, in nanoseconds; None: the newest.

    Raises
    ------
    SettingsError
        When ``FEEDER_RECORDS_AT`` is no time, or one to come.
    """
    text = environ.get(RECORDS_AT_VARIABLE)
    return parse_moment(RECORDS_AT_VARIABLE, text, time.time_ns()).last_ns if text else None


def load_parameters(
    reader: RecordReader,
    environ: Mapping[str, str],
    running: Mapping[str, LoadedPair] | None,
    at_ns: int | None = None,
) -> Loaded:
    """Ask the store once and return what every pair shall run on; read the blackouts, too.

    Parameters
    ----------
    reader
        Says which records can serve.
    running
        What pairs run on now; None at start.
    at_ns
        Take the records that were the newest at this time; later ones are not spoken of.

    Raises
    ------
    StoreError
        When the store gives no answer and something runs already: nothing changes then.
    SettingsError
        When the store's URL or token is wrong, or the file of blackouts.
    """
    started, settings = time.perf_counter(), reader.settings
    blackouts = load_blackouts(settings)
    url, origin = choose_store_url(None, environ, settings)
    description = f"{masked_store_url(url)} ({origin})"
    error, of_other_type = None, dict[str, str]()
    try:
        latest, of_other_type = _ask_store(settings, url, environ, at_ns)
    # A wrong URL or token (SettingsError) ends a start: no copy would make it right.
    except StoreError as problem:
        if running is not None:
            raise
        latest, error = Latest(), str(problem)
    _say_unused(latest)
    usable, reasons = _sort_out(reader, latest)
    reasons |= of_other_type
    # A store whose records are all still to come said nothing: the clock is wrong, here or there.
    unsaid = {note.pair for note in latest.notes if note.field == "time"} - latest.expired.keys()
    # Nor does one that knows the other model type alone say anything of a copy of this one.
    unsure = (reasons.keys() | unsaid) - usable.keys() - of_other_type.keys()
    lost = set(settings.pairs) if error is not None else unsure
    # At start only: later, what runs is as new as the copy, or newer.
    copies = load_last_good(reader, lost) if running is None and lost else {}
    # Notes are newest first: reversed, the newest one of a pair is what stays.
    passed_over = {note.pair: str(note) for note in reversed(latest.notes)}
    stored = {pair: from_record(record, "store") for pair, record in usable.items()}
    pairs = {
        pair: replace(
            _first_of(reader, pair, stored, running or {}, copies),
            rejected=reasons.get(pair),
            passed_over=passed_over.get(pair),
        )
        for pair in settings.pairs
    }
    took_ms = (time.perf_counter() - started) * 1000
    return Loaded(pairs, description, usable, error, latest.times, took_ms, blackouts)


def load_times(settings: BotSettings, environ: Mapping[str, str]) -> dict[str, int]:
    """Return pair -> time of the newest record that the store has of it now, usable or not.

    By the question of a load: it is one query, and a bot asks it every few minutes at most.

    Raises
    ------
    StoreError
        When the store gives no answer.
    SettingsError
        When the store's URL or token is wrong.
    """
    url, _ = choose_store_url(None, environ, settings)
    return _ask_store(settings, url, environ)[0].times


def _first_of(reader: RecordReader, pair: str, *sources: Mapping[str, LoadedPair]) -> LoadedPair:
    """Return what the first source says that knows the pair, else what runs without a record."""
    for source in sources:
        if pair in source:
            return source[pair]
    return reader.fallback(pair)


def _sort_out(
    reader: RecordReader, latest: Latest
) -> tuple[dict[str, ParameterRecord], dict[str, str]]:
    """Return the records that can serve this bot, and per pair why its newest one can't."""
    usable: dict[str, ParameterRecord] = {}
    reasons = {pair: note.reason for pair, note in latest.rejected.items()}
    reasons |= {pair: f"{pair}: {note.reason}" for pair, note in latest.incomplete.items()}
    for pair, record in latest.records.items():
        reason = reader.refusal(record)
        if reason is None:
            usable[pair] = record
        else:
            reasons[pair] = reason
    reader.say_doubts(usable)
    return usable, reasons


def _ask_store(
    settings: BotSettings, url: str, environ: Mapping[str, str], at_ns: int | None = None
) -> tuple[Latest, dict[str, str]]:
    """Return what the store has for the bot, and per pair why it has only another type's record."""
    with open_store(
        url,
        root=settings.root,
        feeder_ids=[settings.feeder_id],
        environ=environ,
        timeout_s=STORE_TIMEOUT_S,
    ) as store:
        latest = store.latest(
            settings.feeder_id, settings.pairs, model_type=settings.model_type, now=at_ns
        )
        if at_ns is not None:
            past = tuple(note for note in latest.notes if note.time_ns <= at_ns)
            latest = replace(latest, notes=past)
        return latest, load_other_type(store, settings, settings.pairs, latest)


def _say_unused(latest: Latest) -> None:
    """Log which stored points are not used, each reason once."""
    for line in group_notes(latest.notes):
        logger.warning("Stored record passed over: %s", line)
    if latest.expired:
        logger.warning(
            "Stored record is too old, tune again pair=%s version=%s max_age_days=%g",
            ",".join(latest.expired),
            shared_version(latest.expired.values()),
            MAX_AGE_DAYS,
        )


def shared_version(times_ns: Iterable[int]) -> str:
    """Return the version of pairs that a line is about: theirs when they share one."""
    versions = {format_time_ns(time_ns) for time_ns in times_ns}
    return versions.pop() if len(versions) == 1 else "several"


def from_record(record: ParameterRecord, source: Source) -> LoadedPair:
    """Return what a pair runs on by a record."""
    return LoadedPair(
        record.pair,
        dict(record.parameters),
        source,
        record.time_ns,
        beats_rule=record.metrics.get("beats_rule") != 0.0,
        auto_tolerance=record.metrics.get("auto_tolerance"),
        candles_to_s=record.metrics.get("candles_to_s"),
        tuned_on={name: v for name, v in record.metrics.items() if name.endswith("_hash")},
    )


def load_last_good(reader: RecordReader, lost: Collection[str]) -> dict[str, LoadedPair]:
    """Return pair -> last good copy, for pairs without a record; each line in the log is about those.

    Parameters
    ----------
    lost
        The bot's pairs for which a copy is wanted.
    """
    settings = reader.settings
    path = settings.last_good_path
    try:
        copies = read_last_good(settings)
    except StateError as error:
        logger.error("Last good copy can't be used, delete it path=%s error=%s", path, error)  # noqa: TRY400
        return {}
    if copies is None:
        logger.warning("There is no last good copy path=%s", path)
        return {}
    now_ns = time.time_ns()
    usable: dict[str, LoadedPair] = {}
    good: dict[str, ParameterRecord] = {}
    too_old: dict[str, float] = {}
    other: dict[str, str] = {}
    for record, saved_ns in copies:
        if record.pair not in lost:
            continue
        age_days = (now_ns - saved_ns) / _DAY_NS
        if _is_too_old(settings, age_days):
            too_old[record.pair] = age_days
        elif reason := reader.refusal(record):
            other[record.pair] = reason
        else:
            good[record.pair] = record
            usable[record.pair] = replace(from_record(record, "last_good"), saved_ns=saved_ns)
    for _, reason in group_pairs(other):
        logger.error("Last good copy does not match this config reason=%s path=%s", reason, path)
    reader.say_doubts(good)
    _say_too_old(settings, too_old)
    _say_stand_in(settings, usable, now_ns)
    return usable


def _is_too_old(settings: BotSettings, age_days: float) -> bool:
    """Return whether a copy may not stand in for the store any more.

    A copy of the future is of unknown age: the clock was wrong, then or now.
    """
    limit = settings.last_good_max_days
    return limit is not None and not -1.0 <= age_days <= limit


def _say_too_old(settings: BotSettings, ages_days: Mapping[str, float]) -> None:
    if ages_days:
        logger.error(
            "Last good copy is too old pair=%s age_days=%.1f feeder.last_good_max_days=%g path=%s",
            ",".join(ages_days),
            max(ages_days.values(), key=abs),
            settings.last_good_max_days,
            settings.last_good_path,
        )


def _say_stand_in(settings: BotSettings, copies: Mapping[str, LoadedPair], now_ns: int) -> None:
    if copies:
        oldest = max(now_ns - (copy.saved_ns or now_ns) for copy in copies.values())
        logger.warning(
            "Last good copy stands in for the store pairs=%d oldest_days=%.1f path=%s",
            len(copies),
            oldest / _DAY_NS,
            settings.last_good_path,
        )


def check_store_url(settings: BotSettings, environ: Mapping[str, str]) -> None:
    """Raise `SettingsError` when the store's URL or token can't be used; does not connect."""
    url, _ = choose_store_url(None, environ, settings)
    open_store(url, root=settings.root, feeder_ids=[settings.feeder_id], environ=environ).close()
