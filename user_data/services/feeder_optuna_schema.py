"""The schema under the owner's path and names; everything comes from `feeder_mixin.schema`."""

from __future__ import annotations

from collections.abc import Mapping

from feeder_mixin import schema

INFLUX_MEASUREMENT = schema.MEASUREMENT
globals().update({f"FIELD_{name.upper()}": name for name in schema.FIELD_NAMES})
globals().update({f"TAG_{name.upper()}": name for name in schema.TAGS})

get_bucket_name = schema.bucket_name
get_default_params = schema.default_parameters


def build_field_filter_query() -> str:
    """Return a Flux predicate that is true for the ten parameters' fields."""
    return " or ".join(f'r["_field"] == "{name}"' for name in schema.PARAMETER_NAMES)


def validate_params(values: Mapping[str, object]) -> tuple[bool, list[str]]:
    """Return whether all ten parameters are valid, and the names that are missing or invalid."""
    wrong = [
        p.name for p in schema.PARAMETERS if values.get(p.name) is None or p.problem(values[p.name])
    ]
    return not wrong, wrong


__all__ = [  # noqa: PLE0604 - the constants above are made from the schema
    "INFLUX_MEASUREMENT",
    "build_field_filter_query",
    "get_bucket_name",
    "get_default_params",
    "validate_params",
    *(f"FIELD_{name.upper()}" for name in schema.FIELD_NAMES),
    *(f"TAG_{name.upper()}" for name in schema.TAGS),
]
