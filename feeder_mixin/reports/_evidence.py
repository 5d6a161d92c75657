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
    Cell,
    Figure,
    Row,
    Section,
    Table,
    in_words,
    labels_of,
    lacking,
    plot_of,
    range_text,
    signed,
    with_error,
)
from feeder_mixin.reports._verdict import exceedance_bounds, newest_decision
from feeder_mixin.reports.documents import OUTCOMES, Document, FeederReport, PairResult
from feeder_mixin.reports.records import percent
from feeder_mixin.tune.judge.evaluate import ATR_RULE, DEFAULTS, RUNNING, TUNED

REJECTED_P: Final = 0.05
"""A p-value below this is marked: one in twenty honest models has one, too."""


def skill_section(report: FeederReport) -> Section:
    """Return skill over the ATR rule: defaults, tuned and champion side by side."""
    dots = figures.skill_dots(report.results)
    by_pair = {dot.pair: dot for dot in dots}
    shown = [c for c in (DEFAULTS, TUNED, RUNNING) if any(d.contender == c for d in dots)]
    rows: list[Row] = [
        [label, *(_skill(report.results[pair], contender) for contender in shown)]
        for pair, label in labels_of(report).items()
    ]
    labels = {pair: label for pair, label in labels_of(report).items() if pair in by_pair}
    plot = figures.dot_figure(labels, dots, "skill over the ATR rule", zero=True)
    return Section(
        "skill",
        "Skill over the ATR rule",
        [
            (
                "How much smaller the loss is than that of the ATR rule (a constant times ATR14/close) "
                "on the untouched test window. Right of 0 is better. The bars are 95 % intervals by "
                "blocks of a day: one pair alone proves little, the pooled figure on top decides."
            ),
        ],
        [Figure("", in_words("Skill over the ATR rule in percent", rows, shown), plot_of(plot))]
        if dots
        else [],
        [
            Table(
                "Skill over the ATR rule, % ± standard error",
                ["pair", *(MARKS[c].label for c in shown)],
                rows,
                is_folded=True,
            )
        ],
        lacking(report, "Skill", by_pair),
    )


def _skill(result: PairResult, contender: str) -> str:
    score = result.scores.get(contender, {})
    return with_error(score.get("skill"), score.get("skill_se"))


def exceedance_section(report: FeederReport) -> Section:
    """Return the share of candles that went worse than predicted, against the nominal share."""
    dots = figures.exceedance_dots(report.results)
    bounds = {pair: exceedance_bounds(result) for pair, result in report.results.items()}
    spans = [
        figures.Span(pair, report.results[pair].document["alpha"], *(bounds[pair] or ()))
        for pair in dict.fromkeys(dot.pair for dot in dots)
    ]
    shown = [c for c in MARKS if any(dot.contender == c for dot in dots)]
    shares = {(dot.pair, dot.contender): dot.value for dot in dots}
    rows: list[Row] = [
        [
            label,
            *(_exceedance(shares.get((pair, c)), bounds[pair]) for c in shown),
            percent(report.results[pair].document["alpha"]),
            range_text(bounds[pair]),
        ]
        for pair, label in labels_of(report).items()
    ]
    labels = {p: label for p, label in labels_of(report).items() if any(d.pair == p for d in dots)}
    plot = figures.dot_figure(labels, dots, "candles worse than predicted", spans=spans)
    head = [*(MARKS[c].label for c in shown), "nominal", "95 % interval"]
    return Section(
        "exceedance",
        "Exceedance",
        [
            (
                "The share of candles after which price went further than predicted. It should be the "
                "nominal share (the tick). The bar is where 95 of 100 honest models land; labels "
                "overlap, so it counts rows / horizon."
            ),
        ],
        [Figure("", in_words("Exceedance in percent", rows, head), plot_of(plot))] if dots else [],
        [Table("Exceedance, %", ["pair", *head], rows, is_folded=True)],
        [
            *lacking(report, "Exceedance", {dot.pair: True for dot in dots}),
            *lacking(report, "The interval of the exceedance", bounds),
        ],
    )


def _exceedance(share: float | None, bounds: tuple[float, float] | None) -> Cell:
    is_out = share is not None and bounds is not None and not bounds[0] <= share <= bounds[1]
    return Cell(percent(share), is_out)


def value_section(report: FeederReport) -> Section:
    """Return the decision value: fewer unsafe candles at the same number of entries."""
    values = figures.safe_values(report.results)
    pooled = figures.pooled_value(values)
    every = values if pooled is None else [pooled, *values]
    labels = labels_of(report)
    rows: list[Row] = [
        [
            labels.get(value.pair, value.pair),
            f"{value.n_safe:,}",
            _share(value.unsafe_model, value.n_safe),
            _share(value.unsafe_rule, value.n_safe),
            Cell(
                "-" if value.fewer is None else signed(-value.fewer, 0),
                value.fewer is not None and value.fewer < 0,
            ),
        ]
        for value in every
    ]
    head = ["called safe, candles", "unsafe, model, %", "unsafe, ATR rule, %", "change, %"]
    plot = figures.value_figure(labels, every)
    none_safe = [labels[value.pair] for value in values if not value.n_safe]
    missing = lacking(report, "The decision value", {value.pair: True for value in values})
    if none_safe:
        missing.append(f"No candle was called safe for {', '.join(none_safe)}: nothing to compare.")
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
        ],
        [Figure("", in_words("Decision value", rows, head), plot_of(plot))] if has_figure else [],
        [Table("Unsafe candles among those taken", ["pair", *head], rows, is_folded=True)]
        if rows
        else [],
        missing,
    )


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "-"


