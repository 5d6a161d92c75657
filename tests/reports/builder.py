"""Complete results, as a tuning run leaves them, made from a seed; and a report of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np

from feeder_mixin.reports.documents import FeederReport, StoreContent, StoredPair, TunedPair
from feeder_mixin.schema import NANOSECONDS, PARAMETERS, ParameterRecord, default_parameters
from feeder_mixin.tune.judge.contenders import ATR_RULE, DEFAULTS, RUNNING, TUNED
from feeder_mixin.tune.judge.decision import Decision, Outcome
from feeder_mixin.tune.judge.evaluate import Forecast, ServedForecasts
from feeder_mixin.tune.judge.result import (
    Chart,
    Comparison,
    DayTable,
    DecisionValue,
    Evidence,
    MeasuredSet,
    OwnEvidence,
    PairResult,
    Redrawn,
    RiskTable,
    Score,
    StudyFacts,
)
from feeder_mixin.tune.judge.risk import count_risk
from feeder_mixin.tune.search.kept import KeptTrial

TEN_PAIRS = tuple(
    f"{name}/USDT:USDT"
    for name in ["BTC", "ETH", "SOL", "XRP", "BNB", "DOGE", "BCH", "ZEC", "ADA", "LINK"]
)
ALPHA = 0.1
STEP_S = 300
END_S = 1_771_459_200
"""Where the candles end; records are made a day later."""


def make_score(random: np.random.Generator, skill: float, **changes: Any) -> Score:
    """Return a contender's score."""
    values = {
        "skill": skill,
        "skill_se": 0.03 + 0.01 * random.random(),
        "mae": 0.012,
        "exceedance": float(np.clip(random.normal(ALPHA, 0.015), 0.0, 1.0)),
        "safety_accuracy": 0.7,
        "predicted_safe_share": 0.2 + 0.3 * random.random(),
        "realised_safe_share": 0.75,
        "false_positive_rate": 0.06,
        "false_negative_rate": 0.5,
        "kupiec_p": random.random(),
        "christoffersen_p": random.random(),
    }
    return Score(**{**values, **changes})


def make_parameters(random: np.random.Generator, *, defaults: bool) -> dict[str, float]:
    """Return the defaults, or values all over the ranges."""
    if defaults:
        return default_parameters()
    values = {}
    for p in PARAMETERS:
        low, high = (math.log(p.low), math.log(p.high)) if p.is_log else (p.low, p.high)
        value = random.uniform(low, high)
        value = math.exp(value) if p.is_log else value
        values[p.name] = p.restore(round(value) if p.is_integer else value)
    return values


def make_chart(random: np.random.Generator, *, side: str, n: int = 576) -> Chart:
    """Return two days of candles with a forecast and the excursion that came, horizon 30."""
    horizon = 30
    steps = random.normal(0, 0.0012, (n + horizon, 4))
    close = 600 * np.exp(np.cumsum(steps.mean(axis=1) * 2))
    opens = np.concatenate([[600.0], close[:-1]])
    high = np.maximum(opens, close) * (1 + np.abs(steps[:, 1]))
    low = np.minimum(opens, close) * (1 - np.abs(steps[:, 2]))
    if side == "long":
        worst = np.array([low[t + 1 : t + 1 + horizon].min() for t in range(n)])
        excursion = worst / close[:n] - 1
    else:
        worst = np.array([high[t + 1 : t + 1 + horizon].max() for t in range(n)])
        excursion = 1 - worst / close[:n]
    q = np.full(n, np.quantile(excursion, ALPHA)) * (1 + 0.15 * np.sin(np.arange(n) / 40))
    arrays = {"open": opens, "high": high, "low": low, "close": close, "q": q}
    columns = {name: tuple(array[:n].tolist()) for name, array in arrays.items()}
    opens_s = tuple(END_S - (n - number) * STEP_S for number in range(n))
    return Chart(opens_s=opens_s, excursion=tuple(excursion.tolist()), **columns)


