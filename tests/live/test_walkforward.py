"""Walk-forward predictions: the live bot's values, and nothing of the future."""

from __future__ import annotations

import logging
import math
import os
import pickle
import re
import time
from pathlib import Path

import numpy as np
import pytest

from feeder_mixin.errors import CandleError
from feeder_mixin.live.train.walkforward import WalkForward
from feeder_mixin.market.features import labels
from feeder_mixin.model.calibration import next_theta
from feeder_mixin.model.quantile import SafetyModel
from feeder_mixin.model.rows import DAY_S, open_seconds
from feeder_mixin.schema import hash48
from tests.candle_factory import write_candles
from tests.live.conftest import (
    BTC,
    ETH,
    FRAME,
    HORIZON,
    LAST_MIDNIGHT,
    N_CANDLES,
    PAIRS,
    SOL,
    STEP_S,
    World,
    host_frame,
    loaded_pair,
    market_record,
    open_s,
    same,
    uncalibrated,
)

LAST = LAST_MIDNIGHT + 16
FIRST_MODEL = 4_320  # the first midnight that has the least rows: 200 candles after the warm-up
VERSION_NS = 1_795_000_000 * 10**9


@pytest.fixture
def walk(world, tmp_path, fitting_walk):
    """Give a function that makes a backtest of a feeder; it may find models of other tests."""
    world.share_backtest_models(world.settings(tmp_path / "user_data"))
    return fitting_walk


@pytest.fixture
def fitting_walk(world, tmp_path, write_store):
    """Give a function that makes a backtest, on records of all pairs, that fits its own models."""
    write_store(*(market_record(pair, VERSION_NS, num_leaves=20) for pair in PAIRS))

    def make(datadir=None, **feeder):
        settings = world.settings(tmp_path / "user_data", **feeder)
        return WalkForward(world.folder(settings, datadir), {})

    return make


def frame_of(world, pair, last=LAST, length=FRAME):
    """Return the frame that ends at a candle."""
    return host_frame(world.candles[pair].iloc[: last + 1], length)


def test_truncating_later_candles_changes_nothing(world, walk, tmp_path):
    """A candle's value in a short backtest is that in a long one, bit for bit the same model."""
    long = walk().predict(ETH, frame_of(world, ETH, N_CANDLES - 1, 600))
    for last in (LAST, LAST_MIDNIGHT, LAST_MIDNIGHT - 1, LAST_MIDNIGHT - 144):
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
    for pair, last in ((ETH, LAST - 60), (BTC, LAST), (ETH, LAST), (ETH, LAST - 60)):
        got = kept.predict(pair, frame_of(world, pair, last))
        assert same(got.q, walk().predict(pair, frame_of(world, pair, last)).q)


def test_model_is_in_force_at_its_cut(world, fitting_walk, tmp_path, cuts_s):
    """Every candle goes by the last grid point at or before its open; the first ones, too."""
    columns = fitting_walk().predict(ETH, frame_of(world, ETH))
    assert np.isfinite(columns.q).all()
    assert (columns.generation == 1).all()
    before = [cuts_s[0] - 2 * DAY_S, cuts_s[0] - DAY_S]  # what calibrates the first one
    assert cuts_of(model_folder(world, tmp_path)) == [*before, *cuts_s]


def model_folder(world: World, tmp_path) -> Path:
    """Return where a backtest of `fitting_walk` keeps its models."""
    return world.settings(tmp_path / "user_data").state_dir / "backtest_models"


def cuts_of(folder: Path) -> list[int]:
    """Return the cuts for which there is a model of ETH."""
    return sorted(int(p.stem.split("-")[1]) for p in folder.glob("ETH*.json"))


def test_retraining_grid_follows_the_setting(world, fitting_walk, tmp_path, cuts_s):
    """With retrain_hours 12 there are twice as many models, at noon and midnight UTC."""
    fitting_walk(retrain_hours=12.0).predict(ETH, frame_of(world, ETH, LAST, 200))
    first = cuts_s[1] - 2 * DAY_S
    assert cuts_of(model_folder(world, tmp_path)) == [
        *range(first, cuts_s[1], 43_200),
        cuts_s[1],
        cuts_s[1] + 43_200,
        cuts_s[2],
    ]


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
    assert f"No candle of this range has a model, so none is safe pair={ETH}" in caplog.text