_MODES: Final[Mapping[str, str]] = {
    "auto": "A tuned set reaches the bot only when it is better, out of sample, than what runs there.",
    "always": "Every tuned set was written, whatever it is worth (--promote always).",
    "never": "No tuned set was written (--promote never).",
}
"""``--promote`` -> what it means."""


def promotion_section(report: FeederReport) -> Section:
    """Return what was promoted or refused, and why."""
    labels = labels_of(report)
    decided = {pair: result for pair, result in report.results.items() if result.decision}
    rows = [_decision_row(labels[pair], result) for pair, result in decided.items()]
    head = ["pair", "outcome", "why", "gain, points", "skill, points", "written", "beats rule"]
    table = Table("Decisions", head, rows, texts=(0, 1, 2, 5, 6), wraps=(2,))
    return Section(
        "promotion",
        "What was promoted, and why",
        _promotion_text(report, {str(r.decision.get("outcome")) for r in decided.values()}),
        tables=[table] if rows else [],
        missing=lacking(report, "A decision", decided),
    )


def _decision_row(label: str, result: PairResult) -> Row:
    d = result.decision
    return [
        label,
        str(d.get("outcome", "-")).replace("_", " "),
        str(d.get("reason", "-")),
        with_error(d.get("gain"), d.get("gain_se"), 2),
        with_error(d.get("skill"), d.get("skill_se")),
        _written(d),
        Cell("yes") if result.beats_rule else Cell("no", is_bad=True),
    ]


def _written(decision: Document) -> str:
    """Return whose parameters went where bots read, and whether the tuned ones went beside."""
    mark = MARKS.get(str(decision.get("written")))
    kept = ", tuned to the candidates" if decision.get("candidate") else ""
    return f"{'nothing' if mark is None else mark.label}{kept}"


def _promotion_text(report: FeederReport, outcomes: Collection[str]) -> list[str]:
    newest = newest_decision(report)
    if not newest:
        return []
    meanings = [f"{o.replace('_', ' ')}: {text}" for o, text in OUTCOMES.items() if o in outcomes]
    pooled = f"skill {with_error(newest.get('pooled_skill'), newest.get('pooled_skill_se'))}"
    if newest.get("pooled_gain") is not None:
        pooled = (
            f"gain {with_error(newest['pooled_gain'], newest.get('pooled_gain_se'), 2)}, {pooled}"
        )
    return [
        _MODES.get(str(newest.get("mode")), _MODES["auto"]),
        (
            "Evidence is pooled over the pairs and shrunk to each. Gain is against what ran, skill "
            f"against the ATR rule, in points ± standard error. All pairs pooled: "
            f"{pooled}."
        ),
        f"{'; '.join(meanings).capitalize()}.",
    ]


def calibration_section(report: FeederReport) -> Section:
    """Return the p-values of Kupiec's and Christoffersen's tests."""
    labels = labels_of(report)
    # What a bot may serve comes first: a phone shows no more without scrolling.
    order = (TUNED, RUNNING, DEFAULTS, ATR_RULE)
    results = report.results.values()
    contenders = [c for c in order if any("kupiec_p" in r.scores.get(c, {}) for r in results)]
    rows: list[Row] = []
    for pair, result in report.results.items():
        cells = []
        for contender in contenders:
            score = result.scores.get(contender, {})
            cells += [_p_value(score.get("kupiec_p")), _p_value(score.get("christoffersen_p"))]
        if any(cell.text != "-" for cell in cells):
            rows.append([labels[pair], *cells])
    head = [f"{MARKS[c].label}, {test}" for c in contenders for test in ("share", "order")]
    has = {
        pair: TUNED in r.scores and "kupiec_p" in r.scores[TUNED]
        for pair, r in report.results.items()
    }
    return Section(
        "calibration",
        "Calibration tests",
        [
            (
                "P-values on candles a horizon apart. Share (Kupiec): is the exceedance the nominal "
                "share? Order (Christoffersen): do misses come independently? Marked where below "
                f"{REJECTED_P:g}, which one honest pair in twenty is, too."
            ),
        ],
        tables=[Table("P-values", ["pair", *head], rows)] if rows else [],
        missing=lacking(report, "The calibration tests", has),
    )


def _p_value(value: float | None) -> Cell:
    if value is None:
        return Cell("-")
    return Cell("< 0.001" if value < 0.001 else f"{value:.3f}", value < REJECTED_P)
