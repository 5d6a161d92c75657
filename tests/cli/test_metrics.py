"""`feeder metrics`: printed, served to Prometheus, written to InfluxDB; against a process that acts as the bot."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from influxdb_client import InfluxDBClient

from feeder_mixin.live.state.files import write_checked
from feeder_mixin.live.state.last_good import save_last_good
from feeder_mixin.live.state.status import read_status
from feeder_mixin.schema import bucket_name
from feeder_mixin.stores.influx import InfluxStore
from feeder_mixin.stores.influx_points import METRICS_MEASUREMENT
from tests.builders import PAIRS, make_record, make_settings
from tests.live.fake_bot import fake_bot, make_status
from tests.live.test_metrics import expected_of, key, read_samples
from tests.waiting import wait_until

FEEDER = "feeder120b"
FILE_TIMES = ("feeder_status_timestamp_seconds", "feeder_last_good_timestamp_seconds")
TOKEN = "a-token-of-a-test"  # noqa: S105


@pytest.fixture
def userdir(project):
    """Return the project's user_data folder."""
    return project / "user_data"


def said_by(samples):
    """Return the samples that come from the status file's content."""
    return {k: v for k, v in samples.items() if k[0] not in FILE_TIMES}


def test_metrics_of_a_running_bot_are_its_status_files(userdir, feeder):
    """Text on stdout, every value as the bot wrote it; --json the same."""
    with fake_bot(userdir):
        status = read_status(make_settings(userdir).status_path)
        code, out, _ = feeder("metrics", "--feeder", FEEDER)
        again, document, _ = feeder("metrics", "--feeder", FEEDER, "--json")
    assert (code, again) == (0, 0)
    assert said_by(read_samples(out)) == said_by(expected_of(status))
    rows = {key(row["name"], **row["labels"]): row["value"] for row in json.loads(document)}
    assert rows == read_samples(out)


def test_metrics_of_a_killed_bot_say_down_and_no_more_of_its_last_words(userdir, feeder):
    """The status file still lies there; nothing of it holds any more."""
    with fake_bot(userdir) as bot:
        bot.kill()
        bot.wait()
        code, out, _ = feeder("metrics", "--feeder", FEEDER)
    assert code == 0
    samples = read_samples(out)
    assert said_by(samples) == {key("feeder_up", feeder_id=FEEDER): 0}
    assert abs(samples[key(FILE_TIMES[0], feeder_id=FEEDER)] - time.time()) < 60


def test_metrics_of_a_bot_that_starts_hold_nothing_of_the_one_before(userdir, feeder):
    """It runs, and has not said yet on what."""
    settings = make_settings(userdir)
    settings.state_dir.mkdir(parents=True)
    settings.status_path.write_text(json.dumps(make_status(pid=1)))
    with fake_bot(userdir, "late"):
        _, out, _ = feeder("metrics", "--feeder", FEEDER)
    assert said_by(read_samples(out)) == {key("feeder_up", feeder_id=FEEDER): 1}


def test_last_good_time_is_that_of_the_oldest_copy_of_the_feeders_pairs(
    userdir, feeder, monkeypatch
):
    """The age limit meets the oldest first; a pair that left the feeder does not count."""
    saved = {PAIRS[0]: 30, PAIRS[1]: 20, "GONE/USDT:USDT": 10}
    settings = make_settings(userdir)
    for pair, saved_s in saved.items():
        with monkeypatch.context() as then:
            then.setattr(time, "time_ns", lambda s=saved_s: s * 10**9)
            save_last_good(settings, [make_record(pair, 1)])
    _, out, _ = feeder("metrics", "--feeder", FEEDER)
    assert read_samples(out)[key(FILE_TIMES[1], feeder_id=FEEDER)] == 20


@pytest.mark.parametrize("records", [None, {PAIRS[0]: {}}, [1]], ids=["cut", "no-time", "list"])
def test_damaged_last_good_copy_is_said_and_absent(userdir, feeder, records):
    """One file that can't be read costs its own metric."""
    path = make_settings(userdir).last_good_path
    write_checked(path, {"records": records})
    if records is None:
        path.write_bytes(path.read_bytes()[:-3])
    with fake_bot(userdir):
        code, out, err = feeder("metrics", "--feeder", FEEDER)
    assert code == 0
    assert "last_good.json" in err
    samples = read_samples(out)
    assert key(FILE_TIMES[1], feeder_id=FEEDER) not in samples
    assert samples[key("feeder_generation", feeder_id=FEEDER)] == 1


@pytest.mark.slow
def test_served_metrics_follow_a_reload_and_the_bots_end(userdir):
    """What Prometheus scrapes is the moment's; SIGTERM ends the server with 0."""
    command = [str(Path(sys.executable).parent / "feeder"), "metrics", "--feeder", FEEDER]
    with (
        fake_bot(userdir) as bot,
        subprocess.Popen(  # noqa: S603 - our own script
            [*command, "--port", "0"], stdout=subprocess.PIPE, text=True
        ) as server,
    ):
        try:
            assert server.stdout is not None
            url = re.search(r"ready at (\S+)", server.stdout.readline())[1]

            def scrape():
                with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
                    assert answer.headers["Content-Type"].startswith("text/plain")
                    return read_samples(answer.read().decode())

            generation = key("feeder_generation", feeder_id=FEEDER)
            assert url.startswith("http://127.0.0.1:")
            assert scrape()[generation] == 1
            bot.send_signal(signal.SIGUSR1)
            wait_until(lambda: scrape()[generation] == 2, "the reload in the metrics")
            bot.kill()
            bot.wait()
            assert said_by(scrape()) == {key("feeder_up", feeder_id=FEEDER): 0}
            server.terminate()
            assert server.wait(30) == 0
        finally:
            server.kill()


