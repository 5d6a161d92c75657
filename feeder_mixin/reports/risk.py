"""The curve from which a trader chooses: what each level and tolerance calls safe, and what goes wrong of it.

From the walk-forwards that the newest tuning kept; nothing is fitted. ``feeder risk`` prints it, the
report draws it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich import box
from rich.table import Table

from feeder_mixin.reports.records import percent
from feeder_mixin.tune.judge.result import ChosenLevel, PairResult
from feeder_mixin.tune.judge.risk import SafeCalls, at_settings, pool_risk

SHOWN_LEVELS: Final = (0.05, 0.07, 0.10, 0.13, 0.16, 0.20)
"""Levels that a terminal shows; the present one comes on top."""

PRESENT: Final = "now"


@dataclass(frozen=True, slots=True)
class BacktestEntries:
    """How often a strategy entered in a backtest, in which the gate was on.

    Attributes
    ----------
    name
        Of its result file.
    """

    name: str
    n_trades: int
    n_days: float


@dataclass(frozen=True, slots=True)
class RiskCurve:
    """What all chosen pairs together would call safe.

    Attributes
    ----------
    tolerances
        Pair -> its own, in force.
    alpha
        The level in force.
    chosen
        How it was chosen; None without ``feeder.max_unsafe_share``.
    calls
        By tolerance and then level, ascending.
    backtest
        None where none is at hand.
    """

    tolerances: Mapping[str, float]
    alpha: float
    chosen: ChosenLevel | None
    calls: Sequence[SafeCalls]
    backtest: BacktestEntries | None = None

    @property
    def present(self) -> SafeCalls | None:
        """Return what is called safe at the settings in force."""
        return at_settings(self.calls, self.alpha)

    def is_present(self, calls: SafeCalls) -> bool:
        """Return whether these are the settings in force."""
        return calls == self.present

    def entries_a_day(self, calls: SafeCalls) -> float | None:
        """Return how often the strategy's trigger would enter, in the backtest's proportion."""
        now = self.present
        if self.backtest is None or now is None or not now.n_called:
            return None
        per_call = self.backtest.n_trades / self.backtest.n_days / now.calls_a_day
        return per_call * calls.calls_a_day

    def shown(self, factor: float) -> list[SafeCalls]:
        """Return the levels of one tolerance that a reader is shown."""
        levels = {*SHOWN_LEVELS, self.alpha}
        return [one for one in self.calls if one.factor == factor and one.level in levels]

    @property
    def factors(self) -> list[float]:
        """Return the tolerances, in units of the pair's own."""
        return sorted({one.factor for one in self.calls})


def make_curve(
    results: Mapping[str, PairResult], backtest: BacktestEntries | None = None
) -> RiskCurve | None:
    """Return the curve of tuned pairs; None where none of them has what it takes.

    Pairs of an earlier version have no table, and pairs at another level (tuned at another time) none that
    fits: the most frequent level is taken.
    """
    counted = {pair: result for pair, result in results.items() if result.risk is not None}
    alphas = [result.alpha for result in counted.values() if result.alpha is not None]
    if not alphas:
        return None
    alpha = max(sorted(set(alphas)), key=alphas.count)
    alike = {pair: result for pair, result in counted.items() if result.alpha == alpha}
    newest = max(alike.values(), key=lambda result: result.time_ns)
    return RiskCurve(
        {pair: one.tolerance for pair, result in alike.items() if (one := result.risk) is not None},
        alpha,
        newest.chosen_level,
        pool_risk([result.risk for result in alike.values() if result.risk is not None]),
        backtest,
    )


def curve_lines(curve: RiskCurve) -> list[str]:
    """Return what the curve is of, and what the present settings are on it."""
    low, high = min(curve.tolerances.values()), max(curve.tolerances.values())
    span = f"{percent(low, 2)} %" if low == high else f"{percent(low, 2)} to {percent(high, 2)} %"
    lines = [f"{len(curve.tolerances)} pairs, tolerances of {span}, level {curve.alpha:g}"]
    chosen = curve.chosen
    if chosen is not None:
        kept = (
            "kept on the walk-forward" if chosen.is_kept else "kept by no level, the least is taken"
        )
        lines.append(
            f"Asked for at most {percent(chosen.asked)} % unsafe of what is called safe: {kept}"
        )
    if curve.backtest is not None:
        lines.append(
            f"Entries by the strategy's own trigger as in {curve.backtest.name}: "
            f"{curve.backtest.n_trades} in {curve.backtest.n_days:.1f} days"
        )
    return lines


def curve_table(curve: RiskCurve, factor: float) -> Table:
    """Return the curve at one tolerance as a table."""
    table = Table(
        title=factor_text(factor),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in curve_head(curve):
        table.add_column(name, justify="right", no_wrap=True)
    for calls in curve.shown(factor):
        table.add_row(*curve_row(curve, calls))
    return table


def factor_text(factor: float) -> str:
    """Return which tolerance a part of the curve is at.

    Examples
    --------
    >>> factor_text(1.0), factor_text(1.5)
    ("At each pair's tolerance in force", 'At 1.5 times the tolerance in force')
    """
    if factor == 1.0:
        return "At each pair's tolerance in force"
    return f"At {factor:g} times the tolerance in force"


def curve_head(curve: RiskCurve) -> list[str]:
    """Return the headings of the curve's columns; all shares in percent."""
    head = ["level", "safe, %", "a day", "unsafe, %", "95 %: up to", "ATR rule, %"]
    return [*head, *(["entries a day"] if curve.backtest else []), ""]


def curve_row(curve: RiskCurve, calls: SafeCalls) -> list[str]:
    """Return one level of the curve: what is called safe, and what of it turned unsafe."""
    entries = curve.entries_a_day(calls)
    return [
        f"{calls.level:g}",
        percent(calls.called_share),
        f"{calls.calls_a_day:.0f}",
        percent(calls.unsafe_share, 2),
        percent(calls.upper, 2) if math.isfinite(calls.upper) else "-",
        percent(calls.rule_share, 2),
        *([] if entries is None else [f"{entries:.1f}"]),
        PRESENT if curve.is_present(calls) else "",
    ]


def curve_document(curve: RiskCurve) -> dict[str, Any]:
    """Return the curve as ``--json`` carries it; shares in 0 to 1."""
    return {
        "tolerances": dict(curve.tolerances),
        "quantile_alpha": curve.alpha,
        "chosen": None if curve.chosen is None else curve.chosen.to_json(),
        "backtest": None
        if curve.backtest is None
        else {
            "file": curve.backtest.name,
            "trades": curve.backtest.n_trades,
            "days": curve.backtest.n_days,
        },
        "curve": [
            {
                **calls.to_json(),
                "entries_a_day": curve.entries_a_day(calls),
                "is_present": curve.is_present(calls),
            }
            for calls in curve.calls
        ],
    }
