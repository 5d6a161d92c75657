"""What only the InfluxDB store has: its requests, its server's answers and refusals.

Most tests ask a local HTTP server that gives a real server's recorded answers
(`recorded_influx.json`); those marked `external_service` ask a real one.
"""

import json
import logging
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import tenacity
from urllib3.exceptions import HTTPError

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
    NANOSECONDS,
    PROVENANCE_MEASUREMENTS,
    default_parameters,
)
from feeder_mixin.stores.base import Latest
from feeder_mixin.stores.influx import InfluxStore
from feeder_mixin.stores.influx_errors import unreachable_text
from tests.builders import FEEDER, make_full_record

RECORDED = json.loads(Path(__file__).with_name("recorded_influx.json").read_text())
PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
TOKEN = "hush-hush"  # noqa: S105  (a token of no server)
FLOATS = {name: float(value) for name, value in default_parameters().items()}
DAY_NS = 86_400 * NANOSECONDS
EMPTY, ACCEPTED = (200, RECORDED["empty"]["response"]), (204, "")


def recorded(name):
    """Return a recorded answer as status and body."""
    return RECORDED[name]["status"], RECORDED[name]["response"]


def stored(*records, measurement=MEASUREMENT):
    """Return the answer that holds `records`, as the server gives it."""
    series = []
    for record in records:
        tags = {"pair": record.pair}
        row = [record.time_ns, *record.fields.values(), record.model_type]
        columns = ["time", *record.fields, "model_type"]
        series.append({"name": measurement, "tags": tags, "columns": columns, "values": [row]})
        row = [record.time_ns, record.provenance_json]
        columns = ["time", "provenance"]
        series.append(
            {
                "name": PROVENANCE_MEASUREMENTS[measurement],
                "tags": tags,
                "columns": columns,
                "values": [row],
            }
        )
    return 200, json.dumps({"results": [{"statement_id": 0, "series": series}]})


def test_latest_reads_recorded_answer(server, fake_store):
    """A real server's answer becomes records: all ten parameters, integers restored."""
    server.answers += [recorded("newest"), recorded("newest")]
    latest = fake_store.latest(FEEDER, now=1_795_348_800 * NANOSECONDS)
    assert set(latest.records) == {PAIR, OTHER}
    assert latest.records[PAIR].parameters == default_parameters() | {"n_estimators": 101}
    assert latest.records[PAIR].time_ns == 1_795_262_400 * NANOSECONDS


def test_latest_combines_newest_and_complete(server, fake_store):
    """The half-written newest point of a recorded answer is noted, the complete one taken."""
    server.answers += [recorded("several_pairs"), recorded("newest")]
    latest = fake_store.latest(FEEDER, now=1_795_348_800 * NANOSECONDS)
    assert latest.records[PAIR].time_ns == 1_795_262_400 * NANOSECONDS
    assert [(note.pair, note.field) for note in latest.notes] == [(PAIR, "min_child_samples")]


def test_latest_asks_influxql_as_json_with_bound_values(server, fake_store, now):
    """A read is GETs of /query; feeder and pairs are bound values, never query text."""
    server.answers += [recorded("empty"), recorded("empty")]
    assert fake_store.latest(FEEDER, ["x' OR 'a'='a"], now=now) == Latest()
    for path, query, _body in server.asked:
        assert path == "/query"
        assert query["db"] == ["OPTUNA_FEEDER120B"]
        assert query["epoch"] == ["ns"]
        assert "x' OR" not in query["q"][0]
        assert FEEDER not in query["q"][0]
        values = json.loads(query["params"][0])
        assert (values["feeder_id"], values["pair0"]) == (FEEDER, "x' OR 'a'='a")
    assert len(server.asked) == 2
    assert server.headers[0]["Accept"] == "application/json"
    assert server.headers[0]["Authorization"] == f"Token {TOKEN}"


