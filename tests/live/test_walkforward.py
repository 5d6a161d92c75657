"""Walk-forward predictions: the live bot's values, and nothing of the future."""

from __future__ import annotations

import logging
import os
import pickle
import time

import numpy as np
import pytest

from feeder_mixin.errors import CandleError
from feeder_mixin.live.walkforward import WalkForward
from tests.candle_factory import write_candles
from tests.live.conftest import (
    BTC,
    ETH,
    N_CANDLES,
    PAIRS,
    SOL,
    World,
    host_frame,
    make_record,
    open_s,
    same,
)

LAST = 10_960
VERSION_NS = 1_795_000_000 * 10**9


@pytest.fixture
def walk(world, tmp_path, write_store):
    """Give a function that makes a backtest of a feeder on records of all pairs."""
    write_store(*(make_record(pair, VERSION_NS, num_leaves=20) for pair in PAIRS))

    def make(datadir=None, **feeder):
        settings = world.settings(tmp_path / "user_data", **feeder)
        return WalkForward(world.folder(settings, datadir), {})

    return make


def frame_of(world, pair, last=LAST, length=499):
    """Return the frame that ends at a candle."""
    return host_frame(world.candles[pair].iloc[: last + 1], length)


def test_truncating_later_candles_changes_nothing(world, walk, tmp_path):
    """A candle's value in a short backtest is that in a long one, bit for bit the same model."""
    long = walk().predict(ETH, frame_of(world, ETH, N_CANDLES - 1, 600))
    for last in (LAST, 10_944, 10_943, 10_800):
        short = walk().predict(ETH, frame_of(world, ETH, last, 300))
        both = np.isin(long.opens_s, short.opens_s)
        assert same(long.q[both], short.q[np.isin(short.opens_s, long.opens_s)])


def test_truncated_data_folder_changes_nothing(world, walk, tmp_path):
    """Candles after the frame are not looked at, on disk either: lookahead-analysis finds none."""
    whole = walk().predict(ETH, frame_of(world, ETH))
    short = walk(world.write(tmp_path / "cut", LAST + 1)).predict(ETH, frame_of(world, ETH))
    assert same(whole.q, short.q)


def test_later_candles_of_other_values_change_nothing(world, walk, tmp_path):
    """Whatever the future holds, of the pair or of its context: no earlier value moves."""
    other = {pair: frame.copy() for pair, frame in world.candles.items()}
    for frame in other.values():
        frame.iloc[LAST + 1 :] *= 3.0
    datadir = write_candles(tmp_path / "other", other)
    expected = walk().predict(ETH, frame_of(world, ETH))
    assert same(walk(datadir).predict(ETH, frame_of(world, ETH)).q, expected.q)


def test_one_object_for_growing_and_shrinking_frames_gives_each_its_own(world, walk):
    """lookahead-analysis asks one strategy for many frames, in any order."""
    kept = walk()
    for pair, last in ((ETH, 10_900), (BTC, LAST), (ETH, LAST), (ETH, 10_900)):
        got = kept.predict(pair, frame_of(world, pair, last))
        assert same(got.q, walk().predict(pair, frame_of(world, pair, last)).q)


def test_model_is_in_force_at_its_cut(world, walk, cuts_s):
    """Every candle goes by the last grid point at or before its open; the first ones, too."""
    columns = walk().predict(ETH, frame_of(world, ETH))
    assert np.isfinite(columns.q).all()
    assert (columns.generation == 1).all()
    names = {p.stem.split("-")[1] for p in walk()._model_dir.glob("ETH*.json")}
    assert names == {str(cut) for cut in cuts_s}


def test_retraining_grid_follows_the_setting(world, walk, cuts_s):
    """With retrain_hours 12 there are twice as many models, at noon and midnight UTC."""
    walk(retrain_hours=12.0).predict(ETH, frame_of(world, ETH, LAST, 200))
    cuts = sorted(int(p.stem.split("-")[1]) for p in walk()._model_dir.glob("ETH*.json"))
    assert cuts == [cuts_s[1], cuts_s[1] + 43_200, cuts_s[2]]


def test_pair_that_is_not_the_feeders_has_no_prediction_and_is_said(world, walk, caplog):
    """A pair outside the whitelist is never safe."""
    columns = walk(pairs=(ETH,)).predict(SOL, frame_of(world, SOL))
    assert np.isnan(columns.q).all()
    assert not columns.safe.any()
    assert f"No predictions for {SOL}" in caplog.text


def test_frame_newer_than_the_folder_is_predicted(world, walk, tmp_path):
    """Frames go on behind the folder's last candle, with the clock where the context ends."""
    datadir = world.write(tmp_path / "older", LAST - 20)
    columns = walk(datadir).predict(ETH, frame_of(world, ETH))
    assert np.isfinite(columns.q).all()


