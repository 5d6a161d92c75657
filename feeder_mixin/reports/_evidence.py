"""The sections that say how good the results are: skill, exceedance, decision value, promotion, tests.

Each function takes the report and returns one `Section`; what it lacks goes to `missing`, which the
page and the command line both show.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from feeder_mixin.reports import _figures as figures
from feeder_mixin.reports._palette import MARKS
from feeder_mixin.reports._parts import (
    MOST_DRAWN,
    Figure,
    Row,
    Section,
    Table,
    TableCell,
    drawn_text,
    first_pairs,
    in_words,
    labels_of,
    lacking,
    range_text,
    signed,
    with_error,
)
from feeder_mixin.reports._problems import MOST_NAMES, exceedance_bounds
from feeder_mixin.reports._verdict import newest_decision
from feeder_mixin.reports.documents import OUTCOME_MEANINGS, FeederReport, KnownPair
from feeder_mixin.reports.records import percent
from feeder_mixin.stores.notes import some
from feeder_mixin.tune.judge.contenders import ATR_RULE, CONFIG, DEFAULTS, RUNNING, TUNED
from feeder_mixin.tune.judge.decision import Decision, Mode, Outcome
from feeder_mixin.tune.judge.result import Score

REJECTED_P: Final = 0.05
"""A p-value below this is marked: one in twenty honest models has one, too."""


def skill_section(report: FeederReport) -> Section:
    """Return skill over the yardstick: defaults, tuned and champion side by side."""
    dots = figures.skill_dots(report.results)
    title = f"Skill over {report.yardstick}"
    by_pair = {dot.pair: dot for dot in dots}
    drawn = first_pairs(report).results
    shown = [c for c in (DEFAULTS, CONFIG, TUNED, RUNNING) if any(d.contender == c for d in dots)]
    rows: list[Row] = [
        [label, *(_skill(report.results[pair], contender) for contender in shown)]
        for pair, label in labels_of(report).items()
    ]
    labels = {p: label for p, label in labels_of(report).items() if p in by_pair and p in drawn}
    plot = figures.dot_figure(
        labels,
        [dot for dot in dots if dot.pair in drawn],
        f"skill over {report.yardstick}",
        zero=True,
    )
    return Section(
        "skill",
        title,
        [
            (
                f"How much smaller the loss is than that of {_YARDSTICKS[report.side is None]} "
                "on the untouched test window. Right of 0 is better. The bars are 95 % intervals by "
                "blocks of a day: one pair alone proves little, the pooled figure on top decides."
            ),
            *drawn_text(report),
        ],
        [Figure("", in_words(f"{title} in percent", rows[:MOST_DRAWN], shown), plot)]
        if dots
        else [],
        [
            Table(
                f"{title}, % ± standard error",
                ["pair", *(MARKS[c].label for c in shown)],
                rows,
                is_folded=True,
            )
        ],
        lacking(report, "Skill", by_pair),
    )


_YARDSTICKS: Final = {
    False: "the ATR rule (a constant times ATR14/close)",
    True: "the config's own values",
}
"""Whether it is a FreqAI bot -> what skill is over."""


def _skill(known: KnownPair, contender: str) -> str:
    score = known.scores.get(contender)
    return "-" if score is None else with_error(score.skill, score.skill_se)


def exceedance_section(report: FeederReport) -> Section:
    """Return the share of candles that went worse than predicted, against the nominal share."""
    dots = figures.exceedance_dots(report.results)
    bounds = {pair: exceedance_bounds(result) for pair, result in report.results.items()}
    spans = [
        figures.Span(pair, alpha, *(bounds[pair] or ()))
        for pair in dict.fromkeys(dot.pair for dot in dots)
        if (alpha := report.results[pair].alpha) is not None
    ]
    shown = [c for c in MARKS if any(dot.contender == c for dot in dots)]
    shares = {(dot.pair, dot.contender): dot.value for dot in dots}
    rows: list[Row] = [
        [
            label,
            *(_exceedance(shares.get((pair, c)), bounds[pair]) for c in shown),
            percent(report.results[pair].alpha),
            range_text(bounds[pair]),
        ]
        for pair, label in labels_of(report).items()
    ]
    drawn, known = first_pairs(report).results, {dot.pair for dot in dots}
    labels = {p: label for p, label in labels_of(report).items() if p in known and p in drawn}
    plot = figures.dot_figure(
        labels,
        [dot for dot in dots if dot.pair in drawn],
        "candles worse than predicted",
        spans=[span for span in spans if span.pair in drawn],
    )
    head = [*(MARKS[c].label for c in shown), "nominal", "95 % interval"]
    return Section(
        "exceedance",
        "Exceedance",
        [
            (
                "The share of candles after which price went further than predicted. It should be the "
                "nominal share (the tick). The bar covers 95 of 100 calibrated models; labels "
                "overlap, so its sample size is rows / horizon."
            ),
            *drawn_text(report),
        ],
        [Figure("", in_words("Exceedance in percent", rows[:MOST_DRAWN], head), plot)]
        if dots
        else [],
        [Table("Exceedance, %", ["pair", *head], rows, is_folded=True)],
        [
            *lacking(report, "Exceedance", {dot.pair: True for dot in dots}),
            *lacking(report, "The interval of the exceedance", bounds),
        ],
    )


def _exceedance(share: float | None, bounds: tuple[float, float] | None) -> TableCell:
    is_out = share is not None and bounds is not None and not bounds[0] <= share <= bounds[1]
    return TableCell(percent(share), is_out)


def value_section(report: FeederReport) -> Section:
    """Return the decision value: fewer unsafe candles at the same number of entries."""
    values = figures.safe_values(report.tuned)
    pooled = figures.pooled_value(values)
    every = values if pooled is None else [pooled, *values]
    labels = labels_of(report)
    rows: list[Row] = [
        [
            labels.get(value.pair, value.pair),
            f"{value.n_safe:,}",
            _share(value.unsafe_model, value.n_safe),
            _share(value.unsafe_rule, value.n_safe),
            TableCell(
                "-" if value.fewer is None else signed(-value.fewer, 0),
                value.fewer is not None and value.fewer < 0,
            ),
        ]
        for value in every
    ]
    head = ["called safe, candles", "unsafe, model, %", "unsafe, ATR rule, %", "change, %"]
    drawn = {figures.ALL_PAIRS, *first_pairs(report).results}
    plot = figures.value_figure(labels, [value for value in every if value.pair in drawn])
    none_safe = [labels[value.pair] for value in values if not value.n_safe]
    missing = lacking(report, "The decision value", {value.pair: True for value in values})
    if none_safe:
        missing.append(
            f"No candle was called safe for {some(none_safe, MOST_NAMES)}: nothing to compare."
        )
    has_figure = pooled is not None and pooled.n_safe > 0
    return Section(
        "decisions",
        "Decision value",
        [
            (
                "Of the candles that the model calls safe, how many were not, against as many candles "
                "taken by the ATR rule's ranking: the same number of entries, fewer bad ones. Counted "
                "on all out-of-sample candles."
            ),
            *drawn_text(report),
        ],
        [Figure("", in_words("Decision value", rows[: MOST_DRAWN + 1], head), plot)]
        if has_figure
        else [],
        [Table("Unsafe candles among those taken", ["pair", *head], rows, is_folded=True)]
        if rows
        else [],
        missing,
    )


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "-"


_MODES: Final[Mapping[Mode, str]] = {
    "auto": "A tuned set reaches the bot only if it beats the running set out of sample.",
    "always": "Every tuned set was written, better or not (--promote always).",
    "never": "No tuned set was written (--promote never).",
}
"""``--promote`` -> what it means."""


def promotion_section(report: FeederReport) -> Section:
    """Return what was promoted or refused, and why."""
    labels = labels_of(report)
    decisions = {p: known.decision for p, known in report.tuned.items() if known.decision}
    rows = [_decision_row(labels[pair], decision) for pair, decision in decisions.items()]
    head = ["pair", "outcome", "why", "gain, points", "skill, points", "written", "beats rule"]
    if report.side is None:
        head, rows = head[:-1], [row[:-1] for row in rows]
    table = Table(
        "Decisions",
        head,
        rows,
        texts=tuple(i for i in (0, 1, 2, 5, 6) if i < len(head)),
        wraps=(2,),
    )
    return Section(
        "promotion",
        "What was promoted, and why",
        _promotion_text(report, {decision.outcome for decision in decisions.values()}),
        tables=[table] if rows else [],
        missing=lacking(report, "A decision", decisions),
    )


def _decision_row(label: str, decision: Decision) -> Row:
    return [
        label,
        decision.outcome.replace("_", " "),
        decision.reason,
        with_error(decision.gain, decision.gain_se, 2),
        with_error(decision.skill, decision.skill_se),
        _written(decision),
        TableCell("yes") if decision.beats_rule else TableCell("no", is_bad=True),
    ]


def _written(decision: Decision) -> str:
    """Return which set was written for bots, and whether the tuned set was kept as a candidate."""
    written = "nothing" if decision.written is None else MARKS[decision.written].label
    return f"{written}{', tuned kept as candidate' if decision.candidate else ''}"


def _promotion_text(report: FeederReport, outcomes: Collection[Outcome]) -> list[str]:
    newest = newest_decision(report)
    if newest is None:
        return []
    meanings = [
        f"{outcome.replace('_', ' ')}: {text}"
        for outcome, text in OUTCOME_MEANINGS.items()
        if outcome in outcomes
    ]
    pooled = f"skill {with_error(newest.pooled_skill, newest.pooled_skill_se)}"
    if newest.pooled_gain is not None:
        pooled = f"gain {with_error(newest.pooled_gain, newest.pooled_gain_se, 2)}, {pooled}"
    return [
        _MODES[newest.mode],
        (
            "Each pair's estimate is shrunk towards the others. Gain is over the previous set, skill "
            f"over {report.yardstick}, in points ± standard error. All pairs pooled: "
            f"{pooled}."
        ),
        f"{'; '.join(meanings).capitalize()}.",
    ]


def calibration_section(report: FeederReport) -> Section:
    """Return the p-values of Kupiec's and Christoffersen's tests."""
    labels = labels_of(report)
    # What a bot may serve comes first: a phone shows no more without scrolling.
    order = (TUNED, RUNNING, DEFAULTS, CONFIG, ATR_RULE)
    contenders = [c for c in order if any(c in known.scores for known in report.results.values())]
    rows: dict[str, Row] = {}
    for pair, known in report.results.items():
        cells = [
            cell for contender in contenders for cell in _p_values(known.scores.get(contender))
        ]
        if any(cell.text != "-" for cell in cells):
            rows[pair] = [labels[pair], *cells]
    head = [f"{MARKS[c].label}, {test}" for c in contenders for test in ("share", "order")]
    return Section(
        "calibration",
        "Calibration tests",
        [
            (
                "P-values on candles a horizon apart. Share (Kupiec): is the exceedance the nominal "
                "share? Order (Christoffersen): do misses come independently? Marked below "
                f"{REJECTED_P:g}; by chance, one calibrated pair in twenty is marked, too."
            ),
        ],
        tables=[Table("P-values", ["pair", *head], list(rows.values()))] if rows else [],
        missing=lacking(report, "The calibration tests", rows),
    )


def _p_values(score: Score | None) -> tuple[TableCell, TableCell]:
    if score is None:
        return TableCell("-"), TableCell("-")
    return _p_value(score.kupiec_p), _p_value(score.christoffersen_p)


def _p_value(value: float | None) -> TableCell:
    if value is None:
        return TableCell("-")
    return TableCell("< 0.001" if value < 0.001 else f"{value:.3f}", value < REJECTED_P)
