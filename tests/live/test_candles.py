"""Candles of disk and host: joined once, the same everywhere, with gaps named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.errors import CandleError
from feeder_mixin.live.serve.candles import LiveTails, Tail, from_frame, from_host
from feeder_mixin.schema import open_text
from tests.candle_factory import candle_file, make_candles, write_candles
from tests.live.conftest import BTC, ETH, SOL, STEP_S, host_frame, open_s

KEEP = 1_000


def tail_of(values, first=0):
    """Return a tail whose closes are these numbers, NaN for a missing candle."""
    rows = np.repeat(np.array(values, float)[:, None], 5, axis=1)
    return Tail(first * STEP_S, STEP_S, rows)


def closes(tail):
    """Return a tail's closes."""
    return tail.rows[:, 3].tolist()


@pytest.fixture
def tails(world):
    """Give the tails of a bot on the whole market."""
    return LiveTails(world.folder(), KEEP)


@pytest.fixture
def bare(world, tmp_path):
    """Give the tails of a bot on an empty data folder."""
    return LiveTails(world.folder(datadir=tmp_path), KEEP)


def test_joined_replaces_nothing_and_fills_what_is_missing():
    """The older one's candles stand; the newer one fills gaps and goes on."""
    joined = tail_of([1, np.nan, 3]).joined(tail_of([20, 30, 40], first=1))
    assert (joined.first_s, closes(joined)) == (0, [1, 20, 3, 40])


def test_joined_over_a_gap_has_missing_candles_between():
    """What neither has is NaN, and counted."""
    joined = tail_of([1, 2]).joined(tail_of([5], first=4))
    assert closes(joined)[:2] == [1, 2]
    assert np.isnan(closes(joined)[2:4]).all()
    assert (joined.last_s, joined.n_missing) == (4 * STEP_S, 2)


def test_joined_with_older_candles_reaches_back():
    """The newer one may begin earlier."""
    joined = tail_of([5], first=4).joined(tail_of([1, 2, 3, 4, 50]))
    assert closes(joined) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("open_s", [-1, 0, 1, 299, 300, 301, 599, 600, 601, 9_999])
def test_before_and_after_cut_at_the_open(open_s):
    """`before` has the candles that open earlier, `after` those that open later; None for none."""
    tail = tail_of([0, 1, 2])
    opens = [0, 300, 600]
    before, after = tail.before(open_s), tail.after(open_s)
    assert (closes(before) if before else []) == [o / 300 for o in opens if o < open_s]
    assert (closes(after) if after else []) == [o / 300 for o in opens if o > open_s]
    assert after is None or after.last_s == 600


def test_newest_keeps_the_last_candles_at_their_time():
    """Cutting a tail moves no candle."""
    newest = tail_of([0, 1, 2, 3]).newest(2)
    assert (newest.first_s, closes(newest)) == (600, [2, 3])


def test_host_frame_with_a_gap_has_missing_candles():
    """The host's rows lie where their dates say."""
    frame = host_frame(make_candles(6, 1)).drop(index=[2, 3])
    tail = from_host(frame, STEP_S)
    assert tail.n_missing == 2
    assert np.isnan(closes(tail)[2:4]).all()
    assert closes(tail)[4:] == frame["close"].tolist()[2:]


def test_empty_host_frame_is_none():
    """A host without candles gives no tail."""
    assert from_host(host_frame(make_candles(3, 1)).iloc[:0], STEP_S) is None


def test_frame_of_a_tail_is_that_of_the_candles():
    """There and back again without a bit's change, whole or the last ones."""
    candles = make_candles(50, 3)
    tail = from_frame(candles, STEP_S)
    pd.testing.assert_frame_equal(tail.frame(), candles, check_freq=False, check_index_type=False)
    assert tail.frame(7).equals(tail.frame().iloc[-7:])
    assert from_host(host_frame(candles), STEP_S).frame().equals(tail.frame())


def test_folder_without_file_gives_none_and_damaged_file_an_error(world, tmp_path):
    """No candles is an answer; a file that can't be read is not."""
    folder = world.folder(datadir=tmp_path)
    assert folder.load(BTC) is None
    assert folder.load_joined(BTC, None) is None
    path = candle_file(tmp_path, BTC)
    path.parent.mkdir()
    path.write_bytes(b"nonsense")
    with pytest.raises(CandleError, match=path.name):
        folder.load(BTC)


