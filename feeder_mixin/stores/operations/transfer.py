"""Records as JSON lines: a copy of a store that any other can take in.

``feeder export`` and ``feeder import`` call this. What must stay true: a line carries everything of
a record, and reading it gives an equal one; lines are judged all before any is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, cast

from typing_extensions import TypedDict

from feeder_mixin.documents import Accepted, checked
from feeder_mixin.errors import SchemaError, SettingsError
from feeder_mixin.schema import (
    CANDIDATES,
    LATEST_TIME_NS,
    MEASUREMENT,
    METRIC_NAMES,
    Measurement,
    ParameterRecord,
    parse_time_ns,
)
from feeder_mixin.settings import MODEL_TYPES
from feeder_mixin.stores.base import Note, ParameterStore, StoredPoint, load_stored_pairs

MEASUREMENTS: Final[tuple[Measurement, ...]] = (MEASUREMENT, CANDIDATES)

_VERSION: Final = 1


def _is_printable(text: str) -> bool:
    """Return whether a text can be stored everywhere: no lone surrogate, no control character."""
    return text != "" and text.isprintable()


_Text = Annotated[str, Accepted(_is_printable, "a printable text")]


class _Line(TypedDict):
    """One line of an export."""

    __pydantic_config__ = {"extra": "forbid"}  # type: ignore[misc]  # noqa: RUF012

    version: Literal[1]
    measurement: Measurement
    feeder_id: _Text
    pair: _Text
    time: _Text
    model_type: _Text
    parameters: dict[str, object]
    metrics: dict[str, object]
    provenance: dict[str, object]


_PROBLEMS_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """One record and where it belongs."""

    measurement: Measurement
    record: ParameterRecord


@dataclass(slots=True)
class StoreDump:
    """What a store holds, or a file.

    Attributes
    ----------
    entries
        Oldest first when they come from a store.
    invalid
        Stored points that make no record.
    n_foreign
        Feeder -> lines of a feeder that was not asked for.
    """

    entries: list[Entry] = field(default_factory=list)
    invalid: list[Note] = field(default_factory=list)
    n_foreign: dict[str, int] = field(default_factory=dict)


def load_dump(
    store: ParameterStore, feeder_id: str, pairs: Iterable[str] | None = None
) -> StoreDump:
    """Return every record and candidate of a feeder, oldest first.

    Parameters
    ----------
    pairs
        By default every pair that has a point, those that left the config included.
    """
    copy = StoreDump()
    for measurement in MEASUREMENTS:
        wanted = load_stored_pairs(store, feeder_id, measurement) if pairs is None else pairs
        for pair in wanted:
            for point in _load_points(store, feeder_id, pair, measurement):
                try:
                    record = point.build_record(feeder_id)
                except SchemaError as error:
                    copy.invalid.append(Note(pair, point.time_ns, None, str(error)))
                else:
                    copy.entries.append(Entry(measurement, record))
    copy.entries.sort(key=lambda one: (one.record.time_ns, one.record.pair, one.measurement))
    return copy


def _load_points(
    store: ParameterStore, feeder_id: str, pair: str, measurement: Measurement
) -> list[StoredPoint]:
    """Return a pair's points of every model type."""
    return [
        point
        for model_type in MODEL_TYPES
        for point in store.history(feeder_id, pair, measurement=measurement, model_type=model_type)
    ]


def format_line(entry: Entry) -> str:
    """Return a record as one line of JSON, without its end."""
    record = entry.record
    document = {
        "version": _VERSION,
        "measurement": entry.measurement,
        **record.to_dict(),
        "provenance": dict(record.provenance),
    }
    return json.dumps(document)


def read_lines(lines: Iterable[str], feeder_ids: Iterable[str]) -> StoreDump:
    """Return the records of the named feeders among `lines`, in order; empty lines are none.

    Raises
    ------
    SettingsError
        When a line is no record, whosever it is, or two lines have one key and other contents: line
        number, field, value and what was expected.
    """
    wanted, copy = set(feeder_ids), StoreDump()
    problems: list[str] = []
    seen: dict[tuple[str, str, str, str, int], tuple[int, ParameterRecord]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = _read_line(line)
        except (SchemaError, SettingsError) as error:
            problems.append(f"line {number}: {error}")
            continue
        record = entry.record
        place = (entry.measurement, record.feeder_id, record.pair)
        key = (*place, record.model_type, record.time_ns)
        first_number, first = seen.setdefault(key, (number, record))
        if not first.same_content(record):
            problems.append(
                f"line {number}: {record.pair} has other content at the same time than line "
                f"{first_number}, expected one record for each time"
            )
        elif record.feeder_id not in wanted:
            copy.n_foreign[record.feeder_id] = copy.n_foreign.get(record.feeder_id, 0) + 1
        elif first is record:
            copy.entries.append(entry)
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        shown = problems[:_PROBLEMS_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise SettingsError("nothing is written:\n" + "\n".join(shown))
    return copy


def _read_line(line: str) -> Entry:
    """Return the record that a line is, or raise saying which key is wrong."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"is not JSON: {error}") from error
    one = checked(_Line, document, _not_a_line)
    metrics = one["metrics"]
    if unknown := sorted(set(metrics) - set(METRIC_NAMES)):
        raise SettingsError(f"metrics has {', '.join(unknown)}, which this version does not know")
    record = ParameterRecord(
        one["feeder_id"],
        one["pair"],
        _read_time_ns(one["time"]),
        cast("dict[str, float]", one["parameters"]),
        cast("dict[str, float]", metrics),
        one["provenance"],
        one["model_type"],
    )
    return Entry(one["measurement"], record)


def _not_a_line(problem: str) -> SettingsError:
    """Return the error of a wrong line; about its keys it says which ones a line has."""
    is_of_keys = problem.endswith(" is missing") or problem.startswith("unknown key ")
    keys = f" (a line has {', '.join(_Line.__annotations__)})" if is_of_keys else ""
    return SettingsError(problem + keys)


def _read_time_ns(text: str) -> int:
    time_ns = parse_time_ns(text)
    if not 0 <= time_ns <= LATEST_TIME_NS:
        raise SettingsError(f"time={text}, expected one from 1970 to 2262")
    return time_ns
