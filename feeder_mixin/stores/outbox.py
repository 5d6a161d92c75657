"""Results wait here, on disk, until the parameter store has them.

The tuner puts every record here before it tries the store, so that a store that is down, a full
disk over there or a kill loses nothing. What must stay true: a record is entered under the key it
will have for ever; it counts as delivered only after the store confirmed it; delivering again is
harmless, because stores take an equal record as already delivered.

Records and candidates lie in the same tables as in a SQLite store. They stay after delivery, so that
their keys are never reused. Beside each a second table holds the keys of the delivered
ones. `Outbox.prune` removes delivered ones whose keys no later record can have: a record enters
under the time at which its search ended, so only an unclosed run of the journal can bring an old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from feeder_mixin.errors import SchemaError, StoreConflictError, StoreError, StoreUnavailableError
from feeder_mixin.schema import (
    CANDIDATES,
    MEASUREMENT,
    Measurement,
    ParameterRecord,
    format_time_ns,
    is_of_type,
)
from feeder_mixin.settings import MODEL_TYPE, MODEL_TYPES, ModelType
from feeder_mixin.stores.base import Latest, ParameterStore, StoredPoint
from feeder_mixin.stores.notes import some
from feeder_mixin.stores.sql import TABLES, SqlStore, as_dicts


def _make_delivered(name: str) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("feeder_id", sa.Text, primary_key=True),
        sa.Column("pair", sa.Text, primary_key=True),
        sa.Column("time_ns", sa.BigInteger, primary_key=True, autoincrement=False),
    )


_DELIVERED: Final[Mapping[Measurement, sa.Table]] = MappingProxyType(
    {
        MEASUREMENT: _make_delivered("delivered"),
        CANDIDATES: _make_delivered("delivered_candidates"),
    }
)


_THIS: Final = "\0"
"""Stands for the record's own name while reasons are compared; no message has one."""


class _Waiting(NamedTuple):
    """One point on its way."""

    measurement: Measurement
    feeder_id: str
    point: StoredPoint


