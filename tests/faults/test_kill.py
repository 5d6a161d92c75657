"""A process killed at any step of put and delivery: each record once, and whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from feeder_mixin.schema import CANDIDATES, MEASUREMENT
from tests.faults.influx_model import InfluxModel, serve
from tests.faults.kill_steps import PAIR, make_records, open_target

REPOSITORY = Path(__file__).parents[2]


def kill_at_steps(folder: Path, url: str, first: int, stride: int, n_records: int) -> list[int]:
    """Kill at every `stride`-th step; check each outcome and return the steps."""
    command = [sys.executable, "-m", "tests.faults.kill_steps", str(folder), url]
    ended = subprocess.run(  # noqa: S603  (our own interpreter and code)
        [*command, str(first), str(stride), str(n_records)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["killed"] for line in lines] == [True] * (len(lines) - 1) + [False]
    for line in lines:
        assert line["pending"] == 0
        check_store(folder / str(line["step"]), url, f"feeder{line['step']}", n_records)
    return [line["step"] for line in lines[:-1]]


def check_store(folder: Path, url: str, feeder: str, n_records: int) -> None:
    """Raise unless a reader sees each record exactly once and whole, newest first."""
    records = make_records(feeder, n_records)
    with open_target(folder, url) as store:
        for measurement in (MEASUREMENT, CANDIDATES):
            points = store.history(feeder, PAIR, measurement=measurement)
            expected = [
                record
                for i, record in reversed(list(enumerate(records)))
                if (i % 3 == 2) == (measurement == CANDIDATES)
            ]
            assert len(points) == len(expected)
            assert all(p.holds(r) for p, r in zip(points, expected, strict=True))


def test_kill_at_steps_of_a_delivery_to_sqlite_leaves_each_record_once(tmp_path):
    """Around every SQL statement and commit of put, store and mark: the next run makes it good."""
    assert len(kill_at_steps(tmp_path, "-", 1, 10, 1)) > 3


def test_kill_at_steps_of_a_delivery_to_influxdb_leaves_each_record_once(tmp_path):
    """The same around every request: between a record's two points, and before the answer."""
    with serve(InfluxModel()) as url:
        assert len(kill_at_steps(tmp_path, url, 2, 12, 1)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("is_influx", [False, True], ids=["sqlite", "influxdb"])
def test_kill_at_every_step_of_three_records_leaves_each_once(tmp_path, is_influx):
    """All steps there are, candidates among them."""
    with serve(InfluxModel()) as url:
        steps = kill_at_steps(tmp_path, url if is_influx else "-", 0, 1, 3)
    assert steps == list(range(len(steps)))
    assert len(steps) > 100
