"""Live predictions: the tuner's and the backtest's to 1e-9, said once and never said otherwise."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.live.serve.calibration import ThetaTrack
from feeder_mixin.live.serve.candles import DataFolder
from feeder_mixin.live.serve.columns import SafetyColumns, empty_columns
from feeder_mixin.live.serve.snapshot import PairSnapshot
from feeder_mixin.live.train import walkforward
from feeder_mixin.live.train.walkforward import WalkForward
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import labels
from feeder_mixin.model.calibration import calibrate
from feeder_mixin.model.quantile import fit_safety_model, fit_shared
from feeder_mixin.model.rows import open_seconds
from feeder_mixin.schema import SIDE_NUMBERS, open_text
from feeder_mixin.settings import FeederSettings
from tests.candle_factory import write_candles
from tests.live.conftest import (
    BTC,
    ETH,
    FRAME,
    HORIZON,
    LAST_MIDNIGHT,
    LONG,
    N_CANDLES,
    PAIRS,
    SOL,
    STEP_S,
    LiveRun,
    World,
    host_frame,
    loaded_pair,
    market_record,
    open_s,
    same,
    uncalibrated,
)

DISK = LAST_MIDNIGHT - 59  # candles on disk when the bot starts: three hours are missing there
START, END = LAST_MIDNIGHT - 4, LAST_MIDNIGHT + 4
# Candles fed to the bot one by one; the last cut lies between.
THETA = 0.25  # what an earlier process left: forecasts are served 28 % wider


def tune(world, settings, pairs, parameters, cuts_s):
    """Return the tuner's way to rows and predictions: whole histories, no live code.

    Returns
    -------
    dict
        Pair -> its table, and safety_q by the opens of its rows.
    """
    context = {p: world.candles[p] for p in settings.context_pairs if p in world.candles}
    market = FeatureContext(context, HORIZON, STEP_S)
    tables = {p: market.build(world.candles[p]) for p in {*context, *pairs}}
    label = settings.label(STEP_S)
    shared = [fit_shared({p: tables[p] for p in context}, cut_s, label) for cut_s in cuts_s]
    tuned = {}
    for pair in pairs:
        table = tables[pair]
        q = np.full(len(table), np.nan)
        in_force = np.searchsorted(cuts_s, open_seconds(table), "right") - 1
        for number, of_cut in enumerate(shared):
            model, _ = fit_safety_model(
                pair,
                table,
                label,
                parameters,
                of_cut.with_pair(pair, table, label),
                settings.train_days,
            )
            rows = in_force == number
            q[rows] = model.predict(table[rows])
        tuned[pair] = table, pd.Series(q, open_seconds(table))
    return tuned


def served(settings, tuned, since_s, theta=THETA):
    """Return what a bot serves that saw its first candle at `since_s`, from the tuner's forecasts.

    Parameters
    ----------
    tuned
        A pair's table and forecasts, as `tune` gives them.
    theta
        In force at the first candle.
    """
    table, raw = tuned
    rows = open_seconds(table) >= since_s
    q, _ = calibrate(
        raw[rows].to_numpy(),
        labels(table, settings.side)[rows],
        open_seconds(table)[rows],
        alpha=0.1,
        label_s=settings.horizon_candles * STEP_S,
        theta=theta,
    )
    return pd.Series(q, open_seconds(table)[rows])


def backtest(world, settings, datadir, pair, last):
    """Return a backtest's columns of a frame that ends at a candle, and theta at each of them."""
    frame = host_frame(world.candles[pair].iloc[: last + 1])
    forward = WalkForward(DataFolder(settings, datadir, STEP_S), {})
    columns = forward.predict(pair, frame)
    return columns, np.log(columns.q / uncalibrated(forward, pair, frame))


def left_behind(run: LiveRun, first: int, theta: float = THETA) -> LiveRun:
    """Give a bot a theta from before the frame of its first candle."""
    for pair, candles in run.candles.items():
        before_s = open_s(candles, first - FRAME)
        run.calibration.tracks[pair] = ThetaTrack(before_s, STEP_S, np.array([theta]))
    return run


