"""What a set is worth on a fold: units, draws, fits that are given up, and folds that can't be judged."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import lightgbm as lgb
import numpy as np
import pytest

pytest.importorskip("datasieve", reason="FreqAI's packages: make setup EXTRAS=freqai")

from feeder_mixin.errors import CandleError, ModelError
from feeder_mixin.freqai.dataset import Cut, Rows, ScoredRows
from feeder_mixin.freqai.parameters import config_parameters
from feeder_mixin.freqai.targets import Target, TunedOn
from feeder_mixin.schema import default_parameters
from feeder_mixin.tune.freqai.folds import FreqaiFold, larger_steps
from feeder_mixin.tune.search.kept import SEARCHED_DRAW
from feeder_mixin.tune.search.space import key_of

TARGETS = (Target("&-low", 0.1), Target("&-close"))
BLOCK = {"n_estimators": 60, "learning_rate": 0.3, "num_leaves": 31}
SLOW = {**default_parameters(), "learning_rate": 0.02}
OVERFITTED = {
    **default_parameters(),
    "learning_rate": 0.1,
    "n_estimators": 1000,
    "num_leaves": 63,
    "max_depth": 12,
}
CUT_S = 1_760_000_000


class AsTheyAre:
    """A label pipeline that scales nothing."""

    def inverse_transform(self, frame):
        """Return the labels as they are."""
        return frame, None, None


def make_cut(*, labels=None, predicted=True, n=2_400) -> Cut:
    """Return a cut whose labels hang on the first feature a little."""
    random = np.random.default_rng(1)
    x = random.normal(size=(n, 4)).astype(np.float32)
    y = (0.3 * x[:, :2] + random.normal(size=(n, 2))) if labels is None else labels(n)
    train, scored = slice(0, n // 2), slice(n // 2, n)
    opens_s = CUT_S + 300 * np.arange(n // 2)
    rows = Rows(x[train], y[train].astype(np.float32), np.ones(n // 2, np.float32))
    nothing = Rows(x[:0], y[:0].astype(np.float32), np.ones(0, np.float32))
    return Cut(
        pair="ETH/USDT:USDT",
        cut=datetime.fromtimestamp(CUT_S, UTC),
        targets=TARGETS,
        names=("a", "b", "c", "d"),
        tuned_on=TunedOn(1, 2),
        train=rows,
        stop=nothing,
        scored=ScoredRows(opens_s, x[scored], y[scored], np.full(n // 2, predicted)),
        label_pipeline=AsTheyAre(),
    )


def make_fold(**changes) -> FreqaiFold:
    """Return a fold of it; labels of six candles."""
    return FreqaiFold(make_cut(**changes), BLOCK, key_of(config_parameters(BLOCK)), 6, seed=7)


def test_the_configs_own_values_lose_one_and_better_ones_less():
    """By day and target, in units of the config's own loss: 1 a row on every draw."""
    fold, start = make_fold(), config_parameters(BLOCK)
    for draw in (SEARCHED_DRAW, 1):
        own = fold.measure(draw, start, key_of(start))
        assert own.mean == pytest.approx(1.0)
        assert sum(own.sums) == pytest.approx(own.n_rows)
        assert fold.measure(draw, SLOW, key_of(SLOW)).mean < 1.0


def test_a_cell_depends_on_its_set_and_draw_alone():
    """Whatever was measured before, and on whichever worker."""
    one, other = make_fold(), make_fold()
    other.measure(SEARCHED_DRAW, OVERFITTED, key_of(OVERFITTED))
    assert one.measure(1, SLOW, key_of(SLOW)) == other.measure(1, SLOW, key_of(SLOW))
    draws = {one.measure(draw, SLOW, key_of(SLOW)).mean for draw in (SEARCHED_DRAW, 1, 2)}
    assert len(draws) == 3


def test_a_fit_that_only_gets_worse_is_given_up_and_told_as_worse(monkeypatch):
    """A thousand large steps cost a few, and the rest is told at that pace: worse than the config's own."""
    fold, grown = make_fold(), []
    update = lgb.Booster.update
    monkeypatch.setattr(
        lgb.Booster, "update", lambda self, *a, **k: grown.append(1) or update(self, *a, **k)
    )
    start = config_parameters(BLOCK)
    fold.measure(SEARCHED_DRAW, start, key_of(start))
    n_start = len(grown)
    lost = fold.measure(SEARCHED_DRAW, OVERFITTED, key_of(OVERFITTED)).mean
    assert len(grown) - n_start < 2 * 500
    assert lost > 1.0


def test_small_steps_are_taken_together_on_the_searchs_own_draw_only():
    """As far in all; a rate that is large already stays."""
    rate, trees = larger_steps({"learning_rate": 0.005}, 800)
    assert (rate, trees) == (pytest.approx(0.03, rel=0.01), 133)
    assert larger_steps({"learning_rate": 0.05}, 200) == (0.05, 200)


def test_a_fold_that_can_not_be_judged_is_named():
    """A target that does not vary, and candles that FreqAI believes in nowhere."""
    fold = make_fold(labels=lambda n: np.zeros((n, 2)))
    with pytest.raises(ModelError, match="ETH/USDT:USDT: target &-low has a loss of 0"):
        fold.measure(SEARCHED_DRAW, SLOW, key_of(SLOW))
    with pytest.raises(
        CandleError, match=r"no candle with label after .* that FreqAI would predict"
    ):
        make_fold(predicted=False)


def test_early_stopping_of_the_config_stops_trials_too():
    """On FreqAI's own test rows; more trees than it leaves change nothing."""
    cut = make_cut()
    half = len(cut.train) // 2
    parts = [
        Rows(cut.train.features[rows], cut.train.labels[rows], cut.train.weights[rows])
        for rows in (slice(0, half), slice(half, None))
    ]
    cut = replace(cut, train=parts[0], stop=parts[1])
    block = {**BLOCK, "early_stopping_rounds": 5}
    fold = FreqaiFold(cut, block, key_of(config_parameters(block)), 6, seed=7)
    many = {**OVERFITTED, "n_estimators": 500}
    found = {fold.measure(1, one, key_of(one)).mean for one in (OVERFITTED, many)}
    assert len(found) == 1
