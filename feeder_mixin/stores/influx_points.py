"""Records and metrics as points of InfluxDB's line protocol, and what keeps a record from being one.

Used by `feeder_mixin.stores.influx`. What must stay true: all fields of a record are one point, so
that they are written and read whole; every field is a float, the provenance's text aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from influxdb_client import Point, WritePrecision

from feeder_mixin.errors import StoreConflictError, StoreError
from feeder_mixin.schema import (
    PROVENANCE_FIELD,
    PROVENANCE_MEASUREMENTS,
    Measurement,
    ParameterRecord,
    bucket_name,
)
from feeder_mixin.stores.base import describe_key

METRICS_MEASUREMENT: Final = "feeder_metrics"
"""What `feeder metrics --to-store` writes, floats only."""

_UNSAFE_TAG: Final = re.compile(r"[\x00-\x1f\x7f\\]")


def check_tags(store: str, records: Iterable[ParameterRecord]) -> None:
    """Raise `StoreError` when line protocol would change a tag: its escapes are not reversible.

    Parameters
    ----------
    store
        The store as messages name it.
    """
    for record in records:
        bucket_name(record.feeder_id)
        for name, value in record.tags.items():
            if not value or _UNSAFE_TAG.search(value):
                raise StoreError(
                    f"{store}: {name}={value!r} can't be stored (empty, or with a backslash or "
                    "control character)"
                )


def check_repeated_keys(store: str, records: Iterable[ParameterRecord]) -> None:
    """Raise `StoreConflictError` when two records of a feeder share a key: the server would mix them."""
    by_key: dict[tuple[str, str, int], ParameterRecord] = {}
    for record in records:
        first = by_key.setdefault((record.pair, record.model_type, record.time_ns), record)
        if not first.same_content(record):
            raise StoreConflictError(
                f"{store}: {describe_key(record)} is to be written with two contents"
            )


def make_parameter_point(measurement: Measurement, record: ParameterRecord) -> Point:
    """Return all fields of a record as one point."""
    return _make_point(measurement, record, record.fields)


def make_provenance_point(measurement: Measurement, record: ParameterRecord) -> Point:
    """Return the text beside a record's fields, under the same key."""
    fields = {PROVENANCE_FIELD: record.provenance_json}
    return _make_point(PROVENANCE_MEASUREMENTS[measurement], record, fields)


def make_metric_points(
    samples: Iterable[tuple[str, Mapping[str, str], float]], time_ns: int
) -> list[Point]:
    """Return metrics (name, tags and value each) as points: equal tags share one."""
    points: dict[tuple[tuple[str, str], ...], Point] = {}
    for name, tags, value in samples:
        key = tuple(sorted(tags.items()))
        if key not in points:
            points[key] = Point(METRICS_MEASUREMENT).time(time_ns, WritePrecision.NS)
            for tag, text in key:
                points[key].tag(tag, text)
        points[key].field(name, float(value))
    return list(points.values())


def _make_point(name: str, record: ParameterRecord, fields: Mapping[str, object]) -> Point:
    point = Point(name).time(record.time_ns, WritePrecision.NS)
    for tag, text in record.tags.items():
        point.tag(tag, text)
    for field, value in fields.items():
        point.field(field, value)
    return point