def test_latest_of_recent_records_is_one_request_of_a_few_days(server, fake_store, now):
    """What a bot of nightly tuned pairs asks: one statement, over the last days only."""
    records = [make_full_record(pair, now - DAY_NS) for pair in (PAIR, OTHER)]
    server.answers.append(stored(*records))
    assert set(fake_store.latest(FEEDER, [PAIR, OTHER], now=now).records) == {PAIR, OTHER}
    ((_, query, _),) = server.asked
    assert f"time >= {now - 8 * DAY_NS}" in query["q"][0]


def test_latest_looks_further_back_for_the_other_pairs_only(server, fake_store, now):
    """An older record costs questions about its own pair; what was found is not asked again."""
    recent, old = (
        make_full_record(),
        make_full_record(OTHER, now - 80 * DAY_NS),
    )
    server.answers += [stored(recent), stored(old)]
    latest = fake_store.latest(FEEDER, [PAIR, OTHER], now=now)
    assert latest == Latest({PAIR: recent, OTHER: old})
    _, query, _ = server.asked[1]
    assert OTHER in query["params"][0]
    assert PAIR not in query["params"][0]
    assert "time >=" not in query["q"][0]


def test_latest_of_twenty_long_pairs_keeps_the_url_short(server, fake_store, now):
    """A request stays below the 8 kB that proxies allow, however many pairs are asked for."""
    pairs = [f"1000000LONGNAME{i:03}/USDT:USDT" for i in range(100)]
    for count in (20, 100):
        server.answers += [recorded("empty"), recorded("empty")]
        fake_store.latest(FEEDER, pairs[:count], now=now)
    lengths = [len(json.dumps(query)) for _path, query, _body in server.asked]
    assert max(lengths) < 5000


def test_write_sends_all_fields_as_one_point(server, fake_store):
    """The parameter point is one line with every field as float, after the provenance's line."""
    record = make_full_record()
    server.answers += [EMPTY, ACCEPTED, ACCEPTED, stored(record)]
    fake_store.write([record])
    (_, query, provenance), (_, _, parameters) = server.asked[1:3]
    assert (query["bucket"], query["precision"]) == (["OPTUNA_FEEDER120B"], ["ns"])
    assert provenance.startswith(PROVENANCE_MEASUREMENTS[MEASUREMENT])
    (line,) = parameters.splitlines()
    tags, fields, time = line.split(" ")
    assert tags == (
        f"{MEASUREMENT},feeder_id=feeder120b,model_type=lightgbm_quantile,"
        f"optimized_for=feeder120b,pair={PAIR}"
    )
    sent = dict(text.split("=") for text in fields.split(","))
    assert {name: float(text) for name, text in sent.items()} == record.fields
    assert set(sent) == set(FIELD_NAMES)
    assert int(time) == record.time_ns


def test_write_of_candidate_names_its_own_measurements_and_no_other(server, fake_store):
    """A candidate's points, provenance and read-back never touch what bots read."""
    candidate = make_full_record()
    there = stored(candidate, measurement=CANDIDATES)
    server.answers += [EMPTY, ACCEPTED, ACCEPTED, there]
    fake_store.write([candidate], CANDIDATES)
    (_, before, _), (_, _, provenance), (_, _, parameters), (_, after, _) = server.asked
    assert provenance.startswith("candidate_runs,")
    assert parameters.startswith("candidate_parameters,")
    for query in (before, after):
        assert "FROM candidate_parameters,candidate_runs WHERE" in query["q"][0]


def test_reads_of_candidates_ask_for_them_only(server, fake_store, now):
    """Latest and history of candidates are the same questions about the other measurement."""
    candidate = make_full_record()
    there = stored(candidate, measurement=CANDIDATES)
    server.answers += [there, there, there]
    latest = fake_store.latest(FEEDER, now=now, measurement=CANDIDATES)
    assert latest.records == {PAIR: candidate}
    (point,) = fake_store.history(FEEDER, PAIR, measurement=CANDIDATES)
    assert point.holds(candidate)
    for _path, query, _body in server.asked:
        assert "candidate_parameters" in query["q"][0]
        assert MEASUREMENT not in query["q"][0]


