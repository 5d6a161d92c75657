"""What InfluxDB 2 answers where it surprises, and that the store comes out right each time.

Each test asks a real server, or gives its recorded answers (`tests/recording.py`).
"""

import math

import pytest
from influxdb_client import Point
from influxdb_client.client.flux_csv_parser import FluxQueryException
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from feeder_mixin.errors import (
    SchemaError,
    StoreConflictError,
    StoreError,
    StoreUnavailableError,
)
from feeder_mixin.schema import (
    MEASUREMENT,
    MODEL_TYPE,
    NANOSECONDS,
    PARAMETER_NAMES,
    ParameterRecord,
    bucket_name,
    default_parameters,
)
from feeder_mixin.stores.base import Latest
from feeder_mixin.stores.influx_points import make_provenance_point
from feeder_mixin.stores.outbox import Outbox
from tests.builders import make_full_record, make_record

PAIR, OTHER, THIRD = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"
DAY_NS = 86_400 * NANOSECONDS
FLOATS = {name: float(value) for name, value in default_parameters().items()}
INTEGERS = {name: round(value) for name, value in FLOATS.items()}
HALF = {name: FLOATS[name] for name in PARAMETER_NAMES[:4]}


@pytest.fixture
def feeder(influx):
    """Give the feeder under test."""
    return influx.feeder


@pytest.fixture
def store(influx):
    """Give a store with a token that may do everything."""
    with influx.open() as store:
        yield store


@pytest.fixture
def ask_flux(store, feeder, now):
    """Give a function that asks Flux about 90 days of the feeder's parameters."""

    def ask(pipeline):
        days = f"start: {(now - 90 * DAY_NS) // NANOSECONDS}, stop: {now // NANOSECONDS + 1}"
        source = f'from(bucket: "{bucket_name(feeder)}") |> range({days})'
        chosen = f'{source} |> filter(fn: (r) => r._measurement == "{MEASUREMENT}")'
        tables = store.server.client.query_api().query(f"{chosen} {pipeline}")
        return [row.values for table in tables for row in table.records]

    return ask


PLAN = (
    '|> group(columns: ["pair"]) |> sort(columns: ["_time"], desc: true) |> limit(n: 1) '
    '|> pivot(rowKey: ["_time", "pair"], columnKey: ["_field"], valueColumn: "_value")'
)
"""The query of the first plan: it limits before it pivots."""

PIVOT = (
    '|> toFloat() |> pivot(rowKey: ["_time", "pair"], columnKey: ["_field"], valueColumn: "_value") '
    '|> group(columns: ["pair"]) |> sort(columns: ["_time"], desc: true) |> limit(n: 1)'
)
"""The same, pivoted first."""


def fields_of(row):
    """Return the parameters that a row of Flux holds."""
    return {name: row[name] for name in PARAMETER_NAMES if row.get(name) is not None}


def test_plans_query_keeps_one_field_of_ten_where_the_store_reads_all(
    influx, store, feeder, ask_flux, now
):
    """`limit` before `pivot` leaves one field a pair; the store's question gives the record."""
    record = make_full_record(feeder_id=feeder)
    store.write([record])
    (row,) = ask_flux(PLAN)
    assert len(fields_of(row)) <= 1
    assert store.latest(feeder, now=now).records == {PAIR: record}


def test_flux_refuses_integers_beside_floats_where_the_store_reads_both(
    influx, store, feeder, ask_flux, now
):
    """A foreign writer's integers of another week end the plan's query, for every pair."""
    influx.write_raw(feeder, OTHER, now - 14 * DAY_NS, FLOATS | {"n_estimators": 100})
    record = make_full_record(feeder_id=feeder)
    store.write([record])
    with pytest.raises(ApiException, match="schema collision"):
        ask_flux(PLAN)
    assert store.latest(feeder, now=now).records[PAIR] == record
    assert store.latest(feeder, [OTHER], now=now).records[OTHER].parameters["n_estimators"] == 100


