"""Parameter store in SQLite (the default) or PostgreSQL: one code through SQLAlchemy Core.

Opened by `feeder_mixin.stores.url` and, for its local file, by the outbox; imported only there, so
that a bot with another store never loads SQLAlchemy for ours. What must stay true: nothing is
created by a read; a row is inserted whole or not at all, never updated, and removed only by
`SqlStore.delete`; two processes may do anything here at once.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateColumn
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from feeder_mixin.errors import (
    SettingsError,
    StoreConflictError,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
)
from feeder_mixin.schema import (
    CANDIDATES,
    FIELD_NAMES,
    MEASUREMENT,
    PARAMETER_NAMES,
    PROVENANCE_FIELD,
    TAGS,
    Measurement,
    ParameterRecord,
)
from feeder_mixin.settings import FREQAI_MODEL_TYPE, MODEL_TYPE, ModelType, check_feeder_id
from feeder_mixin.stores.base import (
    MAX_AGE_DAYS,
    PASSED_OVER_LIMIT,
    Latest,
    ParameterStore,
    StoredPoint,
    check_known_fields,
    describe_key,
    now_ns,
    select_latest,
)
from feeder_mixin.stores.masking import masked_store_url

DEFAULT_TIMEOUT_S: Final = 10.0

METADATA: Final = sa.MetaData()

_KEY: Final = ("feeder_id", "pair", "model_type", "time_ns")
"""Tables made before 2026-12 are unique without the type: there, equal times of two types conflict."""


def _make_table(measurement: Measurement) -> sa.Table:
    return sa.Table(
        measurement,
        METADATA,
        sa.Column("time_ns", sa.BigInteger, nullable=False),
        *(sa.Column(tag, sa.Text, nullable=False) for tag in TAGS),
        *(sa.Column(name, sa.Double, nullable=True) for name in FIELD_NAMES),
        sa.Column(PROVENANCE_FIELD, sa.Text, nullable=True),
        sa.UniqueConstraint(*_KEY, name=f"{measurement}_key"),
    )


TABLE: Final = _make_table(MEASUREMENT)
TABLES: Final[Mapping[Measurement, sa.Table]] = MappingProxyType(
    {MEASUREMENT: TABLE, CANDIDATES: _make_table(CANDIDATES)}
)

_CREATE_LOCK: Final = 0x0FEEDE12
"""PostgreSQL advisory lock: CREATE TABLE IF NOT EXISTS alone fails when two run it at once."""

_CORRUPT: Final = ("not a database", "malformed", "could not decode")
_UNAVAILABLE_STATES: Final = ("08", "57", "55P03", "40")
_REFUSED_CONNECTION: Final = ("authentication failed", "does not exist", "no pg_hba.conf entry")
_NEEDS_FOLDER: Final = (
    "make the file and its folder writable for this user: SQLite keeps its -wal and -shm files "
    "there, to read as well"
)
_ADVICE: Final = {
    "unable to open": _NEEDS_FOLDER,
    "readonly database": _NEEDS_FOLDER,
    "disk is full": "nothing was written; free some space",
    "disk i/o error": "nothing was written; check the disk, its space and limits on file sizes",
    "locked": "another process holds it; try again",
    "not a database": "restore it from a copy, or move it away to begin anew",
    "malformed": "restore it from a copy, or move it away to begin anew",
}


class SqlStore(ParameterStore):
    """Records in one table of a database, candidates in another; see `ParameterStore` for the contract.

    Parameters
    ----------
    target
        A path is an SQLite file, made with its folder at the first write (mode 0600); a missing one
        reads as an empty store. A string is a SQLAlchemy URL of PostgreSQL.
    timeout_s
        Longest wait for a lock, a connection or an answer, each.

    Notes
    -----
    Every operation opens its own connection and closes it, so a store may be kept across forks and
    idle hours. A call of `write` is one transaction.
    """

    def __init__(self, target: Path | str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.path = target if isinstance(target, Path) else None
        self._timeout_s = timeout_s
        if isinstance(target, Path):
            self.description = f"sqlite {target}"
            self.engine = _sqlite_engine(target, timeout_s)
        else:
            url = _parse_url(target)
            # SQLAlchemy masks the password only: libpq takes one in the query as well.
            self.description = f"postgresql {masked_store_url(target)}"
            self.engine = _create_postgresql_engine(url, timeout_s)

    def ping(self) -> None:
        """Return when the database answers and its tables, where there are any, can be read."""
        with self.read_connection() as connection:
            if connection is not None:
                connection.execute(sa.select(sa.literal(1)))
                for measurement in TABLES:
                    self.columns(connection, measurement)

    def write(
        self, records: Sequence[ParameterRecord], measurement: Measurement = MEASUREMENT
    ) -> None:
        """Append `records` in one transaction; see `ParameterStore.write`."""
        check_known_fields(records)
        for record in records:
            check_feeder_id(record.feeder_id)
        if not records:
            return
        dialect = postgresql if self.path is None else sqlite
        table = TABLES[measurement]
        insert = dialect.insert(table).on_conflict_do_nothing()
        with self.write_connection(measurement) as connection:
            connection.execute(insert, [_row_values(record) for record in records])
        with self.read_connection() as connection:
            for record in records:
                self._check_stored(connection, table, record)

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
        """Return the latest record of every pair, by one query; see `ParameterStore.latest`."""
        check_feeder_id(feeder_id)
        now = now_ns() if now is None else now
        with self.read_connection() as connection:
            columns = self.columns(connection, measurement)
            if connection is None or not columns:
                return Latest()
            names = tuple(c.name for c in columns)
            query = _latest_query(measurement, names, model_type, pairs is not None)
            values = {"feeder_id": feeder_id, "now": now, "pairs": list(pairs or ())}
            points = [self.read_point(row) for row in as_dicts(connection.execute(query, values))]
        return select_latest(
            feeder_id, points, now=now, max_age_days=max_age_days, model_type=model_type
        )

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
        check_feeder_id(feeder_id)
        with self.read_connection() as connection:
            columns = self.columns(connection, measurement)
            if connection is None or not columns:
                return []
            table = TABLES[measurement]
            query = (
                sa.select(*columns)
                .where(table.c.feeder_id == feeder_id, table.c.pair == pair)
                .where(_is_of_type(table, model_type))
                .order_by(table.c.time_ns.desc())
                .limit(limit)
            )
            return [self.read_point(row) for row in as_dicts(connection.execute(query))]

    def delete(
        self,
        feeder_id: str,
        pair: str,
        times_ns: Sequence[int],
        measurement: Measurement = MEASUREMENT,
        model_type: ModelType = MODEL_TYPE,
    ) -> None:
        """Remove points of exactly these times in one transaction; see `ParameterStore.delete`."""
        check_feeder_id(feeder_id)
        if not times_ns or self.file_is_missing:
            return
        table = TABLES[measurement]
        query = table.delete().where(
            table.c.feeder_id == feeder_id,
            table.c.pair == pair,
            table.c.time_ns == sa.bindparam("a_time_ns"),
            _is_of_type(table, model_type),
        )
        with self.write_connection(measurement) as connection:
            connection.execute(query, [{"a_time_ns": time_ns} for time_ns in times_ns])

    def close(self) -> None:
        """Free what is held; calling again does nothing."""
        self.engine.dispose()

    @property
    def file_is_missing(self) -> bool:
        """Return whether this is an SQLite file that does not exist."""
        return self.path is not None and not self.path.exists()

    @contextmanager
    def read_connection(self) -> Iterator[sa.Connection | None]:
        """Yield a connection for reading, or None when the SQLite file does not exist yet."""
        if self.path is not None and not self.path.exists():
            yield None
            return
        with self._translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write_connection(self, measurement: Measurement = MEASUREMENT) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction that holds the write lock, with the table up to date."""
        if self.path is not None:
            self._create_file(self.path)
        with self._translated(), self.engine.begin() as connection:
            if self.path is not None:
                # Taken at once: a read lock can't be made a write lock while another waits for one.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            self._complete_table(connection, measurement)
            yield connection

    def columns(
        self, connection: sa.Connection | None, measurement: Measurement = MEASUREMENT
    ) -> list[sa.Column[Any]]:
        """Return our columns that the table has: none without table, fewer in an older one."""
        if connection is None:
            return []
        try:
            present = {c["name"] for c in sa.inspect(connection).get_columns(measurement)}
        except exc.NoSuchTableError:
            return []
        if missing := sorted({*_KEY} - present):
            names = ", ".join(missing)
            raise StoreCorruptError(
                f"{self.description}: table {measurement} has no column {names}"
            )
        return [column for column in TABLES[measurement].columns if column.name in present]

    def read_point(self, row: Mapping[str, Any]) -> StoredPoint:
        """Return a row as a raw point; a foreign value in a field stays what it is.

        SQLite keeps text in a float column. It is handed on, so that the record is rejected with
        the field's name; without a readable key there is nothing to name, and that is an error.
        """
        pair, time_ns, provenance = row["pair"], row["time_ns"], row.get(PROVENANCE_FIELD)
        if not isinstance(pair, str) or not isinstance(time_ns, int):
            raise StoreCorruptError(
                f"{self.description}: a row with pair={pair!r} and time_ns={time_ns!r} is not "
                "readable (expected text and integer)"
            )
        fields = {name: row.get(name) for name in FIELD_NAMES}
        if provenance is not None and not isinstance(provenance, str):
            provenance = repr(provenance)  # no JSON object, so the record is rejected for it
        return StoredPoint(
            pair, time_ns, fields, provenance, str(row.get("model_type") or MODEL_TYPE)
        )

    def _check_stored(
        self, connection: sa.Connection | None, table: sa.Table, record: ParameterRecord
    ) -> None:
        """Raise unless the table holds `record` as it is."""
        if connection is None:
            raise StoreError(f"{self.description}: the file vanished after writing")
        key = [table.c[name] == getattr(record, name) for name in _KEY]
        rows = as_dicts(connection.execute(sa.select(table).where(*key)))
        if not rows:
            self._check_other_type(connection, table, record)
            raise StoreError(f"{self.description}: {describe_key(record)} was not stored")
        if not self.read_point(rows[0]).holds(record):
            raise StoreConflictError(
                f"{self.description}: {describe_key(record)} is already stored with other content "
                "(is a second writer at work?)"
            )

    def _check_other_type(
        self, connection: sa.Connection, table: sa.Table, record: ParameterRecord
    ) -> None:
        """Raise where a table of an earlier version holds another type's record under the same time."""
        other = table.c.model_type
        same_time = (table.c[n] == getattr(record, n) for n in _KEY if n != other.name)
        found = connection.execute(sa.select(other).where(*same_time)).scalar_one_or_none()
        if found is not None:
            raise StoreConflictError(
                f"{self.description}: {describe_key(record)} is already stored with other content, of model "
                f"type {found}"
            )

    def _create_file(self, path: Path) -> None:
        """Make the SQLite file where it is missing and have it in WAL mode."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except PermissionError as error:
            raise StoreError(f"{self.description}: readonly, can't be written: {error}") from error
        except OSError as error:
            raise StoreError(f"{self.description}: can't be created: {error}") from error
        # SQLite does not wait for a lock when the journal mode is changed, so two first writers
        # would fail without this.
        for attempt in Retrying(
            retry=retry_if_exception_type(StoreUnavailableError),
            stop=stop_after_delay(self._timeout_s),
            wait=wait_random(0.01, 0.05),
            reraise=True,
        ):
            with attempt, self._translated(), self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")

    def _complete_table(self, connection: sa.Connection, measurement: Measurement) -> None:
        """Create the table, or add the columns that a later schema brought."""
        table = TABLES[measurement]
        columns = self.columns(connection, measurement)
        if len(columns) == len(table.columns):
            return
        if self.path is None:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATE_LOCK)))
            columns = self.columns(connection, measurement)  # another process may have been first
        if not columns:
            METADATA.create_all(connection, tables=[table])
            return
        for column in table.columns:
            if column not in columns:
                definition = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the database's errors into ours, cause kept."""
        try:
            yield
        except exc.DBAPIError as error:
            # Only the driver's words: SQLAlchemy's own text repeats statement and values.
            text = " ".join(str(error.orig).split())
            advice = next((a for words, a in _ADVICE.items() if words in text.lower()), None)
            message = f"{self.description}: {text}" + (f" ({advice})" if advice else "")
            raise _error_class(error, text.lower())(message) from error
        except exc.SQLAlchemyError as error:
            raise StoreError(f"{self.description}: {error}") from error
        except UnicodeDecodeError as error:
            # sqlite3 can't even say what it found: the damaged schema's own words are not UTF-8.
            raise StoreCorruptError(
                f"{self.description}: {error} ({_ADVICE['malformed']})"
            ) from error


