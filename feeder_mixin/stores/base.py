"""The contract of a parameter store, and the selection rules that every backend shares.

A backend only moves points: it appends records and returns raw points, newest first. What counts
as the latest record is decided here, once, by `select_latest`.

Thread-safety: a store object is used by one thread at a time; make one per thread. Ownership: the
caller closes what it opened (`close`, or ``with``). Records are immutable and never updated in
place: stores are append only, a rollback writes the old values as a new record. The one exception
is `ParameterStore.delete`, which only ``feeder prune`` calls.

A store holds two measurements of one schema, which never mix: the records that bots read, and the
candidates, tuned sets that were refused. Every method works on the first unless told otherwise.

A record belongs to one model type: the type is part of its key, and who asks names it. However new a record of
another type is, it hides none.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from feeder_mixin.errors import SchemaError, StoreError
from feeder_mixin.schema import (
    FIELD_NAMES,
    MEASUREMENT,
    NANOSECONDS,
    Measurement,
    ParameterRecord,
    build_record,
    format_time_ns,
    is_of_type,
    missing_parameters,
)
from feeder_mixin.settings import MODEL_TYPE, MODEL_TYPES, ModelType

MAX_AGE_DAYS: Final = 90.0
"""Records older than this are expired: they no longer count as latest."""

PASSED_OVER_LIMIT: Final = 5
"""How many newer points per pair a backend reads beside the latest complete one, to report them."""


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """One raw point as a backend holds it: possibly incomplete, out of range or in the future."""

    pair: str
    time_ns: int
    fields: Mapping[str, float | None]
    provenance: str | None = None
    model_type: str = MODEL_TYPE

    def build_record(self, feeder_id: str) -> ParameterRecord:
        """Return the record this point makes, or raise `SchemaError` saying what keeps it from one."""
        return build_record(
            feeder_id, self.pair, self.time_ns, self.fields, self.provenance, self.model_type
        )

    def holds(self, record: ParameterRecord) -> bool:
        """Return whether this point carries exactly the key and content of `record`."""
        try:
            stored = self.build_record(record.feeder_id)
        except SchemaError:
            return False
        return stored.time_ns == record.time_ns and stored.same_content(record)


@dataclass(frozen=True, slots=True)
class Note:
    """Why one stored point was passed over or rejected."""

    pair: str
    time_ns: int
    field: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.pair} at {format_time_ns(self.time_ns)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Latest:
    """What a store holds for a feeder now.

    Attributes
    ----------
    records
        Pair -> newest complete, valid record.
    rejected
        Pair -> why its newest complete record is invalid. Older ones are not tried in its place.
    notes
        Newer points that were passed over: incomplete, dated in the future, or of a field type
        that can't be read.
    expired
        Pair -> time of a record that is too old.
    """

    records: Mapping[str, ParameterRecord] = field(default_factory=dict)
    rejected: Mapping[str, Note] = field(default_factory=dict)
    notes: Sequence[Note] = ()
    expired: Mapping[str, int] = field(default_factory=dict)

    @property
    def times(self) -> dict[str, int]:
        """Return pair -> time of its newest complete point that is not in the future."""
        known = {pair: record.time_ns for pair, record in self.records.items()}
        return known | {p: n.time_ns for p, n in self.rejected.items()} | dict(self.expired)

    @property
    def incomplete(self) -> dict[str, Note]:
        """Return pair -> its newest half-written point, where the store holds no complete one."""
        known = {*self.records, *self.rejected, *self.expired}
        newest: dict[str, Note] = {}
        for note in self.notes:  # newest first of each pair
            if note.field != "time" and note.pair not in known:
                newest.setdefault(note.pair, note)
        return newest


def now_ns() -> int:
    """Return the current time in nanoseconds since the epoch."""
    return time.time_ns()


def describe_key(record: ParameterRecord) -> str:
    """Return how messages name a record: feeder, pair and time."""
    return f"{record.feeder_id} {record.pair} at {format_time_ns(record.time_ns)}"


def check_known_fields(records: Iterable[ParameterRecord]) -> None:
    """Raise `StoreError` when a record carries a metric that the schema does not name.

    A reader would drop it, so it could never be read back as it was written.
    """
    for record in records:
        if unknown := sorted(set(record.fields).difference(FIELD_NAMES)):
            names = ", ".join(unknown)
            raise StoreError(f"{describe_key(record)}: the schema has no field {names}")


def select_latest(
    feeder_id: str,
    points: Iterable[StoredPoint],
    *,
    now: int,
    max_age_days: float,
    model_type: ModelType = MODEL_TYPE,
) -> Latest:
    """Return the latest record of every pair in `points`, by the rules that all backends share.

    Points of another model type do not count. Per pair, newest first: a point in the future or without all
    ten parameters is noted and passed over; the first complete one is the latest. It is rejected when a value is invalid, expired when
    older than `max_age_days`.
    """
    records: dict[str, ParameterRecord] = {}
    rejected: dict[str, Note] = {}
    expired: dict[str, int] = {}
    notes: list[Note] = []
    oldest = now - int(max_age_days * 86_400 * NANOSECONDS)
    own = (point for point in points if is_of_type(point.model_type, model_type))
    for point in sorted(own, key=lambda p: (p.pair, -p.time_ns)):
        if point.pair in records or point.pair in rejected or point.pair in expired:
            continue
        if point.time_ns > now:
            ahead_s = (point.time_ns - now) / NANOSECONDS
            reason = f"dated {ahead_s:.0f} s in the future (a writer with a wrong clock or zone?)"
            notes.append(Note(point.pair, point.time_ns, "time", reason))
        elif missing := missing_parameters(point.fields):
            reason = f"incomplete: {', '.join(missing)} missing"
            notes.append(Note(point.pair, point.time_ns, missing[0], reason))
        elif point.time_ns < oldest:
            expired[point.pair] = point.time_ns
        else:
            try:
                records[point.pair] = point.build_record(feeder_id)
            except SchemaError as error:
                rejected[point.pair] = Note(point.pair, point.time_ns, None, str(error))
    return Latest(records, rejected, tuple(notes), expired)


def load_stored_pairs(
    store: ParameterStore,
    feeder_id: str,
    measurement: Measurement = MEASUREMENT,
    *,
    now: int | None = None,
) -> list[str]:
    """Return every pair that has a point in `store`, sorted: of any type, and those that left the config."""
    pairs: set[str] = set()
    for model_type in MODEL_TYPES:
        latest = store.latest(feeder_id, measurement=measurement, now=now, model_type=model_type)
        noted = (note.pair for note in latest.notes)
        pairs.update(latest.records, latest.rejected, latest.expired, noted)
    return sorted(pairs)


class ParameterStore(ABC):
    """Append-only home of parameter records; see the module docstring for the rules.

    Every method raises `StoreUnavailableError` when the backend can't be reached in time,
    `StoreError` when it refuses, `StoreCorruptError` when its answer can't be understood. Messages
    name the store by `description`, which never contains a secret.
    """

    description: str
    """The store as shown to users: kind and place, without secrets."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the store can be reached and this feeder's place in it can be read."""

    @abstractmethod
    def write(
        self, records: Sequence[ParameterRecord], measurement: Measurement = MEASUREMENT
    ) -> None:
        """Append `records`, each whole or not at all; read them back before returning.

        A record equal in feeder, pair, model type, time and content to a stored one is already delivered
        and does nothing. Other content under the same key raises `StoreConflictError`. When some were
        written and another was refused, the error names the refused one, and calling again with
        the same records is harmless.
        """

    @abstractmethod
    def latest(
        self,
        feeder_id: str,
        pairs: Sequence[str] | None = None,
        *,
        max_age_days: float = MAX_AGE_DAYS,
        now: int | None = None,
        measurement: Measurement = MEASUREMENT,
        model_type: ModelType = MODEL_TYPE,
    ) -> Latest:
        """Return the latest record of every pair (all of the feeder's, when `pairs` is None).

        A pair without any point of `model_type` is absent from all four parts of the answer.
        """

    @abstractmethod
    def history(
        self,
        feeder_id: str,
        pair: str,
        limit: int | None = None,
        *,
        measurement: Measurement = MEASUREMENT,
        model_type: ModelType = MODEL_TYPE,
    ) -> list[StoredPoint]:
        """Return a pair's stored points of a type, newest first; an unknown pair gives an empty list."""

    @abstractmethod
    def delete(
        self,
        feeder_id: str,
        pair: str,
        times_ns: Sequence[int],
        measurement: Measurement = MEASUREMENT,
        model_type: ModelType = MODEL_TYPE,
    ) -> None:
        """Remove a pair's points of exactly these times, their provenance with them.

        Points of any other time, however near, pair, feeder, model type or measurement stay. A time without a
        point does nothing. Interrupted, some are gone; calling again removes the rest.
        """

    @abstractmethod
    def close(self) -> None:
        """Free connections; the store can't be used afterwards. Calling again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
