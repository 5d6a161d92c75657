"""Reading kept JSON: every field is checked as it is read, and a wrong one is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Choice = TypeVar("Choice", bound=str)
Read = TypeVar("Read")


class JsonObject:
    """A JSON object whose fields have types.

    Every method raises `ValueError` with the path of a field that is missing or of another type.
    Numbers come back as they were kept: a whole number stays an ``int``.
    """

    def __init__(self, value: object, path: str = "it") -> None:
        self._path = path
        if not isinstance(value, dict):
            raise self._wrong(path, value, "an object")
        self._fields: dict[str, object] = value

    def is_null(self, name: str) -> bool:
        """Return whether a field is kept as null."""
        return self._field(name) is None

    def text(self, name: str) -> str:
        """Return a text."""
        value = self._field(name)
        if not isinstance(value, str):
            raise self._wrong(self._at(name), value, "a text")
        return value

    def choice(self, name: str, choices: Sequence[Choice]) -> Choice:
        """Return a text that is one of some."""
        value = self._field(name)
        for one in choices:
            if value == one:
                return one
        raise self._wrong(self._at(name), value, f"one of {', '.join(choices)}")

    def flag(self, name: str) -> bool:
        """Return a truth value."""
        value = self._field(name)
        if not isinstance(value, bool):
            raise self._wrong(self._at(name), value, "true or false")
        return value

    def whole(self, name: str) -> int:
        """Return a whole number."""
        return self._as_whole(self._field(name), self._at(name))

    def number(self, name: str) -> float:
        """Return a number."""
        return self._as_number(self._field(name), self._at(name))

    def optional_number(self, name: str) -> float | None:
        """Return a number, None where null is kept."""
        return None if self.is_null(name) else self.number(name)

    def as_numbers(self) -> dict[str, float]:
        """Return the fields, all of them numbers."""
        return {name: self.number(name) for name in self}

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return a list of numbers."""
        return tuple(self._as_number(item, self._at(name)) for item in self._items(name))

    def wholes(self, name: str) -> tuple[int, ...]:
        """Return a list of whole numbers."""
        return tuple(self._as_whole(item, self._at(name)) for item in self._items(name))

    def anything(self, name: str) -> dict[str, object]:
        """Return an object whose fields are free."""
        return dict(self.part(name)._fields)

    def part(self, name: str) -> JsonObject:
        """Return an object within this one."""
        return JsonObject(self._field(name), self._at(name))

    def optional(self, name: str, read: Callable[[JsonObject], Read]) -> Read | None:
        """Return what `read` makes of an object within this one, None where null is kept."""
        return None if self.is_null(name) else read(self.part(name))

    def parts(self, name: str) -> list[JsonObject]:
        """Return a list of objects."""
        return [JsonObject(item, self._at(name)) for item in self._items(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}"

    def _field(self, name: str) -> object:
        if name not in self._fields:
            raise ValueError(f"{self._at(name)} is missing")
        return self._fields[name]

    def _items(self, name: str) -> list[object]:
        value = self._field(name)
        if not isinstance(value, list):
            raise self._wrong(self._at(name), value, "a list")
        return value

    def _as_number(self, value: object, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(path, value, "a number")
        return value

    def _as_whole(self, value: object, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(path, value, "a whole number")
        return value

    @staticmethod
    def _wrong(path: str, value: object, expected: str) -> ValueError:
        return ValueError(f"{path} is {str(value)[:40]!r}, expected {expected}")