def test_taken_port_is_said_by_name(userdir, feeder):
    """No traceback, no other port taken silently."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = feeder("metrics", "--feeder", FEEDER, "--port", port)
    assert code == 2
    assert f"--port {port} can't be used" in err


def test_host_without_port_is_refused(userdir, feeder):
    """It would change nothing."""
    code, _, err = feeder("metrics", "--feeder", FEEDER, "--host", "0.0.0.0")  # noqa: S104
    assert code == 2
    assert "--host 0.0.0.0 needs --port" in err


# ------------------------------------------------------------------ into InfluxDB


class FakeInflux(HTTPServer):
    """Takes writes as InfluxDB does, or refuses them; keeps what came."""

    status = 204

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.writes: list[tuple[str, str]] = []

    @property
    def store_url(self) -> str:
        """Return the URL of a store here."""
        return f"influxdb+http://127.0.0.1:{self.server_port}?org=ArtiSky"


class _Handler(BaseHTTPRequestHandler):
    server: FakeInflux

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assert url.path == "/api/v2/write"
        assert self.headers["Authorization"] == f"Token {TOKEN}"
        self.server.writes.append((parse_qs(url.query)["bucket"][0], body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def influx(monkeypatch) -> Iterator[FakeInflux]:
    """Give a server that takes writes."""
    monkeypatch.setenv("FEEDER_STORE_TOKEN", TOKEN)
    with FakeInflux() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def read_lines(body: str):
    """Return the samples in lines of line protocol; every field is a float."""
    samples = {}
    for line in body.splitlines():
        head, fields, time_ns = line.split(" ")
        measurement, *tags = head.split(",")
        assert measurement == METRICS_MEASUREMENT
        assert abs(int(time_ns) / 1e9 - time.time()) < 60
        labels = dict(tag.split("=") for tag in tags)
        for field in fields.split(","):
            name, value = field.split("=")
            samples[key(name, **labels)] = float(value)  # an integer would end with i
    return samples


def test_metrics_written_to_influxdb_are_the_same_as_floats_in_the_feeders_bucket(
    userdir, feeder, influx
):
    """A measurement of its own: what bots read is not touched."""
    with fake_bot(userdir):
        code, out, err = feeder(
            "metrics", "--feeder", FEEDER, "--to-store", "--store", influx.store_url
        )
        _, text, _ = feeder("metrics", "--feeder", FEEDER)
    assert code == 0
    ((bucket, body),) = influx.writes
    assert bucket == bucket_name(FEEDER)
    assert read_lines(body) == read_samples(text)
    assert f"points written to {influx.store_url}" in out
    assert TOKEN not in out + err


def test_refused_write_of_one_feeder_is_said_and_the_others_are_written(userdir, feeder, influx):
    """Exit code 1; no token in any word."""
    influx.status = 403
    arguments = ("--to-store", "--store", influx.store_url)
    code, out, err = feeder("metrics", "--feeder", FEEDER, "feeder75a", *arguments)
    assert code == 1
    assert [bucket for bucket, _ in influx.writes] == ["OPTUNA_FEEDER120B", "OPTUNA_FEEDER75A"]
    assert "no right to do this in bucket OPTUNA_FEEDER120B" in err
    assert TOKEN not in out + err


def test_metrics_to_a_store_that_is_no_influxdb_are_refused(userdir, feeder):
    """No table is made in SQLite by the way."""
    code, _, err = feeder("metrics", "--feeder", FEEDER, "--to-store")
    assert code == 2
    assert "is not an InfluxDB store" in err
    assert not list(userdir.glob("*.sqlite"))


@pytest.mark.external_service
def test_metrics_in_a_real_influxdb_are_read_back_and_leave_records_alone(
    userdir, feeder, write_config, monkeypatch, influx_server
):
    """The server takes them twice; `latest` sees none of it."""
    server, token, org = influx_server
    monkeypatch.setenv("FEEDER_STORE_TOKEN", token)
    own = f"test-{uuid.uuid4().hex}"
    write_config(own)
    goal = ("--to-store", "--store", f"influxdb+{server}?org={org}")
    with (
        InfluxStore(server, org=org, token=token, feeder_ids=[own]) as store,
        InfluxDBClient(server, token, org=org) as client,
        fake_bot(userdir, feeder_id=own),
    ):
        bucket = store.make_bucket(own)
        try:
            assert [feeder("metrics", "--feeder", own, *goal)[0] for _ in range(2)] == [0, 0]
            latest = store.latest(own)
            assert not latest.records
            assert not latest.notes
            question = (
                f"SELECT COUNT(feeder_exceedance_ratio) FROM {METRICS_MEASUREMENT} GROUP BY pair"  # noqa: S608
            )
            answer = client.api_client.call_api(
                "/query",
                "GET",
                query_params=[("db", bucket_name(own)), ("q", question)],
                response_type="object",
                _return_http_data_only=True,
            )
        finally:
            client.buckets_api().delete_bucket(bucket.id)
    (result,) = answer["results"]
    counts = {s["tags"]["pair"]: s["values"][0][1] for s in result["series"]}
    assert counts == {PAIRS[0]: 2, PAIRS[1]: 2}