def live_run(
    world: World, settings: FeederSettings, tmp_path, cuts_s, pairs=None, **loaded
) -> LiveRun:
    """Return a bot on a folder that lacks the newest hours, with models of all cuts."""
    full = DataFolder(settings, world.datadir, STEP_S)
    disk = world.write(tmp_path / "disk", DISK, tuple(world.candles))
    snapshots = {
        pair: world.serve(full, loaded_pair(pair, num_leaves=20, **loaded), cuts_s)
        for pair in pairs or settings.pairs
    }
    return LiveRun(DataFolder(settings, disk, STEP_S), world.candles, snapshots)


def without(world: World, tmp_path, *missing: str) -> World:
    """Return the market without some pairs, on disk and at the host."""
    kept = {pair: frame for pair, frame in world.candles.items() if pair not in missing}
    return World(world.root, kept, world.write(tmp_path / "full", None, tuple(kept)))


@pytest.mark.parametrize(
    ("pairs", "side", "missing"),
    [
        pytest.param(PAIRS, "long", (), id="all_pairs"),
        pytest.param((ETH,), "long", (), id="one_pair"),
        pytest.param((ETH,), "short", (), id="short"),
        pytest.param((ETH,), "long", (SOL,), id="context_pair_missing"),
        pytest.param((ETH,), "long", (BTC,), id="btc_missing"),
    ],
)
def test_live_backtest_and_tuner_give_the_same_features_and_quantiles(
    world, tmp_path, write_store, cuts_s, pairs, side, missing
):
    """Same candles, record, schedule and theta: every way gives the same rows and safety_q to 1e-9."""
    here = without(world, tmp_path, *missing) if missing else world
    settings = here.settings(tmp_path / "user_data", pairs=pairs, side=side)
    if pairs != PAIRS:  # once a backtest fits its own models
        world.share_backtest_models(settings)
    facts = {**LONG, "side": SIDE_NUMBERS[side]}
    version_ns = 1_795_000_000 * 10**9
    write_store(*(market_record(p, version_ns, metrics=facts, num_leaves=20) for p in pairs))
    run = live_run(here, settings, tmp_path, cuts_s)
    columns = left_behind(run, START).run(START, END)
    tuned = tune(here, settings, pairs, run.snapshots[pairs[0]].loaded.parameters, cuts_s)
    since_s = open_s(here.candles[ETH], START - FRAME + 1)
    for pair, (table, raw) in tuned.items():
        live = columns[pair]
        expected = served(settings, tuned[pair], since_s)
        assert len(live.q) == FRAME
        in_force = live.opens_s >= cuts_s[0]
        assert np.isnan(live.q[~in_force]).all()
        assert same(live.q[in_force], expected.loc[live.opens_s[in_force]].to_numpy())
        tolerance = settings.tolerance(pair, None).ratio
        assert (live.safe == (live.q >= -tolerance)).all()
        back, thetas = backtest(here, settings, here.datadir, pair, END)
        assert np.isfinite(back.q).all()
        said = (back.q / np.exp(thetas))[in_force]
        assert same(said, raw.loc[live.opens_s[in_force]].to_numpy())
        rows = table[np.isin(open_seconds(table), live.opens_s)]
        seen = run.predictor.context.build(run.tails.tails[pair].frame(), FRAME)
        assert list(seen.index) == list(rows.index)
        assert same(seen.to_numpy(), rows[list(seen.columns)].to_numpy())


