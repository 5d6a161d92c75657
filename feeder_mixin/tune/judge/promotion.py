"""Promotion: challengers against the running records, decided over all pairs of a run together.

Pure functions of the pairs' evidence and of what the store held when the run began. The parent calls
`decide` once the searches have ended, and does what it says. What must stay true: a bot always has a
record to read after ``auto``; a challenger reaches bots only by beating their record beyond noise,
with an exceedance inside its interval; the same evidence gives the same decisions, in whatever order
and by however many processes it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.model.metrics import exceedance_interval
from feeder_mixin.schema import ParameterRecord
from feeder_mixin.tune.judge._pooling import DayLosses, Estimate, Pooled, pool
from feeder_mixin.tune.judge.contenders import ATR_RULE, DEFAULTS, RUNNING, TUNED, Contender
from feeder_mixin.tune.judge.decision import Champion, Decision, Mode, Outcome
from feeder_mixin.tune.judge.evaluate import finite
from feeder_mixin.tune.judge.result import DayTable, Evidence, PairResult
from feeder_mixin.tune.search.space import ALPHA

_CALLED: Final = {RUNNING: "the running record", DEFAULTS: "the defaults"}


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is to be done with one pair, and why."""

    outcome: Outcome
    written: Contender | None
    candidate: bool
    reason: str


def decide(
    evidence: Mapping[str, Evidence],
    champions: Mapping[str, Champion],
    mode: Mode,
    earlier: Mapping[str, Decision] | None = None,
) -> dict[str, Decision]:
    """Return pair -> decision for all finished pairs of a run.

    Parameters
    ----------
    champions
        Pair -> what bots took when the run began; a pair without is absent.
    earlier
        Pair -> decision of an interrupted command of the same run. What it wrote may be what bots
        read now; what is decided now goes on top.
    """
    if not evidence:
        return {}
    gains = _pooled_gains(evidence, champions)
    verdicts = {
        pair: _judge_challenger(
            one, champions.get(pair), mode, gains.by_pair.get(pair) if gains else None
        )
        for pair, one in evidence.items()
    }
    # After the verdicts: skill is asked of what will be served, not of what was tried.
    skills = _pooled_skills(evidence, champions, verdicts)
    decisions = {}
    for pair, one in evidence.items():
        champion, verdict = champions.get(pair), verdicts[pair]
        # The estimate alone, without its error: a pair that may be better than the rule serves.
        beats_rule = skills.by_pair[pair].value > 0.0
        if mode == "auto" and champion is not None:
            verdict = _rewrite_champion_if_needed(
                verdict, champion, (earlier or {}).get(pair), beats_rule=beats_rule
            )
        gain = gains.by_pair.get(pair) if gains else None
        decisions[pair] = Decision(
            mode=mode,
            outcome=verdict.outcome,
            written=verdict.written,
            candidate=verdict.candidate,
            reason=verdict.reason,
            gain=gain.value if gain else None,
            gain_se=finite(gain.error) if gain else None,
            pooled_gain=gains.together.value if gains else None,
            pooled_gain_se=finite(gains.together.error) if gains else None,
            skill=skills.by_pair[pair].value,
            skill_se=finite(skills.by_pair[pair].error),
            pooled_skill=skills.together.value,
            pooled_skill_se=finite(skills.together.error),
            beats_rule=beats_rule,
            exceedance_interval=_interval(one),
            champion_time_ns=champion.time_ns if champion else None,
            champion_parameters=champion.parameters if champion else None,
        )
    return decisions


def _incumbent(champion: Champion | None) -> Contender:
    """Return whom the challenger must beat."""
    return DEFAULTS if champion is None or champion.parameters is None else RUNNING


def _is_challenged(evidence: Evidence, champion: Champion | None) -> bool:
    """Return whether the tuned set is another than the incumbent's."""
    incumbent = evidence.sets[_incumbent(champion)]
    return evidence.sets[TUNED].parameters != incumbent.parameters


def _interval(evidence: Evidence) -> tuple[float, float]:
    """Return where the exceedance of an honest challenger lies, at the level it would be served at."""
    return exceedance_interval(evidence.sets[TUNED].parameters[ALPHA], evidence.n_independent)


def _against_rule(table: DayTable, saved: NDArray[np.float64]) -> DayLosses:
    """Return loss saved by day in units of the ATR rule's."""
    return DayLosses(np.array(table.days), saved, np.array(table.losses[ATR_RULE]))


def _pooled_gains(
    evidence: Mapping[str, Evidence], champions: Mapping[str, Champion]
) -> Pooled | None:
    """Return the challengers' pooled gains on the test windows; None when no pair has one.

    A pair whose challenger is the incumbent has nothing to say about challengers.
    """
    losses = {}
    for pair, one in evidence.items():
        champion = champions.get(pair)
        if _is_challenged(one, champion):
            test = one.comparison.test
            saved = np.subtract(test.losses[_incumbent(champion)], test.losses[TUNED])
            losses[pair] = _against_rule(test, saved)
    return pool(losses) if losses else None


