"""`feeder doctor` on an InfluxDB store: server, token and its rights, bucket, fields, clock.

A local HTTP server gives a real server's recorded answers by path; the last test asks a real one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from influxdb_client import InfluxDBClient, Permission, PermissionResource
from influxdb_client.client.write_api import SYNCHRONOUS

from feeder_mixin.schema import FIELD_NAMES, MEASUREMENT, bucket_name
from feeder_mixin.stores.influx import InfluxStore
from tests.cli.patient import FEEDER, PAIRS, make_patient

RECORDED = json.loads(
    (Path(__file__).parents[1] / "stores" / "recorded_influx.json").read_text(encoding="utf-8")
)
TOKEN = "hush-hush-token"  # noqa: S105  (a token of no server)
NOT_ASKED = dict.fromkeys(
    (
        "fields",
        "valid_records",
        "missing_records",
        "complete_records",
        "future_records",
        "record_age",
        "tuned_for",
        "tuner_hosts",
        "parameters",
        "models",
        "served",
    ),
    "skipped",
)


def recorded(name: str) -> tuple[int, str]:
    """Return a recorded answer as status and body."""
    return RECORDED[name]["status"], RECORDED[name]["response"]


INACTIVE_WRITE = (
    403,
    '{"code":"forbidden","message":"insufficient permissions for write: token is inactive"}',
)
INACTIVE_ME = (401, '{"code":"unauthorized","message":"token is inactive"}')
"""A real server's answers to a deactivated token, recorded 2026-11-28."""
NO_ORGANISATION = (404, '{"code":"not found","message":"organization name \\"Nope\\" not found"}')
"""A real server's answer, recorded 2026-11-24."""


def field_keys(*fields: tuple[str, str]) -> tuple[int, str]:
    """Return the form in which a server answers SHOW FIELD KEYS."""
    series = {
        "name": MEASUREMENT,
        "columns": ["fieldKey", "fieldType"],
        "values": [list(one) for one in fields],
    }
    return 200, json.dumps({"results": [{"statement_id": 0, "series": [series]}]})


def bucket(keeps_s: int) -> str:
    """Return how a server describes the feeder's bucket."""
    rules = [{"type": "expire", "everySeconds": keeps_s}] if keeps_s else []
    found = {"id": "43f1", "name": bucket_name(FEEDER), "retentionRules": rules}
    return json.dumps({"buckets": [found]})


@dataclass
class Answers:
    """What the local server answers, and what it was sent."""

    url: str
    ping: tuple[int, str] = (204, "")
    write: tuple[int, str] = (204, "")
    select: tuple[int, str] = field(default_factory=lambda: recorded("empty"))
    fields: tuple[int, str] = field_keys(*((name, "float") for name in FIELD_NAMES))
    buckets: tuple[int, str] = (200, bucket(0))
    me: tuple[int, str] = (401, '{"code":"unauthorized","message":"unauthorized access"}')
    ahead_s: float = 0.0
    written: list[str] = field(default_factory=list)


