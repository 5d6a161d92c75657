"""The sections that say what the tuner did: search, parameters, and the candles of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from feeder_mixin.reports import _candles as candles
from feeder_mixin.reports import _figures as figures
from feeder_mixin.reports._parts import (
    MOST_DRAWN,
    Figure,
    Row,
    Section,
    Table,
    in_words,
    labels_of,
    lacking,
    signed,
    with_error,
)
from feeder_mixin.reports._problems import MOST_NAMES
from feeder_mixin.reports.documents import FeederReport, TunedPair, short_names
from feeder_mixin.reports.records import percent
from feeder_mixin.reports.tables import on_bounds
from feeder_mixin.schema import PARAMETERS, default_parameters
from feeder_mixin.settings import Side
from feeder_mixin.stores.notes import some

_MOST_TRIALS: Final = 30_000
"""Trials that are drawn on a page, of all pairs together, about 0.5 MB; of more, one in so many."""


def history_section(report: FeederReport) -> Section:
    """Return the search of every pair."""
    labels = labels_of(report)
    histories = {p: figures.trial_history(p, t) for p, t in report.tuned.items() if t.trials}
    bounds = figures.history_bounds(histories.values())
    every = math.ceil(sum(len(t.trials) for t in report.tuned.values()) / _MOST_TRIALS) or 1
    rows: list[Row] = [
        [
            labels[pair],
            str(len(h.finished) + len(h.pruned)),
            str(len(h.pruned)),
            signed(h.best[-1][1], 2) if h.best else "-",
            "-" if h.winner is None else ("defaults" if h.winner == 0 else str(h.winner)),
            _redrawn_text(report.tuned[pair]),
        ]
        for pair, h in histories.items()
    ]
    head = ["trials", "pruned", "best loss, %", "winner", "redrawn: trial, gain, %"]
    drawn = [
        Figure(
            labels[pair],
            in_words("Search history", [row], head),
            figures.history_figure(histories[pair], bounds, every),
            labels[pair],
        )
        for (pair, row) in zip(histories, rows, strict=True)
    ]
    return Section(
        "search",
        "Search history",
        [
            (
                "Loss of each trial by its number, against that of the defaults (the dotted line); below "
                "is better. Dots are finished trials, crosses were pruned early, the line is the best "
                "so far. The best two are refitted on other rows before one wins, and it must win "
                "beyond noise: one low dot may be luck. Trials far above are drawn at the edge."
                f"{f' Of the dots and crosses one in {every} is drawn.' if every > 1 else ''}"
            ),
        ],
        drawn,
        [Table("The searches", ["pair", *head], rows, texts=(0, 4, 5), is_folded=True)]
        if rows
        else [],
        lacking(report, "The search", histories),
        is_grid=True,
    )


def spread_section(report: FeederReport) -> Section:
    """Return how each of the ten parameters is spread over the pairs."""
    spreads = figures.spreads(report.results)
    names = short_names(report.pairs)
    n_levels = max([4, *(1 + item.level for spread in spreads.values() for item in spread)])
    drawn = []
    for parameter in PARAMETERS:
        spread = spreads[parameter.name]
        values = some((f"{names[item.pair]} {item.value:.6g}" for item in spread), MOST_DRAWN)
        alt = f"{parameter.name}, {parameter.range_text}, default {parameter.default:g}: {values}"
        plot = figures.spread_figure(parameter, spread, n_levels)
        drawn.append(Figure(parameter.name, alt, plot))
    sets = [known.parameters for known in report.results.values()]
    at_default = sum(parameters == default_parameters() for parameters in sets)
    bounds = on_bounds(sets)
    text = [
        (
            "One dot per pair, on the parameter's whole range; the dotted line is the default. Equal "
            f"values are stacked. The defaults won for {at_default} of {len(sets)} pairs."
        )
    ]
    if bounds:
        ends = ", ".join(f"{name} {number}" for name, number in bounds.items())
        text.append(f"Tuned winners at a limit of a range: {ends}.")
    head = ["pair", *(p.name for p in PARAMETERS)]
    rows: list[Row] = [
        [names[pair], *(f"{known.parameters[p.name]:.6g}" for p in PARAMETERS)]
        for pair, known in report.results.items()
    ]
    table = Table("The ten parameters", head, rows, is_folded=True)
    return Section("parameters", "Spread of the parameters", text, drawn, [table], is_grid=True)


def _redrawn_text(tuned: TunedPair) -> str:
    """Return how the search's best few did against the start set on other rows."""
    redrawn = tuned.result.search.redrawn
    return "; ".join(f"{one.trial}, {with_error(one.gain, one.error, 2)}" for one in redrawn) or "-"


def candle_section(report: FeederReport, wanted: Sequence[str]) -> Section:
    """Return the candles of pairs with band and breaches, the wanted ones first.

    As many pairs as a page has room for: whose are left out is said.
    """
    tuned, names = report.tuned, short_names(report.pairs)
    title = "Candles and predicted band"
    n_left, drawn, left = candles.MOST_CANDLES, list[Figure](), list[str]()
    for pair in dict.fromkeys((*(pair for pair in wanted if pair in tuned), *tuned)):
        n_left -= len(tuned[pair].result.chart.opens_s)
        if drawn and n_left < 0:
            left.append(names[pair])
        else:
            drawn.append(_candle_part(pair, names[pair], tuned[pair], report.side))
    missing = [f"No candles are kept for {pair}." for pair in wanted if pair not in tuned]
    if not drawn:
        return Section("candles", title, missing=missing or ["No candles are kept for any pair."])
    if left:
        who = some(left, MOST_NAMES)
        missing.append(f"Candles of {who} have no room here: feeder report --pairs draws them.")
    metrics = next(iter(tuned.values())).metrics
    hours = metrics["horizon_candles"] * metrics["timeframe_s"] / 3600
    other = ["Type a pair into the filter above to see another one."] if len(drawn) > 1 else []
    side = "below" if report.side == "long" else "above"
    return Section(
        "candles",
        title,
        [
            (
                f"The end of the test window, UTC. The line {side} each candle is how far price was "
                f"expected to go within the next {hours:g} hours at worst; a cross marks a candle after "
                "which it went further. Breaches cluster, because labels overlap. A candle is safe "
                "while the line is inside the dotted tolerance."
            ),
            *other,
        ],
        drawn,
        missing=missing,
        most_figures=1,
    )


def _candle_part(pair: str, name: str, tuned: TunedPair, side: Side) -> Figure:
    """Return one pair's candles."""
    chart = candles.candle_chart(pair, tuned, side)
    n_breached, n = sum(chart.breached), len(chart.times)
    title = (
        f"{pair}: {n_breached} of {n} candles breached ({percent(chart.breached_share)} %), "
        f"nominal {percent(tuned.alpha)} %"
    )
    alt = (
        f"{pair}: {n} candles from {chart.times[0]:%Y-%m-%d %H:%M} to "
        f"{chart.times[-1]:%Y-%m-%d %H:%M} UTC, {n_breached} breached."
    )
    return Figure(title, alt, candles.candle_figure(chart), name)
