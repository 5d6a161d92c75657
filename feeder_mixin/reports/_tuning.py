"""The sections that say what the tuner did: search, parameters, and the candles of pairs."""

from __future__ import annotations

from collections.abc import Sequence

from feeder_mixin.reports import _candles as candles
from feeder_mixin.reports import _figures as figures
from feeder_mixin.reports._parts import (
    MOST_DRAWN,
    Figure,
    Row,
    Section,
    Table,
    lacking,
    with_error,
)
from feeder_mixin.reports._problems import MOST_NAMES
from feeder_mixin.reports.documents import FeederReport, TunedPair, short_names
from feeder_mixin.reports.records import percent
from feeder_mixin.reports.tables import finalist_text, importances_text, on_bounds, start_of
from feeder_mixin.schema import PARAMETERS, is_default_set
from feeder_mixin.settings import Side
from feeder_mixin.stores.notes import some
from feeder_mixin.tune.pooling import windows_text


def history_section(report: FeederReport) -> Section:
    """Return the feeder's study, and what each pair's own evidence says against its set."""
    history = figures.trial_history(report.trials)
    study = report.study
    title = "The feeder's study"
    if study is None or not report.trials:
        return Section("search", title, missing=["No study is kept on this machine."])
    found = "the start set won" if study.winner == 0 else f"trial {study.winner} won"
    start = start_of(next(iter(report.tuned.values())).result)
    finalists = "; ".join(
        f"{finalist_text(one, start)}: {with_error(one.gain, one.error, 2)} %, "
        f"windows to know {windows_text(one.windows_needed)}"
        for one in study.redrawn
    )
    text = [
        (
            "Loss of each trial, a parameter set for all pairs, by its number, against that of the start "
            "set (the dotted line); below is better. Crosses ended early: trials race over pairs and "
            "times, and only the best see all of them. The line is the best so far. Trials far above are "
            "drawn at the edge."
        ),
        (
            f"{study.n_trials} trials, {study.n_pruned} ended early, {study.n_cells} fits on folds of "
            f"{study.n_raced} of {study.n_pairs} pairs. The best are refitted on other rows of all pairs, "
            f"and must win there beyond noise: {found}."
            + (f" Loss saved against the start set: {finalists}." if finalists else "")
        ),
    ]
    mattered = importances_text(study.importances)
    text.append(f"Which parameters mattered (a rough guide): {mattered}.")
    alt = f"{title}: {len(history.finished)} finished trials, {len(history.pruned)} ended early."
    return Section(
        "search",
        title,
        text,
        [Figure(title, alt, figures.history_figure(history))],
        [_own_table(report)],
        lacking(report, "The study", report.tuned),
    )


def _own_table(report: FeederReport) -> Table:
    """Return what serves each pair, and its own evidence against the feeder's set."""
    names = short_names(report.pairs)
    rows: list[Row] = []
    for pair, tuned in report.tuned.items():
        own = tuned.result.own
        is_feeders = tuned.result.evidence.is_feeders
        rows.append(
            [
                names[pair],
                "feeder's" if is_feeders else f"own, trial {own.winner}",
                "-" if own.other is None else str(own.other),
                "-" if own.gain is None else with_error(own.gain, own.error, 2),
                "-" if own.shrunk is None else with_error(own.shrunk, own.shrunk_error, 2),
                windows_text(own.windows_needed),
            ]
        )
    head = ["pair", "set", "other trial", "saves here, %", "shrunk, %", "windows to know"]
    return Table(
        "Each pair's own evidence against the feeder's set",
        head,
        rows,
        texts=(0, 1, 3, 4),
        is_folded=True,
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
    at_default = sum(is_default_set(parameters) for parameters in sets)
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


def candle_section(report: FeederReport, wanted: Sequence[str]) -> Section:
    """Return the candles of pairs with band and breaches, the wanted ones first.

    As many pairs as a page has room for: whose are left out is said.
    """
    tuned, names = report.tuned, short_names(report.pairs)
    title = "Candles and predicted band"
    n_left, drawn, left = candles.MOST_CANDLES, list[Figure](), list[str]()
    for pair in dict.fromkeys((*(pair for pair in wanted if pair in tuned), *tuned)):
        kept = tuned[pair].result.chart
        if kept is None:
            continue
        n_left -= len(kept.opens_s)
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


def _candle_part(pair: str, name: str, tuned: TunedPair, side: Side | None) -> Figure:
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