@pytest.fixture
def server():
    """Run a local HTTP server that plays InfluxDB."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self):
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            statement = parse_qs(parts.query).get("q", [""])[0]
            if parts.path == "/ping":
                status, answer = answers.ping
            elif parts.path == "/api/v2/write":
                answers.written.append(body)
                status, answer = answers.write
            elif parts.path == "/api/v2/buckets":
                status, answer = answers.buckets
            elif parts.path == "/api/v2/me":
                status, answer = answers.me
            else:
                is_show = statement.startswith("SHOW FIELD KEYS")
                status, answer = answers.fields if is_show else answers.select
            self.send_response_only(status)
            self.send_header("Date", formatdate(time.time() + answers.ahead_s, usegmt=True))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer.encode())))
            self.end_headers()
            self.wfile.write(answer.encode())

        do_GET = do_POST = handle_any  # noqa: N815  (the base class's names)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        answers = Answers(f"http://127.0.0.1:{http.server_port}")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield answers
        http.shutdown()
        thread.join()


@pytest.fixture
def ask(project, feeder, monkeypatch) -> Callable[..., dict[str, dict[str, str]]]:
    """Return a function that asks the doctor about that store, and returns findings by check."""
    make_patient(project)
    monkeypatch.setenv("FEEDER_STORE_TOKEN", TOKEN)

    def run(url: str) -> dict[str, dict[str, str]]:
        monkeypatch.setenv("FEEDER_STORE_URL", f"influxdb+{url}?org=ArtiSky")
        code, out, err = feeder("doctor", "--feeder", FEEDER, "--json")
        assert TOKEN not in out + err
        findings = {found["check"]: found for found in json.loads(out)}
        assert code == int("fail" in {found["state"] for found in findings.values()})
        return findings

    return run


def states(findings: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return check -> state of what is neither a pass nor about the bot, which does not run."""
    about_the_bot = ("bot", "status_file", "handler", "reload")
    return {
        name: found["state"]
        for name, found in findings.items()
        if found["state"] != "pass" and name not in about_the_bot
    }


def test_doctor_of_an_empty_bucket_warns_of_missing_records_only(ask, server):
    """All rights are there, and nothing is stored; the write that finds out has no content."""
    findings = ask(server.url)
    assert states(findings) == {
        "missing_records": "warn",
        "parameters": "skipped",
        "models": "skipped",
        "served": "skipped",
    }
    assert findings["token"]["message"] == "from FEEDER_STORE_TOKEN"
    assert findings["clock"]["message"] == "within 5 s of the store's server"
    assert server.written == [""]


RIGHTS = {
    "wrong token": (
        {"write": "wrong_token_write", "select": "wrong_token_read"},
        {"bucket": "fail", "read_right": "skipped", "write_right": "skipped", **NOT_ASKED},
        ("bucket", "the token is wrong: check FEEDER_STORE_TOKEN"),
    ),
    "token deactivated": (
        {"write": INACTIVE_WRITE, "select": "wrong_token_read", "me": INACTIVE_ME},
        {"bucket": "fail", "read_right": "skipped", "write_right": "skipped", **NOT_ASKED},
        ("bucket", "the token is deactivated: activate it on the server"),
    ),
    "bucket missing": (
        {"write": "bucket_missing_write", "select": "bucket_missing_read"},
        {"bucket": "fail", "read_right": "skipped", "write_right": "skipped", **NOT_ASKED},
        ("bucket", f"bucket {bucket_name(FEEDER)} is missing"),
    ),
    "no such organisation": (
        {"write": NO_ORGANISATION, "select": "bucket_missing_read"},
        {"bucket": "fail", "read_right": "skipped", "write_right": "skipped", **NOT_ASKED},
        ("bucket", "the server has no organisation 'ArtiSky'"),
    ),
    "no right at all": (
        {"write": "read_only_token", "select": "bucket_missing_read"},
        {"read_right": "fail", "write_right": "warn", **NOT_ASKED},
        ("read_right", "may neither read nor write there"),
    ),
    "write only": (
        {"select": "bucket_missing_read"},
        {"read_right": "fail", **NOT_ASKED},
        ("read_right", "may write, but not read there"),
    ),
    "read only": (
        {"write": "read_only_token"},
        {
            "write_right": "warn",
            "missing_records": "warn",
            "parameters": "skipped",
            "models": "skipped",
            "served": "skipped",
        },
        ("write_right", "enough for a bot, not for the optimizer"),
    ),
}


@pytest.mark.parametrize(("answers", "expected", "said"), RIGHTS.values(), ids=RIGHTS.keys())
def test_doctor_tells_rights_of_the_token_apart(ask, server, answers, expected, said):
    """Wrong token, missing bucket and each missing right have another remedy."""
    for name, answer in answers.items():
        setattr(server, name, recorded(answer) if isinstance(answer, str) else answer)
    findings = ask(server.url)
    assert states(findings) == expected
    check, words = said
    assert words in findings[check]["message"]
    assert findings[check]["advice"]
    assert server.written == [""]


