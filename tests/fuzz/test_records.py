"""Records from anywhere: arbitrary values, rows of a foreign writer, answers of a server."""

from __future__ import annotations

import json
import sqlite3

import pytest
from hypothesis import strategies as st

from feeder_mixin.schema import (
    FIELD_NAMES,
    PROVENANCE_FIELD,
    TAGS,
    ParameterRecord,
    default_parameters,
    format_time_ns,
)
from feeder_mixin.schema import build_record as build
from feeder_mixin.stores.base import StoredPoint, select_latest
from feeder_mixin.stores.influx import InfluxStore
from feeder_mixin.stores.sql import TABLE, SqlStore
from tests import strategies
from tests.builders import FEEDER, PAIR, make_record
from tests.faults.influx_model import InfluxModel, attach

NOW_NS = 1_795_176_000 * 10**9

wild_texts = st.text(max_size=8) | st.sampled_from(
    ("[" * 9_000, "1" * 5_000, '{"a":' + "1" * 5_000 + "}", '{"a":NaN}', "null", "\ud800")
)
wild_fields = st.dictionaries(
    st.sampled_from(FIELD_NAMES) | st.text(max_size=5), strategies.wild_values, max_size=4
).map(lambda changes: {**default_parameters(), **changes})


def use(record: ParameterRecord) -> None:
    """Do with a record what its readers do."""
    assert set(record.parameters) == set(default_parameters())
    json.dumps(record.to_dict(), allow_nan=False)
    assert record.provenance_json
    assert record.same_content(record)


def test_build_record_of_any_values_gives_a_whole_record_or_our_error(fuzz):
    """Numbers beyond any float, text, NaN, documents that nest without end."""
    values = st.tuples(wild_fields, st.none() | wild_texts, strategies.wild_values)
    fuzz(values, lambda v: use(build(FEEDER, PAIR, NOW_NS, v[0], v[1])), 100)
    fuzz(values, lambda v: use(build(FEEDER, PAIR, v[2], v[0], v[1])), 40)


def test_select_latest_of_any_points_names_each_and_raises_nothing(fuzz):
    """What is taken is valid; what is not is a note that can be printed."""

    def check(points):
        latest = select_latest(FEEDER, points, now=NOW_NS, max_age_days=90.0)
        for record in latest.records.values():
            use(record)
        for note in (*latest.notes, *latest.rejected.values()):
            assert PAIR in str(note)
        for time_ns in latest.expired.values():
            assert format_time_ns(time_ns)

    times = st.integers(-(2**63), 2**63 - 1) | st.integers(NOW_NS - 10**16, NOW_NS + 10)
    points = st.builds(StoredPoint, st.just(PAIR), times, wild_fields, st.none() | wild_texts)
    fuzz(st.lists(points, max_size=4), check, 70)


COLUMNS = ("time_ns", *TAGS, "learning_rate", "num_leaves", "skill", PROVENANCE_FIELD)
cells = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.binary(max_size=8)
)


def test_sqlite_rows_of_any_values_are_read_or_refused(fuzz, tmp_path_factory):
    """SQLite keeps any type in any column; a foreign writer may have made the table."""
    path = tmp_path_factory.mktemp("elsewhere") / "store.sqlite"
    names = [column.name for column in TABLE.columns]
    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TABLE {TABLE.name} ({', '.join(names)})")
    db.close()
    good = {**default_parameters(), "time_ns": NOW_NS, "feeder_id": FEEDER, "pair": PAIR}
    store = SqlStore(path)

    def check(rows):
        with sqlite3.connect(path) as db:
            db.execute(f"DELETE FROM {TABLE.name}")  # noqa: S608  (the schema's name)
            for row in rows:
                marks = ", ".join("?" * len(row))
                db.execute(
                    f"INSERT INTO {TABLE.name} ({', '.join(row)}) VALUES ({marks})",  # noqa: S608
                    list(row.values()),
                )
        db.close()
        for record in store.latest(FEEDER, now=NOW_NS).records.values():
            use(record)
        for point in store.history(FEEDER, PAIR):
            use(point.build_record(FEEDER))

    changes = st.dictionaries(st.sampled_from(COLUMNS), cells, max_size=2)
    fuzz(st.lists(changes.map(lambda c: {**good, **c}), max_size=3), check, 60)


def test_damaged_sqlite_file_is_read_or_refused(fuzz, tmp_path_factory):
    """Bytes changed anywhere in the file: the header, the schema, the rows."""
    path = tmp_path_factory.mktemp("elsewhere") / "store.sqlite"
    with SqlStore(path) as store:
        store.write([make_record(PAIR, NOW_NS + i) for i in (1, 2)])
    whole = path.read_bytes()

    def check(content):
        path.write_bytes(content)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        with SqlStore(path) as store:
            for record in store.latest(FEEDER, now=NOW_NS + 9).records.values():
                use(record)
            store.ping()
            store.write([make_record(PAIR, NOW_NS + 3)])

    fuzz(strategies.damaged_bytes(whole), check, 50)


@pytest.fixture(scope="module")
def influx_answer() -> bytes:
    """Give a whole answer of the server."""
    model, answers = InfluxModel(), []

    def answer(*request):
        answers.append(model.answer(*request))
        return answers[-1]

    record = make_record(metrics={}, provenance={"seed": 1})
    with attach(answer) as store:
        store.write([record])
        assert store.latest(FEEDER, now=NOW_NS).records[PAIR].same_content(record)
    return answers[-2][1]


def ask(store: InfluxStore) -> None:
    """Read all there is, as the bot and ``feeder history`` do."""
    latest = store.latest(FEEDER, now=NOW_NS)
    for record in latest.records.values():
        use(record)
    for note in (*latest.notes, *latest.rejected.values()):
        assert str(note)
    for point in store.history(FEEDER, PAIR):
        use(point.build_record(FEEDER))


def test_influxdb_answer_of_any_json_is_read_or_refused(fuzz, influx_answer):
    """An answer with any value replaced, taken out or added, in either statement."""
    document = json.loads(influx_answer)

    def check(answer):
        with attach(lambda *_: (200, json.dumps(answer).encode())) as store:
            ask(store)

    fuzz(strategies.mutated_documents(document), check, 120)
    fuzz(strategies.wild_values.map(lambda v: {"results": [v]}), check, 30)


def test_influxdb_answer_of_any_bytes_and_status_is_read_or_refused(fuzz, influx_answer):
    """An answer cut off or garbled on its way, under any status."""

    def check(answer):
        with attach(lambda *_: answer) as store:
            ask(store)

    statuses = st.sampled_from((200, 204, 400, 401, 404, 422, 429, 500, 503))
    fuzz(st.tuples(statuses, strategies.damaged_bytes(influx_answer)), check, 60)
