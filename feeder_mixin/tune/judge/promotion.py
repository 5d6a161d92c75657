"""Who is served: challengers against what runs, decided over all pairs of a run together.

Pure functions of result documents (`tune.run._tasks`) and of what the store held when the run began. The
parent calls `decide` once the searches have ended, and does what it says. What must stay true: a bot
always has a record to read after ``auto``; a challenger reaches bots only by beating what runs there
beyond noise, with a quantile that means what it says; the same documents give the same decisions, in
whatever order and by however many processes they were made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, Self

import numpy as np

from feeder_mixin.model.metrics import exceedance_interval
from feeder_mixin.schema import ParameterRecord
from feeder_mixin.tune.judge._pooling import DayLosses, Estimate, Pooled, pool
from feeder_mixin.tune.judge.evaluate import ATR_RULE, DEFAULTS, RUNNING, TUNED, Contender, finite
from feeder_mixin.tune.run.options import Mode
from feeder_mixin.tune.search.space import ALPHA

Outcome = Literal["promoted", "kept", "refused", "first", "expired_replaced"]
Result = Mapping[str, Any]

_CALLED: Final = {RUNNING: "the running record", DEFAULTS: "the defaults"}


@dataclass(frozen=True, slots=True)
class Champion:
    """The record that bots took when the run began.

    Attributes
    ----------
    parameters
        None when it has expired: nobody takes it any more.
    """

    time_ns: int
    parameters: dict[str, float] | None
    beats_rule: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the form that the journal keeps."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any] | None) -> Self | None:
        """Return the champion that the journal kept, if there was one."""
        return None if document is None else cls(**document)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one pair, and the numbers that decided it.

    Attributes
    ----------
    written
        Whose parameters go where bots read; None: what is there stays.
    candidate
        Whether the challenger goes to the candidates.
    gain, gain_se
        Skill that the challenger won over the incumbent on the test window, shrunk to the pair;
        None when the two are one set.
    skill, skill_se
        Skill over the ATR rule on folds and test window, shrunk to the pair.
    exceedance_interval
        Where an honest challenger's exceedance lies.
    """

    mode: Mode
    outcome: Outcome
    written: Contender | None
    candidate: bool
    reason: str
    gain: float | None
    gain_se: float | None
    pooled_gain: float | None
    pooled_gain_se: float | None
    skill: float
    skill_se: float | None
    pooled_skill: float
    pooled_skill_se: float | None
    beats_rule: bool
    exceedance_interval: tuple[float, float]
    champion_time_ns: int | None
    champion_parameters: dict[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the form that the journal and ``--json`` carry."""
        return {**asdict(self), "exceedance_interval": list(self.exceedance_interval)}


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is to be done with one pair, and why."""

    outcome: Outcome
    written: Contender | None
    candidate: bool
    reason: str


def decide(
    results: Mapping[str, Result], champions: Mapping[str, Champion], mode: Mode
) -> dict[str, Decision]:
    """Return pair -> decision for all finished pairs of a run.

    Parameters
    ----------
    results
        Pair -> result document. One that carries the decision of an interrupted command may have
        been written by it already; what is decided now then goes on top.
    champions
        Pair -> what bots took when the run began; a pair without is absent.
    """
    if not results:
        return {}
    gains = _pooled_gains(results, champions)
    verdicts = {
        pair: _judge_challenger(
            result, champions.get(pair), mode, gains.by_pair.get(pair) if gains else None
        )
        for pair, result in results.items()
    }
    skills = _pooled_skills(results, champions, verdicts)
    decisions = {}
    for pair, result in results.items():
        champion, verdict = champions.get(pair), verdicts[pair]
        beats_rule = skills.by_pair[pair].value > 0.0
        if mode == "auto" and champion is not None:
            verdict = _rewrite_champion_if_needed(
                verdict, champion, result.get("decision"), beats_rule=beats_rule
            )
        gain = gains.by_pair.get(pair) if gains else None
        decisions[pair] = Decision(
            mode=mode,
            **asdict(verdict),
            gain=gain.value if gain else None,
            gain_se=finite(gain.error) if gain else None,
            pooled_gain=gains.together.value if gains else None,
            pooled_gain_se=finite(gains.together.error) if gains else None,
            skill=skills.by_pair[pair].value,
            skill_se=finite(skills.by_pair[pair].error),
            pooled_skill=skills.together.value,
            pooled_skill_se=finite(skills.together.error),
            beats_rule=beats_rule,
            exceedance_interval=_interval(result),
            champion_time_ns=champion.time_ns if champion else None,
            champion_parameters=champion.parameters if champion else None,
        )
    return decisions


def _incumbent(champion: Champion | None) -> Contender:
    """Return whom the challenger must beat."""
    return DEFAULTS if champion is None or champion.parameters is None else RUNNING


def _is_challenged(result: Result, champion: Champion | None) -> bool:
    """Return whether the tuned set is another than the incumbent's."""
    incumbent = result["alternatives"][_incumbent(champion)]["parameters"]
    return bool(result["parameters"] != incumbent)


def _interval(result: Result) -> tuple[float, float]:
    """Return where the exceedance of an honest challenger lies, at the level it would be served at."""
    return exceedance_interval(result["parameters"][ALPHA], result["n_independent"])


def _pooled_gains(
    results: Mapping[str, Result], champions: Mapping[str, Champion]
) -> Pooled | None:
    """Return what the test windows prove for the challengers; None when no pair has one.

    A pair whose challenger is the incumbent has nothing to say about challengers.
    """
    losses = {}
    for pair, result in results.items():
        champion = champions.get(pair)
        if _is_challenged(result, champion):
            judged = {n: np.array(x, float) for n, x in result["judged"]["losses"].items()}
            losses[pair] = DayLosses(
                np.array(result["judged"]["days"]),
                judged[_incumbent(champion)] - judged[TUNED],
                judged[ATR_RULE],
            )
    return pool(losses) if losses else None


def _pooled_skills(
    results: Mapping[str, Result],
    champions: Mapping[str, Champion],
    verdicts: Mapping[str, _Verdict],
) -> Pooled:
    """Return skill over the ATR rule on the walk, of the better of served set and defaults."""
    losses = {}
    for pair, result in results.items():
        walk = {name: np.array(values, float) for name, values in result["walk"].items()}
        served = verdicts[pair].written or _incumbent(champions.get(pair))
        best = min(walk[served], walk[DEFAULTS], key=np.sum)
        losses[pair] = DayLosses(
            np.array(result["walk"]["days"]), walk["rule"] - best, walk["rule"]
        )
    return pool(losses)


def _judge_challenger(
    result: Result, champion: Champion | None, mode: Mode, gain: Estimate | None
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
            return _Verdict("kept", None, False, "the search ended at what runs already")
        return _Verdict(replaced, DEFAULTS, False, "the defaults won the search")
    objection = _objection(result, gain, incumbent)
    if objection is None:
        outcome = "promoted" if incumbent == RUNNING else replaced
        reason = f"won {_points(gain)} over {_CALLED[incumbent]}, beyond noise"
        return _Verdict(outcome, TUNED, candidate=False, reason=reason)
    if incumbent == RUNNING:
        return _Verdict("refused", None, candidate=True, reason=objection)
    return _Verdict(replaced, DEFAULTS, candidate=True, reason=objection)


def _objection(result: Result, gain: Estimate, incumbent: Contender) -> str | None:
    """Return what keeps a challenger from being promoted, or None."""
    if not gain.is_above_zero:
        return f"{_points(gain)} against {_CALLED[incumbent]} is not beyond noise"
    (low, high), share = _interval(result), result["metrics"]["exceedance"]
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
    earlier: Mapping[str, Any] | None,
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
    elif earlier is not None and earlier["written"] is not None:
        why = "written again, because the interrupted command had written otherwise"
    else:
        return verdict
    return replace(verdict, outcome="kept", written=RUNNING, reason=f"{verdict.reason}; {why}")


def build_record(
    feeder_id: str, result: Result, decision: Decision, contender: Contender
) -> ParameterRecord:
    """Return a contender's parameters with its metrics and what was decided, as a store keeps them."""
    one = result if contender == TUNED else result["alternatives"][contender]
    decided = {
        "beats_rule": float(decision.beats_rule),
        "pooled_skill": decision.skill,
        "pooled_skill_se": decision.skill_se,
    }
    if contender == TUNED:
        decided |= {"gain": decision.gain, "gain_se": decision.gain_se}
    metrics = {**one["metrics"], **{n: x for n, x in decided.items() if x is not None}}
    promotion = {n: getattr(decision, n) for n in ("mode", "outcome", "reason")}
    provenance = {**result["provenance"], "promotion": promotion}
    return ParameterRecord(
        feeder_id, result["pair"], result["time_ns"], one["parameters"], metrics, provenance
    )
