"""What a parameter set is worth on a fold: shared Datasets, fits as the bot's, losses by day."""

from __future__ import annotations

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest

from feeder_mixin.model.folds import Window
from feeder_mixin.model.metrics import pinball_loss
from feeder_mixin.model.quantile import booster_params, make_dataset
from feeder_mixin.model.scale import LabelScale
from feeder_mixin.schema import default_parameters
from feeder_mixin.tune.search.cells import Fold, FoldRows, forecast, losses, measure

DEFAULTS = default_parameters()
N_FOLDS, N_ROWS, N_FEATURES = 3, 600, 25


def make_arrays(seed: int):
    """Return inputs and a label whose spread depends on the first input."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N_ROWS, N_FEATURES)).astype(np.float32)
    return x, -np.abs(rng.normal(size=N_ROWS)) * np.exp(0.5 * x[:, 0])


ATR_SCALE = LabelScale(0, np.empty(0), np.empty(0), np.empty((0, 0)), {})


def make_folds(pooled: bool = False) -> list[Fold]:
    """Return random folds, scale 0.01, at level 0.10."""
    folds = []
    for number in range(N_FOLDS):
        x, z = make_arrays(number)
        x_scored, z_scored = make_arrays(100 + number)
        train = make_dataset(x, z)
        valid = make_dataset(x_scored, np.zeros(N_ROWS), reference=train)
        scale = np.full(N_ROWS, 0.01)
        rows = FoldRows(
            Window(0, 1),
            ATR_SCALE,
            x_scored,
            z_scored * scale,
            scale,
            opens_s=np.arange(N_ROWS) * 300,
            pooled_z=np.full(N_ROWS, -1.5) if pooled else None,
            rule_z=np.full(N_ROWS, -4.1),
        )
        folds.append(Fold(train, valid, rows, seed=7, leaf_share=1.0))
    return folds


@pytest.fixture(scope="module")
def folds() -> list[Fold]:
    """Return the folds of all tests of this module: nothing may change them."""
    return make_folds()


def test_many_sets_on_one_fold_build_no_dataset(folds, monkeypatch):
    """Datasets are built once per fold and shared by all sets: a rebuild is counted here."""
    builds = []
    original = lgb.Dataset._lazy_init
    monkeypatch.setattr(
        lgb.Dataset, "_lazy_init", lambda self, *a, **k: builds.append(1) or original(self, *a, **k)
    )
    rng = np.random.default_rng(1)
    for _ in range(10):
        parameters = {
            **DEFAULTS,
            "num_leaves": int(rng.integers(15, 64)),
            "min_child_samples": int(rng.integers(10, 51)),
            "max_depth": int(rng.integers(3, 13)),
            "reg_lambda": float(rng.uniform()),
        }
        for fold in folds:
            forecast(fold, parameters)
    assert builds == []
    make_folds()
    assert len(builds) == 2 * N_FOLDS  # the counter does count


def test_forecast_equals_a_fit_from_scratch(folds):
    """What is scored is the forecast of a model trained alone, to the last digit."""
    parameters = {
        **DEFAULTS, "learning_rate": 0.05, "num_leaves": 31, "max_depth": 6, "n_estimators": 137,
    }  # fmt: skip
    for number, fold in enumerate(folds):
        x, z = make_arrays(number)
        params = {**booster_params(parameters, 7), "metric": "none"}
        booster = lgb.train(params, make_dataset(x, z), 137)
        own = booster.predict(make_arrays(100 + number)[0])
        expected = 0.01 * (0.95 * own + 0.05 * -4.1)
        np.testing.assert_allclose(forecast(fold, parameters), expected, rtol=1e-12)
        loss = pinball_loss(fold.scored.excursion, expected, 0.10)
        assert losses(fold, parameters).mean() == pytest.approx(loss, rel=1e-12)
        assert measure(fold, parameters).mean == pytest.approx(loss, rel=1e-12)


def test_forecast_leaves_nothing_behind_on_the_shared_datasets(folds):
    """The same set again, behind a very different one: the same forecast."""
    first = forecast(folds[0], DEFAULTS)
    forecast(folds[0], {**DEFAULTS, "num_leaves": 63, "max_depth": 12, "min_child_samples": 10})
    np.testing.assert_array_equal(forecast(folds[0], DEFAULTS), first)


def test_forecast_is_what_the_bot_would_serve_own_and_pooled_weighted(folds):
    """Of the trees the pooled count 0.6, the ATR rule 0.05 of all."""
    alone, both = forecast(folds[0], DEFAULTS), forecast(make_folds(pooled=True)[0], DEFAULTS)
    rule, pooled = 0.01 * -4.1, 0.01 * -1.5
    trees = (alone - 0.05 * rule) / 0.95
    expected = 0.95 * (0.4 * trees + 0.6 * pooled) + 0.05 * rule
    np.testing.assert_allclose(both, expected, rtol=1e-12)


def test_thinned_rows_make_leaves_of_the_same_share(folds):
    """Half of the rows, half of the rows a leaf needs."""
    half = replace(folds[0], leaf_share=0.5)
    needs = {**DEFAULTS, "min_child_samples": 40}
    np.testing.assert_array_equal(
        forecast(half, needs), forecast(folds[0], {**needs, "min_child_samples": 20})
    )


def test_measured_losses_are_summed_by_day(folds):
    """Days in order; their sums are the loss of all rows."""
    found = measure(folds[0], DEFAULTS)
    assert found.n_rows == N_ROWS
    assert found.days == tuple(range(-(-N_ROWS * 300 // 86_400)))
    by_row = losses(folds[0], DEFAULTS)
    assert found.sums == pytest.approx(
        [by_row[:288].sum(), by_row[288:576].sum(), by_row[576:].sum()]
    )
