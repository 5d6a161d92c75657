"""How far price may go against a position on a safe candle: what the config asks, what a pair gets.

``feeder.max_adverse_ratio`` is a number for every pair, or an object of pair -> number with
``"default"`` for the rest, or ``"auto"`` in the place of any of those numbers: the pair's own,
measured when it was tuned and kept in its record. Tuner, bot, backtest and commands all ask
`tolerance_of`, and nobody reads the setting another way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Auto = Literal["auto"]
AUTO: Final[Auto] = "auto"

DEFAULT_KEY: Final = "default"
"""Key of the mapping's number for pairs that it does not name."""

MaxAdverseRatio = float | Auto | Mapping[str, float | Auto]
"""``feeder.max_adverse_ratio`` as it is written."""

FALLBACK: Final = 0.01
"""Stands in under ``"auto"`` where no record has a measured tolerance; always said."""

Origin = Literal["config", "record", "fallback"]
"""Where a tolerance comes from; `fallback` is that of ``"auto"`` without a record that has one."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A pair's tolerance: a candle is safe when the excursion is not below minus `ratio`."""

    ratio: float
    origin: Origin


def tolerance_of(asked: MaxAdverseRatio, pair: str, measured: float | None) -> Tolerance:
    """Return the tolerance that a pair gets.

    Parameters
    ----------
    measured
        ``auto_tolerance`` of the record in force; None where it has none, or there is no record.

    Examples
    --------
    >>> tolerance_of(0.01, "BTC/USDT", 0.004)
    Tolerance(ratio=0.01, origin='config')
    >>> tolerance_of("auto", "BTC/USDT", 0.004)
    Tolerance(ratio=0.004, origin='record')
    >>> tolerance_of({"ETH/USDT": 0.02, "default": "auto"}, "BTC/USDT", None)
    Tolerance(ratio=0.01, origin='fallback')
    """
    own = asked.get(pair, asked[DEFAULT_KEY]) if isinstance(asked, Mapping) else asked
    if own != AUTO:
        return Tolerance(float(own), "config")
    return Tolerance(FALLBACK, "fallback") if measured is None else Tolerance(measured, "record")


def is_measured(asked: MaxAdverseRatio, pair: str) -> bool:
    """Return whether a pair's tolerance is the one that its record has."""
    return tolerance_of(asked, pair, None).origin != "config"


def ratio_problem(value: object) -> str | None:
    """Return what was expected of a tolerance, None where `value` can be one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and 0 < value <= 1:  # type: ignore[arg-type, operator]
        return None
    return "a number above 0, at most 1"


def setting_problem(value: object) -> str | None:
    """Return what was expected of ``feeder.max_adverse_ratio``, None where `value` can be it."""
    if value == AUTO or ratio_problem(value) is None:
        return None
    expected = (
        f'{ratio_problem(None)}, or "auto" (each pair\'s own, measured when it is tuned), or an object of '
        'pair -> one of these, with "default" for the other pairs'
    )
    if not isinstance(value, Mapping) or DEFAULT_KEY not in value:
        return expected
    wrong = [one for one in value.values() if one != AUTO and ratio_problem(one)]
    return expected if wrong else None


def unknown_pairs(asked: MaxAdverseRatio, pairs: Iterable[str]) -> list[str]:
    """Return the names in a mapping that are none of the feeder's pairs."""
    names = asked if isinstance(asked, Mapping) else ()
    return sorted(set(names) - {*pairs, DEFAULT_KEY})


def setting_text(asked: MaxAdverseRatio) -> str:
    """Return the setting in one word, for log lines.

    Examples
    --------
    >>> setting_text(0.01), setting_text({"BTC/USDT": 0.005, "default": "auto"})
    ('0.01', 'BTC/USDT:0.005,default:auto')
    """
    if isinstance(asked, Mapping):
        return ",".join(f"{name}:{setting_text(one)}" for name, one in asked.items())
    return asked if isinstance(asked, str) else f"{asked:g}"
