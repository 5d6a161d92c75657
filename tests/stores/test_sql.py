"""What only the SQL store has: its file, its table's growth, foreign rows, database errors."""

import os
import stat
import subprocess
import sys
import traceback

import pytest
import sqlalchemy as sa

from feeder_mixin.errors import (
    SettingsError,
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
)
from feeder_mixin.schema import FIELD_NAMES, default_parameters
from feeder_mixin.stores.base import Latest
from feeder_mixin.stores.sql import TABLE, SqlStore
from tests.builders import FEEDER, make_full_record

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
FLOATS = {name: float(value) for name, value in default_parameters().items()}

WRITER = """
import sys
from pathlib import Path
from feeder_mixin.schema import ParameterRecord, default_parameters
from feeder_mixin.stores.sql import SqlStore
target, worker = sys.argv[1:]
store = SqlStore(target if "://" in target else Path(target))
sys.stdin.readline()
for i in range(10):
    store.write([ParameterRecord("feeder120b", f"W{worker}/USDT", 10**18 + i, default_parameters())])
"""


def limit_pages(store, pages):
    """Make every connection of `store` refuse to grow the file, as a full disk does."""
    sa.event.listen(
        store.engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}")
    )


def run_writers(target):
    """Let four processes write to `target` for the first time, at once."""
    processes = [
        subprocess.Popen(  # noqa: S603  (our own interpreter and code)
            [sys.executable, "-W", "error", "-c", WRITER, target, str(worker)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for worker in range(4)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in processes]
    assert [p.returncode for p in processes] == [0] * 4, errors


def test_sqlite_reads_create_nothing(tmp_path, now):
    """Reading a store that does not exist yet leaves no file and no folder behind."""
    with SqlStore(tmp_path / "folder" / "s.sqlite") as store:
        store.ping()
        assert store.latest(FEEDER, now=now) == Latest()
        assert store.history(FEEDER, PAIR) == []
        store.write([])
    assert list(tmp_path.iterdir()) == []


def test_sqlite_first_write_makes_private_wal_file(sqlite_backend):
    """The file is the owner's alone, whatever the umask, and in WAL mode."""
    store = sqlite_backend.open()
    before = os.umask(0)
    try:
        store.write([make_full_record()])
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    with store.read_connection() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_sqlite_first_writes_of_processes_at_once_all_succeed(tmp_path):
    """Processes that create folder, file and table at the same time lose nothing."""
    path = tmp_path / "folder" / "s.sqlite"
    run_writers(str(path))
    with SqlStore(path) as store:
        assert [len(store.history(FEEDER, f"W{w}/USDT")) for w in range(4)] == [10] * 4


@pytest.mark.external_service
def test_postgresql_first_writes_of_processes_at_once_all_succeed(postgres_url):
    """Processes that create the table at the same time lose nothing."""
    run_writers(postgres_url)
    with SqlStore(postgres_url) as store:
        assert [len(store.history(FEEDER, f"W{w}/USDT")) for w in range(4)] == [10] * 4


def check_older_table_grows(store, now):
    """Check reading and writing where the table is of another version of the schema."""
    missing = (FIELD_NAMES[3], FIELD_NAMES[-1])
    columns = ", ".join(f"{n} DOUBLE PRECISION" for n in FIELD_NAMES if n not in missing)
    create = (
        f"CREATE TABLE {TABLE.name} (time_ns BIGINT, feeder_id TEXT, pair TEXT, later TEXT,"
        f"optimized_for TEXT, model_type TEXT, {columns}, UNIQUE (feeder_id, pair, time_ns))"
    )
    with store.write_connection() as connection:
        connection.execute(sa.schema.DropTable(TABLE))
        connection.exec_driver_sql(create)
    with store.read_connection() as connection:
        assert len(store.columns(connection)) == len(TABLE.columns) - 3
    assert store.latest(FEEDER, now=now) == Latest()
    record = make_full_record()
    store.write([record])
    assert store.latest(FEEDER, now=now).records == {PAIR: record}


def test_sqlite_older_table_gets_missing_columns(sqlite_backend, now):
    """A table without later columns reads as it is; a write adds them; unknown ones stay."""
    check_older_table_grows(sqlite_backend.open(), now)


@pytest.mark.external_service
def test_postgresql_older_table_gets_missing_columns(postgresql_backend, now):
    """A table without later columns reads as it is; a write adds them; unknown ones stay."""
    check_older_table_grows(postgresql_backend.open(), now)


def test_table_without_key_columns_is_corrupt(sqlite_backend, now):
    """Some other table of that name is named as damage, with what it lacks."""
    store = sqlite_backend.open()
    with store.write_connection() as connection:
        connection.execute(sa.schema.DropTable(TABLE))
        connection.exec_driver_sql(f"CREATE TABLE {TABLE.name} (pair TEXT)")
    with pytest.raises(StoreCorruptError, match="no column feeder_id, model_type, time_ns"):
        store.latest(FEEDER, now=now)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"num_leaves": "many"}, "num_leaves='many' is not a number", id="text"),
        pytest.param({"num_leaves": float("inf")}, "num_leaves=inf is not finite", id="infinity"),
        pytest.param({"num_leaves": b"\x00"}, "num_leaves=b", id="bytes"),
        pytest.param({"skill": "good"}, "skill='good' is not a number", id="text_metric"),
        pytest.param({"provenance": "{"}, "provenance is not JSON", id="broken_provenance"),
        pytest.param({"provenance": b"\xff"}, "provenance is not JSON", id="bytes_provenance"),
    ],
)
def test_sqlite_foreign_value_rejects_that_record_only(sqlite_backend, now, fields, reason):
    """What a foreign writer left in a field rejects its record, by name; other pairs are read."""
    store = sqlite_backend.open()
    store.write([make_full_record(OTHER)])
    sqlite_backend.write_raw(FEEDER, PAIR, now, FLOATS | fields)
    latest = store.latest(FEEDER, now=now)
    assert set(latest.records) == {OTHER}
    assert reason in latest.rejected[PAIR].reason


