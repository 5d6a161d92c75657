"""Blackouts in force: the same candles in bot, backtest and tuner; read again by a reload."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.errors import SettingsError
from feeder_mixin.live.bot import LiveFeeder
from feeder_mixin.live.state.status import read_status
from feeder_mixin.live.train.walkforward import WalkForward
from feeder_mixin.market.blackouts import load_blackouts
from tests.live.conftest import (
    ETH,
    FRAME,
    HORIZON,
    LAST_MIDNIGHT,
    STEP_S,
    LiveRun,
    host_frame,
    loaded_pair,
    market_record,
    open_s,
    same,
)

HEAD = "time,minutes_before,minutes_after,name\n"
VERSION_NS = 1_795_000_000 * 10**9
START, END = LAST_MIDNIGHT - 4, LAST_MIDNIGHT + 4


def utc(seconds: float) -> str:
    """Return a time as the file has it."""
    return pd.Timestamp(int(seconds), unit="s", tz="UTC").isoformat()


@pytest.fixture
def blackouts_file(world, tmp_path):
    """Return a file with two releases in the last hours of the market."""
    path = tmp_path / "blackouts.csv"
    candles = world.candles[ETH]
    releases = (open_s(candles, END - 100), open_s(candles, END - 1) + 60)
    path.write_text(HEAD + "".join(f"{utc(s)},{HORIZON * 5},10,x\n" for s in releases))
    return path, releases


def by_hand(opens_s, releases):
    """Return which candles close from a horizon before a release to ten minutes after it."""
    return np.array(
        [any(r - HORIZON * 300 <= t + STEP_S <= r + 600 for r in releases) for t in opens_s]
    )


def test_live_and_backtest_call_nothing_safe_in_a_blackout_and_leave_q(
    world, tmp_path, write_store, cuts_s, blackouts_file
):
    """To the candle the same, by the close; safety_q is what it is without blackouts."""
    path, releases = blackouts_file
    settings = world.settings(
        tmp_path / "user_data", pairs=(ETH,), max_adverse_ratio=0.9, blackouts=str(path)
    )
    world.share_backtest_models(settings)
    write_store(market_record(ETH, VERSION_NS, num_leaves=20))
    folder = world.folder(settings)
    frame = host_frame(world.candles[ETH].iloc[: END + 1])
    back = WalkForward(folder, {}).predict(ETH, frame)
    without = WalkForward(world.folder(replace(settings, blackouts=None)), {}).predict(ETH, frame)
    snapshot = world.serve(folder, loaded_pair(ETH, num_leaves=20), cuts_s)
    run = LiveRun(folder, world.candles, {ETH: snapshot})
    for row in range(START, END + 1):
        run.row = row
        live = run.predictor.predict(ETH, run.host_frame(ETH), snapshot, load_blackouts(settings))
    expected = ~by_hand(back.opens_s, releases)
    assert 0 < (~expected).sum() < FRAME
    assert without.safe.all()
    assert (back.safe == expected).all()
    assert same(back.q, without.q)
    known = np.isfinite(live.q)
    assert known.sum() > 200
    assert (live.safe == expected)[known].all()


def test_backtest_is_another_one_with_other_blackouts(world, tmp_path, write_store, blackouts_file):
    """Freqtrade answers none from an earlier result that had other times."""
    path, _ = blackouts_file
    write_store(market_record(ETH, VERSION_NS))
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), blackouts=str(path))
    before = WalkForward(world.folder(settings), {}).identity()
    assert WalkForward(world.folder(settings), {}).identity() == before
    path.write_text(path.read_text().replace(",10,x", ",15,x"))
    assert WalkForward(world.folder(settings), {}).identity() != before


@pytest.fixture
def live(world, tmp_path, write_store):
    """Give a started live side with one release to come, and its file."""
    path = tmp_path / "blackouts.csv"
    path.write_text(HEAD + f"{utc(time.time() + 86_400)},30,0,CPI\n")
    write_store(market_record(ETH, time.time_ns() - 10**9))
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), blackouts=str(path))
    feeder = LiveFeeder(world.folder(settings), lambda _pair: world.candles[ETH].iloc[:0])
    feeder.start()
    yield feeder, path
    feeder.stop()


def test_reload_reads_the_blackouts_again(live, caplog):
    """Status and log say how many there are and which is next."""
    caplog.set_level(logging.INFO)
    feeder, path = live
    known = read_status(feeder.settings.status_path)["blackouts"]
    assert (known["file"], known["windows"], known["next"]["name"]) == (str(path), 1, "CPI")
    path.write_text(path.read_text() + f"{utc(time.time() + 3_600)},30,0,FOMC\n")
    feeder.reload()
    known = read_status(feeder.settings.status_path)["blackouts"]
    assert (known["windows"], known["next"]["name"]) == (2, "FOMC")
    assert len(feeder.snapshot.blackouts.windows) == 2
    assert (
        f"Blackouts read feeder={feeder.settings.feeder_id} file={path} windows=2 " in caplog.text
    )
    assert "(FOMC)" in caplog.text


def test_reload_with_a_bad_file_keeps_the_old_blackouts_and_says_why(live):
    """Nothing changes, and the next good file mends it."""
    feeder, path = live
    good, before = path.read_text(), feeder.snapshot
    path.write_text(good + "tomorrow,30,0,\n")
    feeder.reload()
    assert feeder.snapshot is before
    error = read_status(feeder.settings.status_path)["reload"]["last_error"]
    assert f"{path} line 3: time='tomorrow'" in error
    path.write_text(good)
    feeder.reload()
    assert feeder.snapshot.generation == before.generation + 1
    assert read_status(feeder.settings.status_path)["reload"]["last_error"] is None


def test_blackouts_that_are_all_past_are_warned_of(live, caplog):
    """A list that nobody kept up protects from nothing."""
    feeder, path = live
    path.write_text(HEAD + "2024-12-18T19:00Z,150,60,FOMC\n")
    feeder.reload()
    (line,) = [r for r in caplog.records if "No blackout is to come" in r.getMessage()]
    assert line.levelno == logging.WARNING
    assert f"file={path} windows=1" in line.getMessage()
    assert read_status(feeder.settings.status_path)["blackouts"]["next"] is None


def test_start_with_a_bad_file_is_refused(world, tmp_path, write_store):
    """Settings are checked at the start: trading through a release would be worse."""
    write_store(market_record(ETH, time.time_ns() - 10**9))
    settings = world.settings(tmp_path / "user_data", pairs=(ETH,), blackouts="none.csv")
    feeder = LiveFeeder(world.folder(settings), lambda _pair: world.candles[ETH].iloc[:0])
    try:
        with pytest.raises(SettingsError, match=r"none\.csv can't be read"):
            feeder.start()
    finally:
        feeder.stop()
