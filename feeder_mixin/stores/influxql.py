"""InfluxQL that the InfluxDB store asks, and reading the answers: pure text in, values out.

Called by `feeder_mixin.stores.influx` only; names no client. What must stay true: identifiers are
the schema's, times and limits are integers, and everything that a user or a foreign writer can
choose is a bound value (``$name``), never part of the text. (The predicate of a deletion knows no
bound values; there the text is quoted.)
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from feeder_mixin.schema import (
    FIELD_NAMES,
    MEASUREMENT,
    NANOSECONDS,
    PARAMETER_NAMES,
    PROVENANCE_FIELD,
    PROVENANCE_MEASUREMENTS,
    Measurement,
    missing_parameters,
)
from feeder_mixin.settings import FREQAI_MODEL_TYPE, MODEL_TYPE, ModelType
from feeder_mixin.stores.base import PASSED_OVER_LIMIT, StoredPoint

BATCH: Final = 20
"""Records per request, and pairs named in one: keeps a GET's URL below 8 kB, a proxy's limit."""

RECENT_NS: Final = 8 * 86_400 * NANOSECONDS
"""Where the newest record of a pair that is tuned nightly lies: two or three of the week-long shards.

A read costs by fields, series and shards: with 13 of them (90 days) five times as much.
"""

_LAST_NS: Final = 2**63
_LOWEST: Final = -sys.float_info.max
"""Every float is at least this, so comparing with it only drops rows that lack the field."""

_IS_COMPLETE: Final = " AND ".join(f"{name} >= $lowest" for name in PARAMETER_NAMES)


@dataclass(frozen=True, slots=True)
class Question:
    """Statements whose answers belong together, and the values bound in them."""

    statements: tuple[str, ...]
    values: Mapping[str, object]


@dataclass(slots=True)
class Answer:
    """Points, and provenance documents by pair, then time and model type."""

    points: list[StoredPoint] = field(default_factory=list)
    provenance: dict[str, dict[tuple[int, str], str]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def add(self, other: Answer, pairs: Iterable[str] | None) -> None:
        """Add what another answer says of `pairs` (None: of all), each point once."""
        wanted = None if pairs is None else set(pairs)
        known = {(point.pair, point.time_ns, point.model_type) for point in self.points}
        self.points += [
            point
            for point in other.points
            if (wanted is None or point.pair in wanted)
            and (point.pair, point.time_ns, point.model_type) not in known
        ]
        for pair, documents in other.provenance.items():
            self.provenance[pair].update(documents)

    def complete_pairs(self, now: int) -> set[str]:
        """Return the pairs of which a complete point that is not in the future is here."""
        return {
            point.pair
            for point in self.points
            if point.time_ns <= now and not missing_parameters(point.fields)
        }


def ask_any(feeder_id: str) -> Question:
    """Return the cheapest question that shows whether the feeder's points can be read."""
    condition, values = _where(feeder_id, None, None)
    return Question((_select((MEASUREMENT,), condition, limit=1),), values)


def ask_newest(
    feeder_id: str,
    pairs: Sequence[str] | None,
    measurement: Measurement,
    model_type: ModelType,
    *,
    since_ns: int | None = None,
) -> Question:
    """Return the question for each pair's newest few points; without bounds, the oldest count, too.

    Never bounded to the future: points dated there are to be seen. More pairs than `BATCH` are not
    named: the caller picks from all of the feeder's.
    """
    condition, values = _where(feeder_id, pairs, model_type)
    if since_ns is not None:
        condition = f"{condition} AND time >= {since_ns:d}"
    return Question((_select(_both(measurement), condition, limit=PASSED_OVER_LIMIT),), values)


def ask_complete(
    feeder_id: str,
    pairs: Sequence[str] | None,
    now: int,
    measurement: Measurement,
    model_type: ModelType,
) -> Question:
    """Return the question for each pair's newest complete point; its provenance is not asked for."""
    condition, values = _where(feeder_id, pairs, model_type)
    complete = f"{condition} AND time <= {now:d} AND {_IS_COMPLETE}"
    return Question((_select((measurement,), complete, limit=1),), {**values, "lowest": _LOWEST})


def ask_history(
    feeder_id: str,
    pair: str,
    limit: int | None,
    measurement: Measurement,
    model_type: ModelType,
) -> Question:
    """Return the question for a pair's newest `limit` points, all of them when that is None."""
    condition, values = _where(feeder_id, [pair], model_type)
    return Question((_select(_both(measurement), condition, limit=limit),), values)


