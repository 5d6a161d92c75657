"""Kills a process at every step of a delivery; run as ``python -m tests.faults.kill_steps``.

Arguments: a folder, the InfluxDB's URL or ``-`` for SQLite, the first step, the stride, the number of
records. Steps are counted where anything can be seen from outside: around every SQL statement and
commit, and around every HTTP request. For each step a child puts and delivers the records until
SIGKILL takes it there; then this process flushes. One JSON line a step says what is pending then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from feeder_mixin.schema import CANDIDATES, MEASUREMENT, ParameterRecord
from feeder_mixin.stores.base import ParameterStore
from feeder_mixin.stores.influx import InfluxStore
from feeder_mixin.stores.influx_server import InfluxServer
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.sql import SqlStore
from tests.builders import make_record

PAIR = "BTC/USDT:USDT"
FIRST_NS = 10**18


def make_records(feeder: str, count: int) -> list[ParameterRecord]:
    """Return records that differ in every way a mixture would show."""
    return [
        make_record(
            PAIR,
            FIRST_NS + i,
            feeder_id=feeder,
            metrics={"skill": i / 7},
            provenance={"number": i},
            num_leaves=20 + i,
            n_estimators=200 + i,
        )
        for i in range(count)
    ]


def open_target(folder: Path, url: str) -> ParameterStore:
    """Return the store to deliver to."""
    if url == "-":
        return SqlStore(folder / "store.sqlite")
    return InfluxStore(url, org="ArtiSky", token="token")  # noqa: S106  (of no server)


def die_at(step: int) -> Callable[[], None]:
    """Count steps around everything that leaves this process, and kill it at `step`."""
    left = step

    def count(*_: object) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    for event in ("before_cursor_execute", "after_cursor_execute", "commit"):
        sa.event.listen(sa.Engine, event, count)
    call_once = InfluxServer._call_once

    def counted(server: InfluxServer, *arguments: object) -> object:
        count()
        answer = call_once(server, *arguments)
        count()
        return answer

    InfluxServer._call_once = counted  # type: ignore[method-assign]
    return count


def work(folder: Path, url: str, records: list[ParameterRecord], step: int) -> None:
    """Do what the tuner does at its end, until the kill."""
    count = die_at(step)
    outbox = Outbox(folder / "outbox.sqlite")
    for i, record in enumerate(records):
        outbox.put(record, CANDIDATES if i % 3 == 2 else MEASUREMENT)
        count()
    with open_target(folder, url) as store:
        outbox.deliver(store).check()


def _main(root: str, url: str, first: str, stride: str, n_records: str) -> None:
    step, is_done = int(first), False
    while not is_done:
        folder = Path(root) / str(step)
        folder.mkdir()
        records = make_records(f"feeder{step}", int(n_records))
        child = os.fork()
        if child == 0:
            work(folder, url, records, step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"step {step}: the child ended with {code}, expected the kill")
        is_done = code == 0
        outbox = Outbox(folder / "outbox.sqlite")
        with open_target(folder, url) as store:
            # The same command again: what was put is put again, then all is delivered.
            for i, record in enumerate(records):
                outbox.put(record, CANDIDATES if i % 3 == 2 else MEASUREMENT)
            outbox.deliver(store).check()
        facts = {"step": step, "killed": not is_done, "pending": len(outbox.pending())}
        sys.stdout.write(json.dumps(facts) + "\n")
        step += int(stride)


if __name__ == "__main__":
    _main(*sys.argv[1:])