def make_decision(random: np.random.Generator, outcome: Outcome, parameters: dict) -> Decision:
    """Return a promotion decision; the pooled figures are the same for every pair."""
    written = {"promoted": TUNED, "first": DEFAULTS, "expired_replaced": TUNED}.get(outcome)
    reasons = {
        "promoted": "better than the champion by more than two standard errors",
        "kept": "not better than the champion beyond noise",
        "refused": "exceedance 13.4 % is outside 8.1 to 11.9 %",
    }
    has_champion = outcome != "first"
    return Decision(
        mode="auto",
        outcome=outcome,
        written=written,
        candidate=False,
        reason=reasons.get(outcome, "nothing ran before"),
        gain=random.normal(0.003, 0.003) if has_champion else None,
        gain_se=0.0021 if has_champion else None,
        pooled_gain=0.0031,
        pooled_gain_se=0.0019,
        skill=random.normal(0.065, 0.01),
        skill_se=0.011,
        pooled_skill=0.0642,
        pooled_skill_se=0.0081,
        beats_rule=True,
        exceedance_interval=(0.081, 0.119),
        champion_time_ns=(END_S - 86_400) * NANOSECONDS if has_champion else None,
        champion_parameters=parameters if has_champion else None,
    )


def make_day_table(random: np.random.Generator, contenders: Iterable[str], n: int) -> DayTable:
    """Return losses of the last `n` days."""
    days = tuple(END_S // 86_400 - number for number in range(n, 0, -1))
    return DayTable(days, {name: tuple((random.random(n) + 1).tolist()) for name in contenders})


def make_result(
    pair: str = "BTC/USDT:USDT",
    seed: int = 0,
    *,
    side: str = "short",
    outcome: Outcome = "promoted",
    **changes: Any,
) -> PairResult:
    """Return what tuning a pair found, with some fields changed."""
    random = np.random.default_rng(seed)
    parameters = make_parameters(random, defaults=seed % 3 == 0)
    skill = random.normal(0.06, 0.03)
    skills = {ATR_RULE: 0.0, DEFAULTS: skill}
    if outcome != "first":
        skills[RUNNING] = skill + random.normal(0.0, 0.004)
    skills[TUNED] = skill + random.normal(0.003, 0.004)
    n_safe = int(random.integers(3000, 12_000))
    metrics = {
        "beats_rule": 1.0,
        "best_trial": 0.0 if seed % 3 == 0 else 7.0,
        "optimization_trials": 20.0,
        "training_samples": 4317.0,
        "optimization_time": 6.9,
        "horizon_candles": 30.0,
        "timeframe_s": float(STEP_S),
        "candles_from_s": float(END_S - 290 * 86_400),
        "candles_to_s": float(END_S - STEP_S),
        "context_hash": 224_800_025_840_963.0,
        "feature_hash": 131_897_074_745_015.0,
    }
    sets = {
        name: MeasuredSet(parameters if name == TUNED else default_parameters(), metrics)
        for name in skills
        if name != ATR_RULE
    }
    comparison = Comparison(
        scores={name: make_score(random, value) for name, value in skills.items()},
        test=make_day_table(random, skills, 15),
        walk=make_day_table(random, skills, 75),
        tuned_gain=0.001,
        tuned_gain_se=0.002,
    )
    result = PairResult(
        risk=make_risk(),
        pair=pair,
        time_ns=(END_S + 86_400) * NANOSECONDS + seed,
        evidence=Evidence(sets, comparison, n_independent=144.0, is_feeders=True),
        provenance={
            "context_pairs": ["BTC/USDT:USDT", "ETH/USDT:USDT"],
            "versions": {"feeder-mixin": "0.1.0", "lightgbm": "4.7.0"},
            "seed": 0,
            "fixes": {},
            "host": "vm",
            "days_back": 180.0,
            "labelled_days": 180.0,
        },
        alpha=ALPHA,
        max_adverse_ratio=0.01,
        labelled_days=180.0,
        decision_value=DecisionValue(
            n_rows=40_000,
            n_safe=n_safe,
            unsafe_model=int(n_safe * random.uniform(0.05, 0.07)),
            unsafe_rule=int(n_safe * random.uniform(0.065, 0.09)),
            tolerance=0.01,
        ),
        chart=make_chart(random, side=side),
        study=make_study(winner=0 if seed % 3 == 0 else 7),
        own=OwnEvidence(
            winner=0 if seed % 3 == 0 else 7,
            other=9,
            gain=0.001,
            error=0.002,
            shrunk=0.0004,
            shrunk_error=0.001,
            windows_needed=66.7,
        ),
        scale_is_fallback=False,
        decision=make_decision(random, outcome, default_parameters()),
    )
    return replace(result, **changes)


@cache
def make_risk() -> RiskTable:
    """Return what a walk of forty days would have called safe."""
    random = np.random.default_rng(1)
    n = 40 * 96
    scale = 0.008 * np.exp(0.5 * random.normal(size=n))
    rows = Forecast(
        excursion=-scale * random.exponential(size=n),
        q=scale * np.log(ALPHA),
        rule=-0.02 * np.exp(0.5 * random.normal(size=n)),
        opens_s=END_S - 900 * np.arange(n, 0, -1),
        tolerance=np.full(n, 0.01),
        is_ordinary=np.ones(n, bool),
        is_allowed=np.ones(n, bool),
    )
    return count_risk(ServedForecasts(ALPHA, (), rows, rows, 0.0, 0))


def make_study(**changes: Any) -> StudyFacts:
    """Return how a study of twenty trials went, with some fields changed."""
    study = StudyFacts(
        parameters=default_parameters(),
        winner=7,
        n_pairs=10,
        n_raced=10,
        n_trials=20,
        n_pruned=12,
        n_cells=300,
        importances={},
        redrawn=(Redrawn(7, 0.01, 0.004), Redrawn(9, 0.002, 0.003)),
        took_s=4.9,
    )
    return replace(study, **changes)


def with_tuned(result: PairResult, parameters: dict | None = None, **metrics: float) -> PairResult:
    """Return a result with other parameters or metrics of the tuned set."""
    tuned = result.evidence.sets[TUNED]
    changed = MeasuredSet(parameters or tuned.parameters, {**tuned.metrics, **metrics})
    sets = {**result.evidence.sets, TUNED: changed}
    return replace(result, evidence=replace(result.evidence, sets=sets))


def with_scores(result: PairResult, scores: dict[str, Score], **changes: Any) -> PairResult:
    """Return a result with other scores, and with other figures of the comparison."""
    comparison = replace(result.evidence.comparison, scores=scores, **changes)
    return replace(result, evidence=replace(result.evidence, comparison=comparison))


def with_score(result: PairResult, contender: str = TUNED, **changes: Any) -> PairResult:
    """Return a result with some figures of one score changed."""
    changed = replace(result.scores[contender], **changes)
    return with_scores(result, {**result.scores, contender: changed})


def with_decision(result: PairResult, **changes: Any) -> PairResult:
    """Return a result with a part of the decision changed."""
    return replace(result, decision=replace(result.decided, **changes))


def make_trial(value: float, *, pruned: bool) -> KeptTrial:
    """Return a trial that came to a value."""
    return KeptTrial({}, default_parameters(), value, pruned, {8: value})


def make_trials(seed: int = 0, n: int = 20) -> dict[int, KeptTrial]:
    """Return the trials of a search: the defaults first, a third of the others pruned."""
    random = np.random.default_rng(seed)
    trials = {0: make_trial(0.0, pruned=False)}
    for number in range(1, n):
        is_pruned = bool(random.random() < 0.35)
        value = float(random.normal(0.004 if is_pruned else 0.0005, 0.002))
        trials[number] = make_trial(value, pruned=is_pruned)
    return trials


OUTCOMES = ("promoted", "kept", "refused", "first", "kept")


def make_results(pairs=TEN_PAIRS, *, side: str = "short") -> dict[str, TunedPair]:
    """Return results of many pairs, every outcome among them."""
    return {
        pair: TunedPair(make_result(pair, seed, side=side, outcome=OUTCOMES[seed % len(OUTCOMES)]))
        for seed, pair in enumerate(pairs)
    }


def make_record(result: PairResult | TunedPair, feeder_id: str = "f1") -> ParameterRecord:
    """Return the record of a tuned set, without the p-values, which an import may lack."""
    metrics = {**result.metrics, "skill": 0.05, "skill_se": 0.02, "exceedance": 0.11}
    pair = result.result.pair if isinstance(result, TunedPair) else result.pair
    return ParameterRecord(
        feeder_id, pair, result.time_ns, result.parameters, metrics, result.provenance
    )


def make_stored(known: TunedPair) -> StoredPair:
    """Return the same pair as one that was tuned elsewhere."""
    return StoredPair(make_record(known))


def make_report(
    results: dict[str, TunedPair | StoredPair] | None = None, *, side: str = "short", **changes: Any
) -> FeederReport:
    """Return a report of `results`, by default ten pairs that were tuned here."""
    results = make_results(side=side) if results is None else results
    stored = StoreContent(
        "sqlite user_data/feeder_params.sqlite (from default)",
        {
            pair: known.record if isinstance(known, StoredPair) else make_record(known)
            for pair, known in results.items()
        },
        dict.fromkeys(results, 3),
    )
    values = {
        "feeder_id": "feeder120b",
        "side": side,
        "pairs": tuple(results),
        "made_at": datetime(2026, 2, 20, 3, 15, tzinfo=UTC),
        "results": results,
        "stored": stored,
        "trials": make_trials(),
        **changes,
    }
    return FeederReport(**values)
