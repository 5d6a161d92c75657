"""Promotion: challengers against the running records, decided over all pairs of a run together.

The feeder's set is one challenger: over all pairs that run the same set now it is judged once, and
reaches all of them or none; only a pair whose own evidence speaks against it beyond noise keeps what it
has. A pair with a set of its own, or one that hardly any other pair runs, is judged by itself, shrunk to
the others.

Pure functions of the pairs' evidence and of what the store held when the run began. The parent calls
`decide` once the searches have ended, and does what it says. What must stay true: a bot always has a
record to read after ``auto``; a challenger reaches bots only by beating their record beyond noise,
with an exceedance inside its interval; the same evidence gives the same decisions, in whatever order
and by however many processes it was made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.model.metrics import exceedance_interval
from feeder_mixin.schema import ParameterRecord
from feeder_mixin.tune.judge.contenders import CALLED, CONFIG, DEFAULTS, RUNNING, TUNED, Contender
from feeder_mixin.tune.judge.decision import Champion, Decision, Mode, Outcome
from feeder_mixin.tune.judge.evaluate import finite
from feeder_mixin.tune.judge.result import DayTable, Evidence, PairResult
from feeder_mixin.tune.pooling import MIN_WITNESSES, DayLosses, Estimate, Pooled, pool, windows_text
from feeder_mixin.tune.search.space import ALPHA, key_of


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is to be done with one pair, and why."""

    outcome: Outcome
    written: Contender | None
    candidate: bool
    reason: str


@dataclass(frozen=True, slots=True)
class _Exceedance:
    """Share of the test window's candles that were worse than forecast.

    Attributes
    ----------
    interval
        Where it lies for an honest model.
    name
        Of the target; empty for the built-in model's only one.
    before
        The incumbent's share; None for the built-in model: both its sets are calibrated as they serve.
    """

    share: float
    level: float
    interval: tuple[float, float]
    name: str = ""
    before: float | None = None

    @property
    def is_off(self) -> bool:
        """Return whether it is outside, and no nearer to its level than what it would replace."""
        low, high = self.interval
        if low <= self.share <= high:
            return False
        return self.before is None or abs(self.share - self.level) > abs(self.before - self.level)


@dataclass(frozen=True, slots=True)
class _Challenge:
    """What a challenger won on the test window over what bots run, and what is asked of it.

    Attributes
    ----------
    own
        The pair's gain, shrunk to the other pairs with the same kind of challenger.
    together
        The gain of the pairs that are judged together.
    n_pairs
        How many they are; None where the pair is judged by itself.
    exceedances
        Of each forecast that has a level.
    """

    own: Estimate
    together: Estimate
    n_pairs: int | None
    exceedances: tuple[_Exceedance, ...]

    @property
    def gain(self) -> Estimate:
        """Return what decides."""
        return self.own if self.n_pairs is None else self.together


def decide(
    evidence: Mapping[str, Evidence],
    champions: Mapping[str, Champion],
    mode: Mode,
    earlier: Mapping[str, Decision] | None = None,
    renewed: Collection[str] = (),
) -> dict[str, Decision]:
    """Return pair -> decision for all finished pairs of a run.

    Parameters
    ----------
    champions
        Pair -> what bots took when the run began; a pair without is absent.
    earlier
        Pair -> decision of an interrupted command of the same run. What it wrote may be what bots
        read now; what is decided now goes on top.
    renewed
        Pairs whose record says more than parameters: what was measured on the newest candles goes out
        with the running set where no other one does. Losses can't judge it.
    """
    if not evidence:
        return {}
    challenges = {
        pair: one
        for is_feeders in (True, False)
        for pair, one in _challenges(evidence, champions, is_feeders=is_feeders).items()
    }
    verdicts = {
        pair: _judge_challenger(one, champions.get(pair), mode, challenges.get(pair))
        for pair, one in evidence.items()
    }
    # After the verdicts: skill is asked of what will be served, not of what was tried.
    skills = _pooled_skills(evidence, champions, verdicts)
    decisions = {}
    for pair, one in evidence.items():
        champion, verdict = champions.get(pair), verdicts[pair]
        # The estimate alone, without its error: a pair that may be better than the rule serves.
        has_rule = one.start == DEFAULTS
        beats_rule = skills.by_pair[pair].value > 0.0 if has_rule else None
        if mode == "auto" and champion is not None:
            verdict = _rewrite_champion_if_needed(
                verdict, champion, (earlier or {}).get(pair), beats_rule=beats_rule
            )
            if pair in renewed:
                verdict = _renew(verdict, champion)
        challenge = challenges.get(pair)
        decisions[pair] = Decision(
            mode=mode,
            outcome=verdict.outcome,
            written=verdict.written,
            candidate=verdict.candidate,
            reason=verdict.reason,
            gain=challenge.own.value if challenge else None,
            gain_se=finite(challenge.own.error) if challenge else None,
            pooled_gain=challenge.together.value if challenge else None,
            pooled_gain_se=finite(challenge.together.error) if challenge else None,
            skill=skills.by_pair[pair].value,
            skill_se=finite(skills.by_pair[pair].error),
            pooled_skill=skills.together.value,
            pooled_skill_se=finite(skills.together.error),
            beats_rule=beats_rule,
            exceedance_interval=_interval(one) if has_rule else None,
            champion_time_ns=champion.time_ns if champion else None,
            champion_parameters=champion.parameters if champion else None,
        )
    return decisions