def test_pair_outside_the_context_is_predicted_alike_everywhere(
    world, tmp_path, write_store, cuts_s
):
    """A pair that is no context pair gets the same safety_q live, in backtest and from the tuner."""
    settings = world.settings(tmp_path / "user_data", pairs=(SOL,), context_pairs=[BTC, ETH])
    world.share_backtest_models(settings)
    write_store(market_record(SOL, 1_795_000_000 * 10**9, num_leaves=20))
    run = live_run(world, settings, tmp_path, cuts_s)
    live = left_behind(run, START).run(START, END)[SOL]
    parameters = run.snapshots[SOL].loaded.parameters
    tuned = tune(world, settings, [SOL], parameters, cuts_s)[SOL]
    in_force = live.opens_s >= cuts_s[0]
    expected = served(settings, tuned, open_s(world.candles[SOL], START - FRAME + 1))
    assert same(live.q[in_force], expected.loc[live.opens_s[in_force]].to_numpy())
    back, thetas = backtest(world, settings, world.datadir, SOL, END)
    raw = tuned[1].loc[live.opens_s[in_force]].to_numpy()
    assert same((back.q / np.exp(thetas))[in_force], raw)


@pytest.mark.parametrize("asked", [0.004, "auto"])
def test_bot_that_goes_on_from_a_backtests_theta_serves_what_it_serves(
    world, tmp_path, write_store, cuts_s, monkeypatch, asked
):
    """With one calibration state both columns are one: whole, over the cut between, safe too."""
    # Over all candles there are: then the calibration of the last cut begins where the others do.
    monkeypatch.setattr(walkforward, "CALIBRATION_DAYS", 30)
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio=asked)
    world.share_backtest_models(settings)
    own = {**LONG, "auto_tolerance": 0.004}
    write_store(market_record(ETH, 1_795_000_000 * 10**9, metrics=own, num_leaves=20))
    run = live_run(world, settings, tmp_path, cuts_s, auto_tolerance=0.004)
    back, thetas = backtest(world, settings, world.datadir, ETH, END)
    assert abs(thetas).max() > 0.005
    assert len(set(thetas[-8:].round(9))) > 3  # it moves while the bot looks on
    known = back.opens_s <= open_s(world.candles[ETH], START)
    state = ThetaTrack(int(back.opens_s[0]), STEP_S, thetas[known])
    run.calibration.tracks[ETH] = state
    live = run.run(START, END)[ETH]
    in_force = live.opens_s >= max(cuts_s[0], back.opens_s[0])
    assert in_force.sum() > 400
    assert same(live.q[in_force], back.q[in_force])
    assert (live.safe == back.safe)[in_force].all()
    assert 0 < live.safe.sum() < in_force.sum()
    assert set(live.tolerance[in_force]) == set(back.tolerance) == {0.004}


def test_model_of_a_pair_alone_equals_that_of_all_pairs(world, tmp_path, cuts_s):
    """Whitelisting one pair or all changes no quantile: the context pairs are the same."""
    alone = world.settings(tmp_path / "a", pairs=(ETH,))
    together = world.settings(tmp_path / "b")
    one = live_run(world, alone, tmp_path / "a", cuts_s).run(END - 3, END)[ETH]
    many = live_run(world, together, tmp_path / "b", cuts_s).run(END - 3, END)[ETH]
    assert np.array_equal(one.q, many.q, equal_nan=True)


def test_candles_fed_one_by_one_equal_those_of_a_frame_at_once(world, tmp_path, cuts_s):
    """How many candles came while the bot looked away changes no quantile."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    last = START + 16  # more candles at once than are looked at again
    step_by_step = live_run(world, settings, tmp_path / "a", cuts_s).run(START, last)[ETH]
    run = live_run(world, settings, tmp_path / "b", cuts_s)
    run.candle(START)
    leap = run.candle(last)[ETH]
    assert same(step_by_step.q, leap.q)


def said(run: LiveRun, rows: range, pair: str) -> dict[int, float]:
    """Return what was said of each candle when it was the newest."""
    return {int(c.opens_s[-1]): float(c.q[-1]) for row in rows for c in [run.candle(row)[pair]]}


def test_quantile_once_said_stays_when_later_models_come(world, tmp_path, cuts_s):
    """A candle's safety_q is never recomputed by a later model, not even one put over it."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    run = live_run(world, settings, tmp_path, cuts_s[:1])
    before = said(run, range(START, START + 5), ETH)
    full = DataFolder(settings, world.datadir, STEP_S)
    other = loaded_pair(ETH, 2, quantile_alpha=0.2)
    newer = world.serve(full, other, cuts_s[:1], generation=2)
    run.snapshots[ETH] = newer  # even with a schedule that claims earlier candles
    columns = run.candle(START + 5)[ETH]
    kept = {int(o): float(q) for o, q in zip(columns.opens_s, columns.q, strict=True)}
    assert {o: kept[o] for o in before} == before
    assert set(columns.generation[columns.opens_s > max(before)]) == {2}
    assert set(columns.generation[columns.opens_s == max(before)]) == {1}
    assert columns.alpha[-1] == 0.2