def test_pivot_gives_a_half_written_row_where_the_store_takes_the_complete_one(
    influx, store, feeder, ask_flux, now
):
    """Flux's newest row is the half-written one; the store notes it and takes the one before."""
    record = make_full_record(PAIR, now - DAY_NS, feeder_id=feeder)
    store.write([record])
    influx.write_raw(feeder, PAIR, now - 1, HALF)
    (row,) = ask_flux(PIVOT)
    assert fields_of(row) == HALF
    latest = store.latest(feeder, now=now)
    assert latest.records == {PAIR: record}
    assert [note.field for note in latest.notes] == [PARAMETER_NAMES[4]]


def test_last_mixes_two_records_where_the_store_never_does(influx, store, feeder, ask_flux, now):
    """`last()` gives four fields of a half-written record and six of the one before."""
    tags = f"feeder_id={feeder},model_type={MODEL_TYPE},optimized_for={feeder},pair={PAIR}"
    half = ",".join(f"{name}={FLOATS[name] * 1.5}" for name in HALF)
    writer = store.server.client.write_api(write_options=SYNCHRONOUS)
    writer.write(bucket_name(feeder), store.org, f"{MEASUREMENT},{tags} {half} {now - 1}")
    record = make_full_record(PAIR, now - DAY_NS, feeder_id=feeder, learning_rate=0.02)
    store.write([record])
    pivot = '|> pivot(rowKey: ["pair"], columnKey: ["_field"], valueColumn: "_value")'
    rows = ask_flux(f'|> last() |> drop(columns: ["_time"]) {pivot}')
    mixed = {name: value for row in rows for name, value in fields_of(row).items()}
    assert set(mixed) == set(PARAMETER_NAMES)
    assert mixed["learning_rate"] == FLOATS["learning_rate"] * 1.5
    assert mixed["reg_lambda"] == record.parameters["reg_lambda"]
    assert store.latest(feeder, now=now).records == {PAIR: record}


def test_integers_in_an_old_shard_hide_floats_from_flux_but_not_from_the_store(
    influx, store, feeder, ask_flux, now
):
    """Flux over both shards loses the newer floats of every pair and says nothing."""
    influx.write_raw(feeder, OTHER, now - 60 * DAY_NS, INTEGERS)
    record = make_full_record(feeder_id=feeder)
    store.write([record])
    assert PAIR not in {row["pair"] for row in ask_flux(PIVOT) if fields_of(row)}
    latest = store.latest(feeder, now=now)
    assert latest.records == {PAIR: record}
    assert "learning_rate=0.0 is outside" in latest.rejected[OTHER].reason


def test_integer_in_the_current_shard_refuses_the_point_and_the_outbox_keeps_it(
    influx, store, feeder, now, tmp_path
):
    """A type conflict names field and types, stores nothing, and costs no result."""
    influx.write_raw(feeder, OTHER, now, {"n_estimators": 100})
    outbox = Outbox(tmp_path / "outbox.sqlite")
    record = outbox.put(make_full_record(feeder_id=feeder))
    delivered = outbox.deliver(store)
    assert "field n_estimators is integer there, ours is float" in str(delivered.error)
    assert f"not stored: {feeder} {PAIR} at" in str(delivered.error)
    assert outbox.pending() == [record]
    assert store.history(feeder, PAIR) == []
    outbox.close()


def test_refusal_of_one_line_leaves_the_others_written_and_names_the_lost_one(
    influx, store, feeder, now
):
    """A 422 is not "nothing written": what got through is there, and a repeat is harmless."""
    influx.write_raw(feeder, THIRD, now - 14 * DAY_NS, {"n_estimators": 100})
    bad = make_full_record(THIRD, now - 14 * DAY_NS + 1, feeder_id=feeder)
    good = [make_full_record(feeder_id=feeder), make_full_record(OTHER, now - 1, feeder_id=feeder)]
    for _ in range(2):
        with pytest.raises(StoreError, match=f"not stored: {feeder} {THIRD} at") as caught:
            store.write([bad, *good])
        assert PAIR not in str(caught.value)
        assert store.latest(feeder, now=now).records == {record.pair: record for record in good}


