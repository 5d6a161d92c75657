"""Records and metrics as points of InfluxDB's line protocol: values in, points out.

Used by `feeder_mixin.stores.influx`. What must stay true: all fields of a record are one point, so
that they are written and read whole; every field is a float, the provenance's text aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from influxdb_client import Point, WritePrecision

from feeder_mixin.schema import (
    PROVENANCE_FIELD,
    PROVENANCE_MEASUREMENTS,
    Measurement,
    ParameterRecord,
)

METRICS_MEASUREMENT: Final = "feeder_metrics"
"""What `feeder metrics --to-store` writes, floats only."""


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