def test_folder_with_candles_of_the_future_is_an_error_whatever_is_asked_of_it(world, tmp_path):
    """Bot, training and backtest read through this door: none of them takes such candles."""
    start = (pd.Timestamp.now("UTC") + pd.Timedelta(days=117)).floor("D")
    write_candles(tmp_path, {BTC: make_candles(288, 1, start=str(start.tz_localize(None)))})
    folder = world.folder(datadir=tmp_path)
    for since_s in (None, int(start.timestamp()) + 3_600):
        with pytest.raises(CandleError, match=r"open in the future, the last at .* 11\d\.\d days"):
            folder.load(BTC, since_s)


def test_candle_on_disk_wins_over_the_hosts(world, tmp_path, tails):
    """One rule for live, backtest and training: a candle that is on disk is taken from there."""
    candles = world.candles[ETH]
    host = host_frame(candles.iloc[:-2])
    host["volume"] *= 2
    tail, changed = tails.take(ETH, host)
    assert changed
    assert tail.frame().iloc[-499:].equals(candles.iloc[-499:].rename_axis("date"))


def test_take_goes_on_with_the_hosts_newer_candles(world, bare):
    """Candle by candle the tail is what the host had so far."""
    candles = world.candles[ETH]
    bare.take(ETH, host_frame(candles.iloc[:600]))
    for n in range(601, 605):
        tail, changed = bare.take(ETH, host_frame(candles.iloc[:n]))
        assert not changed
    assert tail.frame().iloc[-100:].equals(candles.iloc[504:604])


def test_take_of_a_late_candle_fills_it(world, bare):
    """A candle that the exchange served after the next one is filled in."""
    candles = world.candles[ETH]
    bare.take(ETH, host_frame(candles.iloc[:600]))
    tail, _ = bare.take(ETH, host_frame(candles.iloc[:602]).drop(index=497))
    assert tail.n_missing == 1
    tail, _ = bare.take(ETH, host_frame(candles.iloc[:603]))
    assert tail.n_missing == 0


def test_take_after_a_long_absence_has_no_hole(world, bare):
    """A bot that missed more candles than are looked at again takes the whole frame."""
    candles = world.candles[ETH]
    bare.take(ETH, host_frame(candles.iloc[:600]))
    tail, _ = bare.take(ETH, host_frame(candles.iloc[:700]))
    assert tail.n_missing == 0
    assert open_s(candles, 699) == tail.last_s


def test_take_changes_no_tail_that_was_handed_out(world, bare):
    """The training thread holds a tail while the bot goes on."""
    candles = world.candles[ETH]
    first, _ = bare.take(ETH, host_frame(candles.iloc[:600]))
    rows = first.rows.copy()
    bare.take(ETH, host_frame(candles.iloc[:605]))
    assert np.array_equal(first.rows, rows, equal_nan=True)


def test_tail_is_bounded_and_loses_no_new_candle(world, bare):
    """Weeks of candles do not grow the bot: at most a day more than asked for is kept."""
    candles = world.candles[ETH]
    for n in range(499, 4_000, 400):
        tail, _ = bare.take(ETH, host_frame(candles.iloc[:n]))
        assert len(tail.rows) <= KEEP + 288
    assert len(tail.rows) >= KEEP
    assert tail.frame().iloc[-KEEP:].equals(candles.iloc[n - KEEP : n])


def test_take_of_nothing_gives_nothing(bare, world):
    """A pair without candles anywhere has no tail, and later gets one."""
    nothing = host_frame(world.candles[ETH]).iloc[:0]
    assert bare.take(ETH, nothing) == (None, False)
    tail, changed = bare.take(ETH, host_frame(world.candles[ETH]))
    assert changed
    assert len(tail.rows) == 499


def test_damaged_file_at_start_leaves_the_hosts_candles_and_is_said(world, tmp_path, caplog):
    """A broken candle file ends no bot: one ERROR with its name, and live goes on."""
    world.write(tmp_path / "data")
    candle_file(tmp_path / "data", SOL).write_bytes(b"nonsense")
    tails = LiveTails(world.folder(datadir=tmp_path / "data"), KEEP)
    tail, _ = tails.take(SOL, host_frame(world.candles[SOL]))
    assert len(tail.rows) == 499
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert candle_file(tmp_path, SOL).name in line