def test_sqlite_nan_reads_as_missing_field(sqlite_backend, now):
    """SQLite keeps NaN as NULL, so the point counts as incomplete, with the field's name."""
    sqlite_backend.write_raw(FEEDER, PAIR, now, FLOATS | {"num_leaves": float("nan")})
    (note,) = sqlite_backend.open().latest(FEEDER, now=now).notes
    assert note.field == "num_leaves"


@pytest.mark.external_service
def test_postgresql_nan_rejects_the_record(postgresql_backend, now):
    """PostgreSQL keeps NaN, which is rejected with the field's name."""
    postgresql_backend.write_raw(FEEDER, PAIR, now, FLOATS | {"num_leaves": float("nan")})
    latest = postgresql_backend.open().latest(FEEDER, now=now)
    assert "num_leaves=nan is not finite" in latest.rejected[PAIR].reason


def test_sqlite_row_without_readable_key_is_corrupt(sqlite_backend, now):
    """A row that can't be placed in time is an error that shows it, not a crash."""
    sqlite_backend.write_raw(FEEDER, PAIR, "yesterday", FLOATS)
    with pytest.raises(StoreCorruptError, match="time_ns='yesterday'"):
        sqlite_backend.open().latest(FEEDER, now=now)


def test_sqlite_readonly_says_so(sqlite_backend, now):
    """A store that can be read but not written says readonly, and stays readable."""
    store, record = sqlite_backend.open(), make_full_record()
    store.write([record])
    sa.event.listen(store.engine, "connect", lambda c, _: c.execute("PRAGMA query_only=ON"))
    with pytest.raises(
        StoreError, match=r"readonly database \(make the file and its folder writable"
    ):
        store.write([make_full_record(OTHER)])
    assert store.latest(FEEDER, now=now).records == {PAIR: record}