def _pooled_skills(
    evidence: Mapping[str, Evidence],
    champions: Mapping[str, Champion],
    verdicts: Mapping[str, _Verdict],
) -> Pooled:
    """Return skill over the ATR rule on the walk, of the better of served set and defaults."""
    losses = {}
    for pair, one in evidence.items():
        walk = one.comparison.walk
        served = verdicts[pair].written or _incumbent(champions.get(pair))
        best = min(walk.losses[served], walk.losses[DEFAULTS], key=np.sum)
        losses[pair] = _against_rule(walk, np.subtract(walk.losses[ATR_RULE], best))
    return pool(losses)


def _judge_challenger(
    evidence: Evidence, champion: Champion | None, mode: Mode, gain: Estimate | None
) -> _Verdict:
    """Return the verdict on one challenger, the ATR rule left aside.

    Parameters
    ----------
    gain
        Over the incumbent; None when the challenger is the incumbent.
    """
    incumbent = _incumbent(champion)
    replaced: Outcome = "first" if champion is None else "expired_replaced"
    if mode == "never":
        outcome: Outcome = "kept" if gain is None else "refused"
        return _Verdict(outcome, None, candidate=True, reason="--promote never")
    if mode == "always":
        outcome = "promoted" if incumbent == RUNNING else replaced
        return _Verdict(outcome, TUNED, candidate=False, reason="--promote always")
    if gain is None:
        if incumbent == RUNNING:
            return _Verdict("kept", None, False, "the search found the running set again")
        return _Verdict(replaced, DEFAULTS, False, "the defaults won the search")
    objection = _objection(evidence, gain, incumbent)
    if objection is None:
        outcome = "promoted" if incumbent == RUNNING else replaced
        reason = f"won {_points(gain)} over {_CALLED[incumbent]}, beyond noise"
        return _Verdict(outcome, TUNED, candidate=False, reason=reason)
    if incumbent == RUNNING:
        return _Verdict("refused", None, candidate=True, reason=objection)
    return _Verdict(replaced, DEFAULTS, candidate=True, reason=objection)


def _objection(evidence: Evidence, gain: Estimate, incumbent: Contender) -> str | None:
    """Return what keeps a challenger from being promoted, or None."""
    if not gain.is_above_zero:
        return f"{_points(gain)} against {_CALLED[incumbent]} is not beyond noise"
    (low, high), share = _interval(evidence), evidence.sets[TUNED].metrics["exceedance"]
    if not low <= share <= high:
        return (
            f"exceedance of {100 * share:.1f} % is outside {100 * low:.1f} to {100 * high:.1f} %, "
            f"though it won {_points(gain)} over {_CALLED[incumbent]}"
        )
    return None


def _points(gain: Estimate) -> str:
    return f"{100 * gain.value:+.2f} points of skill (SE {100 * gain.error:.2f})"


def _rewrite_champion_if_needed(
    verdict: _Verdict,
    champion: Champion,
    earlier: Decision | None,
    *,
    beats_rule: bool,
) -> _Verdict:
    """Return the verdict, with the champion written again where bots would not know otherwise.

    Parameters
    ----------
    earlier
        Decision of an interrupted command of the same run: what it wrote is what bots read now.
    """
    if verdict.written is not None or champion.parameters is None:
        return verdict
    if beats_rule != champion.beats_rule:
        now = "something beats" if beats_rule else "nothing beats"
        why = f"written again, because {now} the ATR rule now"
    elif earlier is not None and earlier.written is not None:
        why = "written again, because the interrupted command had written another set"
    else:
        return verdict
    return replace(verdict, outcome="kept", written=RUNNING, reason=f"{verdict.reason}; {why}")


def build_record(
    feeder_id: str, result: PairResult, decision: Decision, contender: Contender
) -> ParameterRecord:
    """Return a contender's parameters with its metrics and what was decided, as a store keeps them."""
    chosen = result.evidence.sets[contender]
    decided = {
        "beats_rule": float(decision.beats_rule),
        "pooled_skill": decision.skill,
        "pooled_skill_se": decision.skill_se,
    }
    if contender == TUNED:
        decided |= {"gain": decision.gain, "gain_se": decision.gain_se}
    metrics = {**chosen.metrics, **{n: x for n, x in decided.items() if x is not None}}
    promotion = {"mode": decision.mode, "outcome": decision.outcome, "reason": decision.reason}
    provenance = {**result.provenance, "promotion": promotion}
    return ParameterRecord(
        feeder_id, result.pair, result.time_ns, chosen.parameters, metrics, provenance
    )