def _incumbent(evidence: Evidence, champion: Champion | None) -> Contender:
    """Return whom the challenger must beat."""
    return evidence.start if champion is None or champion.parameters is None else RUNNING


def _is_challenged(evidence: Evidence, champion: Champion | None) -> bool:
    """Return whether the tuned set is another than the incumbent's."""
    incumbent = evidence.sets[_incumbent(evidence, champion)]
    return evidence.sets[TUNED].parameters != incumbent.parameters


def _interval(evidence: Evidence) -> tuple[float, float]:
    """Return where the exceedance of an honest challenger lies, at the level it would be served at."""
    return exceedance_interval(evidence.sets[TUNED].parameters[ALPHA], evidence.n_independent)


def _exceedances(evidence: Evidence, incumbent: Contender) -> tuple[_Exceedance, ...]:
    """Return how the challenger's forecasts hold their levels in the test window."""
    if evidence.start == DEFAULTS:
        tuned = evidence.sets[TUNED]
        share, level = tuned.metrics["exceedance"], tuned.parameters[ALPHA]
        return (_Exceedance(share, level, _interval(evidence)),)
    return tuple(
        _Exceedance(
            one.shares[TUNED],
            one.level,
            exceedance_interval(one.level, evidence.n_independent),
            one.name,
            one.shares[incumbent],
        )
        for one in evidence.targets
        if one.level is not None
    )


def _mean_exceedances(
    group: Sequence[Evidence], incumbents: Sequence[Contender]
) -> tuple[_Exceedance, ...]:
    """Return the same for pairs that are judged together."""
    # Pairs share their days, so all together have as many independent rows as one of them.
    n_independent = float(np.mean([one.n_independent for one in group]))
    found = [_exceedances(one, who) for one, who in zip(group, incumbents, strict=True)]
    return tuple(
        replace(
            same[0],
            share=float(np.mean([one.share for one in same])),
            interval=exceedance_interval(same[0].level, n_independent),
            before=None
            if same[0].before is None
            else float(np.mean([one.before for one in same if one.before is not None])),
        )
        for same in zip(*found, strict=True)
    )


def _against_yardstick(table: DayTable, saved: NDArray[np.float64]) -> DayLosses:
    """Return loss saved by day in units of the ATR rule's, or of the config's own values."""
    return DayLosses(np.array(table.days), saved, np.array(table.yardstick))