def ask_between(
    feeder_id: str, pairs: Sequence[str], first_ns: int, last_ns: int, measurement: Measurement
) -> Question:
    """Return the question for every point of at most `BATCH` pairs, both times included, of any type."""
    condition, values = _where(feeder_id, pairs, None)
    between = f"{condition} AND time >= {first_ns} AND time <= {last_ns}"
    return Question((_select(_both(measurement), between),), values)


def delete_predicate(name: str, feeder_id: str, pair: str, model_type: str) -> str:
    """Return which series of a measurement a deletion is about: values in quotes, theirs escaped.

    A deletion knows no "is not": the type is the stored one.
    """
    tags = {"_measurement": name, "feeder_id": feeder_id, "pair": pair, "model_type": model_type}
    quoted = {tag: text.replace("\\", "\\\\").replace('"', '\\"') for tag, text in tags.items()}
    return " AND ".join(f'{tag}="{text}"' for tag, text in quoted.items())


def read_results(results: Iterable[Mapping[str, Any]]) -> Answer:
    """Return the points in the ``results`` of an answer, each once.

    Raises
    ------
    AttributeError, KeyError, TypeError, ValueError, OverflowError
        When the answer has another form than InfluxQL's, or was cut short.
    """
    answer = Answer()
    points: dict[tuple[str, int, str], StoredPoint] = {}
    for series in (one for result in results for one in result.get("series", ())):
        if series.get("partial"):
            raise ValueError("the server cut the answer short")
        pair = series["tags"]["pair"]
        if not isinstance(pair, str):
            raise TypeError(f"pair={pair!r} is no text")
        for values in series["values"]:
            row = dict(zip(series["columns"], values, strict=True))
            time_ns = row["time"]
            if type(time_ns) is not int or abs(time_ns) > _LAST_NS:
                raise ValueError(f"time={time_ns!r} is no number of nanoseconds")
            model_type = str(row.get("model_type") or MODEL_TYPE)
            if series["name"] in PROVENANCE_MEASUREMENTS.values():
                answer.provenance[pair][time_ns, model_type] = str(row[PROVENANCE_FIELD])
                continue
            fields = {name: _as_float(row.get(name)) for name in FIELD_NAMES}
            points[pair, time_ns, model_type] = StoredPoint(pair, time_ns, fields, None, model_type)
    answer.points = list(points.values())
    return answer


def _both(measurement: Measurement) -> tuple[str, str]:
    """Return a measurement and that of its provenance."""
    return measurement, PROVENANCE_MEASUREMENTS[measurement]


def _select(measurements: Iterable[str], condition: str, *, limit: int | None = None) -> str:
    """Return a statement for every field, by pair, newest first; `limit` counts per pair.

    With two measurements each has its own rows, so each its own limit.
    """
    columns = ",".join((*FIELD_NAMES, PROVENANCE_FIELD, "model_type"))
    cut = "" if limit is None else f" LIMIT {limit:d}"
    return (
        f"SELECT {columns} FROM {','.join(measurements)} WHERE {condition} "  # noqa: S608
        f"GROUP BY pair ORDER BY time DESC{cut}"
    )


def _where(
    feeder_id: str, pairs: Sequence[str] | None, model_type: ModelType | None
) -> tuple[str, dict[str, object]]:
    """Return the condition for a feeder's points of a type (None: of any), and its bound values."""
    condition = "feeder_id = $feeder_id AND pair != ''"
    values: dict[str, object] = {"feeder_id": feeder_id}
    if model_type is not None:  # as `schema.is_of_type` has it
        is_or_not = "=" if model_type == FREQAI_MODEL_TYPE else "!="
        condition = f"{condition} AND model_type {is_or_not} $freqai"
        values["freqai"] = FREQAI_MODEL_TYPE
    wanted = sorted(set(pairs or ()))
    if not 0 < len(wanted) <= BATCH:
        return condition, values
    named = {f"pair{i}": pair for i, pair in enumerate(wanted)}
    either = " OR ".join(f"pair = ${name}" for name in named)
    return f"{condition} AND ({either})", values | named


def _as_float(value: Any) -> Any:  # noqa: ANN401  (whatever a foreign writer stored)
    """Return a number as float (JSON writes 4.0 as 4); anything else as it is, to be rejected."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