def test_text_in_a_field_ends_flux_where_the_store_reads_the_rest(
    influx, store, feeder, ask_flux, now
):
    """One text in an old shard fails Flux's cast for every pair; the store gives the floats."""
    influx.write_raw(feeder, OTHER, now - 60 * DAY_NS, FLOATS | {"num_leaves": "many"})
    latest = store.latest(feeder, now=now)
    assert "num_leaves='many' is not a number" in latest.rejected[OTHER].reason
    record = make_full_record(feeder_id=feeder)
    store.write([record])
    with pytest.raises(ApiException, match="400"):
        ask_flux(PIVOT)
    latest = store.latest(feeder, now=now)
    assert latest.records == {PAIR: record}
    assert [(note.pair, note.field) for note in latest.notes] == [(OTHER, "num_leaves")]


def test_same_point_twice_is_one_row(influx, store, feeder, now):
    """The server keeps one row of a repeated point: repeating a delivery is harmless."""
    for _ in range(2):
        influx.write_raw(feeder, PAIR, now, FLOATS)
    assert len(store.history(feeder, PAIR)) == 1


def test_fewer_fields_under_the_same_key_are_mixed_by_the_server_so_the_store_refuses(
    influx, store, feeder, now
):
    """The server merges two points of one key into a mixture; the store does not send the second."""
    influx.write_raw(feeder, OTHER, now, FLOATS)
    influx.write_raw(feeder, OTHER, now, {"learning_rate": 0.09})
    (point,) = store.history(feeder, OTHER)
    assert point.fields["learning_rate"] == 0.09
    assert point.fields["num_leaves"] == FLOATS["num_leaves"]
    record = make_full_record(feeder_id=feeder)
    store.write([record])
    fewer = ParameterRecord(feeder, PAIR, now, default_parameters(), {}, record.provenance)
    with pytest.raises(StoreConflictError, match="other content"):
        store.write([fewer])
    assert store.latest(feeder, [PAIR], now=now).records == {PAIR: record}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_client_drops_nan_silently_so_no_record_has_one(value):
    """The client writes a point without the field; a record that has one can't be made."""
    line = Point("m").field("skill", value).field("num_leaves", 15.0).to_line_protocol()
    assert line == "m num_leaves=15"
    with pytest.raises(SchemaError, match="skill"):
        make_record(metrics={"skill": value})


def test_future_point_is_unseen_by_an_open_range_and_told_by_the_store(influx, store, feeder, now):
    """`range(start: ...)` ends at now() and hides it; the store says by how much it is off."""
    record, ahead = make_full_record(PAIR, now - 1, feeder_id=feeder), 20 * 365 * DAY_NS
    store.write([record, make_full_record(PAIR, now + ahead, feeder_id=feeder)])
    source = f'from(bucket: "{bucket_name(feeder)}")'
    only = f'|> filter(fn: (r) => r._measurement == "{MEASUREMENT}" and r._field == "num_leaves")'
    query = store.server.client.query_api().query
    begin = f"start: {now // NANOSECONDS - 60}"
    seen = [row for table in query(f"{source} |> range({begin}) {only}") for row in table.records]
    stop = f"stop: {(now + ahead) // NANOSECONDS + 1}"
    both = query(f"{source} |> range({begin}, {stop}) {only}")
    assert len(seen) == 1
    assert sum(len(table.records) for table in both) == 2
    latest = store.latest(feeder, now=now)
    assert latest.records == {PAIR: record}
    assert f"dated {ahead // NANOSECONDS} s in the future" in latest.notes[0].reason


