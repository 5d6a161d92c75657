"""What a risk costs in entries: of the candles called safe, how many turn unsafe, by level and tolerance.

Counted on a walk-forward at one level, without a further fit. A quantile at another level is the
forecast times one factor per pair, that at which as many of the walk's excursions are worse as the level
says; 2026-11, ten pairs, both sides, the 15 days after seven cuts: shares counted this way are within
0.4 points of those of models fitted at levels 0.05, 0.15 and 0.20.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.model.decision import called_safe
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.tune.judge.evaluate import ServedForecasts
from feeder_mixin.tune.judge.result import ChosenLevel, RiskCell, RiskTable

LEVELS: Final = (
    *(round(0.05 + 0.005 * step, 3) for step in range(10)),
    *(round(0.10 + 0.01 * step, 2) for step in range(11)),
)
"""Quantile levels that can be chosen: the schema's range, in steps of a tenth or less of themselves."""

TOLERANCE_FACTORS: Final = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Tolerances that are counted, in units of the pair's own."""

ONE_SIDED_95: Final = 1.645

RATIO_SPREAD: Final = 0.10
"""How far a feeder's share of unsafe candles is taken to lie, in the long run, from what its forecasts expect:
standard deviation of the log of found / expected.

Chosen, among 0.08 to 1, as the one that calls most safe of those that keep to what was asked in five cuts of
seven or more (docs/understand/tried.md). Why at all, 2026-11, ten pairs, both sides, seven cuts, level 0.05: in the 90 days before a cut SHORT feeders had 1.10 to 1.74
times what was expected, in the 15 days after it 0.55 to 2.14 times, whatever it was before (LONG: 0.99 to 1.14,
then 0.25 to 1.44). What is found in quiet days that end is no property of the feeder.
"""

MIN_DAYS: Final = 10
"""Days with a candle called safe below which a share proves nothing."""


@dataclass(frozen=True, slots=True)
class SafeCalls:
    """Candles of some pairs at one level and tolerance.

    Attributes
    ----------
    n_rows, n_days
        Candles of all pairs, and the days that they lie on.
    n_called, n_unsafe
        Candles called safe, and those of them that turned unsafe.
    expected
        How many of them calibrated forecasts expect to turn unsafe.
    error
        Standard error of the share of those, by blocks of a day; infinite where nothing is proven.
    rule_unsafe
        Unsafe ones among as many candles that the ATR rule ranks safest, pair by pair.
    """

    level: float
    factor: float
    n_rows: int
    n_days: int
    n_called: int
    n_unsafe: int
    expected: float
    error: float
    rule_unsafe: int

    @property
    def called_share(self) -> float:
        """Return the share of candles called safe."""
        return self.n_called / self.n_rows

    @property
    def unsafe_share(self) -> float | None:
        """Return the share of them that turned unsafe; None where none is called safe."""
        return self.n_unsafe / self.n_called if self.n_called else None

    @property
    def rule_share(self) -> float | None:
        """Return the share of the ATR rule's that turned unsafe."""
        return self.rule_unsafe / self.n_called if self.n_called else None

    @property
    def upper(self) -> float:
        """Return what the share stays within, with 95 % confidence; infinite where nothing is proven.

        The share found is drawn to the one that is expected, by normal distributions of the log of their ratio:
        around 0 with `RATIO_SPREAD` before anything was counted, and with the error of the days counted. Never
        less than what was found.
        """
        share = self.unsafe_share
        if share is None or not math.isfinite(self.error) or not self.expected:
            return math.inf
        expected = self.expected / self.n_called
        if not share:  # nothing to take a logarithm of
            return expected * math.exp(ONE_SIDED_95 * RATIO_SPREAD)
        error = self.error / share
        weight = RATIO_SPREAD**2 / (RATIO_SPREAD**2 + error**2)
        drawn = weight * math.log(share / expected) + ONE_SIDED_95 * math.sqrt(weight) * error
        return max(share, expected * math.exp(drawn))

    @property
    def calls_a_day(self) -> float:
        """Return how many candles of all pairs are called safe a day."""
        return self.n_called / self.n_days

    def to_json(self) -> dict[str, Any]:
        """Return the form that ``--json`` carries."""
        return {
            "level": self.level,
            "tolerance_factor": self.factor,
            "called_safe": self.n_called,
            "called_safe_share": self.called_share,
            "called_safe_a_day": self.calls_a_day,
            "unsafe_share": self.unsafe_share,
            "unsafe_share_upper": self.upper if math.isfinite(self.upper) else None,
            "rule_unsafe_share": self.rule_share,
        }


