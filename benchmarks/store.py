"""How long the newest complete record of every pair takes to read, as a starting bot reads it.

    python benchmarks/store.py [--pairs 100 1000] [--records 90]

A feeder with so many pairs, each with 90 daily records (all fields, provenance), in SQLite and, where
FEEDER_TEST_INFLUX_URL, FEEDER_TEST_INFLUX_TOKEN and FEEDER_TEST_INFLUX_ORG name a server, in a bucket
made for it and deleted afterwards; there every pair has a half-written point that is newer, too. Each
read is of a store just opened: connection, statements, decoding, validation.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from influxdb_client.client.write_api import SYNCHRONOUS

from feeder_mixin.schema import (
    MEASUREMENT,
    METRIC_NAMES,
    NANOSECONDS,
    ParameterRecord,
    bucket_name,
    default_parameters,
)
from feeder_mixin.stores.base import ParameterStore, now_ns
from feeder_mixin.stores.influx import InfluxStore
from feeder_mixin.stores.influx_points import make_parameter_point, make_provenance_point
from feeder_mixin.stores.sql import SqlStore

DAY_NS = 86_400 * NANOSECONDS
INFLUX_VARIABLES = tuple(f"FEEDER_TEST_INFLUX_{name}" for name in ("URL", "TOKEN", "ORG"))
REPEATS = 5
LINES = 2_000
"""Points in a request while the bucket is filled."""

BARS_S = {100: 0.2, 1000: 2.0}


def make_records(feeder_id: str, n_pairs: int, n_records: int) -> list[ParameterRecord]:
    """Return daily records of every pair, oldest first."""
    metrics = {name: i / 7 for i, name in enumerate(METRIC_NAMES, 1)}
    provenance = {
        "host": "bench",
        "seed": 1,
        "context_pairs": [f"P{i}/USDT:USDT" for i in range(11)],
    }
    now = now_ns()
    return [
        ParameterRecord(
            feeder_id,
            f"P{i}/USDT:USDT",
            now - age * DAY_NS - i * 1_000,
            default_parameters() | {"learning_rate": 0.001 + age / 1000},
            metrics,
            provenance,
        )
        for age in range(n_records, 0, -1)
        for i in range(n_pairs)
    ]


@contextmanager
def filled_sqlite(records: Sequence[ParameterRecord]) -> Iterator[Callable[[], ParameterStore]]:
    """Give a function that opens an SQLite store with the records."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        with SqlStore(path) as store:
            store.write(records)
        yield lambda: SqlStore(path)


@contextmanager
def filled_influx(records: Sequence[ParameterRecord]) -> Iterator[Callable[[], ParameterStore]]:
    """Give a function that opens an InfluxDB store with the records, and half-written points."""
    url, token, org = (os.environ[name] for name in INFLUX_VARIABLES)
    feeder_id = records[0].feeder_id
    newest = {record.pair: record for record in records}

    def open_store() -> InfluxStore:
        return InfluxStore(url, org=org, token=token, feeder_ids=[feeder_id])

    with InfluxStore(url, org=org, token=token, timeout_s=60) as store:
        bucket = store.make_bucket(feeder_id)
        writer = store.server.client.write_api(write_options=SYNCHRONOUS)
        lines = [
            make_point(MEASUREMENT, record).to_line_protocol()
            for make_point in (make_provenance_point, make_parameter_point)
            for record in records
        ]
        tags = f"feeder_id={feeder_id},optimized_for={feeder_id},model_type=lightgbm_quantile"
        lines += [
            f"{MEASUREMENT},{tags},pair={pair} learning_rate=0.5 {record.time_ns + 1}"
            for pair, record in newest.items()
        ]
        try:
            for start in range(0, len(lines), LINES):
                writer.write(bucket_name(feeder_id), org, lines[start : start + LINES])
            yield open_store
        finally:
            store.server.client.buckets_api().delete_bucket(bucket.id)


def measure(open_store: Callable[[], ParameterStore], feeder_id: str, n_pairs: int) -> list[float]:
    """Return the seconds of every read."""
    pairs = [f"P{i}/USDT:USDT" for i in range(n_pairs)]
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        with open_store() as store:
            latest = store.latest(feeder_id, pairs)
        taken.append(time.perf_counter() - started)
        if len(latest.records) != n_pairs:
            raise SystemExit(f"{len(latest.records)} of {n_pairs} pairs were read")
    return taken


def main() -> None:
    """Fill, read, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--records", type=int, default=90, help="a pair")
    arguments = parser.parse_args()
    kinds = {"SQLite": filled_sqlite}
    if all(os.environ.get(name) for name in INFLUX_VARIABLES):
        kinds["InfluxDB"] = filled_influx
    print(
        f"newest complete record of every pair, {arguments.records} records a pair, {REPEATS} reads"
    )
    print(f"{'store':10}{'pairs':>7}{'median s':>10}{'worst s':>9}{'bar s':>7}")
    for n_pairs in arguments.pairs:
        for kind, filled in kinds.items():
            records = make_records(f"bench-{uuid.uuid4().hex[:8]}", n_pairs, arguments.records)
            with filled(records) as open_store:
                taken = measure(open_store, records[0].feeder_id, n_pairs)
            bar = f"{BARS_S[n_pairs]:g}" if n_pairs in BARS_S else ""
            print(
                f"{kind:10}{n_pairs:>7}{statistics.median(taken):>10.3f}{max(taken):>9.3f}{bar:>7}",
                flush=True,
            )


if __name__ == "__main__":
    main()