def test_point_older_than_the_retention_is_refused_by_name(influx, store, feeder, now):
    """A bucket that forgets refuses old points; the error says so and names the record."""
    influx.limit_retention()
    old = make_full_record(PAIR, now - 3 * 365 * DAY_NS, feeder_id=feeder)
    with pytest.raises(StoreError, match=r"outside retention policy.*not stored") as caught:
        store.write([old])
    assert PAIR in str(caught.value)
    assert not isinstance(caught.value, StoreUnavailableError)


def test_point_older_than_the_retention_costs_no_other(influx, store, feeder, now):
    """The text of a record is refused before its values: those of the others are written all the same."""
    influx.limit_retention()
    old = make_full_record(PAIR, now - 3 * 365 * DAY_NS, feeder_id=feeder)
    new = [make_full_record(pair, now + 365 * DAY_NS, feeder_id=feeder) for pair in (OTHER, THIRD)]
    for _ in range(2):
        with pytest.raises(StoreError, match=f"not stored: {feeder} {PAIR} at") as caught:
            store.write([old, *new])
        assert OTHER not in str(caught.value).partition("not stored")[2]
        for record in new:
            assert store.history(feeder, record.pair)[0].holds(record)


def test_missing_bucket_looks_different_in_every_interface_and_the_same_in_the_store(
    influx, store, now
):
    """404, an error inside a 200, an empty CSV: the store makes one message of them."""
    with pytest.raises(ApiException) as caught:
        store.server.client.query_api().query('from(bucket: "OPTUNA_NOBODY") |> range(start: -1h)')
    assert caught.value.status == 404
    values = {"db": "OPTUNA_NOBODY", "q": "SELECT num_leaves FROM optimized_parameters"}
    as_json, as_csv = (
        store.server.client.api_client.call_api(
            "/query",
            "GET",
            query_params=list(values.items()),
            header_params={"Accept": accept},
            response_type="str",
            _return_http_data_only=True,
        )
        for accept in ("application/json", "text/csv")
    )
    assert "database not found" in str(as_json)
    assert str(as_csv).strip() == ""
    store._feeder_ids = ("nobody",)
    for call in (
        store.ping,
        lambda: store.latest("nobody", now=now),
        lambda: store.history("nobody", PAIR),
        lambda: store.write([make_full_record(feeder_id="nobody")]),
    ):
        with pytest.raises(StoreError, match=r"OPTUNA_NOBODY is missing.*init-store"):
            call()
    point = make_provenance_point(MEASUREMENT, make_full_record(feeder_id="nobody"))
    with store.server.in_time(), pytest.raises(StoreError, match=r"OPTUNA_NOBODY is missing"):
        store.server.send("OPTUNA_NOBODY", [point])


def test_wrong_token_is_told_from_a_missing_right(influx, now):
    """401 says that the token is wrong, for reads and writes alike."""
    with influx.open_as("no-such-token") as store:
        for call in (
            store.ping,
            lambda: store.latest(influx.feeder, now=now),
            lambda: store.write([make_full_record(feeder_id=influx.feeder)]),
        ):
            with pytest.raises(StoreError, match="the token is wrong"):
                call()


def test_deactivated_token_is_told_from_a_wrong_one_and_a_missing_right(influx, now):
    """Reads are answered as to a wrong token, writes as to a missing right: the store tells."""
    token = influx.make_token(read=True, write=True)
    influx.deactivate_token(token)
    with influx.open_as(token) as store:
        for call in (
            store.ping,
            lambda: store.latest(influx.feeder, now=now),
            lambda: store.write([make_full_record(feeder_id=influx.feeder)]),
            lambda: store.may_write(influx.feeder),
            lambda: store.make_bucket(influx.feeder),
        ):
            with pytest.raises(StoreError, match="the token is deactivated: activate it"):
                call()


def test_bucket_is_found_by_a_token_that_may_read_it(influx):
    """How long it keeps points is no secret to a bot; who may not read it sees none."""
    influx.limit_retention()
    with influx.open_as(influx.make_token(read=True)) as store:
        assert store.find_bucket(influx.feeder).keeps_text == "30 days"
        assert store.find_bucket("nobody") is None