def test_candle_at_the_switch_goes_by_the_model_in_force_there(world, tmp_path, cuts_s):
    """Around a model's first candle, the one before has the old model's value, the next the new."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    both = live_run(world, settings, tmp_path / "a", cuts_s[1:]).run(START, END)[ETH]
    old = live_run(world, settings, tmp_path / "b", cuts_s[1:2]).run(START, END)[ETH]
    later = both.opens_s >= cuts_s[2]
    assert 0 < later.sum() < FRAME
    assert np.array_equal(both.q[~later], old.q[~later], equal_nan=True)
    assert (both.q[later] != old.q[later]).all()


def test_restart_with_the_same_servings_gives_the_same_column(world, tmp_path, cuts_s):
    """A new process with the recorded schedule shows the same safety_q on every candle."""
    settings = world.settings(tmp_path / "user_data")
    run = live_run(world, settings, tmp_path, cuts_s)
    before = left_behind(run, START).run(START, END)
    again = LiveRun(run.folder, run.candles, run.snapshots, calibration=run.calibration).candle(END)
    for pair in PAIRS:
        known = np.isfinite(before[pair].q)
        assert known.any()
        assert same(before[pair].q, again[pair].q)
        assert (before[pair].safe == again[pair].safe).all()


def test_restart_with_a_newer_data_folder_gives_the_same_column(world, tmp_path, cuts_s):
    """A download between two starts changes no value: disk and host have the same candles."""
    settings = world.settings(tmp_path / "user_data")
    run = live_run(world, settings, tmp_path, cuts_s)
    before = left_behind(run, START).run(START, END)
    newer = DataFolder(settings, world.write(tmp_path / "newer", END - 2), STEP_S)
    again = LiveRun(newer, run.candles, run.snapshots, calibration=run.calibration).candle(END)
    for pair in PAIRS:
        assert same(before[pair].q, again[pair].q)


def test_restart_after_the_first_pair_was_listed_lately_gives_the_same_column(
    world, tmp_path, cuts_s
):
    """A pair with a short frame, predicted first, takes no older candle's value from the others."""
    settings = world.settings(tmp_path / "user_data", pairs=(SOL, ETH))
    run = live_run(world, settings, tmp_path, cuts_s)
    young = run.candles | {SOL: run.candles[SOL].iloc[END - 50 :]}
    whole = run.candle(END)[ETH]
    again = LiveRun(run.folder, run.candles, run.snapshots)
    again.row = END
    again.predictor.predict(SOL, host_frame(young[SOL].iloc[:51]), run.snapshots[SOL])
    columns = again.predictor.predict(ETH, again.host_frame(ETH), run.snapshots[ETH])
    assert same(whole.q, columns.q)