@pytest.mark.parametrize("length", [1, 12, 20])
def test_hole_on_disk_serves_what_the_hosts_flat_candles_serve(world, tmp_path, walk, length):
    """A hole costs rows from its third candle on; one of over an hour those behind it, too."""
    hole = LAST - 60
    rows = slice(hole, hole + length)
    holed, filled = dict(world.candles), dict(world.candles)
    holed[ETH] = holed[ETH].drop(index=holed[ETH].index[rows])
    flat = filled[ETH].copy()
    flat.iloc[rows, :4] = flat["close"].iloc[hole - 1]
    flat.iloc[rows, 4] = 0.0
    filled[ETH] = flat
    frame = host_frame(flat.iloc[: LAST + 1])
    q = {}
    for name, candles in (("holed", holed), ("filled", filled)):
        columns = walk(write_candles(tmp_path / name, candles)).predict(ETH, frame)
        q[name] = columns.q
        assert not columns.safe[np.isnan(columns.q)].any()
    at = frame.index[frame["date"] == world.candles[ETH].index[hole]][0]
    lost = slice(at + 2, at + length) if length <= 12 else slice(at + 2, None)
    expected = np.zeros(len(frame), bool)
    expected[lost] = True
    for values in q.values():
        np.testing.assert_array_equal(np.isnan(values), expected)
    np.testing.assert_array_equal(q["holed"][:at], q["filled"][:at])
    # Labels over the hole calibrate nothing, and train no later model, where it is known to be one.
    np.testing.assert_allclose(q["holed"], q["filled"], rtol=5e-2)


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


def test_record_tuned_on_candles_of_the_frame_is_said_to_be_in_sample(
    world, walk, write_store, caplog
):
    """Hindsight is a WARNING that names both times; without it there is none."""
    walk().predict(ETH, frame_of(world, ETH))
    assert "in-sample" not in caplog.text
    until = float(open_s(world.candles[ETH], LAST - 10))
    write_store(market_record(ETH, VERSION_NS + 1, metrics={"candles_to_s": until}))
    walk().predict(ETH, frame_of(world, ETH))
    (line,) = [r.getMessage() for r in caplog.records if "in-sample" in r.getMessage()]
    assert line.startswith(f"Parameters of {ETH} were tuned on candles up to 2025-10-27T00:30Z")


def test_record_that_beats_no_rule_is_never_safe(world, walk, write_store):
    """A backtest trades as the bot would: not at all there."""
    write_store(market_record(ETH, VERSION_NS + 1, metrics={"beats_rule": 0.0}))
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


def test_models_that_nobody_used_for_a_week_are_deleted(world, fitting_walk, tmp_path):
    """Backtests do not fill the disk; what this one needs stays or is made again."""
    fitting_walk().predict(ETH, frame_of(world, ETH, LAST, 50))
    folder = model_folder(world, tmp_path)
    stale, fresh = folder / "stale.json", folder / "fresh.json"
    for path, age_days in ((stale, 8), (fresh, 6)):
        path.write_text("{}", encoding="utf-8")
        then = time.time() - age_days * 86_400
        os.utime(path, (then, then))
    fitting_walk().predict(ETH, frame_of(world, ETH, LAST, 50))
    assert (stale.exists(), fresh.exists()) == (False, True)


def test_world_is_not_changed_by_a_backtest(world: World, walk):
    """The frame that the host hands over stays as it is."""
    frame = frame_of(world, ETH, LAST, 50)
    before = frame.copy()
    walk().predict(ETH, frame)
    assert frame.equals(before)


# ------------------------------------------------------------------ calibration