def count_risk(walk: ServedForecasts) -> RiskTable:
    """Return what would have been called safe in a walk-forward, by level and tolerance."""
    rows, alpha = walk.everything, walk.alpha
    excursion, q, tolerance = rows.excursion, rows.q, rows.tolerance
    days, day = np.unique(rows.opens_s // DAY_S, return_inverse=True)
    worse = np.sort(excursion / np.minimum(q, -1e-9))
    at_alpha = float(np.quantile(worse, 1.0 - alpha))
    levels = sorted({*LEVELS, alpha})
    factors = {level: float(np.quantile(worse, 1.0 - level)) / at_alpha for level in levels}
    ranked = rows.rule / tolerance
    ranked[~rows.is_allowed] = -np.inf
    by_rule = np.argsort(-ranked, kind="stable")
    cells = []
    for factor in TOLERANCE_FACTORS:
        unsafe = excursion < -factor * tolerance
        # Of the walk's excursions, the share that is as much worse than the forecast as here makes unsafe.
        chance = 1.0 - np.searchsorted(
            worse, factor * tolerance / np.maximum(-q, 1e-9), "right"
        ) / len(worse)
        # Of the n safest by the rule, how many are unsafe.
        rule_unsafe = np.concatenate([[0], np.cumsum(unsafe[by_rule])])
        for level in levels:
            called = called_safe(factors[level] * q, factor * tolerance, rows.is_allowed)
            cells.append(
                RiskCell(
                    level,
                    factor,
                    called=_by_day(called, day, len(days)),
                    unsafe=_by_day(called & unsafe, day, len(days)),
                    expected=float(chance[called].sum()),
                    rule_unsafe=int(rule_unsafe[int(called.sum())]),
                )
            )
    return RiskTable(
        days=tuple(days.tolist()),
        rows=tuple(np.bincount(day, minlength=len(days)).tolist()),
        tolerance=float(tolerance[-1]),
        cells=tuple(cells),
    )


def _by_day(found: NDArray[np.bool_], day: NDArray[np.intp], n_days: int) -> tuple[int, ...]:
    return tuple(np.bincount(day[found], minlength=n_days).tolist())


def pool_risk(tables: Collection[RiskTable]) -> list[SafeCalls]:
    """Return the counts of all pairs together, by tolerance and then level, ascending.

    Levels and tolerances that not every pair has (``--fix`` at another time) are left out.
    """
    groups: dict[tuple[float, float], list[tuple[RiskTable, RiskCell]]] = defaultdict(list)
    for table in tables:
        for cell in table.cells:
            groups[cell.factor, cell.level].append((table, cell))
    return [
        _pooled(level, factor, parts)
        for (factor, level), parts in sorted(groups.items())
        if len(parts) == len(tables)
    ]


def _pooled(level: float, factor: float, parts: Sequence[tuple[RiskTable, RiskCell]]) -> SafeCalls:
    called, unsafe = defaultdict[int, int](int), defaultdict[int, int](int)
    for table, cell in parts:
        for day, n_called, n_unsafe in zip(table.days, cell.called, cell.unsafe, strict=True):
            called[day] += n_called
            unsafe[day] += n_unsafe
    by_day = np.array([called[day] for day in called]), np.array([unsafe[day] for day in called])
    return SafeCalls(
        level,
        factor,
        n_rows=sum(sum(table.rows) for table, _ in parts),
        n_days=len(called),
        n_called=int(by_day[0].sum()),
        n_unsafe=int(by_day[1].sum()),
        expected=sum(cell.expected for _, cell in parts),
        error=_share_error(*by_day),
        rule_unsafe=sum(cell.rule_unsafe for _, cell in parts),
    )


def _share_error(called: NDArray[np.int64], unsafe: NDArray[np.int64]) -> float:
    """Return the standard error of ``sum(unsafe) / sum(called)`` over independent days."""
    n_days, n_called = int(np.count_nonzero(called)), called.sum()
    if n_days < MIN_DAYS:
        return math.inf
    off = unsafe - unsafe.sum() / n_called * called
    return float(np.sqrt(np.sum(off**2) * n_days / (n_days - 1)) / n_called)


def at_settings(risks: Iterable[SafeCalls], alpha: float) -> SafeCalls | None:
    """Return the counts at a level and the tolerances in force, None where they were not counted."""
    return next((one for one in risks if one.level == alpha and one.factor == 1.0), None)


def choose_level(tables: Mapping[str, RiskTable], asked: float) -> ChosenLevel:
    """Return the largest level whose share of unsafe candles stays within what was asked.

    With 95 % confidence (`SafeCalls.upper`), at each pair's tolerance in force, all pairs together. The
    least level where none does.
    """
    known = [one for one in pool_risk(tables.values()) if one.factor == 1.0 and one.level in LEVELS]
    fitting = [one for one in known if one.upper <= asked]
    best = max(fitting or known[:1], key=lambda one: one.level)
    return ChosenLevel(
        asked,
        best.level,
        share=best.unsafe_share,
        upper=best.upper if math.isfinite(best.upper) else None,
        is_kept=bool(fitting),
    )