def test_gap_is_none_where_disk_and_host_touch_or_overlap(world, tmp_path):
    """The host's first candle right behind the disk's last is no gap."""
    candles = world.candles[ETH]
    for n_disk in (7_000, 6_501):
        datadir = world.write(tmp_path / str(n_disk), n_disk, (ETH,))
        tails = LiveTails(world.folder(datadir=datadir), KEEP)
        tails.take(ETH, host_frame(candles.iloc[:7_000]))
        assert tails.gap(ETH) is None


def test_gap_names_its_first_missing_and_first_known_candle(world, tmp_path):
    """From the first candle that is nowhere to the first that the host has."""
    candles = world.candles[ETH]
    datadir = world.write(tmp_path / "data", 6_500, (ETH,))
    tails = LiveTails(world.folder(datadir=datadir), KEEP)
    tails.take(ETH, host_frame(candles.iloc[:7_000]))
    first, known = open_text(open_s(candles, 6_500)), open_text(open_s(candles, 6_501))
    assert tails.gap(ETH) == f"candles from {first} to {known}"


def test_hole_inside_the_live_candles_is_a_gap_and_filled_by_a_repair(world, tmp_path):
    """A bot that was away for longer than the host's frame says so, and can be mended."""
    candles = world.candles[ETH]
    datadir = world.write(tmp_path / "data", 6_100, (ETH,))
    tails = LiveTails(world.folder(datadir=datadir), KEEP)
    tails.take(ETH, host_frame(candles.iloc[:6_200]))
    assert tails.gap(ETH) is None
    tails.take(ETH, host_frame(candles.iloc[:7_000]))
    first, known = open_text(open_s(candles, 6_200)), open_text(open_s(candles, 6_501))
    assert tails.gap(ETH) == f"candles from {first} to {known}"
    world.write(tmp_path / "data", 6_990, (ETH,))
    tails.repair(ETH)
    repaired, _ = tails.take(ETH, host_frame(candles.iloc[:7_001]))
    assert repaired.n_missing == 0
    assert tails.gap(ETH) is None


def test_gap_without_any_candle_on_disk_is_named(world, bare):
    """A feeder whose data folder is empty can't train, and knows it."""
    bare.take(ETH, host_frame(world.candles[ETH]))
    first = open_text(open_s(world.candles[ETH], -499))
    assert bare.gap(ETH) == f"no candles on disk before {first}"


def test_folder_that_ends_long_ago_is_a_gap_from_its_end_and_no_damage(world, tmp_path, caplog):
    """A folder from before the kept candles is not 'no candles on disk', and its file is fine."""
    datadir = world.write(tmp_path / "data", 5_000, (ETH,))
    tails = LiveTails(world.folder(datadir=datadir), KEEP)
    tails.take(ETH, host_frame(world.candles[ETH]))
    first = open_text(open_s(world.candles[ETH], 5_000))
    assert tails.gap(ETH).startswith(f"candles from {first} to ")
    assert "can't be used" not in caplog.text


def test_repair_fills_the_gap_at_the_next_candle(world, tmp_path):
    """What a download brought is taken over by the bot's own thread, once."""
    candles = world.candles[ETH]
    datadir = world.write(tmp_path / "data", 6_400, (ETH,))
    tails = LiveTails(world.folder(datadir=datadir), KEEP)
    tail, _ = tails.take(ETH, host_frame(candles.iloc[:7_000]))
    assert tail.n_missing > 0
    world.write(tmp_path / "data", 6_990, (ETH,))
    tails.repair(ETH)
    assert tails.tails[ETH] is tail
    repaired, changed = tails.take(ETH, host_frame(candles.iloc[:7_001]))
    assert changed
    assert repaired.n_missing == 0
    assert tails.gap(ETH) is None
    assert repaired.frame().iloc[-KEEP:].equals(candles.iloc[7_001 - KEEP : 7_001])
    _, changed = tails.take(ETH, host_frame(candles.iloc[:7_002]))
    assert not changed


def test_open_text_is_to_the_minute_in_utc():
    """Candle opens are shown as short as they are exact."""
    assert open_text(1_795_176_060) == "2026-11-20T12:01Z"