def test_write_of_stored_record_sends_nothing(server, fake_store):
    """An equal record is already delivered: one read, no write."""
    server.answers.append(stored(make_full_record()))
    fake_store.write([make_full_record()])
    assert len(server.asked) == 1


def test_write_after_lost_answer_completes(server, fake_store):
    """A write cut off between its points, or whose answer was lost, is completed by a repeat."""
    record = make_full_record()
    status, body = stored(record)
    answer = json.loads(body)
    del answer["results"][0]["series"][1]
    server.answers += [(status, json.dumps(answer)), ACCEPTED, ACCEPTED, (status, body)]
    fake_store.write([record])
    assert len(server.asked) == 4


def test_write_read_back_missing_is_an_error(server, fake_store):
    """A write that the server took but does not give back is not a success."""
    server.answers += [EMPTY, ACCEPTED, ACCEPTED, EMPTY]
    with pytest.raises(StoreError, match="can't be read back from OPTUNA_FEEDER120B"):
        fake_store.write([make_full_record()])


def test_write_read_back_different_is_a_conflict(server, fake_store):
    """Another writer's content under our key, come in between, is a conflict."""
    record = make_full_record()
    other = replace(record, metrics={"skill": 0.5})
    server.answers += [EMPTY, ACCEPTED, ACCEPTED, stored(other)]
    with pytest.raises(StoreConflictError, match="other content"):
        fake_store.write([record])


def test_write_partly_refused_names_the_lost_record(server, fake_store):
    """After a 422 the error names the field, its types, and the record that is not stored."""
    records = [make_full_record(), make_full_record(OTHER)]
    server.answers += [EMPTY, ACCEPTED, recorded("type_conflict"), stored(records[0])]
    with pytest.raises(StoreError, match="field n_estimators is integer there") as caught:
        fake_store.write(records)
    message = str(caught.value)
    assert f"not stored: feeder120b {OTHER} at" in message
    assert PAIR not in message


def test_write_partly_refused_waits_for_lines_that_the_server_still_writes(server, fake_store):
    """The server answers at the first shard's refusal: what comes in later is not called lost."""
    records = [make_full_record(pair) for pair in (PAIR, OTHER, "SOL/USDT:USDT")]
    late = [EMPTY, stored(records[0]), stored(*records[:2])]
    server.answers += [EMPTY, ACCEPTED, recorded("type_conflict"), *late]
    with pytest.raises(StoreError, match="not stored: feeder120b SOL/USDT:USDT at") as caught:
        fake_store.write(records)
    assert PAIR not in str(caught.value)
    assert OTHER not in str(caught.value)
    assert not server.answers


def test_write_refused_without_a_count_is_looked_for_a_bounded_time(
    server, fake_store, monkeypatch
):
    """A refusal that says nothing of lines is waited for with growing pauses, then named."""
    pauses = []
    monkeypatch.setattr("feeder_mixin.stores.influx.time.sleep", pauses.append)
    server.answers += [EMPTY, ACCEPTED, (500, '{"message": "engine: timeout"}')]
    server.answers += [EMPTY] * 6
    with pytest.raises(StoreError, match=r"timeout; not stored: feeder120b BTC/USDT:USDT at"):
        fake_store.write([make_full_record(pair) for pair in (PAIR, OTHER)])
    assert pauses == sorted(set(pauses))
    assert sum(pauses) < 2
    assert not server.answers


REFUSALS = [
    ("wrong_token_write", "token is wrong: check FEEDER_STORE_TOKEN"),
    ("read_only_token", "no right to do this in bucket OPTUNA_FEEDER120B"),
    ("bucket_missing_write", "OPTUNA_FEEDER120B is missing.*`feeder init-store` makes it"),
    ("retention", "outside retention policy"),
    ("inactive_token_write", "the token is deactivated: activate it on the server"),
    ("disk_full", "the server's disk is full: free space there: .*no space left on device"),
    ("disk_was_full", "only after a restart: free space on its disk, then restart the server"),
]