@lru_cache(maxsize=16)
def _sqlite_engine(path: Path, timeout_s: float) -> sa.Engine:
    """Return the engine of a file: one for all stores, so that a query is compiled once.

    It holds no connection (a bot opens a store for every reload, and compiling cost half of it).
    """

    def connect() -> sqlite3.Connection:
        # mode=rw: a read must not create the file, not even when it vanishes just now. No implicit
        # transactions: the writer begins its own.
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw",
            uri=True,
            timeout=timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        # Said, because some builds of SQLite default to NORMAL, where a power cut takes back commits.
        try:
            connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    return sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool)


def _parse_url(target: str) -> sa.URL:
    try:
        return sa.make_url(target)
    except (exc.ArgumentError, ValueError):
        # Without the cause: its text may repeat the URL, password included.
        raise SettingsError("the store URL is not a valid PostgreSQL URL") from None


def _create_postgresql_engine(url: sa.URL, timeout_s: float) -> sa.Engine:
    """Return an engine whose connections wait no longer than `timeout_s` for anything."""
    milliseconds = round(timeout_s * 1000)
    limits = {
        "connect_timeout": str(max(2, round(timeout_s))),  # libpq takes less than 2 as 2
        "tcp_user_timeout": str(milliseconds),
    }
    url = url.update_query_dict({k: v for k, v in limits.items() if k not in url.query})
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
    except (exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise SettingsError(
            f"no driver for {url.drivername}: install it with pip install 'feeder-mixin[postgres]'"
        ) from error

    @sa.event.listens_for(engine, "connect")
    def limit_waits(connection: Any, _record: object) -> None:  # noqa: ANN401  (any DBAPI)
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"SET statement_timeout = {milliseconds}")
        connection.commit()

    return engine