def test_candles_before_the_first_model_are_nan_and_not_safe(world, tmp_path, cuts_s):
    """Where no model was in force there is no quantile, no generation, and never safe."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio=0.9)
    columns = live_run(world, settings, tmp_path, cuts_s[2:]).run(START, END)[ETH]
    before = columns.opens_s < cuts_s[2]
    assert np.isnan(columns.q[before]).all()
    assert np.isnan(columns.alpha[before]).all()
    assert not columns.safe[before].any()
    assert (columns.generation[before] == 0).all()
    assert columns.safe[~before].all()
    assert np.isfinite(columns.q[~before]).all()


def test_pair_without_model_is_never_safe(world, tmp_path, cuts_s):
    """A pair whose first model is still trained has columns without value."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio=0.9)
    run = live_run(world, settings, tmp_path, cuts_s)
    run.snapshots[ETH] = PairSnapshot(loaded_pair(ETH), 1)
    columns = run.run(START, START + 2)[ETH]
    assert np.isnan(columns.q).all()
    assert not columns.safe.any()


def test_model_that_comes_later_serves_only_later_candles(world, tmp_path, cuts_s):
    """A first model fills no candle before its own first one."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    run = live_run(world, settings, tmp_path, cuts_s)
    (*_, newest) = run.snapshots[ETH].servings
    run.snapshots[ETH] = PairSnapshot(loaded_pair(ETH), 1)
    run.candle(START)
    first_s = open_s(world.candles[ETH], START + 2)
    serving = replace(newest, first_candle_s=first_s)
    run.snapshots[ETH] = PairSnapshot(loaded_pair(ETH), 1, (serving,))
    columns = run.run(START + 1, START + 4)[ETH]
    assert (np.isfinite(columns.q) == (columns.opens_s >= first_s)).all()


def test_record_that_beats_no_rule_is_never_safe(world, tmp_path, cuts_s):
    """With beats_rule 0 the quantile is shown, and no candle is safe."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio=0.9)
    run = live_run(world, settings, tmp_path, cuts_s)
    beaten = loaded_pair(ETH, beats_rule=False)
    servings = tuple(replace(s, loaded=beaten) for s in run.snapshots[ETH].servings)
    run.snapshots[ETH] = PairSnapshot(beaten, 1, servings)
    columns = run.run(START, START + 2)[ETH]
    assert np.isfinite(columns.q[-1])
    assert not columns.safe.any()


def test_model_beyond_its_age_calls_nothing_safe_until_a_newer_one_serves(world, tmp_path, cuts_s):
    """The quantile is still shown; from the age on `safe` is 0, and 1 again with the next model."""
    settings = world.settings(
        tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio=0.9, model_max_age_hours=25
    )
    run = live_run(world, settings, tmp_path, cuts_s[:1])
    columns = run.run(START, START + 2)[ETH]
    known = np.isfinite(columns.q)
    young = columns.opens_s < cuts_s[0] + 25 * 3600
    assert 0 < (known & young).sum() < known.sum()
    assert np.array_equal(columns.safe, known & young)
    again = live_run(world, settings, tmp_path, cuts_s).run(START, START + 2)[ETH]
    assert again.safe[-1]


def test_safe_is_where_the_quantile_is_not_below_the_tolerance(world, tmp_path, cuts_s):
    """A candle is safe exactly where safety_q >= -max_adverse_ratio."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio=0.004)
    columns = live_run(world, settings, tmp_path, cuts_s[:1]).run(START, START + 2)[ETH]
    known = np.isfinite(columns.q)
    assert 0 < columns.safe.sum() < known.sum()
    assert (columns.safe[known] == (columns.q[known] >= -0.004)).all()


def test_newer_record_with_another_tolerance_counts_from_its_first_candle_on(
    world, tmp_path, cuts_s
):
    """Candles that were called safe stay so: what was measured later is not theirs."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio="auto")
    run = live_run(world, settings, tmp_path, cuts_s[:2], auto_tolerance=0.9)
    before = run.run(START, START + 1)[ETH]
    old, now = run.snapshots[ETH], loaded_pair(ETH, 2, num_leaves=20, auto_tolerance=0.0001)
    serving = replace(old.servings[-1], loaded=now, first_candle_s=int(before.opens_s[-1]) + STEP_S)
    run.snapshots[ETH] = replace(old, loaded=now, servings=(*old.servings, serving))
    after = run.run(START + 2, START + 3)[ETH]
    assert set(after.tolerance[-2:]) == {0.0001}
    assert not after.safe[-2:].any()
    known = np.isfinite(after.q[:-2])
    assert set(after.tolerance[:-2][known]) == {0.9}
    assert after.safe[:-2][known].all()


