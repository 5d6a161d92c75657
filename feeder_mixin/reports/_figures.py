"""Figures over a feeder's pairs: data first (tested without drawing), figure second.

Data functions take what is known of pairs and return named tuples of shares (0 to 1); figure functions
turn them into percent and draw. `reports._candles` has the chart of one pair.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from feeder_mixin.reports._drawing import Plot, axis, layout, legend, line_at
from feeder_mixin.reports._palette import INK, MARKS, MUTED, SPAN, Colour
from feeder_mixin.reports.documents import KnownPair, TunedPair, interval
from feeder_mixin.reports.records import percent
from feeder_mixin.schema import PARAMETERS, Parameter
from feeder_mixin.tune.judge.contenders import ATR_RULE, CONFIG, DEFAULTS, RUNNING, TUNED
from feeder_mixin.tune.search.kept import KeptTrial

Results = Mapping[str, KnownPair]

ALL_PAIRS: Final = "all pairs"

_ROW_PX: Final = 46
_JOINED_ROW_PX: Final = 34
_SPAN_PX: Final = 34
_HEAD_PX: Final = 96
_OFFSET: Final = 0.19
"""Distance of two contenders in one row, in rows."""

_BINS: Final = 40
"""Values closer than this part of a parameter's range are stacked."""

_STACK_PX: Final = 11
_MOST_LEVELS: Final = 20

NO_HOVER: Final = {"hoverinfo": "skip", "showlegend": False}


class Dot(NamedTuple):
    """One value of one contender, with its interval where it has one."""

    pair: str
    contender: str
    value: float
    low: float | None = None
    high: float | None = None


class Span(NamedTuple):
    """A pair's nominal value, and where a value should lie, where that is known."""

    pair: str
    nominal: float
    low: float | None = None
    high: float | None = None


class SafeValue(NamedTuple):
    """What calling candles safe is worth: unsafe ones among as many taken by model and ATR rule."""

    pair: str
    n_rows: int
    n_safe: int
    unsafe_model: int
    unsafe_rule: int

    @property
    def fewer(self) -> float | None:
        """Return the share of the rule's unsafe candles that the model avoids, None without any."""
        return 1 - self.unsafe_model / self.unsafe_rule if self.unsafe_rule else None


class TrialHistory(NamedTuple):
    """A feeder's study: (number, loss against the start set, as a ratio; below 0 is better)."""

    finished: list[tuple[int, float]]
    pruned: list[tuple[int, float]]
    best: list[tuple[int, float]]


class SpreadValue(NamedTuple):
    """One pair's value of a parameter; `level` counts the values stacked below it."""

    pair: str
    value: float
    level: int


def skill_dots(results: Results) -> list[Dot]:
    """Return skill over the yardstick with its 95 % interval, per pair and contender."""
    dots = []
    for pair, result in results.items():
        for contender in (DEFAULTS, CONFIG, TUNED, RUNNING):
            score = result.scores.get(contender)
            if score is not None:
                bounds = interval(score.skill, score.skill_se) or (None, None)
                dots.append(Dot(pair, contender, score.skill, *bounds))
    return dots


def exceedance_dots(results: Results) -> list[Dot]:
    """Return the exceedance of every contender of every pair."""
    return [
        Dot(pair, contender, score.exceedance)
        for pair, result in results.items()
        for contender in MARKS
        if (score := result.scores.get(contender)) is not None and score.exceedance is not None
    ]


def safe_values(tuned: Mapping[str, TunedPair]) -> list[SafeValue]:
    """Return the decision value of every pair that was tuned here."""
    values = []
    for pair, one in tuned.items():
        found = one.result.decision_value
        if found is None:
            continue
        counts = (found.n_rows, found.n_safe, found.unsafe_model, found.unsafe_rule)
        values.append(SafeValue(pair, *counts))
    return values


def pooled_value(values: Sequence[SafeValue]) -> SafeValue | None:
    """Return the decision value of all pairs together, None without any."""
    if not values:
        return None
    sums = (sum(column) for column in zip(*(value[1:] for value in values), strict=True))
    return SafeValue(ALL_PAIRS, *sums)


