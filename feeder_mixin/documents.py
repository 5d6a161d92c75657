"""One validated reader for the JSON that is kept or taken in: status, last good copy, import lines.

A document's shape is a `TypedDict` beside the code that writes it; `checked` compares the two and names
the first thing that is wrong. Pydantic does the work. It is imported with the first document, because it
takes 0.17 CPU-seconds that ``feeder --help`` must not pay; in the bot, freqtrade has imported it anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

from annotated_types import Ge, Gt, Le

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import (
    LATEST_TIME_NS,
    NANOSECONDS,
    PARAMETER_NAMES,
    parameter_problems,
    parse_time_ns,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Shape = TypeVar("Shape")

_EXPECTED: Final = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a JSON object",
}
"""Kind of problem, as pydantic calls it -> what was expected, in the words of our messages."""

_SHOWN: Final = 80
"""Characters of a wrong value that a message shows."""


def is_time(text: str) -> bool:
    """Return whether `text` is a time as `schema.format_time_ns` writes it, from 1970 on."""
    try:
        return parse_time_ns(text) >= 0
    except SettingsError:
        return False


def has_ten_numbers(values: dict[str, Any]) -> bool:
    """Return whether each of the ten parameters is a finite number, whatever its range."""
    return all(
        isinstance(value := values.get(name), int | float) and math.isfinite(value)
        for name in PARAMETER_NAMES
    )


def is_parameter_set(values: dict[str, Any]) -> bool:
    """Return whether these are the ten parameters, each inside its range."""
    return not parameter_problems(values)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a value must pass beside its type, and how a message calls that; for `Annotated`."""

    is_right: Callable[[Any], bool]
    expected: str

    def __get_pydantic_core_schema__(self, source: object, handler: Callable[[object], Any]) -> Any:  # noqa: ANN401
        from pydantic_core import PydanticCustomError, core_schema

        def check(value: object) -> object:
            if not self.is_right(value):
                raise PydanticCustomError("not_accepted", "{expected}", {"expected": self.expected})
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))


@dataclass(frozen=True, slots=True)
class _Unconverted:
    """Leaves whole numbers as they are: ``num_leaves`` stays 31 and does not become 31.0."""

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> Any:  # noqa: ANN401
        from pydantic_core import core_schema

        number = core_schema.union_schema(
            [core_schema.int_schema(), core_schema.float_schema(allow_inf_nan=False)]
        )
        return core_schema.dict_schema(core_schema.str_schema(), number)


Numbers = Annotated[Mapping[str, float], _Unconverted()]
Count = Annotated[int, Ge(0)]
CandleOpen = Annotated[int, Ge(0), Le(LATEST_TIME_NS // NANOSECONDS)]
"""Seconds since the epoch, before 2262: later ones overflow where they are told or compared."""
Finite = Annotated[float, Accepted(math.isfinite, "a finite number")]
Amount = Annotated[Finite, Ge(0)]
Factor = Annotated[Finite, Gt(0)]
Time = Annotated[str, Accepted(is_time, "a time such as 2026-11-28T07:12:35.000000000Z")]
"""RFC 3339 in UTC."""
TenNumbers = Annotated[
    dict[str, float], Accepted(has_ten_numbers, "the ten parameters, each a number")
]
ParameterValues = Annotated[
    dict[str, float], Accepted(is_parameter_set, "the ten parameters, each inside its range")
]


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - a TypedDict has no type of its own
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


def checked(shape: type[Shape], document: object, error: Callable[[str], Exception]) -> Shape:
    """Return `document` itself if it has a shape; keys that the shape does not know are kept.

    Parameters
    ----------
    shape
        A `TypedDict`. What it says is meant strictly: ``true`` is no number, ``"1"`` neither.
    error
        Makes the exception from the problem: key, value and what was expected.
    """
    from pydantic import ValidationError

    try:
        _adapter(cast("Any", shape)).validate_python(document, strict=True)
    except ValidationError as problem:
        raise error(_first_problem(problem.errors()[0])) from None
    except RecursionError:
        raise error("it is nested too deeply") from None
    return cast("Shape", document)


def built(shape: type[Shape], text: str, error: Callable[[str], Exception]) -> Shape:
    """Return what a JSON text holds as an object of a dataclass; keys it does not know are left out.

    Parameters
    ----------
    shape
        A dataclass; its fields may be dataclasses, tuples and mappings of them.
    error
        As of `checked`.
    """
    from pydantic import ValidationError

    try:
        return cast("Shape", _adapter(cast("Any", shape)).validate_json(text, strict=True))
    except ValidationError as problem:
        raise error(_first_problem(problem.errors()[0])) from None


def _first_problem(detail: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails, not imported here
    where = ".".join(map(str, detail["loc"]))
    match detail["type"]:
        case "missing":
            return f"{where} is missing"
        case "extra_forbidden":
            return f"unknown key {where}"
        case "value_error":  # of a dataclass's own check
            return f"{where}: {detail['ctx']['error']}"
        case kind:
            expected = _EXPECTED.get(kind) or detail["msg"].removeprefix("Input should be ")
    shown = repr(detail["input"])
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}..."
    return f"{where or 'the document'}={shown}, expected {expected}"