def test_same_candle_analysed_again_gives_the_same_columns(world, tmp_path, cuts_s):
    """A host that hands over a candle twice changes nothing."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    run = live_run(world, settings, tmp_path, cuts_s)
    first = run.run(START, START + 1)[ETH]
    again = run.candle(START + 1)[ETH]
    assert np.array_equal(first.q, again.q, equal_nan=True)


# ------------------------------------------------------------------ late candles and gaps


def test_late_candle_of_a_context_pair_is_in_the_features_once_it_is_there(
    world, tmp_path, cuts_s, caplog
):
    """A context pair that lags is said; when it is back, the next candles are as if it never had."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    punctual = live_run(world, settings, tmp_path / "a", cuts_s)
    expected = said(punctual, range(START, START + 8), ETH)
    run = live_run(world, settings, tmp_path / "b", cuts_s)
    run.candle(START)
    run.late[SOL] = 2
    late = said(run, range(START + 1, START + 4), ETH)
    warnings = [r.message for r in caplog.records if "Context pair is behind" in r.message]
    assert len(warnings) == 1
    assert f"pair={SOL}" in warnings[0]
    del run.late[SOL]
    after = said(run, range(START + 4, START + 8), ETH)
    assert all(np.isfinite(q) for q in late.values())
    assert any(late[o] != expected[o] for o in late)
    assert all(abs(after[o] - expected[o]) < 1e-9 for o in after)


def test_context_pair_that_comes_back_is_said(world, tmp_path, cuts_s, caplog):
    """The end of a context pair's lag is one line, too."""
    caplog.set_level("INFO", "feeder_mixin")
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    run = live_run(world, settings, tmp_path, cuts_s)
    run.late[SOL] = 1
    run.run(START, START + 1)
    del run.late[SOL]
    run.run(START + 2, START + 3)
    assert [r.message for r in caplog.records if "is back" in r.message] == [
        f"Context pair is back pair={SOL}"
    ]


def with_gap(world: World, settings, tmp_path, cuts_s) -> tuple[LiveRun, SafetyColumns]:
    """Return a bot whose disk ends before its first frame begins, and its columns."""
    run = live_run(world, settings, tmp_path, cuts_s)
    disk = world.write(tmp_path / "short", END - FRAME - 100)
    run = LiveRun(DataFolder(settings, disk, STEP_S), world.candles, run.snapshots)
    return run, run.run(END - 1, END)[ETH]


def test_gap_between_disk_and_host_gives_no_quantile_and_is_named(world, tmp_path, cuts_s):
    """Features that span missing candles are no features: NaN, not safe, and the gap has a name."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio=0.9)
    run, columns = with_gap(world, settings, tmp_path, cuts_s)
    assert np.isnan(columns.q).all()
    assert not columns.safe.any()
    first, last = END - FRAME - 100, END - 1 - FRAME + 1
    text = "candles from {:%Y-%m-%dT%H:%MZ} to {:%Y-%m-%dT%H:%MZ}"
    index = world.candles[ETH].index
    assert run.tails.gap(ETH) == text.format(index[first], index[last])


def test_gap_is_filled_once_the_folder_has_the_candles(world, tmp_path, cuts_s):
    """After a download and `repair`, the whole column is what it would have been without a gap."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    expected = live_run(world, settings, tmp_path / "whole", cuts_s).run(END + 1, END + 2)[ETH]
    run, _ = with_gap(world, settings, tmp_path, cuts_s)
    world.write(tmp_path / "short", END - 10)
    for pair in PAIRS:
        run.tails.repair(pair)
    columns = run.run(END + 1, END + 2)[ETH]
    assert run.tails.gap(ETH) is None
    assert same(columns.q, expected.q)
    assert np.isfinite(columns.q[-1])


