"""What a tuning run found, as a table and sentences: pure functions of pairs' results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from rich import box
from rich.table import Table

from feeder_mixin.model.folds import ADVISED_DAYS
from feeder_mixin.reports._problems import NEVER_SAFE
from feeder_mixin.reports.documents import interval
from feeder_mixin.reports.records import percent
from feeder_mixin.schema import PARAMETER_BY_NAME, PARAMETERS, is_default_set
from feeder_mixin.stores.notes import some
from feeder_mixin.tune.judge.contenders import (
    ATR_RULE,
    CALLED,
    CONFIG,
    DEFAULTS,
    RUNNING,
    TUNED,
    Contender,
)
from feeder_mixin.tune.judge.decision import Decision, Outcome
from feeder_mixin.tune.judge.result import PairResult, Redrawn
from feeder_mixin.tune.judge.risk import SafeCalls, at_settings, pool_risk
from feeder_mixin.tune.pooling import windows_text


def yardstick(results: Mapping[str, PairResult]) -> str:
    """Return what skill is over: the ATR rule, or a FreqAI config's own values."""
    has_rule = all(result.evidence.start == DEFAULTS for result in results.values())
    return "the ATR rule" if has_rule else CALLED[CONFIG]


def closing_table(results: Mapping[str, PairResult]) -> Table:
    """Return every contender of every pair on the test window; all numbers in percent."""
    alphas = sorted({result.alpha for result in results.values() if result.alpha is not None})
    level = ", ".join(f"{alpha:g}" for alpha in alphas) or "by target"
    table = Table(
        title=f"Test window, quantile level {level}, percent (skill: over {yardstick(results)})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("pair", no_wrap=True)
    table.add_column("model", no_wrap=True)
    headings = ("skill", "± SE", "exceed", "MAE", "safe acc", "called safe", "base rate")
    for heading in (*headings, "FPR", "FNR"):
        table.add_column(heading, justify="right")
    for pair, result in results.items():
        for number, (name, score) in enumerate(result.scores.items()):
            table.add_row(
                "" if number else pair,
                name,
                percent(score.skill),
                "-" if name in {ATR_RULE, CONFIG} else percent(score.skill_se),
                percent(score.exceedance),
                percent(score.mae, 2),
                percent(score.safety_accuracy),
                percent(score.predicted_safe_share),
                percent(score.realised_safe_share),
                percent(score.false_positive_rate),
                percent(score.false_negative_rate),
            )
        table.add_section()
    return table


def verdicts(results: Mapping[str, PairResult], undelivered: Collection[str] = ()) -> list[str]:
    """Return one sentence per pair: what was decided and why, what a bot could do with it.

    Parameters
    ----------
    undelivered
        Pairs whose record could not be written to the store yet.
    """
    lines = []
    for pair, result in results.items():
        tuned = result.scores[TUNED]
        parts = [_decision_text(result.decided, is_delivered=pair not in undelivered)]
        if result.parameters != start_of(result) or result.decided.gain is not None:
            parts.append(_winner_text(result))
        if result.decided.beats_rule is not None:
            if tuned.skill < 0:
                parts.append("worse than the ATR rule there")
            parts.append(_rule_text(result.decided))
        if result.labelled_days < ADVISED_DAYS:
            parts.append(
                f"judged on {result.labelled_days:.0f} labelled days, where under "
                f"{ADVISED_DAYS:.0f} were measured to lose: good for a trial only"
            )
        if tuned.predicted_safe_share is not None and tuned.predicted_safe_share < NEVER_SAFE:
            parts.append(
                f"called safe on {percent(tuned.predicted_safe_share)} % of candles: at a "
                f"tolerance of {percent(result.max_adverse_ratio)} % hardly any entry would pass"
            )
        if result.scale_is_fallback:
            parts.append("too little history for the label scale, ATR14/close was used")
        lines.append(f"{pair}: {'; '.join(parts)}")
    return lines


_DONE: Final[Mapping[Contender | None, str]] = {
    TUNED: "the tuned set is written",
    DEFAULTS: "the defaults are written",
    RUNNING: "the running set is written again",
    None: "nothing is written, the running set stays",
}
_WAITS: Final[Mapping[Contender | None, str]] = {
    TUNED: "the tuned set waits in the outbox",
    DEFAULTS: "the defaults wait in the outbox",
    RUNNING: "the running set waits in the outbox, to be written again",
}
_OUTCOMES: Final[Mapping[Outcome, str]] = {
    "promoted": "promoted",
    "kept": "kept",
    "refused": "refused",
    "first": "first record",
    "expired_replaced": "expired record replaced",
}


def _decision_text(decision: Decision, *, is_delivered: bool) -> str:
    """Return what became of the pair and why."""
    candidate = ", the tuned set is kept as a candidate" if decision.candidate else ""
    written = (_DONE if is_delivered else _WAITS)[decision.written]
    return f"{_OUTCOMES[decision.outcome]}, {written}{candidate} ({decision.reason})"


def _rule_text(decision: Decision) -> str:
    """Return how the pair stands against the ATR rule out of sample."""
    skill, error = decision.skill, decision.skill_se
    numbers = f"skill {percent(skill, 2)} %, SE {percent(error, 2)}, on folds and test window"
    if decision.beats_rule:
        return f"beats the ATR rule ({numbers})"
    return f"nothing beat the ATR rule out of sample ({numbers}): beats_rule 0"


def start_of(result: PairResult) -> Mapping[str, float]:
    """Return the set that runs where there is no record."""
    return result.evidence.sets[result.evidence.start].parameters


def _winner_text(result: PairResult) -> str:
    start = CALLED[result.evidence.start]
    if result.parameters == start_of(result):
        return f"the search found nothing better than its start set, {start}"
    comparison = result.evidence.comparison
    gain, error = comparison.tuned_gain, comparison.tuned_gain_se
    verb = "beat" if gain >= 0 else "lost to"
    within = " (within noise)" if error is None or abs(gain) <= 2 * error else ""
    return (
        f"tuned {verb} {start} on the test window by {percent(abs(gain), 2)} points of skill, "
        f"SE {percent(error, 2)}{within}"
    )


def importances_text(importances: Mapping[str, float]) -> str:
    """Return which searched coordinates mattered, largest first."""
    ordered = sorted(importances.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {percent(value, 0)} %" for name, value in ordered)
    return shares or "too few trials to say"


def study_lines(results: Mapping[str, PairResult]) -> list[str]:
    """Return what the feeder's study found, which pairs leave its set, and what it would take to know."""
    if not results:
        return []
    study = next(iter(results.values())).study
    best = max(study.redrawn, key=lambda one: one.gain, default=None)
    what = f"Study of {study.n_trials} trials over {_pairs_text(study.n_pairs)}: "
    if study.winner:
        won = next(one for one in study.redrawn if one.trial == study.winner)
        line = f"{what}trial {study.winner} won for the feeder, loss {_saved(won)} below the start set's"
    elif best is None:
        line = f"{what}the start set won, no trial was better than it"
    else:
        named = finalist_text(best, start_of(next(iter(results.values()))))
        line = (
            f"{what}the start set won; the best other one, {named}, saves {_saved(best)} of loss, "
            "which is not beyond noise"
        )
        if best.gain > 0.0 and best.windows_needed is not None:
            takes = windows_text(best.windows_needed)
            line += f": to tell such a gain from noise takes {takes} windows of 15 days"
    own = {pair: result for pair, result in results.items() if not result.evidence.is_feeders}
    lines = [line]
    if study.winner:
        some_result = next(iter(results.values()))
        changed = _changes(study.parameters, start_of(some_result))
        named = CALLED[some_result.evidence.start]
        lines.append(f"The feeder's set differs from {named} in: {changed}")
    if own:
        lines.append(f"Pairs with a set of their own, by their own evidence: {some(own)}")
    elif len(results) > 1:
        needed = sorted(
            result.own.windows_needed
            for result in results.values()
            if result.own.windows_needed is not None
        )
        if needed:
            middle = windows_text(needed[len(needed) // 2])
            lines.append(
                "No pair leaves the feeder's set: to tell its own best set from noise, half of the pairs "
                f"would need {middle} windows of 15 days or more"
            )
    return lines


_FEW_CHANGES: Final = 3
"""What a sentence can hold of a set that did not win."""


def finalist_text(one: Redrawn, start: Mapping[str, float]) -> str:
    """Return a trial's number, and where its set differs from the start set, if in few parameters."""
    if one.parameters is None:
        return f"trial {one.trial}"
    n_changed = sum(value != start[name] for name, value in one.parameters.items())
    is_short = n_changed <= _FEW_CHANGES
    changed = _changes(one.parameters, start) if is_short else f"{n_changed} parameters changed"
    return f"trial {one.trial} ({changed})"


def level_lines(results: Mapping[str, PairResult]) -> list[str]:
    """Return which level was chosen for the risk that was asked for, and what is called safe in all."""
    lines = []
    chosen = next((r.chosen_level for r in results.values() if r.chosen_level is not None), None)
    if chosen is not None:
        found = f"{percent(chosen.share)} % unsafe, at most {percent(chosen.upper)} % with 95 % confidence"
        asked = f"at most {percent(chosen.asked)} % of what is called safe may turn unsafe"
        lines.append(
            f"Asked: {asked}; level {chosen.level:g} keeps to it ({found})"
            if chosen.is_kept
            else f"Asked: {asked}; no level keeps to it, the least one, {chosen.level:g}, is taken ({found})"
        )
    now = present_risk(results)
    if now is not None and now.n_called:
        lines.append(
            "Called safe in the whole walk-forward (folds and test window), at the tolerances in force: "
            f"{percent(now.called_share)} % of candles, of which "
            f"{percent(now.unsafe_share)} % turned unsafe (ATR rule at as many: {percent(now.rule_share)} %)"
        )
    return lines


def present_risk(results: Mapping[str, PairResult]) -> SafeCalls | None:
    """Return what all pairs call safe at their level and tolerances; None where it was not counted."""
    tables = [result.risk for result in results.values() if result.risk is not None]
    alphas = {result.alpha for result in results.values() if result.alpha is not None}
    if len(tables) != len(results) or len(alphas) != 1:
        return None
    return at_settings(pool_risk(tables), alphas.pop())


def _pairs_text(n_pairs: int) -> str:
    return "1 pair" if n_pairs == 1 else f"{n_pairs} pairs"


def _saved(one: Redrawn) -> str:
    return f"{percent(one.gain, 2)} % (SE {percent(one.error, 2)})"


def _changes(parameters: Mapping[str, float], defaults: Mapping[str, float]) -> str:
    changed = [
        f"{name} {defaults[name]:.4g} -> {value:.4g}"
        for name, value in parameters.items()
        if value != defaults[name]
    ]
    return ", ".join(changed) or "nothing"


def on_bounds(sets: Iterable[Mapping[str, float]]) -> dict[str, int]:
    """Return parameter -> how many sets moved it from its default to an end of its range."""
    counts: dict[str, int] = defaultdict(int)
    for parameters in sets:
        for name, value in parameters.items():
            parameter = PARAMETER_BY_NAME[name]
            counts[name] += value != parameter.default and value in {parameter.low, parameter.high}
    return {name: count for name, count in counts.items() if count}


def identical_pairs(results: Mapping[str, PairResult]) -> list[list[str]]:
    """Return groups of pairs with identical parameters."""
    groups: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for pair, result in results.items():
        groups[tuple(result.parameters[p.name] for p in PARAMETERS)].append(pair)
    return [pairs for pairs in groups.values() if len(pairs) > 1]


def together(results: Mapping[str, PairResult]) -> list[str]:
    """Return what all pairs together show; a single pair has said it."""
    if len(results) < 2:
        return []
    decision = next(iter(results.values())).decided
    line = (
        f"All {len(results)} pairs together: skill over {yardstick(results)} "
        f"{percent(decision.pooled_skill, 2)} % "
        f"({_error_text(decision.pooled_skill, decision.pooled_skill_se)})"
    )
    if decision.pooled_gain is not None:
        line += (
            f", tuned sets over the previous ones {percent(decision.pooled_gain, 2)} points "
            f"({_error_text(decision.pooled_gain, decision.pooled_gain_se)})"
        )
    return [line]


def _error_text(value: float, error: float | None) -> str:
    """Return the standard error of a share and its 95 % interval."""
    bounds = interval(value, error)
    if bounds is None:
        return "SE -"
    low, high = bounds
    return f"SE {percent(error, 2)}, 95 %: {percent(low, 2)} to {percent(high, 2)}"


_MOST_GROUPS: Final = 3
"""Groups of pairs with identical parameters that are named, the largest first."""


def feeder_notes(results: Mapping[str, PairResult]) -> list[str]:
    """Return what holds over all pairs: importances, winners on bounds, identical winners."""
    study = next(iter(results.values())).study if results else None
    mattered = importances_text({} if study is None else study.importances)
    ends = on_bounds(result.parameters for result in results.values())
    bounds = ", ".join(f"{name} {count}" for name, count in ends.items())
    notes = [
        f"Which parameters mattered (the feeder's study, a rough guide): {mattered}",
        f"Tuned winners at a limit of a range, by parameter: {bounds or 'none'}",
    ]
    groups = sorted(identical_pairs(results), key=len, reverse=True)
    for pairs in groups[:_MOST_GROUPS]:
        same = "the defaults" if is_default_set(results[pairs[0]].parameters) else "same parameters"
        notes.append(f"Identical parameters ({same}): {some(pairs)}")
    if left := groups[_MOST_GROUPS:]:
        notes.append(f"Identical parameters in {len(left)} smaller groups of pairs")
    return notes
