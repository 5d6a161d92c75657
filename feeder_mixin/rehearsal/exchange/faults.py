"""Faults on purpose: status codes, delays, late and ended candles, by path and symbol."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Final, cast

from feeder_mixin.errors import SettingsError

HANG_UP: Final = 0
"""As status: close the connection without an answer."""

_NEVER: Final = math.inf

_READ: Final = {"status": int, "delay_s": float, "lag_s": float, "end_s": float, "count": int}
"""How the option's text becomes a value; a key that is not named here stays a text."""


@dataclass(slots=True)
class Fault:
    """What goes wrong with requests whose path begins with `path`.

    Attributes
    ----------
    symbol
        Only requests that ask for this one, such as SOLUSDT; None means all.
    status
        HTTP status to answer with; 0 closes the connection, None answers properly.
    delay_s
        Seconds before the answer.
    lag_s
        Candles, prices and funding are those of so many seconds ago.
    end_s
        Candles, prices and funding end at this time, in seconds since the epoch: with a symbol, a pair
        that is halted or delisted.
    count
        Ends after so many requests; None lasts until cleared.
    """

    path: str = "/"
    status: int | None = None
    delay_s: float = 0.0
    lag_s: float = 0.0
    count: int | None = None
    symbol: str | None = None
    end_s: float | None = None

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise SettingsError(f"fault path={self.path!r}, expected one such as /fapi/v1/klines")
        if self.status not in {None, HANG_UP} and not _is_whole(self.status, 400, 599):
            raise SettingsError(f"fault status={self.status!r}, expected 400 to 599, or 0")
        for name in ("delay_s", "lag_s"):
            if not _is_seconds(value := getattr(self, name)):
                raise SettingsError(f"fault {name}={value!r}, expected seconds, 0 or more")
        if self.end_s is not None and not _is_seconds(self.end_s):
            raise SettingsError(f"fault end_s={self.end_s!r}, expected seconds since the epoch")
        if self.count is not None and not _is_whole(self.count, 1, 10**9):
            raise SettingsError(f"fault count={self.count!r}, expected a whole number above 0")


def _is_seconds(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= cast("float", value) < _NEVER


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True, slots=True)
class Effect:
    """What all faults together do to one request."""

    status: int | None = None
    delay_s: float = 0.0
    lag_s: float = 0.0
    end_s: float = _NEVER


class Faults:
    """The faults in force. Used from the server's event loop only."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self._faults = list(faults)

    def add(self, fault: Fault) -> None:
        """Put a fault into force beside the others."""
        self._faults.append(fault)

    def clear(self) -> None:
        """End all faults."""
        self._faults.clear()

    def take(self, path: str, symbol: str | None = None) -> Effect:
        """Return what happens to a request, and count it.

        That is the first status, the sum of delays and of lags, and the earliest end.
        """
        hit = [
            fault
            for fault in self._faults
            if path.startswith(fault.path) and fault.symbol in {None, symbol}
        ]
        for fault in hit:
            if fault.count is not None:
                fault.count -= 1
        self._faults = [fault for fault in self._faults if fault.count != 0]
        status = next((fault.status for fault in hit if fault.status is not None), None)
        return Effect(
            status,
            delay_s=sum(fault.delay_s for fault in hit),
            lag_s=sum(fault.lag_s for fault in hit),
            end_s=min((fault.end_s for fault in hit if fault.end_s is not None), default=_NEVER),
        )

    def as_list(self) -> list[dict[str, object]]:
        """Return the faults in force, as JSON has them."""
        return [asdict(fault) for fault in self._faults]


def make_fault(document: object) -> Fault:
    """Return the fault that a JSON object names, or raise `SettingsError`."""
    names = [field.name for field in fields(Fault)]
    if not isinstance(document, Mapping):
        raise SettingsError(f"a fault is an object with {', '.join(names)}, got {document!r}")
    for key in document:
        if key not in names:
            raise SettingsError(f"unknown key {key!r} in a fault (known: {', '.join(names)})")
    for key in ("path", "symbol"):
        if key in document and not isinstance(document[key], str):
            raise SettingsError(f"fault {key}={document[key]!r}, expected a text")
    return Fault(**document)


def parse_fault(text: str) -> Fault:
    """Return the fault of an option such as ``path=/fapi/v1/klines,status=503,count=5``."""
    document: dict[str, object] = {}
    for part in text.split(","):
        key, _, value = (piece.strip() for piece in part.partition("="))
        read = _READ.get(key, str)  # an unknown key is refused below, by its name
        try:
            document[key] = read(value)
        except ValueError:
            kind = "a whole number" if read is int else "a number"
            raise SettingsError(f"--fault {text}: {key}={value!r} is not {kind}") from None
    return make_fault(document)