def _challenges(
    evidence: Mapping[str, Evidence], champions: Mapping[str, Champion], *, is_feeders: bool
) -> dict[str, _Challenge]:
    """Return pair -> challenge, of the pairs with the feeder's set or of those with their own.

    A pair whose challenger is the incumbent has nothing to say about challengers.
    """
    challenged = {
        pair: one
        for pair, one in evidence.items()
        if one.is_feeders == is_feeders and _is_challenged(one, champions.get(pair))
    }
    if not challenged:
        return {}
    losses = {}
    for pair, one in challenged.items():
        test = one.comparison.test
        incumbent = _incumbent(one, champions.get(pair))
        saved = np.subtract(test.losses[incumbent], test.losses[TUNED])
        losses[pair] = _against_yardstick(test, saved)
    gains = pool(losses)
    found = {
        pair: _Challenge(
            own=gains.by_pair[pair],
            together=gains.together,
            n_pairs=None,
            exceedances=_exceedances(one, _incumbent(one, champions.get(pair))),
        )
        for pair, one in challenged.items()
    }
    for pairs in _alike_pairs(challenged, champions) if is_feeders else []:
        group = [challenged[pair] for pair in pairs]
        together = pool({pair: losses[pair] for pair in pairs}).together
        incumbents = [_incumbent(challenged[pair], champions.get(pair)) for pair in pairs]
        exceedances = _mean_exceedances(group, incumbents)
        for pair in pairs:
            found[pair] = replace(
                found[pair], together=together, n_pairs=len(pairs), exceedances=exceedances
            )
    return found


def _alike_pairs(
    challenged: Mapping[str, Evidence], champions: Mapping[str, Champion]
) -> list[list[str]]:
    """Return groups of pairs that run the same set now, of those enough to be judged together."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for pair, one in challenged.items():
        incumbent = one.sets[_incumbent(one, champions.get(pair))].parameters
        groups.setdefault(key_of(incumbent), []).append(pair)
    return [pairs for pairs in groups.values() if len(pairs) > MIN_WITNESSES]


def _pooled_skills(
    evidence: Mapping[str, Evidence],
    champions: Mapping[str, Champion],
    verdicts: Mapping[str, _Verdict],
) -> Pooled:
    """Return skill over the ATR rule on the walk, of the better of served set and defaults.

    Without a rule it is skill over the config's own values, of what is served.
    """
    losses = {}
    for pair, one in evidence.items():
        walk = one.comparison.walk
        served = verdicts[pair].written or _incumbent(one, champions.get(pair))
        candidates = [walk.losses[served]]
        if one.start == DEFAULTS:
            candidates.append(walk.losses[DEFAULTS])
        best = min(candidates, key=np.sum)
        losses[pair] = _against_yardstick(walk, np.subtract(walk.yardstick, best))
    return pool(losses)


def _judge_challenger(
    evidence: Evidence, champion: Champion | None, mode: Mode, challenge: _Challenge | None
) -> _Verdict:
    """Return the verdict on one challenger, the ATR rule left aside.

    Parameters
    ----------
    challenge
        None when the challenger is the incumbent.
    """
    incumbent = _incumbent(evidence, champion)
    is_config = evidence.start == CONFIG
    if is_config and evidence.sets[TUNED].parameters == evidence.sets[CONFIG].parameters:
        return _Verdict("kept", None, False, _config_won(incumbent))
    replaced: Outcome = "first" if champion is None else "expired_replaced"
    if mode == "never":
        outcome: Outcome = "kept" if challenge is None else "refused"
        return _Verdict(outcome, None, candidate=True, reason="--promote never")
    if mode == "always":
        outcome = "promoted" if incumbent == RUNNING else replaced
        return _Verdict(outcome, TUNED, candidate=False, reason="--promote always")
    if challenge is None:
        if incumbent == RUNNING:
            return _Verdict("kept", None, False, "the search found the running set again")
        return _Verdict(replaced, DEFAULTS, False, "the defaults won the search")
    objection = _objection(challenge, incumbent)
    if objection is None:
        outcome = "promoted" if incumbent == RUNNING else replaced
        reason = f"{_won(challenge, incumbent)}, beyond noise"
        return _Verdict(outcome, TUNED, candidate=False, reason=reason)
    if incumbent in {RUNNING, CONFIG}:  # a config's own values serve without a record
        return _Verdict("refused", None, candidate=True, reason=objection)
    return _Verdict(replaced, DEFAULTS, candidate=True, reason=objection)


def _config_won(incumbent: Contender) -> str:
    """Return why nothing is written where the search ends at a FreqAI config's own values."""
    won = "the config's own values won the search"
    if incumbent == CONFIG:
        return f"{won}, and serve without a record"
    return f"{won}; they are never written, so the running record stays"


