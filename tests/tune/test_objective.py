"""What a trial does: shared Datasets, learning curve, pruning."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
import pytest

from feeder_mixin.model.folds import Window
from feeder_mixin.model.metrics import pinball_loss
from feeder_mixin.model.quantile import booster_params, make_dataset
from feeder_mixin.model.scale import LabelScale
from feeder_mixin.schema import default_parameters
from feeder_mixin.tune.search._objective import (
    MAX_TREES,
    MIN_TREES,
    PRUNE_AT,
    Curve,
    Draw,
    Fold,
    FoldRows,
    PrunedError,
    grow,
)

DEFAULTS = default_parameters()
N_FOLDS, N_ROWS, N_FEATURES = 3, 600, 25


def make_arrays(seed: int):
    """Return inputs and a label whose spread depends on the first input."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N_ROWS, N_FEATURES)).astype(np.float32)
    return x, -np.abs(rng.normal(size=N_ROWS)) * np.exp(0.5 * x[:, 0])


ATR_SCALE = LabelScale(0, np.empty(0), np.empty(0), np.empty((0, 0)), {})


def make_draw(pooled: bool = False) -> Draw:
    """Return a draw of random folds, scale 0.01."""
    folds = []
    for number in range(N_FOLDS):
        x, z = make_arrays(number)
        x_scored, z_scored = make_arrays(100 + number)
        train = make_dataset(x, z)
        valid = make_dataset(x_scored, np.zeros(N_ROWS), reference=train)
        scale = np.full(N_ROWS, 0.01)
        pooled_z = np.tile(np.array([[-2.0], [-1.5], [-1.2], [-1.0]]), N_ROWS) if pooled else None
        opens_s = np.arange(N_ROWS) * 300
        rows = FoldRows(
            Window(0, 1),
            ATR_SCALE,
            x_scored,
            z_scored * scale,
            scale,
            opens_s,
            pooled_z,
            atr_z=np.full(N_ROWS, 0.5),
            rule_ratios=np.linspace(-9.0, -1.0, 81),
        )
        folds.append(Fold(train, valid, rows))
    return Draw(tuple(folds), seed=7)


@pytest.fixture(scope="module")
def draw() -> Draw:
    """Return one draw for all tests of this module: nothing may change it."""
    return make_draw()


def test_grow_many_trials_on_one_draw_builds_no_dataset(draw, monkeypatch):
    """Datasets are built once per fold and shared by all trials: a rebuild is counted here."""
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
            "quantile_alpha": float(rng.uniform(0.05, 0.2)),
        }
        grow(draw, parameters, fixed_trees=100)
    assert builds == []
    make_draw()
    assert len(builds) == 2 * N_FOLDS  # the counter does count


def test_grow_equals_fits_from_scratch(draw):
    """The served forecast of a trial is that of models trained alone, to the last digit."""
    parameters = {**DEFAULTS, "learning_rate": 0.05, "num_leaves": 31, "max_depth": 6}
    curve = grow(draw, parameters, fixed_trees=120)
    expected = []
    for number in range(N_FOLDS):
        x, z = make_arrays(number)
        params = {**booster_params(parameters, 7), "metric": "none"}
        booster = lgb.train(params, make_dataset(x, z), 120)
        own, rule = booster.predict(make_arrays(100 + number)[0]) * 0.01, 0.01 * 0.5 * -8.2
        expected.append(0.95 * own + 0.05 * rule)
    np.testing.assert_allclose(curve.forecasts, np.concatenate(expected), rtol=1e-12)
    truth = np.concatenate([fold.scored.excursion for fold in draw.folds])
    assert curve.losses[-1] == pytest.approx(
        pinball_loss(truth, np.concatenate(expected), 0.10), rel=1e-12
    )


def test_grow_same_parameters_twice_gives_the_same_curve(draw):
    """Trials leave nothing behind on the shared Datasets."""
    first = grow(draw, DEFAULTS)
    grow(draw, {**DEFAULTS, "num_leaves": 63, "max_depth": 12, "min_child_samples": 10})
    second = grow(draw, DEFAULTS)
    assert first.losses == second.losses
    assert first.trees == second.trees


def test_grow_scores_what_the_bot_would_serve_own_and_pooled_weighted():
    """Of the trees the pooled count 0.6, the ATR rule 0.05 of all, at the trial's own level."""
    with_pooled, alone = make_draw(pooled=True), make_draw()
    parameters = {**DEFAULTS, "quantile_alpha": 0.125}
    own = grow(alone, parameters, fixed_trees=100).forecasts
    both = grow(with_pooled, parameters, fixed_trees=100).forecasts
    pooled = 0.01 * (-1.5 + -1.2) / 2  # halfway between the levels 0.10 and 0.15
    rule = 0.01 * 0.5 * -8.0  # the constant is an eighth of the way from -9 to -1
    trees = (own - 0.05 * rule) / 0.95
    expected = 0.95 * (0.4 * trees + 0.6 * pooled) + 0.05 * rule
    np.testing.assert_allclose(both, expected, rtol=1e-12)


@pytest.mark.parametrize("trees", [100, 137, 1000], ids=["low", "odd", "high"])
def test_grow_fixed_trees_fits_exactly_that_many(draw, trees):
    """`--fix n_estimators=N` means N."""
    curve = grow(draw, DEFAULTS, fixed_trees=trees, report=lambda _n, _loss: False)
    assert curve.trees[-1] == trees


def test_grow_stops_all_folds_together_when_the_averaged_curve_stops_improving(draw):
    """A high rate overfits early: growth ends near the smallest model."""
    curve = grow(draw, {**DEFAULTS, "learning_rate": 0.1, "num_leaves": 63, "max_depth": 12})
    assert MIN_TREES <= curve.trees[-1] < 300


def test_grow_goes_on_while_the_curve_improves(draw):
    """A low rate that still learns gets more trees, inside the schema's range."""
    curve = grow(draw, {**DEFAULTS, "learning_rate": 0.004})
    assert 300 < curve.best()[0] <= MAX_TREES


def test_best_ignores_points_below_the_smallest_model():
    """Pruning points are no candidates for the tree count."""
    curve = Curve((20, 60, 100, 120), (0.1, 0.2, 0.5, 0.4), np.empty(0))
    assert curve.best() == (120, 0.4)


def test_grow_pruned_says_where_and_how_good(draw):
    """A pruned trial costs the trees up to its checkpoint, and reports its loss there."""
    seen = []
    with pytest.raises(PrunedError) as stopped:
        grow(draw, DEFAULTS, report=lambda n, loss: seen.append((n, loss)) or n == PRUNE_AT[1])
    assert [n for n, _ in seen] == list(PRUNE_AT)
    assert (stopped.value.trees, stopped.value.loss) == seen[-1]