def test_frame_before_there_is_anything_to_learn_has_no_value(world, walk, caplog):
    """Without a finished label there is no model: NaN, never safe, said."""
    columns = walk(max_adverse_ratio=0.9).predict(ETH, frame_of(world, ETH, 4_300, 100))
    assert np.isnan(columns.q).all()
    assert not columns.safe.any()
    assert f"No model for {ETH}" in caplog.text


def test_candle_missing_on_disk_is_missing_here_though_the_host_fills_it(world, tmp_path, walk):
    """The host puts a flat candle into a hole; the tuner leaves rows out, and so does a backtest."""
    holed = dict(world.candles)
    hole = LAST - 30
    holed[ETH] = holed[ETH].drop(index=holed[ETH].index[hole])
    datadir = write_candles(tmp_path / "holed", holed)
    frame = frame_of(world, ETH)
    at = frame.index[frame["date"] == world.candles[ETH].index[hole]][0]
    flat = frame.loc[at - 1, "close"]
    frame.loc[at, ["open", "high", "low", "close"]] = flat
    frame.loc[at, "volume"] = 0.0
    columns = walk(datadir).predict(ETH, frame)
    assert np.isfinite(columns.q[:at]).all()
    assert np.isnan(columns.q[at:]).all()


def test_frame_without_a_candle_that_is_on_disk_shifts_no_value(world, walk):
    """Each value belongs to its own candle, also where the frame skips one."""
    whole = frame_of(world, ETH)
    expected = walk().predict(ETH, whole)
    gapped = walk().predict(ETH, whole.drop(index=[470]))
    assert same(gapped.q, np.delete(expected.q, 470))


def test_empty_folder_is_an_error(world, walk, tmp_path):
    """Without any context candle there is nothing to predict from, and it says so."""
    with pytest.raises(CandleError, match="no context pair has usable candles"):
        walk(tmp_path / "nothing").predict(ETH, frame_of(world, ETH))


def test_record_tuned_on_candles_of_the_frame_is_said_to_flatter(world, walk, write_store, caplog):
    """Hindsight is a WARNING that names both times; without it there is none."""
    walk().predict(ETH, frame_of(world, ETH))
    assert "flatters" not in caplog.text
    until = float(open_s(world.candles[ETH], LAST - 10))
    write_store(make_record(ETH, VERSION_NS + 1, {"candles_to_s": until}))
    walk().predict(ETH, frame_of(world, ETH))
    (line,) = [r.getMessage() for r in caplog.records if "flatters" in r.getMessage()]
    assert line.startswith(f"Parameters of {ETH} were tuned on candles up to 2025-11-08T00:30Z")


def test_record_that_beats_no_rule_is_never_safe(world, walk, write_store):
    """A backtest trades as the bot would: not at all there."""
    write_store(make_record(ETH, VERSION_NS + 1, {"beats_rule": 0.0}))
    columns = walk(max_adverse_ratio=0.9).predict(ETH, frame_of(world, ETH))
    assert np.isfinite(columns.q).all()
    assert not columns.safe.any()


def test_pickled_backtest_gives_the_same_values(world, walk):
    """Hyperopt's workers get it pickled, before or after its first use."""
    fresh = walk()
    expected = fresh.predict(ETH, frame_of(world, ETH))
    copies = [pickle.loads(pickle.dumps(made)) for made in (walk(), fresh)]  # noqa: S301 - our own
    assert len(pickle.dumps(fresh)) < 100_000  # neither tables nor trees
    for copy in copies:
        assert np.array_equal(copy.predict(ETH, frame_of(world, ETH)).q, expected.q)


def test_store_is_asked_once(world, walk, caplog):
    """All pairs of a backtest run on one load, said once."""
    caplog.set_level(logging.INFO, "feeder_mixin")
    kept = walk()
    for pair in PAIRS:
        kept.predict(pair, frame_of(world, pair, LAST, 50))
    lines = [r for r in caplog.records if r.getMessage().startswith("Loaded Optuna params for 3")]
    assert len(lines) == 1


def test_models_that_nobody_used_for_a_week_are_deleted(world, walk):
    """Backtests do not fill the disk; what this one needs stays or is made again."""
    walk().predict(ETH, frame_of(world, ETH, LAST, 50))
    folder = walk()._model_dir
    stale, fresh = folder / "stale.json", folder / "fresh.json"
    for path, age_days in ((stale, 8), (fresh, 6)):
        path.write_text("{}", encoding="utf-8")
        then = time.time() - age_days * 86_400
        os.utime(path, (then, then))
    walk().predict(ETH, frame_of(world, ETH, LAST, 50))
    assert (stale.exists(), fresh.exists()) == (False, True)


def test_world_is_not_changed_by_a_backtest(world: World, walk):
    """The frame that the host hands over stays as it is."""
    frame = frame_of(world, ETH, LAST, 50)
    before = frame.copy()
    walk().predict(ETH, frame)
    assert frame.equals(before)