@pytest.mark.parametrize(
    ("name", "message"), [pytest.param(name, text, id=name) for name, text in REFUSALS]
)
def test_write_refused_says_what_to_do(server, fake_store, name, message):
    """Each recorded refusal of a write becomes an error that names its remedy, not retried."""
    server.answers += [EMPTY, ACCEPTED, recorded(name), EMPTY]
    with pytest.raises(StoreError, match=message) as caught:
        fake_store.write([make_full_record()])
    assert not isinstance(caught.value, StoreUnavailableError)
    assert not server.answers


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("wrong_token_read", "token is wrong", id="wrong_token"),
        pytest.param("bucket_missing_read", "OPTUNA_FEEDER120B is missing", id="bucket_missing"),
        pytest.param("bad_query", "failed to parse query", id="bad_query"),
    ],
)
def test_read_refused_says_what_to_do(server, fake_store, now, name, message):
    """Each recorded refusal of a read, in a 200 as well, becomes an error."""
    server.answers.append(recorded(name))
    with pytest.raises(StoreError, match=message):
        fake_store.latest(FEEDER, now=now)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="empty"),
        pytest.param("<html>proxy</html>", id="html"),
        pytest.param("[]", id="list"),
        pytest.param('{"results": null}', id="no_results"),
        pytest.param('{"results": []}', id="too_few_results"),
        pytest.param('{"results": [{"series": [{"name": "x"}]}]}', id="no_rows"),
        pytest.param(
            '{"results": [{"series": [{"partial": true, "tags": {"pair": "x"}, "values": []}]}]}',
            id="cut_short",
        ),
        pytest.param(
            '{"results": [{"series": [{"name": "x", "tags": {"pair": "x"}, "columns": ["time"],'
            '"values": [["now"]]}]}]}',
            id="time_is_text",
        ),
    ],
)
def test_read_of_unreadable_answer_is_corrupt(server, fake_store, now, body):
    """An answer that is not InfluxQL's is an error, never an empty store."""
    server.answers += [(200, body), EMPTY]
    with pytest.raises(StoreCorruptError, match="answer"):
        fake_store.latest(FEEDER, now=now)


@pytest.mark.parametrize(
    ("me", "message"),
    [
        pytest.param("inactive_token_me", "the token is deactivated", id="deactivated"),
        pytest.param("wrong_token_me", "the token is wrong", id="wrong"),
        pytest.param("right_missing_me", "the token is wrong", id="no_right_to_see_itself"),
    ],
)
def test_read_with_a_deactivated_token_is_told_from_a_wrong_one(
    server, fake_store, now, me, message
):
    """The server answers a read alike to both: another question tells."""
    server.answers += [recorded("wrong_token_read"), recorded(me)]
    with pytest.raises(StoreError, match=message):
        fake_store.latest(FEEDER, now=now)
    assert [path for path, _, _ in server.asked] == ["/query", "/api/v2/me"]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_server_down_is_named_as_host_and_port(host):
    """No class of the client's, no nested error: what it was, as one would say it."""
    with (
        InfluxStore(f"http://{host}:1", org="ArtiSky", token=TOKEN, attempts=1) as store,
        pytest.raises(StoreUnavailableError) as caught,
    ):
        store.ping()
    assert f"can't be reached: {host}:1: Failed to establish a new connection" in str(caught.value)
    assert "Connection(" not in str(caught.value)


def test_server_down_is_named_without_an_object_by_an_older_client_library():
    """urllib3 before 2.6, which older freqtrade brings, names its own object in place of the host."""
    error = HTTPError("<urllib3.connection.HTTPConnection object at 0x7f1>: Connection refused")
    assert unreachable_text(error) == "Connection refused"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_overload_is_retried(server, fake_store, now, status):
    """A server that is busy for a moment is asked again."""
    server.answers += [(status, "busy"), (status, "busy"), EMPTY, EMPTY]
    assert fake_store.latest(FEEDER, now=now) == Latest()