@pytest.mark.parametrize(
    ("keeps_s", "state", "words"),
    [
        pytest.param(3_600, "warn", "deletes points older than 1 hour, records too", id="an_hour"),
        pytest.param(89 * 86_400, "warn", "deletes points older than 89 days", id="89_days"),
        pytest.param(90 * 86_400, "pass", "keeps points 90 days", id="as_long_as_records_count"),
        pytest.param(0, "pass", "keeps points for ever", id="for_ever"),
    ],
)
def test_doctor_warns_of_a_bucket_that_drops_records_before_they_expire(
    ask, server, keeps_s, state, words
):
    """Nobody else would say where the records went; the command that ends it stands there."""
    server.buckets = (200, bucket(keeps_s))
    found = ask(server.url)["retention"]
    assert found["state"] == state
    assert words in found["message"]
    assert ("influx bucket update --id 43f1 --retention 0" in found["advice"]) == (state == "warn")


def test_doctor_without_the_right_to_see_the_bucket_skips_its_retention(ask, server):
    """What can't be looked at is no pass."""
    server.buckets = (200, '{"buckets": []}')
    assert ask(server.url)["retention"]["state"] == "skipped"


def test_doctor_of_a_server_that_is_down_fails_once_and_skips_the_rest(ask):
    """One fault, one fail."""
    findings = ask("http://127.0.0.1:9")
    assert findings["server"]["state"] == "fail"
    assert "can't be reached" in findings["server"]["message"]
    assert list(states(findings).values()).count("fail") == 1
    assert findings["bucket"]["state"] == "skipped"


FIELDS = {
    "foreign names": (
        [*((n, "float") for n in FIELD_NAMES), ("lr", "float"), ("note", "string")],
        "warn",
        "foreign names: lr, note",
    ),
    "integers in an old shard": (
        [*((n, "float") for n in FIELD_NAMES), ("n_estimators", "integer")],
        "warn",
        "more than one type: n_estimators is float and integer",
    ),
    "integers only": (
        [(n, "integer" if n == "n_estimators" else "float") for n in FIELD_NAMES],
        "fail",
        "not float: n_estimators is integer",
    ),
    "other names only": (
        [("lr", "float"), ("trees", "integer")],
        "fail",
        "no point has learning_rate, n_estimators, num_leaves, max_depth and 6 more",
    ),
}


@pytest.mark.parametrize(("fields", "state", "words"), FIELDS.values(), ids=FIELDS.keys())
def test_doctor_compares_names_and_types_as_stored(ask, server, fields, state, words):
    """The owner's first two lessons, seen from outside."""
    server.fields = field_keys(*fields)
    found = ask(server.url)["fields"]
    assert found["state"] == state
    assert words in found["message"]


@pytest.mark.parametrize(
    ("ahead_s", "state", "words"),
    [
        pytest.param(20.0, "warn", "behind the store's server", id="a little behind"),
        pytest.param(-3_600.0, "fail", "ahead of the store's server", id="far ahead"),
    ],
)
def test_doctor_compares_its_clock_with_the_servers(ask, server, ahead_s, state, words):
    """By the Date header, to whole seconds."""
    server.ahead_s = ahead_s
    found = ask(server.url)["clock"]
    assert found["state"] == state
    assert words in found["message"]


def test_doctor_without_a_token_fails_and_names_the_variables(ask, server, monkeypatch):
    """It can't be in the config, so it is to be set."""
    monkeypatch.delenv("FEEDER_STORE_TOKEN")
    found = ask(server.url)["token"]
    assert found["state"] == "fail"
    assert "neither FEEDER_STORE_TOKEN nor FEEDER_STORE_TOKEN_FILE is set" in found["message"]