def test_every_candle_is_calibrated_by_the_two_days_before_its_cut(world, walk, cuts_s):
    """From theta 0 there, by the forecasts in force then, over the ended labels: as defined."""
    forward = walk()
    columns = forward.predict(ETH, frame_of(world, ETH))
    folder = forward.folder
    days = [cuts_s[0] - 2 * DAY_S, cuts_s[0] - DAY_S, *cuts_s]
    pair = world.serve(folder, loaded_pair(ETH, num_leaves=20), tuple(days))
    table = world.trainer(folder).market.build(world.candles[ETH].iloc[: LAST + 1])
    opens_s, label = open_seconds(table), labels(table, "long")
    raw = np.full(len(table), np.nan)
    for serving, next_s in zip(pair.servings, [*days[1:], days[-1] + DAY_S], strict=True):
        rows = (opens_s >= serving.first_candle_s) & (opens_s < next_s)
        raw[rows] = serving.model.safety.predict(table[rows])
    moved = 0.0
    for cut_s in cuts_s:
        theta, taken, served = 0.0, 0, {}
        inside = np.flatnonzero((opens_s >= cut_s - 2 * DAY_S) & (opens_s < cut_s + DAY_S))
        for row in inside:
            while opens_s[inside[taken]] + HORIZON * STEP_S <= opens_s[row]:
                earlier = inside[taken]
                theta = next_theta(theta, label[earlier], served[earlier], 0.1)
                taken += 1
            served[row] = raw[row] * math.exp(theta)
            at = np.flatnonzero(columns.opens_s == opens_s[row])
            if len(at) and opens_s[row] >= cut_s:
                assert columns.q[at[0]] == pytest.approx(served[row], rel=0, abs=1e-12)
                moved = max(moved, abs(theta))
    assert moved > 0.001


@pytest.mark.parametrize("length", [1, 40, 300, 900])
def test_value_does_not_hang_on_where_the_frame_begins(world, walk, length):
    """What recursive-analysis looks for: a longer past changes no candle."""
    whole = walk().predict(ETH, frame_of(world, ETH))
    other = walk().predict(ETH, frame_of(world, ETH, LAST, length))
    n = min(length, FRAME)
    assert same(other.q[-n:], whole.q[-n:])


def test_days_before_the_first_model_calibrate_nothing(world, walk, caplog):
    """Where the candles begin there is no past: the first model serves what it forecasts."""
    forward, frame = walk(), frame_of(world, ETH, FIRST_MODEL + 287, 600)
    columns = forward.predict(ETH, frame)
    raw = uncalibrated(walk(), ETH, frame)
    first = np.flatnonzero(np.isfinite(raw))[:HORIZON]
    assert np.isnan(columns.q[: first[0]]).all()
    assert np.array_equal(columns.q[first], raw[first])
    assert np.mean(columns.q[first[-1] + 1 :] != raw[first[-1] + 1 :]) > 0.9
    assert f"Candles before the first model are never safe pair={ETH}" in caplog.text
    caplog.clear()
    walk().predict(ETH, frame_of(world, ETH, FIRST_MODEL + 287, 100))
    assert "No model" not in caplog.text  # of days that only calibrate


@pytest.fixture
def n_predicted(monkeypatch) -> list[int]:
    """Give the number of rows of every forecast that is made."""
    rows = []
    predict = SafetyModel.predict

    def counted(model, table):
        rows.append(len(table))
        return predict(model, table)

    monkeypatch.setattr(SafetyModel, "predict", counted)
    return rows


def test_every_row_is_forecast_once_in_a_process(world, walk, n_predicted):
    """Neither cuts that share days nor frames that share candles ask a model again."""
    first = walk().predict(ETH, frame_of(world, ETH))
    assert sum(n_predicted) == 4 * 288 + len_today(world)
    n_predicted.clear()
    again = walk().predict(ETH, frame_of(world, ETH))
    assert np.array_equal(first.q, again.q)
    assert n_predicted == [len_today(world)]


def len_today(world) -> int:
    """Return how many candles the last day has up to `LAST`."""
    return open_s(world.candles[ETH], LAST) % DAY_S // STEP_S + 1


