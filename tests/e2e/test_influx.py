"""The real `feeder optimize` on InfluxDB: what its owner sees in Flux, and that no token gets out."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest
from influxdb_client import InfluxDBClient

from feeder_mixin.schema import METRIC_NAMES, PARAMETER_NAMES, bucket_name
from feeder_mixin.stores.influx import InfluxStore
from tests.e2e.conftest import PAIRS, Project
from tests.e2e.test_optimize import MAY_LACK
from tests.fake_influx import running_server

SECRET = "k9-Zq7_never-to-be-seen-Ww3=="  # noqa: S105  (a secret of nothing)

OWNERS_CHECK = """
from(bucket: "{bucket}")
  |> range(start: -1h)
  |> filter(fn: (r) => r._measurement == "optimized_parameters")
  |> pivot(rowKey: ["_time", "pair"], columnKey: ["_field"], valueColumn: "_value")
"""


@dataclass(frozen=True)
class InfluxProject(Project):
    """A project whose store is an InfluxDB server."""

    store_url: str
    token: str

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment with the store's variables."""
        store = {"FEEDER_STORE_URL": self.store_url, "FEEDER_STORE_TOKEN": self.token}
        return {**super().environment, **store}


def on_influx(project: Project, url: str, org: str, token: str) -> InfluxProject:
    """Return the project with another store."""
    return InfluxProject(project.root, project.datadir, f"influxdb+{url}?org={org}", token)


@pytest.mark.external_service
def test_owners_flux_check_shows_one_complete_row_per_fresh_record(project, influx_server):
    """`init-store`, `optimize`, and the owner's own query: a row a pair, with every field."""
    url, token, org = influx_server
    feeder = f"test-{uuid.uuid4().hex}"
    config = (project.root / "config" / "test1.json").read_text(encoding="utf-8")
    (project.root / "config" / f"{feeder}.json").write_text(
        config.replace("test1", feeder), encoding="utf-8"
    )
    project = on_influx(project, url, org, token)
    bucket = None
    try:
        done = project.run(project.command("init-store", "--feeder", feeder))
        assert done.returncode == 0, done.stderr
        with InfluxStore(url, org=org, token=token) as store:
            bucket = store.make_bucket(feeder)
        options = ("--n-trials", 3, "--jobs", 2, "--datadir", project.datadir, "--seed", 3)
        done = project.run(project.command("optimize", "--feeder", feeder, *options))
        assert done.returncode == 0, done.stderr
        with InfluxDBClient(url, token, org=org) as client:
            tables = client.query_api().query(OWNERS_CHECK.format(bucket=bucket_name(feeder)))
            rows = [row.values for table in tables for row in table.records]
            assert sorted(row["pair"] for row in rows) == sorted(PAIRS)
            for row in rows:
                present = {name for name, value in row.items() if isinstance(value, float)}
                assert present >= {*PARAMETER_NAMES, *METRIC_NAMES} - MAY_LACK
    finally:
        if bucket is not None:
            with InfluxDBClient(url, token, org=org) as client:
                client.buckets_api().delete_bucket(bucket.id)


@pytest.mark.slow
def test_optimize_against_a_server_that_repeats_the_token_leaves_it_nowhere(project):
    """Output, logs, outbox, journal, report and state of a run whose store fails are clean."""
    with running_server() as server:
        server.always = (401, f'{{"message": "who is {SECRET}?"}}')
        project = on_influx(project, server.url, "ArtiSky", SECRET)
        for more in ((), ("--verbose",)):
            done = project.run(
                project.optimize(
                    "--n-trials", 1, "--pairs", *PAIRS[:2], "--promote", "always", *more
                )
            )
            assert done.returncode == 1, done.stderr
            assert "the token is wrong" in " ".join(done.stderr.split())
            assert SECRET not in done.stdout + done.stderr
        assert server.asked
    state = [path for path in (project.root / "user_data").rglob("*") if path.is_file()]
    assert {"outbox.sqlite", "journal.sqlite"} <= {path.name for path in state}
    assert [str(path) for path in state if SECRET.encode() in path.read_bytes()] == []
