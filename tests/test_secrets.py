"""A token or password is in no message, log, trace or file, whatever goes wrong on the way.

The server here is hostile: in every answer it repeats the token that it was sent.
"""

from __future__ import annotations

import json
import logging
import socket
import traceback
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import tenacity

from feeder_mixin.cli.main import main
from feeder_mixin.errors import FeederError
from feeder_mixin.schema import ParameterRecord, default_parameters
from feeder_mixin.settings import load_settings
from feeder_mixin.stores import influx_server
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.url import open_store
from tests.fake_influx import running_server

FEEDER, PAIR = "feeder120b", "BNB/USDT:USDT"
SECRET = "k9-Zq7_never-to-be-seen-Ww3=="  # noqa: S105  (a secret of nothing)
RECORD = ParameterRecord(FEEDER, PAIR, 1_795_176_000_000_000_000, default_parameters())
ROOT = Path(__file__).parents[1]

ECHO = json.dumps({"code": "x", "message": f"who is Token {SECRET}?"})
ROW = {"name": "optimized_parameters", "tags": {"pair": PAIR}, "columns": ["time"]}
ANSWERS = {
    **{f"status_{status}": (status, ECHO) for status in (400, 401, 403, 404, 422, 429, 500, 503)},
    "plain_text": (500, f"no JSON: {SECRET}"),
    "in_a_header": (401, "{}", {"X-Sent": SECRET}),
    "redirect": (307, "", {"Location": f"http://127.0.0.1:1/?token={SECRET}"}),
    "error_in_a_200": (200, json.dumps({"results": [{"error": f"query of {SECRET}"}]})),
    "page": (200, f"<html>{SECRET}</html>"),
    "unreadable_rows": (
        200,
        json.dumps({"results": [{"series": [{**ROW, "values": [[SECRET]]}]}]}),
    ),
}


@pytest.fixture
def server(monkeypatch):
    """Run the hostile server; no waits between tries."""
    monkeypatch.setattr(influx_server, "wait_random_exponential", lambda **_: tenacity.wait_none())
    with running_server() as server:
        yield server


@pytest.fixture
def shown(caplog, capfd):
    """Give a function that returns all that was logged, at any level by any library, or printed."""
    caplog.set_level(logging.DEBUG)

    def read():
        out, err = capfd.readouterr()
        records = [logging.Formatter("%(message)s").format(record) for record in caplog.records]
        return "\n".join([out, err, *records])

    return read


@contextmanager
def silent_port():
    """Give a port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def uses(store):
    """Return every call of a store that asks its server."""
    return [
        store.ping,
        lambda: store.latest(FEEDER),
        lambda: store.history(FEEDER, PAIR),
        lambda: store.write([RECORD]),
        lambda: store.make_bucket(FEEDER),
    ]


def told(call):
    """Return all that an error tells: text, causes and contexts with their traces and attributes."""
    with pytest.raises(FeederError) as caught:
        call()
    lines = traceback.format_exception(caught.value)
    return "".join(lines) + repr(caught.value.args)


def check_no_secret_in_files(folder):
    """Fail when a file below `folder` holds the secret."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [str(path) for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("name", ANSWERS)
def test_error_of_a_server_that_repeats_the_token_does_not(server, shown, name):
    """Neither error, trace nor a library's log at DEBUG has it, and it is sent to nobody else."""
    server.always = ANSWERS[name]
    environ = {"FEEDER_STORE_TOKEN": SECRET}
    url = f"influxdb+{server.url}?org=ArtiSky"
    with open_store(url, root=Path(), feeder_ids=[FEEDER], environ=environ) as store:
        for call in uses(store):
            assert SECRET not in told(call)
        assert SECRET not in f"{store!r}{vars(store)}{store.description}"
    assert any(SECRET in headers["Authorization"] for headers in server.headers)
    assert SECRET not in shown()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_error_without_a_server_has_no_token(shown, scheme):
    """Refused connections and failed handshakes tell where, not with what."""
    with running_server() as plain:
        place = plain.url.removeprefix("http://") if scheme == "https" else "127.0.0.1:1"
        url = f"influxdb+{scheme}://{place}?org=ArtiSky"
        environ = {"FEEDER_STORE_TOKEN": SECRET}
        with open_store(url, root=Path(), environ=environ, timeout_s=1) as store:
            for call in uses(store):
                assert SECRET not in told(call)
    assert SECRET not in shown()


def test_error_of_postgresql_has_no_password(shown):
    """A server that is down, one that never answers, a wrong option: the password is masked."""
    pytest.importorskip("psycopg")
    with silent_port() as silent:
        for place in ("127.0.0.1:1/db", f"127.0.0.1:{silent}/db", "127.0.0.1:1/db?sslmode=maybe"):
            url = f"postgresql+psycopg://bot:{SECRET}@{place}"
            with open_store(url, root=Path(), timeout_s=1) as store:
                assert SECRET not in told(store.ping)
                assert SECRET not in f"{store!r}{store.description}"
    assert SECRET not in shown()


COMMANDS = [
    ["show"],
    ["show", "--json"],
    ["show", "--candidates"],
    ["history"],
    ["flush"],
    ["flush", "--json"],
    ["init-store"],
    ["settings"],
    ["settings", "--json"],
    ["status"],
    ["report", "--out", "page.html"],
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Give a folder with the configs, and a result in the outbox that could not be delivered."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    (tmp_path / "user_data").mkdir()
    monkeypatch.chdir(tmp_path)
    outbox = Outbox(load_settings(FEEDER).outbox_path)
    outbox.put(RECORD)
    outbox.put(replace(RECORD, time_ns=RECORD.time_ns + 1))
    outbox.close()
    return tmp_path


def run_commands(store_url=None):
    """Run every command that may ask the store, as loudly as it can."""
    for command in COMMANDS:
        option = ["--store", store_url] if store_url else []
        try:
            code = main([*command, "--feeder", FEEDER, "--verbose", *option])
        except SystemExit as stop:  # argparse
            code = stop.code
        assert code in (0, 1, 2)


@pytest.mark.parametrize("name", ["status_401", "status_503", "error_in_a_200", "unreadable_rows"])
def test_commands_print_and_leave_no_token(server, project, shown, monkeypatch, name):
    """Outputs, logs and files of every command against the hostile server are clean."""
    server.always = ANSWERS[name]
    monkeypatch.setenv("FEEDER_STORE_TOKEN", SECRET)
    monkeypatch.setenv("FEEDER_STORE_URL", f"influxdb+{server.url}?org=ArtiSky")
    run_commands()
    assert server.asked
    assert SECRET not in shown()
    check_no_secret_in_files(project / "user_data")


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"influxdb+http://127.0.0.1:1?org=A&token={SECRET}", id="token_in_query"),
        pytest.param(f"influxdb+http://bot:{SECRET}@127.0.0.1:1?org=A", id="password_influxdb"),
        pytest.param(f"postgresql+psycopg://bot:{SECRET}@127.0.0.1:1/db", id="postgresql"),
        pytest.param(f"postgresql+psycopg://127.0.0.1:1/db?password={SECRET}", id="query"),
        pytest.param(f"postgresql+psycopg://bot:{SECRET}@[::1/db", id="broken"),
    ],
)
def test_commands_never_repeat_a_secret_in_the_url(project, shown, url):
    """A secret where it does not belong is refused or masked, in outputs and files alike."""
    run_commands(url)
    assert SECRET not in shown()
    check_no_secret_in_files(project / "user_data")