@pytest.mark.parametrize("pair", [ETH, SOL], ids=["own", "context"])
def test_forecasts_of_other_candles_are_made_anew(world, walk, tmp_path, n_predicted, pair):
    """What a process keeps is of these very candles: of the pair, and of its context."""
    before = walk().predict(ETH, frame_of(world, ETH))
    n_predicted.clear()
    other = {p: frame.copy() for p, frame in world.candles.items()}
    other[pair].iloc[LAST - 350 : LAST - 340] *= 1.01
    columns = walk(write_candles(tmp_path / "other", other)).predict(ETH, frame_of(world, ETH))
    assert len(n_predicted) >= 2
    later = columns.opens_s > open_s(world.candles[ETH], LAST - 339)
    assert (columns.q[later] != before.q[later]).all()


def warm_up_warnings(caplog):
    """Return what was said of candles without a model."""
    return [r.getMessage() for r in caplog.records if "first_model=" in r.getMessage()]


def test_range_inside_the_warm_up_says_once_a_pair_when_a_model_is_possible(world, walk, caplog):
    """A backtest without a single model names the pair and a date, and shows no epoch."""
    backtest, candles = walk(), world.candles[ETH]
    for _ in range(2):
        columns = backtest.predict(ETH, frame_of(world, ETH, last=FIRST_MODEL - 100))
        assert np.isnan(columns.q).all()
    (said,) = warm_up_warnings(caplog)
    first = f"{candles.index[FIRST_MODEL]:%Y-%m-%dT%H:%MZ}"
    assert f"No candle of this range has a model, so none is safe pair={ETH} " in said
    assert f"candles=499 without_model=499 first_model={first} " in said
    assert f"candles_begin={candles.index[0]:%Y-%m-%dT%H:%MZ}" in said
    assert not re.search(r"\b1[0-9]{9}\b", caplog.text)


def test_range_that_begins_in_the_warm_up_counts_the_candles_before_the_first_model(
    world, walk, caplog
):
    """From the date that was said on there are values, and not one candle earlier."""
    columns = walk().predict(ETH, frame_of(world, ETH, last=FIRST_MODEL + 100))
    n_before = int(np.isnan(columns.q).sum())
    assert np.isfinite(columns.q[n_before:]).all()
    assert columns.opens_s[n_before] == open_s(world.candles[ETH], FIRST_MODEL)
    (said,) = warm_up_warnings(caplog)
    assert f"without_model={n_before} " in said
    assert "Candles before the first model" in said


def test_range_behind_the_warm_up_says_nothing_of_it(world, walk, caplog):
    """Where every candle has a model there is nothing to warn of."""
    assert np.isfinite(walk().predict(ETH, frame_of(world, ETH)).q).all()
    assert not warm_up_warnings(caplog)


def test_identity_changes_with_records_and_candles_alone(world, walk, write_store, tmp_path):
    """What finds an earlier result: equal for an unchanged store, another after each change."""
    datadir = world.write(tmp_path / "data")
    identities = [walk(datadir).identity(), walk(datadir).identity()]
    assert len(set(identities)) == 1
    write_store(market_record(SOL, VERSION_NS + 1, num_leaves=21))
    identities.append(walk(datadir).identity())
    world.write(datadir, rows=N_CANDLES - 5, pairs=(BTC,))
    identities.append(walk(datadir).identity())
    assert len(set(identities)) == 3


def test_records_tuned_without_a_context_pair_that_has_no_candles_fit(
    world, walk, write_store, tmp_path, caplog
):
    """The context is what there is: of records that were tuned on the same, nothing is said."""
    datadir = world.write(tmp_path / "data", pairs=(ETH, SOL))
    for number, context in enumerate([(ETH, SOL), PAIRS], 1):
        fact = {"context_hash": float(hash48(*context))}
        write_store(*(market_record(pair, VERSION_NS + number, metrics=fact) for pair in PAIRS))
        caplog.clear()
        walk(datadir).identity()
        assert ("tuned on other context pairs" in caplog.text) == (context == PAIRS)