def test_overload_that_stays_is_unavailable(server, fake_store):
    """A server that stays busy is given up after three attempts, with its words."""
    server.answers += [(503, '{"message": "still busy"}')] * 3
    with pytest.raises(StoreUnavailableError, match="status 503: still busy"):
        fake_store.write([make_full_record()])
    assert len(server.asked) == 3


def test_large_answer_in_many_pieces_is_read_whole(server, fake_store, now):
    """An answer of a megabyte, and the next on the same connection, come back complete."""
    records = [make_full_record(f"P{i}/USDT:USDT") for i in range(500)]
    server.answers += [stored(*records)] * 2
    assert len(fake_store.latest(FEEDER, now=now).records) == 500


def test_server_down_is_unavailable_and_tells_no_token(caplog):
    """A server that is not there is named; the token is in no message, trace, repr or log."""
    caplog.set_level(logging.DEBUG)
    store = InfluxStore("http://127.0.0.1:1", org="ArtiSky", token=TOKEN, attempts=2)
    store.server.retrying.wait = tenacity.wait_none()
    for call in (store.ping, lambda: store.write([make_full_record()])):
        with pytest.raises(StoreUnavailableError, match="is the server running") as caught:
            call()
        shown = "".join(traceback.format_exception(caught.value))
        assert TOKEN not in f"{shown}{store!r}{vars(store)}{store.description}{caplog.text}"


def test_refusals_tell_no_token(server, fake_store, caplog):
    """An error from the server carries no token either, cause included."""
    caplog.set_level(logging.DEBUG)
    server.answers.append(recorded("wrong_token_read"))
    with pytest.raises(StoreError) as caught:
        fake_store.write([make_full_record()])
    assert TOKEN not in "".join(traceback.format_exception(caught.value)) + caplog.text


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "schlüssel"])
def test_token_that_can_be_no_header_is_refused_unseen(token):
    """A token that HTTP can't carry is refused before a library repeats it."""
    with pytest.raises(SettingsError, match="character") as caught:
        InfluxStore("http://127.0.0.1:1", org="o", token=token)
    assert token not in str(caught.value)


@pytest.mark.parametrize("pair", ["", "a\\", "a\nb", "a\\,b"])
def test_write_pair_that_line_protocol_would_change_is_refused(fake_store, pair):
    """A pair that would come back as another text is refused before anything is sent."""
    with pytest.raises(StoreError, match="can't be stored"):
        fake_store.write([make_full_record(pair)])


def test_delete_asks_for_exactly_one_nanosecond_of_one_series(server, fake_store):
    """Start and stop are the record's own time to the last digit; the text goes before its record."""
    pair, time_ns = 'B"\\C', 1_795_262_400_000_000_007
    server.answers += [stored(make_full_record(pair, time_ns)), ACCEPTED, ACCEPTED]
    fake_store.delete(FEEDER, pair, [time_ns])
    asked = [(path, json.loads(body)) for path, _, body in server.asked[1:]]
    moment = "2026-11-21T12:00:00.000000007Z"
    assert [(path, body["start"], body["stop"]) for path, body in asked] == [
        ("/api/v2/delete", moment, moment)
    ] * 2
    tags = 'feeder_id="feeder120b" AND pair="B\\"\\\\C" AND model_type="lightgbm_quantile"'
    assert [body["predicate"] for _, body in asked] == [
        f'_measurement="{name}" AND {tags}'
        for name in (PROVENANCE_MEASUREMENTS[MEASUREMENT], MEASUREMENT)
    ]


def test_delete_without_the_right_says_which_bucket(server, fake_store):
    """A reader's token can't delete, and the message names the bucket."""
    server.answers.append((403, '{"message": "insufficient permissions to delete"}'))
    with pytest.raises(StoreError, match="no right to do this in bucket OPTUNA_FEEDER120B"):
        fake_store.delete(FEEDER, PAIR, [1])
