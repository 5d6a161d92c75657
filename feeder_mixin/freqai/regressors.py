"""One LightGBM regressor a target, in the class that FreqAI's own models of several targets have.

What must stay true: the models that FreqAI saves hold no class of ours, so that they load without us.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from freqtrade.freqai.base_models.FreqaiMultiOutputRegressor import FreqaiMultiOutputRegressor
from joblib import Parallel, delayed
from lightgbm import LGBMRegressor

from feeder_mixin.freqai.parameters import without_objective
from feeder_mixin.freqai.targets import Target


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What FreqAI's config and state say of a fit beside data and parameters.

    Attributes
    ----------
    init_models
        By target, what continual learning goes on from; empty: nothing.
    callbacks
        LightGBM's, made anew for every target.
    in_parallel
        ``freqai.multitarget_parallel_training``: a thread for every target.
    """

    init_models: Sequence[LGBMRegressor] = ()
    make_callbacks: Callable[[], list[Callable[..., Any]]] = list
    in_parallel: bool = False


def fit_regressors(
    data: Mapping[str, Any],
    parameters: Mapping[str, object],
    targets: Sequence[Target],
    options: FitOptions,
) -> LGBMRegressor | FreqaiMultiOutputRegressor:
    """Return the fitted model: a regressor of one target, or FreqAI's class around several.

    Parameters
    ----------
    data
        FreqAI's data dictionary; without test rows (``test_size`` 0) nothing is evaluated.
    parameters
        What every regressor is built from; a target with a quantile has its own objective.
    targets
        In the order of the label columns.
    """
    fits = [delayed(_fit_one)(data, parameters, targets, i, options) for i in range(len(targets))]
    n_jobs = len(targets) if options.in_parallel else 1
    fitted: list[LGBMRegressor] = list(Parallel(n_jobs=n_jobs, prefer="threads")(fits))
    if len(fitted) == 1:
        return fitted[0]
    model = FreqaiMultiOutputRegressor(estimator=LGBMRegressor(**parameters))
    model.estimators_ = fitted
    model.n_features_in_ = fitted[0].n_features_in_
    model.feature_names_in_ = fitted[0].feature_names_in_
    return model


def estimators_of(model: LGBMRegressor | FreqaiMultiOutputRegressor) -> list[LGBMRegressor]:
    """Return the regressors of a model, in the order of its targets."""
    return list(getattr(model, "estimators_", None) or [model])


def _fit_one(
    data: Mapping[str, Any],
    parameters: Mapping[str, object],
    targets: Sequence[Target],
    number: int,
    options: FitOptions,
) -> LGBMRegressor:
    objective = targets[number].objective
    own = {**without_objective(parameters), **objective} if objective else parameters
    has_test_rows = len(data["test_features"]) > 0
    model = LGBMRegressor(**own)
    model.fit(
        X=data["train_features"],
        y=_column(data["train_labels"], number),
        sample_weight=data["train_weights"],
        eval_set=[(data["test_features"], _column(data["test_labels"], number))]
        if has_test_rows
        else None,
        eval_sample_weight=[data["test_weights"]] if has_test_rows else None,
        init_model=options.init_models[number] if options.init_models else None,
        callbacks=options.make_callbacks(),
    )
    return model


def _column(labels: pd.DataFrame, number: int) -> pd.Series[Any]:
    return labels.iloc[:, number]