def test_token_that_may_only_read_serves_a_bot_and_refuses_a_write(influx, now):
    """A bot needs no more than to read; writing with its token says which right is missing."""
    record = make_full_record(feeder_id=influx.feeder)
    with influx.open() as store:
        store.write([record])
    with influx.open_as(influx.make_token(read=True)) as store:
        store.ping()
        assert store.latest(influx.feeder, now=now).records == {PAIR: record}
        assert len(store.history(influx.feeder, PAIR)) == 1
        with pytest.raises(StoreError, match="no right to do this in bucket"):
            store.write([make_full_record(OTHER, feeder_id=influx.feeder)])
        with pytest.raises(StoreError, match="OPTUNA_NOBODY is missing, or the token has no right"):
            store.latest("nobody", now=now)


def test_token_that_may_only_write_finds_the_bucket_missing(influx, now):
    """An optimizer reads back what it wrote: without the right to read it is refused at once."""
    with (
        influx.open_as(influx.make_token(write=True)) as store,
        pytest.raises(StoreError, match="is missing, or the token has no right to read it"),
    ):
        store.write([make_full_record(feeder_id=influx.feeder)])
    with influx.open() as store:
        assert store.history(influx.feeder, PAIR) == []


def test_token_that_may_read_and_write_serves_an_optimizer(influx, now):
    """Both rights on the one bucket are enough to write, read back and read."""
    record = make_full_record(feeder_id=influx.feeder)
    with influx.open_as(influx.make_token(read=True, write=True)) as store:
        store.write([record])
        assert store.latest(influx.feeder, now=now) == Latest({PAIR: record})


def test_error_inside_a_200_is_raised(influx, store, feeder):
    """Flux and InfluxQL both report errors with status 200; neither passes for an empty store."""
    later = 'import "array" array.from(rows:[{a:1}]) |> yield(name: "1") '
    broken = f"{later} array.from(rows: [{{a: 1}}]) |> map(fn: (r) => ({{b: 1 / (r.a - r.a)}}))"
    with pytest.raises((FluxQueryException, ApiException)):
        store.server.client.query_api().query(broken)
    with store.server.in_time(), pytest.raises(StoreError, match=bucket_name(feeder)):
        store.server.query(bucket_name(feeder), "SELECT mean(num_leaves), num_leaves FROM m", "{}")


def test_bound_values_are_never_code(influx, store, feeder, now):
    """A value that would be a statement finds nothing and does nothing."""
    record = make_full_record(feeder_id=feeder)
    store.write([record])
    for hostile in ("x' OR 'a'='a", "'; DROP MEASUREMENT optimized_parameters; --", "$feeder_id"):
        assert store.history(feeder, hostile) == []
        assert store.latest(feeder, [hostile], now=now) == Latest()
    assert store.latest(feeder, now=now).records == {PAIR: record}


def test_bucket_that_exists_is_found_and_left_as_it_is(influx, store, feeder):
    """Making a bucket again changes nothing and says what is there."""
    assert store.make_bucket(feeder).keeps_s is None
    influx.limit_retention()
    found = store.make_bucket(feeder)
    assert (found.name, found.is_new) == (bucket_name(feeder), False)
    assert found.keeps_s == 30 * 86_400


def test_provenance_behind_newer_documents_is_found(influx, store, feeder, now):
    """A record's provenance is found behind newer documents whose points never arrived."""
    record = make_full_record(PAIR, now - DAY_NS, feeder_id=feeder)
    store.write([record])
    orphans = [
        make_provenance_point(MEASUREMENT, make_full_record(PAIR, now - age, feeder_id=feeder))
        for age in range(9)
    ]
    with store.server.in_time():
        store.server.send(bucket_name(feeder), orphans)
    assert store.latest(feeder, now=now) == Latest({PAIR: record})
    assert store.history(feeder, PAIR, 1)[0].holds(record)
