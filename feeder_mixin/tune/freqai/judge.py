"""What a pair's tuned set is worth where FreqAI would have served it: in the untouched test window.

Every contender is fitted once, at the window's cut, as FreqAI's training does: all rows of
``train_period_days``, one regressor a target, early stopping where the config asks for it. Losses are in units of
what the config's own values lose.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.freqai.dataset import Cut, Rows
from feeder_mixin.freqai.parameters import training_parameters
from feeder_mixin.freqai.regressors import FitOptions, estimators_of, fit_regressors
from feeder_mixin.model.folds import Layout
from feeder_mixin.model.metrics import (
    christoffersen_p,
    day_block_sums,
    exceedance,
    kupiec_p,
    mean_absolute_error,
    ratio_with_error,
    thinned_misses,
)
from feeder_mixin.settings import FREQAI_MODEL_TYPE, LabelSpec
from feeder_mixin.tune.freqai.folds import ScoredFold, checked_unit
from feeder_mixin.tune.judge.comparison import day_table
from feeder_mixin.tune.judge.contenders import CONFIG, RUNNING, TUNED, Contender
from feeder_mixin.tune.judge.evaluate import finite
from feeder_mixin.tune.judge.result import (
    Comparison,
    Evidence,
    MeasuredSet,
    PairResult,
    Score,
    TargetScores,
)
from feeder_mixin.tune.run.work import Found
from feeder_mixin.tune.search.space import key_of

Array = NDArray[np.float64]

_THREADS = ("n_jobs", "num_threads", "num_thread", "nthread", "nthreads")


@dataclass(frozen=True, slots=True)
class FreqaiJudgeTask:
    """What a worker needs to judge a pair, beside the strategy's site.

    Attributes
    ----------
    label
        Horizon and timeframe; its side is no one's.
    facts
        Metrics that are the same for all contenders.
    """

    pair: str
    layout: Layout
    label: LabelSpec
    found: Found
    facts: Mapping[str, float]
    provenance: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Forecast:
    """A contender's forecasts of the scored candles, shape (rows, targets), and their losses."""

    predicted: Array
    losses: Array


def fit_as_freqai(
    cut: Cut, block: Mapping[str, object], tuned: Mapping[str, float] | None
) -> NDArray[np.float64]:
    """Return the predictions of the scored rows by a model that FreqAI would have trained at a cut.

    Parameters
    ----------
    block
        The config's ``model_training_parameters``.
    tuned
        A record's ten values; None: the block as it is.

    Returns
    -------
    Scaled as the models give them; shape (all candles after the cut, targets).
    """
    parameters = {k: v for k, v in training_parameters(block, tuned).items() if k not in _THREADS}
    parameters |= {"n_jobs": 1, "verbosity": -1}
    data = {**_frames(cut, cut.train, "train"), **_frames(cut, cut.stop, "test")}
    model = fit_regressors(data, parameters, cut.targets, FitOptions())
    features = pd.DataFrame(cut.scored.features, columns=list(cut.names))
    return np.column_stack([one.predict(features) for one in estimators_of(model)])


def _frames(cut: Cut, rows: Rows, part: str) -> dict[str, Any]:
    columns = [target.name for target in cut.targets]
    return {
        f"{part}_features": pd.DataFrame(rows.features, columns=list(cut.names)),
        f"{part}_labels": pd.DataFrame(rows.labels, columns=columns),
        f"{part}_weights": rows.weights,
    }