def _objection(challenge: _Challenge, incumbent: Contender) -> str | None:
    """Return what keeps a challenger from being promoted, or None."""
    whom = CALLED[incumbent]
    if not challenge.gain.is_above_zero:
        over = _over(challenge)
        gain = f"{_points(challenge.gain)} against {whom}{over}"
        return f"{gain} is not beyond noise{_needed(challenge.gain)}"
    off = next((one for one in challenge.exceedances if one.is_off), None)
    if off is not None:
        (low, high), of = off.interval, f" of {off.name}" if off.name else ""
        return (
            f"exceedance{of} of {100 * off.share:.1f} %{_over(challenge)} is outside {100 * low:.1f} to "
            f"{100 * high:.1f} %, though it won {_points(challenge.gain)} over {whom}"
        )
    if challenge.own.is_below_zero:
        return (
            f"{_points(challenge.own)} against {whom} on this pair, worse beyond noise, though "
            f"the feeder's set won {_points(challenge.together)}{_over(challenge)}"
        )
    return None


def _needed(gain: Estimate) -> str:
    """Return how much evidence would tell such a gain from noise, where there is one."""
    windows = gain.windows_needed(gain.errors_needed)
    if gain.value <= 0.0 or windows is None:
        return ""
    return f": to tell takes {windows_text(windows)} windows of 15 days"


def _won(challenge: _Challenge, incumbent: Contender) -> str:
    return f"won {_points(challenge.gain)} over {CALLED[incumbent]}{_over(challenge)}"


def _over(challenge: _Challenge) -> str:
    """Return on how many pairs' evidence a challenger is judged, where it is not one pair's own."""
    n_pairs = challenge.n_pairs
    return f" over {n_pairs} pairs together" if n_pairs is not None and n_pairs > 1 else ""


def _points(gain: Estimate) -> str:
    return f"{100 * gain.value:+.2f} points of skill (SE {100 * gain.error:.2f})"


def _rewrite_champion_if_needed(
    verdict: _Verdict,
    champion: Champion,
    earlier: Decision | None,
    *,
    beats_rule: bool | None,
) -> _Verdict:
    """Return the verdict, with the champion written again where bots would not know otherwise.

    Parameters
    ----------
    earlier
        Decision of an interrupted command of the same run: what it wrote is what bots read now.
    """
    if verdict.written is not None or champion.parameters is None:
        return verdict
    if beats_rule is not None and beats_rule != champion.beats_rule:
        now = "something beats" if beats_rule else "nothing beats"
        why = f"written again, because {now} the ATR rule now"
    elif earlier is not None and earlier.written is not None:
        why = "written again, because the interrupted command had written another set"
    else:
        return verdict
    return replace(verdict, outcome="kept", written=RUNNING, reason=f"{verdict.reason}; {why}")


def _renew(verdict: _Verdict, champion: Champion) -> _Verdict:
    """Return the verdict, with the running set written again where nothing else is."""
    if verdict.written is not None or champion.parameters is None:
        return verdict
    why = "written again with what was measured now: tolerance and level"
    return replace(verdict, written=RUNNING, reason=f"{verdict.reason}; {why}")


def record_of(
    feeder_id: str, result: PairResult, decision: Decision, contender: Contender
) -> ParameterRecord:
    """Return a contender's parameters with its metrics and what was decided, as a store keeps them."""
    chosen = result.evidence.sets[contender]
    decided = {
        "beats_rule": None if decision.beats_rule is None else float(decision.beats_rule),
        "pooled_skill": decision.skill,
        "pooled_skill_se": decision.skill_se,
    }
    if contender == TUNED:
        decided |= {"gain": decision.gain, "gain_se": decision.gain_se}
    metrics = {**chosen.metrics, **{n: x for n, x in decided.items() if x is not None}}
    promotion = {"mode": decision.mode, "outcome": decision.outcome, "reason": decision.reason}
    provenance = {**result.provenance, "promotion": promotion}
    return ParameterRecord(
        feeder_id,
        result.pair,
        result.time_ns,
        chosen.parameters,
        metrics,
        provenance,
        result.model_type,
    )