def as_dicts(rows: sa.CursorResult[Any]) -> list[dict[str, Any]]:
    """Return rows by column; SQLAlchemy's own mappings take twice as long to read."""
    names = tuple(rows.keys())
    return [dict(zip(names, row, strict=True)) for row in rows]


def _row_values(record: ParameterRecord) -> dict[str, object]:
    """Return a record as one row; absent metrics as NULL."""
    return {
        **dict.fromkeys(FIELD_NAMES),
        **record.tags,
        **record.fields,
        "time_ns": record.time_ns,
        PROVENANCE_FIELD: record.provenance_json,
    }


def _is_of_type(table: sa.Table, model_type: ModelType) -> sa.ColumnElement[bool]:
    """Return `schema.is_of_type` as a condition; a type that is missing is not FreqAI's."""
    is_freqai = sa.func.coalesce(table.c.model_type, "") == FREQAI_MODEL_TYPE
    return is_freqai if model_type == FREQAI_MODEL_TYPE else ~is_freqai


@cache
def _latest_query(
    measurement: Measurement, names: tuple[str, ...], model_type: ModelType, for_pairs: bool
) -> sa.Select[tuple[Any, ...]]:
    """Return the query for each pair's newest few points and its newest complete one.

    Bound when executed: ``feeder_id``, ``now`` and, with `for_pairs`, ``pairs``.
    """
    table = TABLES[measurement]
    columns = [table.c[name] for name in names]
    is_complete = sa.and_(
        table.c.time_ns <= sa.bindparam("now"),
        *(table.c[n].is_not(None) if n in names else sa.false() for n in PARAMETER_NAMES),
    )
    marked = (
        sa.select(*columns, sa.case((is_complete, 1), else_=0).label("complete"))
        .where(table.c.feeder_id == sa.bindparam("feeder_id"), _is_of_type(table, model_type))
        .where(table.c.pair.in_(sa.bindparam("pairs", expanding=True)) if for_pairs else sa.true())
        .subquery("marked")
    )
    newest_first = marked.c.time_ns.desc()
    by_age = sa.func.row_number().over(partition_by=marked.c.pair, order_by=newest_first)
    by_age_of_kind = sa.func.row_number().over(
        partition_by=[marked.c.pair, marked.c.complete], order_by=newest_first
    )
    ranked = sa.select(marked, by_age.label("age"), by_age_of_kind.label("kind_age")).subquery()
    return sa.select(*(ranked.c[column.name] for column in columns)).where(
        sa.or_(
            ranked.c.age <= PASSED_OVER_LIMIT,
            sa.and_(ranked.c.complete == 1, ranked.c.kind_age == 1),
        )
    )


def _error_class(error: exc.DBAPIError, text: str) -> type[StoreError]:
    """Return which of our errors a database's error is: wait, mend, or inspect."""
    if any(words in text for words in _CORRUPT):
        return StoreCorruptError
    state = getattr(error.orig, "sqlstate", None)
    if isinstance(error.orig, sqlite3.Error):
        is_unavailable = "locked" in text
    elif state is None:  # psycopg could not connect, or lost the connection
        is_unavailable = isinstance(error, exc.OperationalError) and not any(
            words in text for words in _REFUSED_CONNECTION
        )
    else:
        is_unavailable = state.startswith(_UNAVAILABLE_STATES)
    return StoreUnavailableError if is_unavailable else StoreError