class _Refusal(NamedTuple):
    """Why one record was not taken."""

    key: str
    error: StoreError | SchemaError


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a delivery did.

    Attributes
    ----------
    records
        Confirmed by the store in this delivery, in order.
    remaining
        How many records still wait, the refused ones included.
    error
        Why some remain, as users read it; None when nothing remains. `StoreUnavailableError` when
        the store could not be reached, in which case the rest was not tried.
    """

    records: tuple[ParameterRecord, ...]
    remaining: int
    error: StoreError | None

    def check(self) -> None:
        """Raise `error` when there is one."""
        if self.error is not None:
            raise self.error


class Outbox:
    """Records and candidates on their way to a store, in one local SQLite file.

    Any number of processes may put and deliver at once. The file and its folder are made by the
    first `put`.

    Raises
    ------
    StoreError
        By every method, when the file itself can't be used (disk full, read-only, damaged).
    """

    def __init__(self, path: Path) -> None:
        self.file = SqlStore(path)
        self.file.description = f"outbox {path}"

    def put(
        self, record: ParameterRecord, measurement: Measurement = MEASUREMENT
    ) -> ParameterRecord:
        """Enter `record` and return it as entered, once it is safe on disk.

        Where another of the same measurement was entered under the same feeder, pair and time, of
        whatever model type, delivered or not, the time is moved on by one nanosecond until it is free.
        An equal one is not entered twice.
        """
        while True:
            try:
                self._check_only_type(record, measurement)
                self.file.write([record], measurement)
            except StoreConflictError:
                record = replace(record, time_ns=record.time_ns + 1)
            else:
                return record

    def _check_only_type(self, record: ParameterRecord, measurement: Measurement) -> None:
        """Raise where another type's record has this time: the delivered ones are told by time alone."""
        table = TABLES[measurement]
        query = sa.select(table.c.model_type).where(
            table.c.feeder_id == record.feeder_id,
            table.c.pair == record.pair,
            table.c.time_ns == record.time_ns,
            table.c.model_type != record.model_type,
        )
        with self.file.read_connection() as connection:
            if connection is None or not self.file.columns(connection, measurement):
                return
            if connection.execute(query).first() is not None:
                raise StoreConflictError(
                    f"{self.file.description}: another type's record has this time"
                )

    def pending(self) -> list[ParameterRecord]:
        """Return the records and candidates not yet delivered, oldest first.

        Raises
        ------
        SchemaError
            When one is no valid record any more; `deliver` passes over such a one.
        """
        return [point.build_record(feeder_id) for _, feeder_id, point in self._load_pending()]

    def newest_waiting(
        self, feeder_id: str, model_type: ModelType = MODEL_TYPE
    ) -> dict[str, ParameterRecord]:
        """Return pair -> the newest record not yet delivered; candidates and invalid ones are none."""
        newest: dict[str, ParameterRecord] = {}
        for measurement, owner, point in self._load_pending():
            is_own = (measurement, owner) == (MEASUREMENT, feeder_id)
            if is_own and is_of_type(point.model_type, model_type):
                with suppress(SchemaError):
                    newest[point.pair] = point.build_record(feeder_id)
        return newest

    def latest_entered(
        self, feeder_id: str, pairs: Sequence[str], model_type: ModelType = MODEL_TYPE
    ) -> Latest:
        """Return the latest record of every pair among those entered here, delivered or not.

        What a store that can't be asked would say, as far as this host knows.
        """
        return self.file.latest(feeder_id, pairs, model_type=model_type)

    def deliver(self, store: ParameterStore) -> Delivered:
        """Hand every pending record to `store`, oldest first, and return what came of it.

        A store that can't be reached ends the delivery. A record that it refuses stays, is tried
        again at the next delivery, and holds up no other. Errors of the store are returned, not
        raised.
        """
        waiting = self._load_pending()
        delivered: list[ParameterRecord] = []
        refusals: list[_Refusal] = []
        for measurement, feeder_id, point in waiting:
            key = f"{feeder_id} {point.pair} at {format_time_ns(point.time_ns)}"
            try:
                record = point.build_record(feeder_id)
                store.write([record], measurement)
            except StoreUnavailableError as error:
                refusals.append(_Refusal(key, error))
                break
            except (StoreError, SchemaError) as error:
                refusals.append(_Refusal(key, error))
                continue
            self._mark_delivered(record, measurement)
            delivered.append(record)
        remaining = len(waiting) - len(delivered)
        feeders = sorted({one.feeder_id for one in waiting})
        return Delivered(tuple(delivered), remaining, _make_error(refusals, remaining, feeders))

    def prune(self, feeder_id: str, before_ns: int, *, dry_run: bool = False) -> int:
        """Remove delivered records and candidates older than a time; return how many.

        What waits stays, and so does each pair's newest, which `latest_entered` goes by.

        Parameters
        ----------
        before_ns
            Not after the beginning of any run that is still to enter its result.
        dry_run
            Only count.
        """
        n_removed = 0
        for measurement in TABLES:
            doomed = self._load_doomed(feeder_id, before_ns, measurement)
            n_removed += sum(map(len, doomed.values()))
            if dry_run or not doomed:
                continue
            # The records first: a key of the delivered without its record waits for nothing.
            for pair, times_ns in doomed.items():
                for model_type in MODEL_TYPES:
                    self.file.delete(feeder_id, pair, times_ns, measurement, model_type=model_type)
            self._forget_delivered(measurement)
        return n_removed

    def close(self) -> None:
        """Free what is held; calling again does nothing."""
        self.file.close()

    def _load_doomed(
        self, feeder_id: str, before_ns: int, measurement: Measurement
    ) -> dict[str, list[int]]:
        """Return pair -> times of what `prune` removes."""
        table, delivered = TABLES[measurement], _DELIVERED[measurement]
        newest = (
            sa.select(
                table.c.pair, table.c.model_type, sa.func.max(table.c.time_ns).label("time_ns")
            )
            .where(table.c.feeder_id == feeder_id)
            .group_by(table.c.pair, table.c.model_type)
            .subquery()
        )
        query = (
            sa.select(table.c.pair, table.c.time_ns)
            .join(delivered, sa.and_(*_same_key(table, delivered)))
            .join(
                newest,
                sa.and_(newest.c.pair == table.c.pair, newest.c.model_type == table.c.model_type),
            )
            .where(table.c.feeder_id == feeder_id, table.c.time_ns < before_ns)
            .where(table.c.time_ns != newest.c.time_ns)
            .order_by(table.c.pair, table.c.time_ns)
        )
        doomed: dict[str, list[int]] = {}
        with self.file.read_connection() as connection:
            if connection is None or not sa.inspect(connection).has_table(delivered.name):
                return doomed
            for pair, time_ns in connection.execute(query):
                doomed.setdefault(pair, []).append(time_ns)
        return doomed

    def _forget_delivered(self, measurement: Measurement) -> None:
        """Remove keys of delivered records that are no longer here."""
        table, delivered = TABLES[measurement], _DELIVERED[measurement]
        is_here = sa.exists().where(*_same_key(table, delivered))
        with self.file.write_connection(measurement) as connection:
            connection.execute(delivered.delete().where(~is_here))

    def _load_pending(self) -> list[_Waiting]:
        """Return what is not delivered, oldest first; at one time records before candidates."""
        waiting = []
        with self.file.read_connection() as connection:
            for measurement, table in TABLES.items():
                columns = self.file.columns(connection, measurement)
                if connection is None or not columns:
                    continue
                query = sa.select(*columns)
                delivered = _DELIVERED[measurement]
                if sa.inspect(connection).has_table(delivered.name):
                    query = query.where(~sa.exists().where(*_same_key(table, delivered)))
                for row in as_dicts(connection.execute(query)):
                    point = self.file.read_point(row)
                    waiting.append(_Waiting(measurement, row["feeder_id"], point))
        return sorted(waiting, key=lambda w: (w.point.time_ns, w.feeder_id, w.point.pair))

    def _mark_delivered(self, record: ParameterRecord, measurement: Measurement) -> None:
        delivered = _DELIVERED[measurement]
        key = {column.name: getattr(record, column.name) for column in delivered.primary_key}
        with self.file.write_connection(measurement) as connection:
            delivered.create(connection, checkfirst=True)
            connection.execute(insert(delivered).on_conflict_do_nothing(), key)


def _same_key(table: sa.Table, delivered: sa.Table) -> list[sa.ColumnElement[bool]]:
    """Return the conditions under which a delivered key is that of a record."""
    return [table.c[key.name] == key for key in delivered.primary_key]


def _make_error(
    refusals: Sequence[_Refusal], remaining: int, feeders: Sequence[str]
) -> StoreError | None:
    """Return one error for all `refusals`, the last's class, naming what to do."""
    if not refusals:
        return None
    last = refusals[-1].error
    kind = type(last) if isinstance(last, StoreUnavailableError) else StoreError
    noun = "record waits" if remaining == 1 else "records wait"
    error = kind(
        f"{remaining} {noun} in the outbox of {', '.join(feeders)}, nothing is lost: "
        f"{'; '.join(_reasons(refusals))}. feeder flush delivers later"
    )
    error.__cause__ = last
    return error


def _reasons(refusals: Iterable[_Refusal]) -> list[str]:
    """Return each reason once; where it names the record, with the first few that it is about."""
    keys: dict[str, list[str]] = {}
    for key, error in refusals:
        keys.setdefault(str(error).replace(key, _THIS), []).append(key)
    return [reason.replace(_THIS, some(own)) for reason, own in keys.items()]