def trial_history(trials: Mapping[int, KeptTrial]) -> TrialHistory:
    """Return a study by trial number, with the best finished trial so far."""
    finished: list[tuple[int, float]] = []
    pruned: list[tuple[int, float]] = []
    best: list[tuple[int, float]] = []
    for number, trial in sorted(trials.items()):
        point = (number, trial.value)
        if trial.pruned:
            pruned.append(point)
        else:
            finished.append(point)
            best.append((number, min(point[1], best[-1][1]) if best else point[1]))
    return TrialHistory(finished, pruned, best)


def parameter_spread(parameter: Parameter, results: Results) -> list[SpreadValue]:
    """Return each pair's tuned value of a parameter, near values stacked in order of pairs."""
    stacks: Counter[int] = Counter()
    spread = []
    for pair, result in results.items():
        value = float(result.parameters[parameter.name])
        place = round(_place(parameter, value) * _BINS)
        spread.append(SpreadValue(pair, value, stacks[place]))
        stacks[place] += 1
    return spread


def _place(parameter: Parameter, value: float) -> float:
    """Return where a value lies in its range, 0 to 1, on the axis it is searched on."""
    scale = math.log if parameter.is_log else float
    low, high = scale(parameter.low), scale(parameter.high)
    return (scale(value) - low) / (high - low)


def dot_figure(
    labels: Mapping[str, str],
    dots: Sequence[Dot],
    title: str,
    *,
    spans: Sequence[Span] = (),
    zero: bool = False,
    apart: bool = True,
) -> Plot:
    """Return one row a pair, one mark a contender, in percent; spans lie behind.

    Parameters
    ----------
    labels
        Pair -> name of its row, in the order of rows.
    zero
        Whether 0 is the value to be on the right of.
    apart
        Whether contenders stand one below the other, for intervals that overlap.
    """
    rows = {pair: number for number, pair in enumerate(labels)}
    shown = [contender for contender in MARKS if any(d.contender == contender for d in dots)]
    traces = _span_traces(spans, rows)
    for place, contender in enumerate(shown):
        offset = _OFFSET * (place - (len(shown) - 1) / 2) if apart else 0.0
        traces.append(
            _dot_trace(contender, [d for d in dots if d.contender == contender], rows, offset)
        )
    y_axis = axis(
        tickvals=list(rows.values()),
        ticktext=[html.escape(text) for text in labels.values()],
        tickfont={"color": INK.light},
        range=[len(rows) - 0.45, -0.55],
        showgrid=False,
    )
    return Plot(
        traces,
        layout(
            _HEAD_PX + _ROW_PX * len(rows),
            xaxis=axis(
                title, ticksuffix=" %", nticks=7, range=_padded_range(dots, spans, zero=zero)
            ),
            yaxis=y_axis,
            shapes=[line_at(0, INK)] if zero else [],
            **legend(),
        ),
    )