@pytest.mark.parametrize(("mode", "state"), [(0o600, "pass"), (0o644, "fail")])
def test_doctor_looks_at_the_mode_of_the_tokens_file(
    ask, server, monkeypatch, tmp_path, mode, state
):
    """A secret that others can read is none."""
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(mode)
    monkeypatch.delenv("FEEDER_STORE_TOKEN")
    monkeypatch.setenv("FEEDER_STORE_TOKEN_FILE", str(path))
    found = ask(server.url)["token"]
    assert found["state"] == state
    assert str(path) in found["message"]


def test_doctor_masks_a_token_that_a_server_repeats(ask, server):
    """Whatever an answer holds, `ask` finds no token in what is printed."""
    server.ping = 500, json.dumps({"message": f"no access for {TOKEN}"})
    assert "no access for ***" in ask(server.url)["server"]["message"]


@pytest.mark.external_service
def test_doctor_tells_rights_apart_on_a_real_server(project, feeder, monkeypatch, influx_server):
    """Tokens with each set of rights, on a bucket with foreign integers; nothing is written."""
    url, admin, org = influx_server
    patient = make_patient(project)
    monkeypatch.setenv("FEEDER_STORE_URL", f"influxdb+{url}?org={org}")

    def ask(token: str) -> dict[str, str]:
        monkeypatch.setenv("FEEDER_STORE_TOKEN", token)
        findings = json.loads(feeder("doctor", "--feeder", FEEDER, "--json")[1])
        return {f["check"]: f["state"] for f in findings}

    rights = ("bucket", "read_right", "write_right", "fields")

    def asked(token: str) -> list[str]:
        found = ask(token)
        assert (found["server"], found["clock"]) == ("pass", "pass")
        return [found[name] for name in rights]

    assert asked(admin) == ["fail", "skipped", "skipped", "skipped"]  # no bucket yet
    monkeypatch.setenv("FEEDER_STORE_URL", f"influxdb+{url}?org=Nope")
    monkeypatch.setenv("FEEDER_STORE_TOKEN", admin)
    assert "no organisation 'Nope'" in feeder("doctor", "--feeder", FEEDER, "--json")[1]
    monkeypatch.setenv("FEEDER_STORE_URL", f"influxdb+{url}?org={org}")
    with (
        InfluxStore(url, org=org, token=admin, feeder_ids=[FEEDER]) as store,
        InfluxDBClient(url, admin, org=org) as client,
    ):
        assert store.make_bucket(FEEDER).is_new
        bucket = client.buckets_api().find_bucket_by_name(bucket_name(FEEDER))
        try:
            assert asked("wrong-token") == ["fail", "skipped", "skipped", "skipped"]
            assert asked(admin) == ["pass", "pass", "pass", "skipped"]

            def make_token(*actions: str, on: str | None = None) -> str:
                where = PermissionResource(type="buckets", id=on, org_id=bucket.org_id)
                permissions = [Permission(action=a, resource=where) for a in actions]
                api = client.authorizations_api()
                return api.create_authorization(bucket.org_id, permissions).token

            other = client.buckets_api().find_bucket_by_name("_monitoring").id
            assert asked(make_token("read", on=bucket.id)) == ["pass", "pass", "warn", "skipped"]
            assert asked(make_token("write", on=bucket.id))[:3] == ["pass", "fail", "pass"]
            assert asked(make_token("read", on=other))[:3] == ["pass", "fail", "warn"]
            both = make_token("read", "write", on=bucket.id)
            assert asked(both) == ["pass", "pass", "pass", "skipped"]
            write = client.write_api(write_options=SYNCHRONOUS).write
            write(bucket.name, org, f"{MEASUREMENT},feeder_id={FEEDER},pair=X num_leaves=20i 1")
            assert asked(both)[3] == "fail"
            store.write([patient.record(PAIRS[0], time.time_ns())])
            assert asked(both)[3] == "warn"  # integers in the shard of 1970, floats in today's
        finally:
            client.buckets_api().delete_bucket(bucket)