def test_halted_candles_are_never_safe_and_are_served_alike_in_a_backtest(
    world, tmp_path, write_store, cuts_s
):
    """Nothing trades any more: behind two such candles there is no value, live and in a backtest."""
    halted = world.candles[ETH].copy()
    first = END - 10
    halted.iloc[first:, :4] = halted["close"].iloc[first - 1]
    halted.iloc[first:, 4] = 0.0
    there = World(world.root, {**world.candles, ETH: halted}, world.datadir)
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio=0.9)
    live = live_run(there, settings, tmp_path, cuts_s).run(first - 5, END)[ETH]
    write_store(market_record(ETH, 1_795_000_000 * 10**9, num_leaves=20))
    folder = DataFolder(settings, there.write(tmp_path / "whole"), STEP_S)
    columns = WalkForward(folder, {}).predict(ETH, host_frame(halted.iloc[: END + 1]))
    for found in (live, columns):
        assert np.isfinite(found.q[-13:-9]).all()
        assert found.safe[-13:-11].all()
        assert not found.safe[-11:].any()  # from the first candle without trades on: not ordinary
        assert found.is_unusual.nonzero()[0].tolist()[-2:] == [FRAME - 11, FRAME - 10]
        assert np.isnan(found.q[-9:]).all()


def with_wick(world, tmp_path):
    """Return the market with a flash wick of ETH just before its end, and where it is."""
    wild = world.candles[ETH].copy()
    row = END - 2
    wild.iloc[row, wild.columns.get_loc("low")] *= 0.9
    kept = {**world.candles, ETH: wild}
    here = World(tmp_path, kept, write_candles(tmp_path / "wild", kept))
    return here, row


def test_flash_wick_is_not_safe_live_in_a_backtest_and_in_the_tuner(
    world, tmp_path, write_store, cuts_s
):
    """The same candles are out of the ordinary everywhere; safety_q is what the model says."""
    here, row = with_wick(world, tmp_path)
    settings = here.settings(tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio=0.9)
    write_store(market_record(ETH, 1_795_000_000 * 10**9, num_leaves=20))
    run = live_run(here, settings, tmp_path, cuts_s)
    live = run.run(START, END)[ETH]
    back, _ = backtest(here, settings, here.datadir, ETH, END)
    at = int(np.flatnonzero(back.opens_s == open_s(world.candles[ETH], row))[0])
    table, _ = tune(here, settings, [ETH], run.snapshots[ETH].loaded.parameters, cuts_s)[ETH]
    expected = np.zeros(FRAME, bool)
    opens_s = open_seconds(table)
    for serving in run.snapshots[ETH].servings:  # the last one in force stands
        rows = np.isin(opens_s, live.opens_s) & (opens_s >= serving.first_candle_s)
        places = np.searchsorted(live.opens_s, opens_s[rows])
        expected[places] = serving.model.safety.ordinary.contains(table[rows])
    in_force = live.opens_s >= cuts_s[0]
    assert (live.is_ordinary == expected)[in_force].all()
    assert (back.is_ordinary == expected)[in_force].all()
    assert (live.safe == expected)[in_force].all()
    assert (back.safe == back.is_ordinary).all()
    assert not live.is_ordinary[at]
    assert live.is_ordinary[in_force].mean() > 0.97
    assert np.isfinite(live.q[at])


def test_unusual_share_counts_the_last_days_predicted_candles():
    """What the status says of a pair; nothing where nothing was predicted."""
    opens_s = np.arange(400) * STEP_S
    nothing = empty_columns(opens_s)
    assert nothing.unusual_share(86_400) is None
    q, is_ordinary = np.full(400, -0.01), np.ones(400, bool)
    q[-100:], is_ordinary[-110:] = np.nan, False
    columns = replace(nothing, q=q, is_ordinary=is_ordinary)
    assert columns.unusual_share(86_400) == 10 / 188


