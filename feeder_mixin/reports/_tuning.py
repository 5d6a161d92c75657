"""The sections that say what the tuner did: search, parameters, and one pair's candles."""

from __future__ import annotations

from feeder_mixin.reports import _candles as candles
from feeder_mixin.reports import _figures as figures
from feeder_mixin.reports._parts import (
    Figure,
    Row,
    Section,
    Table,
    in_words,
    labels_of,
    lacking,
    plot_of,
    signed,
)
from feeder_mixin.reports.documents import FeederReport, short_names
from feeder_mixin.reports.records import percent
from feeder_mixin.reports.tables import on_bounds
from feeder_mixin.schema import PARAMETERS, default_parameters


def history_section(report: FeederReport) -> Section:
    """Return the search of every pair."""
    labels = labels_of(report)
    histories = {p: figures.trial_history(p, t) for p, t in report.tuned.items() if t.trials}
    bounds = figures.history_bounds(histories.values())
    rows: list[Row] = [
        [
            labels[pair],
            str(len(h.finished) + len(h.pruned)),
            str(len(h.pruned)),
            signed(h.best[-1][1], 2) if h.best else "-",
            "-" if h.winner is None else ("defaults" if h.winner == 0 else str(h.winner)),
        ]
        for pair, h in histories.items()
    ]
    head = ["trials", "pruned", "best loss, %", "winner"]
    drawn = [
        Figure(
            labels[pair],
            in_words("Search history", [row], head),
            plot_of(figures.history_figure(histories[pair], bounds)),
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
            ),
        ],
        drawn,
        [Table("The searches", ["pair", *head], rows, texts=(0, 4), is_folded=True)]
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
        values = ", ".join(f"{names[item.pair]} {item.value:.6g}" for item in spread)
        alt = f"{parameter.name}, {parameter.range_text}, default {parameter.default:g}: {values}"
        plot = figures.spread_figure(parameter, spread, n_levels)
        drawn.append(Figure(parameter.name, alt, plot_of(plot)))
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
    head = ["parameter", *(names[pair] for pair in report.results)]
    rows: list[Row] = [
        [p.name, *(f"{item.value:.6g}" for item in spreads[p.name])] for p in PARAMETERS
    ]
    table = Table("The ten parameters", head, rows, is_folded=True)
    return Section("parameters", "Spread of the parameters", text, drawn, [table], is_grid=True)


def candle_section(report: FeederReport, wanted: str | None) -> Section:
    """Return the candles of one pair with band and breaches."""
    pair = next(iter(report.tuned), None) if wanted is None else wanted
    tuned = None if pair is None else report.tuned.get(pair)
    title = "Candles and predicted band"
    if pair is None or tuned is None:
        who = "any pair" if wanted is None else wanted
        return Section("candles", title, missing=[f"No candles are kept for {who}."])
    chart = candles.candle_chart(pair, tuned, report.side)
    hours = tuned.metrics["horizon_candles"] * tuned.metrics["timeframe_s"] / 3600
    n_breached = sum(chart.breached)
    side = "below" if report.side == "long" else "above"
    alt = (
        f"{chart.pair}: {len(chart.times)} candles from {chart.times[0]:%Y-%m-%d %H:%M} to "
        f"{chart.times[-1]:%Y-%m-%d %H:%M} UTC, {n_breached} breached."
    )
    return Section(
        "candles",
        f"{title}: {chart.pair}",
        [
            (
                f"The end of the test window, UTC. The line {side} each candle is how far price was "
                f"expected to go within the next {hours:g} hours at worst; a cross marks a candle after "
                f"which it went further. {n_breached} of {len(chart.times)} candles "
                f"({percent(chart.breached_share)} %), nominal {percent(tuned.alpha)} %; breaches "
                "cluster, because labels overlap. A candle is safe while the line is inside the dotted "
                "tolerance."
            ),
        ],
        [Figure("", alt, plot_of(candles.candle_figure(chart)))],
    )