def judge(
    cut: Cut, task: FreqaiJudgeTask, block: Mapping[str, object], config: Mapping[str, float]
) -> PairResult:
    """Compare what the search gives a pair with the other contenders, and return what came of it.

    Parameters
    ----------
    cut
        Of the test window.
    config
        The ten values that the block makes.
    """
    found = task.found
    sets: dict[Contender, Mapping[str, float]] = {CONFIG: dict(config)}
    if found.champion:
        sets[RUNNING] = dict(found.champion)
    sets[TUNED] = found.tuned
    scored = ScoredFold.of(cut)
    forecasts = _forecasts(cut, scored, block, sets)
    unit = checked_unit(cut, forecasts[CONFIG].losses)
    by_day: dict[str, Array] = {
        name: day_block_sums((one.losses / unit).mean(axis=1), scored.opens_s)
        for name, one in forecasts.items()
    }
    table = day_table(scored.opens_s, by_day)
    scores: dict[str, Score] = {
        name: _score(cut, scored, task.label, one, (by_day[CONFIG], by_day[name]))
        for name, one in forecasts.items()
    }
    gain, error = ratio_with_error(by_day[CONFIG] - by_day[TUNED], by_day[CONFIG])
    targets = _target_scores(cut, scored, forecasts, unit)
    facts = {
        **task.facts,
        **cut.tuned_on.metrics,
        "optimization_trials": float(found.study.n_trials),
        "optimization_time": found.spent_s,
        "training_samples": float(len(cut.train)),
    }
    best_trial: dict[Contender, float] = {CONFIG: 0.0, TUNED: float(found.own.winner)}
    measured = {
        name: MeasuredSet(
            dict(parameters),
            {
                **_metrics(scores[name]),
                **facts,
                **({"best_trial": best_trial[name]} if name in best_trial else {}),
                "defaults_won": 0.0,
                "feeder_won": float(key_of(parameters) == key_of(found.study.parameters)),
            },
        )
        for name, parameters in sets.items()
    }
    return PairResult(
        pair=task.pair,
        time_ns=time.time_ns(),
        evidence=Evidence(
            measured,
            Comparison(scores, table, table, gain, finite(error)),
            n_independent=len(scored.opens_s) / task.label.horizon,
            is_feeders=found.own.winner == found.study.winner,
            targets=targets,
        ),
        provenance={**task.provenance, "targets": _told(targets)},
        alpha=_only_level(cut),
        max_adverse_ratio=None,
        labelled_days=task.layout.labelled_days,
        decision_value=None,
        chart=None,
        study=found.study,
        own=found.own,
        scale_is_fallback=False,
        model_type=FREQAI_MODEL_TYPE,
    )


def _forecasts(
    cut: Cut,
    scored: ScoredFold,
    block: Mapping[str, object],
    sets: Mapping[Contender, Mapping[str, float]],
) -> dict[Contender, _Forecast]:
    """Return every contender's forecasts; equal sets are fitted once."""
    rows = np.searchsorted(cut.scored.opens_s, scored.opens_s)
    known: dict[tuple[float, ...], _Forecast] = {}
    for name, parameters in sets.items():
        if key_of(parameters) not in known:
            raw = fit_as_freqai(cut, block, None if name == CONFIG else parameters)[rows]
            known[key_of(parameters)] = _Forecast(cut.in_label_units(raw), scored.losses(raw))
    return {name: known[key_of(parameters)] for name, parameters in sets.items()}


def _only_level(cut: Cut) -> float | None:
    """Return the level of the only target; None where there are several, or none is asked for."""
    return cut.targets[0].quantile if len(cut.targets) == 1 else None


def _score(
    cut: Cut,
    scored: ScoredFold,
    label: LabelSpec,
    forecast: _Forecast,
    by_day: tuple[Array, Array],
) -> Score:
    """Return a contender's score: skill over the config's own values.

    Parameters
    ----------
    by_day
        Losses of the config's own values, and of the contender.
    """
    config, own = by_day
    skill, error = ratio_with_error(config - own, config)
    alpha = _only_level(cut)
    y, q = scored.labels[:, 0], np.ascontiguousarray(forecast.predicted[:, 0])
    misses = None if alpha is None else thinned_misses(y, q, scored.opens_s, label)
    return Score(
        skill=skill,
        skill_se=finite(error),
        mae=mean_absolute_error(y, q) if len(cut.targets) == 1 else None,
        exceedance=None if alpha is None else exceedance(y, q),
        safety_accuracy=None,
        predicted_safe_share=None,
        realised_safe_share=None,
        false_positive_rate=None,
        false_negative_rate=None,
        kupiec_p=None if misses is None or alpha is None else kupiec_p(misses, alpha),
        christoffersen_p=None if misses is None else christoffersen_p(misses),
    )


def _metrics(score: Score) -> dict[str, float]:
    """Return a score as a record has it."""
    values = {
        "test_mae": score.mae,
        "skill": score.skill,
        "skill_se": score.skill_se,
        "exceedance": score.exceedance,
        "kupiec_p": score.kupiec_p,
        "christoffersen_p": score.christoffersen_p,
    }
    return {name: value for name, value in values.items() if value is not None}


def _target_scores(
    cut: Cut, scored: ScoredFold, forecasts: Mapping[Contender, _Forecast], unit: Array
) -> tuple[TargetScores, ...]:
    return tuple(
        TargetScores(
            target.name,
            target.quantile,
            {
                name: float(one.losses[:, number].mean() / unit[number])
                for name, one in forecasts.items()
            },
            {
                name: float(np.mean(scored.labels[:, number] < one.predicted[:, number]))
                for name, one in forecasts.items()
            },
        )
        for number, target in enumerate(cut.targets)
    )


def _told(targets: tuple[TargetScores, ...]) -> dict[str, object]:
    """Return what a record's provenance says of each target's tuned model."""
    return {
        one.name: {
            "level": one.level,
            "loss_against_config": round(one.losses[TUNED], 6),
            "share_below": round(one.shares[TUNED], 6),
        }
        for one in targets
    }
