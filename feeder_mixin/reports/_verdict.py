"""What the page says first: the verdict over a feeder's pairs, and every warning.

Pooled figures come from the newest promotion decision; without one they are not guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from feeder_mixin.reports._figures import pooled_value, safe_values
from feeder_mixin.reports._problems import (
    describe_problems,
    exceedance_bounds,
    failure_lines,
    served_exceedance,
)
from feeder_mixin.reports.documents import (
    OUTCOME_MEANINGS,
    FeederReport,
    interval,
    short_names,
)
from feeder_mixin.tune.judge.decision import Decision

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
        pair: share
        for pair, one in results.items()
        if (share := served_exceedance(one)) is not None
    }
    bounds = {pair: exceedance_bounds(results[pair]) for pair in shares}
    judged = {pair: found for pair, found in bounds.items() if found is not None}
    value = pooled_value(safe_values(report.tuned))
    outcomes = [UNDECIDED if r.decision is None else r.decision.outcome for r in results.values()]
    return Verdict(
        headline=_headline(pooled_interval, report.yardstick),
        outcomes=dict(Counter(outcomes)),
        pooled_skill=pooled,
        pooled_skill_interval=pooled_interval,
        exceedance=_mean(list(shares.values())),
        nominal=_mean([alpha for pair in shares if (alpha := results[pair].alpha) is not None]),
        n_inside=sum(low <= shares[pair] <= high for pair, (low, high) in judged.items()),
        n_intervals=len(judged),
        n_safe=None if value is None else value.n_safe,
        unsafe_model=None if value is None else value.unsafe_model,
        unsafe_rule=None if value is None else value.unsafe_rule,
        warnings=(
            *failure_lines(report.failures),
            *describe_problems(results, short_names(report.pairs)),
        ),
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _headline(pooled: tuple[float, float] | None, yardstick: str) -> str:
    if pooled is None:
        return f"These results have no pooled comparison with {yardstick}"
    if pooled[0] > 0:
        return f"Better than {yardstick}, beyond noise"
    if pooled[1] < 0:
        return f"Worse than {yardstick}, beyond noise"
    return f"Not better than {yardstick} beyond noise"


def outcome_counts_text(outcomes: Mapping[str, int]) -> str:
    """Return counts by outcome as words.

    Examples
    --------
    >>> outcome_counts_text({"kept": 2, "promoted": 1})
    '1 promoted, 2 kept'
    """
    ordered = [name for name in (*OUTCOME_MEANINGS, UNDECIDED) if name in outcomes]
    ordered += [name for name in outcomes if name not in ordered]
    return ", ".join(f"{outcomes[name]} {_WORDS.get(name, name)}" for name in ordered)
