"""The section from which a risk is chosen: what levels and tolerances call safe, and what goes wrong of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from feeder_mixin.reports._drawing import Plot, axis, layout
from feeder_mixin.reports._palette import CHALLENGER, INK, RULE
from feeder_mixin.reports._parts import Figure, Section, Table, lacking
from feeder_mixin.reports.documents import FeederReport
from feeder_mixin.reports.risk import (
    RiskCurve,
    curve_head,
    curve_lines,
    curve_row,
    factor_text,
    make_curve,
)
from feeder_mixin.tune.judge.risk import SafeCalls

_TITLE: Final = "Choose a risk"


def risk_section(report: FeederReport) -> Section:
    """Return what each level and tolerance would call safe, and how much of it turned unsafe."""
    curve = make_curve({pair: tuned.result for pair, tuned in report.tuned.items()})
    missing = lacking(report, _TITLE, {} if curve is None else curve.tolerances)
    if curve is None:
        return Section("risk", _TITLE, missing=missing)
    alt = f"{_TITLE}: {'; '.join(curve_lines(curve))}."
    return Section(
        "risk",
        _TITLE,
        [
            (
                "Of the candles called safe, how many turned unsafe, by how many are called safe; one dot a "
                "level, 0.05 to 0.20, on the walk-forward of all pairs together. The dashed line is the ATR "
                "rule where it takes as many, the ring the settings in force. Nothing is fitted for it: "
                "feeder.max_unsafe_share chooses the level, feeder.max_adverse_ratio the tolerance."
            ),
            *(f"{line}." for line in curve_lines(curve)),
        ],
        [Figure("", alt, _curve_figure(curve))],
        [_curve_table(curve, factor) for factor in curve.factors],
        missing,
    )


def _curve_table(curve: RiskCurve, factor: float) -> Table:
    head = curve_head(curve)
    return Table(
        factor_text(factor),
        head,
        [[*curve_row(curve, calls)] for calls in curve.shown(factor)],
        texts=(len(head) - 1,),
        is_folded=factor != 1.0,
        is_by_pair=False,
    )


def _curve_figure(curve: RiskCurve) -> Plot:
    calls = [one for one in curve.calls if one.factor == 1.0 and one.n_called]
    model = {
        **_line(calls, [one.unsafe_share for one in calls], "model"),
        "mode": "lines+markers",
        "line": {"color": CHALLENGER.light, "width": 1.5},
        "marker": {"size": 6, "color": CHALLENGER.light},
        "text": [f"level {one.level:g}" for one in calls],
        "hovertemplate": "%{text}: %{x:.1f} called safe, %{y:.2f} unsafe<extra></extra>",
    }
    rule = {
        **_line(calls, [one.rule_share for one in calls], "ATR rule"),
        "mode": "lines",
        "line": {"color": RULE.light, "width": 1.5, "dash": "dash"},
    }
    traces = [rule, model]
    now = curve.present
    if now is not None and now.n_called:
        ring = {"size": 13, "symbol": "circle-open", "color": INK.light, "line": {"width": 2}}
        traces.append(
            {**_line([now], [now.unsafe_share], "in force"), "mode": "markers", "marker": ring}
        )
    return Plot(
        traces,
        layout(
            280,
            showlegend=True,
            legend={"orientation": "h", "y": 1.15, "x": 0},
            xaxis=axis("candles called safe", ticksuffix=" %", rangemode="tozero"),
            yaxis=axis("turned unsafe", ticksuffix=" %", rangemode="tozero"),
        ),
    )


def _line(calls: Sequence[SafeCalls], shares: Sequence[float | None], name: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": [round(100 * one.called_share, 3) for one in calls],
        "y": [None if share is None else round(100 * share, 3) for share in shares],
        "name": name,
        "hovertemplate": f"{name}: %{{x:.1f}} called safe, %{{y:.2f}} unsafe<extra></extra>",
    }