def _span_traces(spans: Sequence[Span], rows: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return where values should lie, and the nominal ones; nothing without spans."""
    if not spans:
        return []
    known = [s for s in spans if s.low is not None and s.high is not None]
    ends = [(100 * (s.low or 0.0), 100 * (s.high or 0.0), rows[s.pair]) for s in known]
    nominal = {
        "type": "scatter",
        "x": [100 * span.nominal for span in spans],
        "y": [rows[span.pair] for span in spans],
        "mode": "markers",
        "marker": {
            "symbol": "line-ns",
            "size": _SPAN_PX,
            "line": {"color": MUTED.light, "width": 1.5},
        },
        **NO_HOVER,
    }
    return [_bars(ends, SPAN, _SPAN_PX), nominal]


def _bars(ends: Iterable[tuple[float, float, float]], colour: Colour, width: int) -> dict[str, Any]:
    """Return one trace of horizontal bars, each (from, to, row): gaps keep them apart."""
    x: list[float | None] = []
    y: list[float | None] = []
    for low, high, row in ends:
        x += [low, high, None]
        y += [row, row, None]
    line = {"color": colour.light, "width": width}
    return {"type": "scatter", "x": x, "y": y, "mode": "lines", "line": line, **NO_HOVER}


def _padded_range(dots: Sequence[Dot], spans: Sequence[Span], *, zero: bool) -> list[float]:
    """Return the percent axis with all intervals in sight: plotly leaves no room beside a line."""
    bounds = [(d.low, d.value, d.high) for d in dots] + [(s.low, s.nominal, s.high) for s in spans]
    ends = [end for triple in bounds for end in triple if end is not None] + [0.0] * zero
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    pad = max(0.04 * (high - low), 0.002)
    return [100 * (low - pad), 100 * (high + pad)]


def _dot_trace(
    contender: str, dots: Sequence[Dot], rows: Mapping[str, int], offset: float
) -> dict[str, Any]:
    mark = MARKS[contender]
    half = [0.0 if dot.high is None else 100 * (dot.high - dot.value) for dot in dots]
    return {
        "type": "scatter",
        "x": [100 * dot.value for dot in dots],
        "y": [rows[dot.pair] + offset for dot in dots],
        "mode": "markers",
        "name": mark.label,
        "marker": {
            "symbol": mark.symbol,
            "size": 8,
            "color": mark.colour.light,
            "line": {"color": mark.colour.light, "width": 2 if mark.symbol == "x-thin" else 0},
        },
        "error_x": {
            "type": "data",
            "array": half,
            "visible": any(half),
            "color": mark.colour.light,
            "thickness": 1.5,
            "width": 0,
        },
        "text": [_hover(dot, mark.label) for dot in dots],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _hover(dot: Dot, label: str) -> str:
    text = f"<b>{html.escape(dot.pair)}</b> {label}: {percent(dot.value)} %"
    if dot.low is not None:
        text += f"<br>95 %: {percent(dot.low)} to {percent(dot.high)} %"
    return text


def value_figure(labels: Mapping[str, str], values: Sequence[SafeValue]) -> Plot:
    """Return the unsafe share among candles taken, model against ATR rule, joined by a line."""
    known = [value for value in values if value.n_safe]
    dots = [
        Dot(value.pair, contender, unsafe / value.n_safe)
        for value in known
        for contender, unsafe in ((ATR_RULE, value.unsafe_rule), (TUNED, value.unsafe_model))
    ]
    rows = {value.pair: labels.get(value.pair, value.pair) for value in known}
    plot = dot_figure(rows, dots, "unsafe among the candles taken", apart=False)
    joins = [
        (100 * value.unsafe_rule / value.n_safe, 100 * value.unsafe_model / value.n_safe, number)
        for number, value in enumerate(known)
    ]
    named = [
        {**trace, "name": "model"} if trace["name"] == MARKS[TUNED].label else trace
        for trace in plot.data
    ]
    height = _HEAD_PX + _JOINED_ROW_PX * len(rows)
    return Plot([_bars(joins, SPAN, 5), *named], {**plot.layout, "height": height})


def history_figure(history: TrialHistory) -> Plot:
    """Return a feeder's study: finished trials, pruned ones apart, the running best.

    Trials beyond the loss axis stand on its edge.
    """
    bounds = history_bounds(history)
    last = max((n for n, _ in (*history.finished, *history.pruned)), default=0)
    best = _corners([*history.best, *((last, value) for _, value in history.best[-1:])])
    pruned = {
        **_trials(history.pruned, bounds, "pruned"),
        "marker": {"symbol": "x-thin", "size": 6, "line": {"color": MUTED.light, "width": 1.3}},
    }
    finished = {
        **_trials(history.finished, bounds, "finished"),
        "marker": {"size": 6, "color": MARKS[TUNED].colour.light},
    }
    best_so_far = {
        "type": "scatter",
        "x": [number for number, _ in best],
        "y": [_clip(round(100 * value, 4), bounds) for _, value in best],
        "mode": "lines",
        "name": "best so far",
        "line": {"shape": "hv", "color": MARKS[TUNED].colour.light, "width": 1.5},
        "hoverinfo": "skip",
    }
    return Plot(
        [pruned, finished, best_so_far],
        layout(
            150,
            xaxis=axis(
                range=[-0.04 * last - 0.5, 1.04 * last + 0.5], tickformat="d", showgrid=False
            ),
            yaxis=axis(range=list(bounds), nticks=5, ticksuffix=" %"),
            shapes=[line_at(0, MARKS[DEFAULTS].colour, "dot", "y")],
        ),
    )


def _corners(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the points at which a line of steps changes, and its end."""
    changes = [after for before, after in pairwise(points) if before[1] != after[1]]
    return [*points[:1], *changes, *points[-1:]]


def _trials(
    points: Iterable[tuple[int, float]], bounds: tuple[float, float], state: str
) -> dict[str, Any]:
    points = list(points)
    return {
        "type": "scatter",
        "x": [number for number, _ in points],
        "y": [_clip(round(100 * value, 4), bounds) for _, value in points],
        "text": [f"{100 * value:+.2f}" for _, value in points],
        "mode": "markers",
        "cliponaxis": False,
        "name": state,
        "hovertemplate": f"trial %{{x}}, {state}: %{{text}} %<extra></extra>",
    }


def _clip(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def history_bounds(history: TrialHistory) -> tuple[float, float]:
    """Return the loss axis, percent: the best trial and most of the others.

    One trial in ten may be far worse than the rest; it would press all others onto one line.
    """
    values = sorted(100 * v for _, v in (*history.finished, *history.pruned))
    if not values:
        return -1.0, 1.0
    low, high = min(values[0], 0.0), max(values[math.ceil(0.9 * (len(values) - 1))], 0.0)
    pad = max(0.08 * (high - low), 0.02)
    return low - pad, high + pad


def spread_figure(parameter: Parameter, spread: Sequence[SpreadValue], n_levels: int) -> Plot:
    """Return a parameter's values on its whole range, the default as a dotted line.

    Parameters
    ----------
    n_levels
        How many values there is room for in a stack, the same for all parameters.
    """
    values = {
        "type": "scatter",
        "x": [item.value for item in spread],
        "y": [item.level for item in spread],
        "mode": "markers",
        "marker": {"size": 9, "color": MARKS[TUNED].colour.light},
        "text": [f"<b>{html.escape(item.pair)}</b> {item.value:.6g}" for item in spread],
        "hovertemplate": "%{text}<extra></extra>",
        "cliponaxis": False,
    }
    return Plot(
        [values],
        layout(
            52 + _STACK_PX * min(n_levels, _MOST_LEVELS),
            margin={"l": 4, "r": 4, "t": 8, "b": 8},
            xaxis=_range_axis(parameter),
            yaxis=axis(visible=False, range=[-0.8, n_levels - 0.2]),
            shapes=[line_at(parameter.default, MARKS[DEFAULTS].colour, "dot")],
        ),
    )


def _range_axis(parameter: Parameter) -> dict[str, Any]:
    """Return an axis over a parameter's range, its ends and the default named."""
    ticks = sorted({parameter.low, parameter.default, parameter.high})
    scale = math.log10 if parameter.is_log else float
    low, high = scale(parameter.low), scale(parameter.high)
    pad = 0.07 * (high - low)  # room for the dots and labels at the ends
    return axis(
        type="log" if parameter.is_log else "linear",
        range=[low - pad, high + pad],
        tickvals=ticks,
        ticktext=[f"{tick:g}" for tick in ticks],
        showgrid=False,
        showline=True,
        ticks="outside",
        ticklen=4,
        tickcolor=MUTED.light,
    )


def spreads(results: Results) -> dict[str, list[SpreadValue]]:
    """Return parameter -> its values over the pairs, all ten."""
    return {p.name: parameter_spread(p, results) for p in PARAMETERS}
