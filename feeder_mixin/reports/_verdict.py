"""What the page says first: the verdict over a feeder's pairs, and every warning.

Pooled figures come from the newest promotion decision; without one they are not guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from feeder_mixin.model.folds import ADVISED_DAYS
from feeder_mixin.model.metrics import exceedance_interval
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.reports._figures import pooled_value, safe_values
from feeder_mixin.reports.documents import (
    OUTCOME_MEANINGS,
    FeederReport,
    KnownPair,
    TunedPair,
    interval,
    served_score,
    short_names,
)
from feeder_mixin.reports.records import percent
from feeder_mixin.reports.tables import NEVER_SAFE
from feeder_mixin.schema import NANOSECONDS
from feeder_mixin.tune.judge.decision import Decision
from feeder_mixin.tune.run.candles import STALE_DAYS

UNDECIDED: Final = "undecided"
"""Outcome of a pair without a decision: a stored record, or a run that was stopped before."""

_WORDS: Final[Mapping[str, str]] = {
    UNDECIDED: "without a decision",
    "first": "with a first record",
    "expired_replaced": "expired and replaced",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures on top of a page; shares in 0 to 1, None where the results do not hold them.

    Attributes
    ----------
    outcomes
        Outcome of the promotion decision -> number of pairs.
    exceedance, nominal
        Mean over pairs, of what bots read after the run.
    n_inside, n_intervals
        Pairs whose exceedance is inside its 95 % interval, and pairs that have one.
    n_safe, unsafe_model, unsafe_rule
        Candles called safe out of sample; how many of those, and of as many taken by the ATR rule's
        ranking, turned out unsafe.
    """

    headline: str
    outcomes: Mapping[str, int]
    pooled_skill: float | None
    pooled_skill_interval: tuple[float, float] | None
    exceedance: float | None
    nominal: float | None
    n_inside: int
    n_intervals: int
    n_safe: int | None
    unsafe_model: int | None
    unsafe_rule: int | None
    warnings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def exceedance_bounds(known: KnownPair) -> tuple[float, float] | None:
    """Return where an honest model's exceedance lies in 95 of 100 windows, None where unknown."""
    if not isinstance(known, TunedPair):
        return None
    return exceedance_interval(known.alpha, known.result.evidence.n_independent)


def newest_decision(report: FeederReport) -> Decision | None:
    """Return the decision of the newest result that has one; its pooled figures are the page's."""
    decided = [one for one in report.tuned.values() if one.decision is not None]
    newest = max(decided, key=lambda one: one.time_ns, default=None)
    return None if newest is None else newest.decision


def make_verdict(report: FeederReport) -> Verdict:
    """Return the verdict over a feeder's pairs."""
    results, decision = report.results, newest_decision(report)
    pooled = None if decision is None else decision.pooled_skill
    pooled_interval = (
        None if decision is None else interval(decision.pooled_skill, decision.pooled_skill_se)
    )
    shares = {
        pair: share for pair, one in results.items() if (share := _exceedance(one)) is not None
    }
    bounds = {pair: exceedance_bounds(results[pair]) for pair in shares}
    judged = {pair: found for pair, found in bounds.items() if found is not None}
    value = pooled_value(safe_values(report.tuned))
    outcomes = [UNDECIDED if r.decision is None else r.decision.outcome for r in results.values()]
    return Verdict(
        headline=_headline(pooled_interval),
        outcomes=dict(Counter(outcomes)),
        pooled_skill=pooled,
        pooled_skill_interval=pooled_interval,
        exceedance=_mean(list(shares.values())),
        nominal=_mean([results[pair].alpha for pair in shares]),
        n_inside=sum(low <= shares[pair] <= high for pair, (low, high) in judged.items()),
        n_intervals=len(judged),
        n_safe=None if value is None else value.n_safe,
        unsafe_model=None if value is None else value.unsafe_model,
        unsafe_rule=None if value is None else value.unsafe_rule,
        warnings=tuple(_warnings(report)),
    )


def _exceedance(known: KnownPair) -> float | None:
    """Return the exceedance of what bots read, None where a stored record lacks it."""
    score = served_score(known)
    return None if score is None else score.exceedance


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _headline(pooled: tuple[float, float] | None) -> str:
    if pooled is None:
        return "These results have no pooled comparison with the ATR rule"
    if pooled[0] > 0:
        return "Better than the ATR rule, beyond noise"
    if pooled[1] < 0:
        return "Worse than the ATR rule, beyond noise"
    return "Not better than the ATR rule beyond noise"


def outcome_text(outcomes: Mapping[str, int]) -> str:
    """Return counts by outcome as words.

    Examples
    --------
    >>> outcome_text({"kept": 2, "promoted": 1})
    '1 promoted, 2 kept'
    """
    ordered = [name for name in (*OUTCOME_MEANINGS, UNDECIDED) if name in outcomes]
    ordered += [name for name in outcomes if name not in ordered]
    return ", ".join(f"{outcomes[name]} {_WORDS.get(name, name)}" for name in ordered)


def _warnings(report: FeederReport) -> list[str]:
    """Return what a reader must know before trusting the page, one sentence each."""
    lines = []
    for text, problem in _PROBLEMS:
        found = {pair: problem(result) for pair, result in report.results.items()}
        names = short_names(report.pairs)
        told = [f"{names[pair]}{fact}" for pair, fact in found.items() if fact is not None]
        if told:
            lines.append(f"{text}: {', '.join(told)}.")
    return lines


def _few_days(known: KnownPair) -> str | None:
    if not isinstance(known, TunedPair) or known.labelled_days >= ADVISED_DAYS:
        return None
    return f" {known.labelled_days:.0f}"


def _old_candles(known: KnownPair) -> str | None:
    end_s = known.metrics.get("candles_to_s")
    if end_s is None:
        return None
    age_days = (known.time_ns / NANOSECONDS - end_s) / DAY_S
    return f" {age_days:.0f}" if age_days > STALE_DAYS else None


def _beaten(known: KnownPair) -> str | None:
    return None if known.beats_rule else ""


def _never_safe(known: KnownPair) -> str | None:
    score = served_score(known)
    share = None if score is None else score.predicted_safe_share
    if share is None or share >= NEVER_SAFE:
        return None
    at = "" if known.tolerance is None else f" at {percent(known.tolerance)} %"
    return f" {percent(share)} %{at}"


def _outside(known: KnownPair) -> str | None:
    bounds, share = exceedance_bounds(known), _exceedance(known)
    if bounds is None or share is None or bounds[0] <= share <= bounds[1]:
        return None
    return f" {percent(share)} %"


def _fallback(known: KnownPair) -> str | None:
    return "" if isinstance(known, TunedPair) and known.result.scale_is_fallback else None


_PROBLEMS: Final = (
    (f"Few labelled days (under {ADVISED_DAYS:g} were measured to lose)", _few_days),
    ("Candles were old when tuned, so results describe an older market; age in days", _old_candles),
    ("Nothing beat the ATR rule (beats_rule 0), the bot calls no candle safe", _beaten),
    ("Hardly any entry would pass; share of candles called safe at the tolerance", _never_safe),
    ("Exceedance outside its 95 % interval", _outside),
    ("Too little history for the label scale, ATR14/close was used", _fallback),
)
"""What is wrong -> what is said of a pair that has it, None for one that has not."""