def test_unusual_candles_are_said_once_a_pair_and_onset(world, tmp_path, cuts_s, caplog):
    """With what is unusual about them, and again only after ordinary ones."""
    here, row = with_wick(world, tmp_path)
    settings = here.settings(tmp_path / "user_data", pairs=(ETH,))
    run = live_run(here, settings, tmp_path, cuts_s)
    caplog.set_level(logging.INFO)
    for number in (row - 1, row, row, row + 1):
        run.candle(number)
    said = [r.getMessage() for r in caplog.records if "out of the ordinary" in r.getMessage()]
    when = open_text(open_s(world.candles[ETH], row))
    assert len([line for line in said if f"pair={ETH} candle={when}: range of " in line]) == 1


def test_restart_gives_the_same_ordinary_column(world, tmp_path, cuts_s):
    """The range travels with the model in force."""
    here, _ = with_wick(world, tmp_path)
    settings = here.settings(tmp_path / "user_data", pairs=(ETH,))
    before = live_run(here, settings, tmp_path / "a", cuts_s).run(START, END)[ETH]
    again = live_run(here, settings, tmp_path / "b", cuts_s).candle(END)[ETH]
    assert (before.is_ordinary == again.is_ordinary).all()
    assert not again.is_ordinary[-3]


# ------------------------------------------------------------------ cost


def test_context_is_not_rebuilt_from_disk_at_every_candle(world, tmp_path, cuts_s, monkeypatch):
    """After its first candle the bot reads no candle file, whitelisted context or not."""
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    run = live_run(world, settings, tmp_path, cuts_s)
    run.run(START, START + 1)
    read = []
    load = DataFolder.load

    def counted(folder, pair, since_s=None):
        read.append(pair)
        return load(folder, pair, since_s)

    monkeypatch.setattr(DataFolder, "load", counted)
    run.run(START + 2, START + 4)
    assert read == []


# ------------------------------------------------------------------ real candles


@pytest.mark.slow
def test_live_backtest_and_tuner_agree_on_real_candles(
    real_candles, datadir, tmp_path, write_store
):
    """The central promise on the market's own candles, with the horizon of production."""
    n = 12_000
    candles = {pair: real_candles(pair).iloc[-n:] for pair in PAIRS}
    root = tmp_path / "real"
    world = World(root, candles, root / "data")
    world.write(world.datadir)
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,))
    last = open_s(candles[ETH], -1) // 86_400 * 86_400
    cuts = (last - 86_400, last)
    write_store(market_record(ETH, 1_795_000_000 * 10**9, num_leaves=20))
    full = DataFolder(settings, world.datadir, STEP_S)
    snapshot = world.serve(full, loaded_pair(ETH, num_leaves=20), cuts)
    disk = DataFolder(settings, world.write(tmp_path / "disk", n - 40), STEP_S)
    run = LiveRun(disk, candles, {ETH: snapshot})
    live = left_behind(run, n - 20).run(n - 20, n - 1)[ETH]
    tuned = tune(world, settings, [ETH], snapshot.loaded.parameters, cuts)[ETH]
    in_force = live.opens_s >= cuts[0]
    assert np.isfinite(live.q[in_force]).all()
    expected = served(settings, tuned, open_s(candles[ETH], n - 20 - FRAME + 1))
    assert same(live.q[in_force], expected.loc[live.opens_s[in_force]].to_numpy())
    back, thetas = backtest(world, settings, world.datadir, ETH, n - 1)
    raw = tuned[1].loc[live.opens_s[in_force]].to_numpy()
    assert same((back.q / np.exp(thetas))[in_force], raw)


def test_frame_constants_fit_the_market():
    """The frames of these tests lie inside the market they are taken from."""
    assert FRAME < DISK < START < END < N_CANDLES