def test_sqlite_full_disk_says_so_and_keeps_whole_records(sqlite_backend, now):
    """A full disk is named; earlier records stay, none is there in part, and room heals it."""
    store, record = sqlite_backend.open(), make_full_record()
    store.write([record])
    full = SqlStore(store.path, timeout_s=3.0)  # stores of one file and time-out share an engine
    limit_pages(full, 1)
    more = [make_full_record(f"P{i}/USDT") for i in range(100)]
    with pytest.raises(StoreError, match=r"database or disk is full \(nothing was written"):
        full.write(more)
    assert store.latest(FEEDER, now=now).records == {PAIR: record}
    store.write(more)
    assert len(store.latest(FEEDER, now=now).records) == 101


def test_sqlite_lock_held_too_long_is_unavailable(sqlite_backend):
    """A lock that another process keeps is waited for, then reported as worth another try."""
    holder = sqlite_backend.open()
    with holder.write_connection():
        waiting = SqlStore(holder.path, timeout_s=0.05)
        with pytest.raises(StoreUnavailableError, match="locked"):
            waiting.write([make_full_record()])


def test_sqlite_schema_of_other_bytes_is_corrupt(tmp_path, now):
    """The library's own message then holds bytes that are no text, and is never made."""
    path = tmp_path / "store.sqlite"
    with SqlStore(path) as store:
        store.write([make_full_record()])
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE T\x80BLE"))
    with SqlStore(path) as store, pytest.raises(StoreCorruptError, match="restore it from a copy"):
        store.latest(FEEDER, now=now)


def test_sqlite_file_of_other_kind_is_corrupt(tmp_path, now):
    """A file that is no database is named as such by every call."""
    path = tmp_path / "s.sqlite"
    path.write_text("no database " * 100)
    with SqlStore(path) as store, pytest.raises(StoreCorruptError, match="not a database"):
        store.latest(FEEDER, now=now)


def test_sqlite_folder_that_is_a_file_says_so(tmp_path):
    """A place where no file can be made gives an error with the reason."""
    (tmp_path / "file").write_text("")
    store = SqlStore(tmp_path / "file" / "s.sqlite")
    with pytest.raises(StoreError, match="can't be created"):
        store.write([make_full_record()])


@pytest.mark.parametrize("call", ["ping", "latest", "history", "write"])
def test_postgresql_down_is_unavailable_without_password(call):
    """A server that is not there is named, and the password is nowhere in the error."""
    store = SqlStore("postgresql+psycopg://bot:hush@127.0.0.1:1/feeder", timeout_s=2)
    arguments = {
        "ping": (),
        "latest": (FEEDER,),
        "history": (FEEDER, PAIR),
        "write": ([make_full_record()],),
    }
    with pytest.raises(StoreUnavailableError, match=r"bot:\*\*\*@127\.0\.0\.1") as caught:
        getattr(store, call)(*arguments[call])
    assert caught.value.__cause__ is not None
    shown = "".join(traceback.format_exception(caught.value))
    assert "hush" not in f"{shown}{store!r}{store.description}"


@pytest.mark.external_service
def test_postgresql_database_missing_is_no_outage(postgres_url):
    """A database that does not exist is not worth waiting for."""
    url = sa.make_url(postgres_url).set(database="no_such_database")
    store = SqlStore(url.render_as_string(hide_password=False))
    with pytest.raises(StoreError, match="does not exist") as caught:
        store.ping()
    assert not isinstance(caught.value, StoreUnavailableError)


@pytest.mark.external_service
def test_postgresql_readonly_says_so(postgres_url):
    """A session that may only read is an error that says readonly."""
    url = sa.make_url(postgres_url)
    options = url.query["options"] + " -cdefault_transaction_read_only=on"
    url = url.update_query_dict({"options": options})
    store = SqlStore(url.render_as_string(hide_password=False))
    with pytest.raises(StoreError, match="read-only transaction"):
        store.write([make_full_record()])


def test_malformed_url_is_not_repeated():
    """A URL that can't be parsed gives an error without its text, password included."""
    url = "postgresql+psycopg://bot:hush@host:port/feeder"
    with pytest.raises(SettingsError, match="not a valid") as caught:
        SqlStore(url)
    assert "hush" not in "".join(traceback.format_exception(caught.value))
