"""The bot's calibration: the rule of `calibrate`, candle by candle, over restarts and kills."""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.live.bot import FRAME_CANDLES, LiveFeeder
from feeder_mixin.live.serve.calibration import Calibration, ThetaTrack, excursions_at
from feeder_mixin.live.serve.candles import Tail
from feeder_mixin.live.serve.columns import FrameForecasts
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.live.state.folder import StateFolder
from feeder_mixin.live.state.status import read_status
from feeder_mixin.market.labels import LABEL_COLUMNS, adverse_excursions
from feeder_mixin.model.calibration import HALF_LIFE_CANDLES, RATE, calibrate
from tests.live.conftest import ETH, HORIZON, SOL, STEP_S, market_record, market_settings
from tests.waiting import wait_until

LABEL_S = HORIZON * STEP_S
FIRST_S = 1_700_000_400
FRAME = 60
FAR = 0.7


def make_rows(n: int, seed: int = 0) -> np.ndarray:
    """Return candles of a random walk."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.002, n)))
    spread = np.abs(rng.normal(0, 0.002, (2, n)))
    high, low = close * (1 + spread[0]), close * (1 - spread[1])
    return np.column_stack([close, high, low, close, np.ones(n)])


def make_raw(n: int, seed: int = 0) -> np.ndarray:
    """Return what models said of candles: about as much as they go wrong."""
    return -np.random.default_rng(seed + 1).uniform(0.002, 0.012, n)


@dataclass
class Feed:
    """A bot that predicts one pair, as the predictor does: what it said stays in its frame."""

    rows: np.ndarray
    raw: np.ndarray
    calibration: Calibration
    alpha: float = 0.1
    n_frame: int = FRAME
    said: dict[int, float] = field(default_factory=dict)

    @property
    def opens_s(self) -> np.ndarray:
        """Return the opens of all candles."""
        return FIRST_S + STEP_S * np.arange(len(self.rows))

    def candle(self, row: int, *, is_gap: bool = False) -> np.ndarray:
        """Serve the frame that ends at a row, and return its column."""
        inside = slice(max(0, row + 1 - self.n_frame), row + 1)
        opens_s = self.opens_s[inside]
        newest = max(self.said, default=0)
        is_new = opens_s > newest if self.said else np.ones(len(opens_s), bool)
        q = np.array([self.said.get(int(o), math.nan) for o in opens_s])
        q[is_new] = math.nan if is_gap else self.raw[inside][is_new]
        alphas = np.where(np.isfinite(q), self.alpha, math.nan)
        tail = Tail(FIRST_S, STEP_S, self.rows[: row + 1])
        served = self.calibration.serve(ETH, on_frame(opens_s, q, alphas, is_new), tail)
        if not is_gap:
            self.said |= dict(zip(opens_s.tolist(), served.tolist(), strict=True))
        return served

    def run(self, first: int, last: int) -> np.ndarray:
        """Serve candles one by one and return the column at the last."""
        for row in range(first, last):
            self.candle(row)
        return self.candle(last)

    def expected(self, first: int, last: int, theta: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return what `calibrate` serves in the last frame, and theta, from the first frame on."""
        inside = slice(max(0, first + 1 - self.n_frame), last + 1)
        label = labels(self.rows)["long"][inside]
        return calibrate(
            self.raw[inside],
            label,
            self.opens_s[inside],
            alpha=self.alpha,
            label_s=LABEL_S,
            theta=theta,
        )


def on_frame(opens_s, q, alphas, is_new) -> FrameForecasts:
    """Return forecasts on their frame, of which nothing but the quantile matters here."""
    nothing = np.zeros(len(opens_s), bool)
    tolerance = np.full(len(opens_s), 0.01)
    return FrameForecasts(
        opens_s, q, alphas, nothing.astype(int), tolerance, nothing, nothing, nothing, is_new
    )


def labels(rows: np.ndarray, horizon: int = HORIZON) -> dict[str, np.ndarray]:
    """Return the labels of candles as the tuner has them."""
    frame = adverse_excursions(Tail(FIRST_S, STEP_S, rows).frame(), horizon)
    return {side: frame[name].to_numpy() for side, name in LABEL_COLUMNS.items()}


@pytest.fixture
def fresh(tmp_path):
    """Give a function that makes a calibration, at a theta if one is given."""

    def make(theta: float | None = None, keep: int = FRAME_CANDLES, **feeder) -> Calibration:
        made = Calibration(market_settings(tmp_path, **feeder), STEP_S, keep)
        if theta is not None:
            made.tracks[ETH] = ThetaTrack(FIRST_S - STEP_S, STEP_S, np.array([theta]))
        return made

    return make


# ------------------------------------------------------------------ labels


@given(
    st.integers(0, 99), st.integers(0, 40), st.integers(1, 60), st.sampled_from(["long", "short"])
)
def test_labels_of_any_candles_are_the_tuners_bit_by_bit(seed, first, count, side):
    """Also where candles are missing, not there yet, or were before the first one known."""
    rows = make_rows(80, seed)
    rows[np.random.default_rng(seed).random(80) < 0.03] = math.nan
    opens_s = FIRST_S + STEP_S * np.arange(first, first + count)
    known = Tail(FIRST_S + 20 * STEP_S, STEP_S, rows[20:])
    whole = np.full((120, 5), math.nan)
    whole[20:80] = rows[20:]
    expected = labels(whole)[side][first : first + count]
    got = excursions_at(opens_s, known, HORIZON, side)
    np.testing.assert_array_equal(got, expected)


# ------------------------------------------------------------------ the rule


@pytest.mark.parametrize("theta", [0.0, FAR])
def test_candles_one_by_one_are_served_by_the_rule_of_calibrate(fresh, theta):
    """Bit by bit what the batch serves that begins with the first frame."""
    feed = Feed(make_rows(400), make_raw(400), fresh(theta))
    column = feed.run(FRAME - 1, 399)
    served, thetas = feed.expected(FRAME - 1, 399, theta)
    np.testing.assert_array_equal(column, served[-FRAME:])
    assert feed.calibration.tracks[ETH].last == thetas[-1]
    np.testing.assert_array_equal(feed.calibration.tracks[ETH].at(feed.opens_s), thetas)
    kept = 2 ** (-1 / HALF_LIFE_CANDLES)
    steps = [now - kept * last for last, now in itertools.pairwise(thetas) if now != last]
    assert set(np.round(steps, 12)) == {round(RATE * 0.9, 12), -round(RATE * 0.1, 12)}
    assert len(steps) < len(thetas) - 1  # not ended yet


def test_rows_without_forecast_and_candles_that_are_missing_move_nothing(fresh):
    """NaN of either kind leaves theta where it was, as in `calibrate`."""
    rows, raw = make_rows(300), make_raw(300)
    rng = np.random.default_rng(3)
    rows[rng.random(300) < 0.02] = math.nan
    raw[rng.random(300) < 0.2] = math.nan
    raw[-1] = -0.01
    feed = Feed(rows, raw, fresh(FAR))
    column = feed.run(FRAME - 1, 299)
    served, thetas = feed.expected(FRAME - 1, 299, FAR)
    np.testing.assert_array_equal(column, served[-FRAME:])
    assert feed.calibration.tracks[ETH].last == thetas[-1] != FAR


def test_label_that_has_not_ended_has_no_part(fresh):
    """Whatever candles do after a row, what was served there stays; then they do count."""
    rows, raw = make_rows(200), make_raw(200)
    other = rows.copy()
    other[120:, 1:3] *= [3.0, 0.3]  # every label that reaches here is a miss
    one, two = (Feed(r, raw, c) for r, c in ((rows, fresh(FAR)), (other, fresh(FAR))))
    one.run(FRAME - 1, 119)
    two.run(FRAME - 1, 119)
    assert one.said == two.said
    assert one.calibration.tracks[ETH].last == two.calibration.tracks[ETH].last
    assert one.run(120, 140)[-1] != two.run(120, 140)[-1]


def test_biased_model_loses_most_of_its_bias_in_a_month_of_candles(fresh):
    """Of a model that misses 20 % where it says 10, what is served misses about 13 after a month."""
    n = 30 * 288
    rows = make_rows(n, 5)
    known = labels(rows)["long"]
    raw = np.full(n, np.nanquantile(known, 0.2))
    feed = Feed(rows, raw, fresh(), n_frame=2 * HORIZON)  # no more than labels are open in it
    feed.run(2 * HORIZON - 1, n - 1)
    served = np.array([feed.said[int(o)] for o in feed.opens_s])
    first, last = slice(0, 5 * 288), slice(n - 5 * 288, n - HORIZON)
    assert np.mean(known[first] < served[first]) > 0.15
    assert np.mean(known[last] < served[last]) == pytest.approx(0.13, abs=0.02)
    assert feed.calibration.factor(ETH) > 1.1


def test_first_candle_is_served_as_forecast_and_the_factor_is_one(fresh):
    """Without a past nothing is changed, and there is no state of a pair nobody asked for."""
    calibration = fresh()
    assert calibration.factor(ETH) == 1.0
    feed = Feed(make_rows(80), make_raw(80), calibration, n_frame=1)
    assert feed.candle(0)[0] == feed.raw[0]
    assert list(calibration.tracks) == [ETH]
    assert calibration.factor(ETH) == 1.0


def test_gap_that_is_filled_is_served_as_if_it_had_not_been(fresh):
    """While nothing is said theta waits; then it goes the way of the candles, not past them."""
    feed = Feed(make_rows(200), make_raw(200), fresh(FAR))
    for row in range(100, 110):
        feed.candle(row, is_gap=True)
    whole = Feed(feed.rows, feed.raw, fresh(FAR))
    np.testing.assert_array_equal(feed.candle(110), whole.candle(110))


def test_candle_filled_in_among_served_ones_is_served_by_the_theta_it_had(fresh):
    """A forecast that comes late changes no other candle, and no theta."""
    feed = Feed(make_rows(200), make_raw(200), fresh(FAR))
    column = feed.run(FRAME - 1, 150)
    before = feed.calibration.tracks[ETH]
    opens_s, late = feed.opens_s[151 - FRAME : 151], np.zeros(FRAME, bool)
    late[20] = True
    q = np.where(late, -0.01, column)
    tail = Tail(FIRST_S, STEP_S, feed.rows[:151])
    forecasts = on_frame(opens_s, q, np.full(FRAME, 0.1), late)
    served = feed.calibration.serve(ETH, forecasts, tail)
    assert served[20] == -0.01 * math.exp(before.at(opens_s)[20])
    np.testing.assert_array_equal(served[~late], column[~late])
    assert feed.calibration.tracks[ETH] is before


def test_track_has_no_more_candles_than_asked_for(fresh):
    """Memory does not grow; after an absence of any length the last theta is still there."""
    feed = Feed(make_rows(700), make_raw(700), fresh(FAR, keep=100))
    feed.run(FRAME - 1, 250)
    track = feed.calibration.tracks[ETH]
    assert (len(track.thetas), track.last_s) == (100, feed.opens_s[250])
    feed.candle(600)
    track = feed.calibration.tracks[ETH]
    assert (len(track.thetas), track.last_s) == (100, feed.opens_s[600])


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.integers(1, 200))
def test_track_of_any_candles_gives_each_its_theta(gaps, keep):
    """A missing candle has the theta of the one before; older ones than kept that of the oldest."""
    opens_s = FIRST_S + STEP_S * np.cumsum(gaps)
    thetas = np.arange(1.0, len(gaps) + 1)
    track = ThetaTrack(FIRST_S, STEP_S, np.zeros(1))
    for at in range(0, len(gaps), 7):
        track = track.extended(opens_s[at : at + 7], thetas[at : at + 7], keep)
    assert (track.last, track.last_s) == (thetas[-1], opens_s[-1])
    assert len(track.thetas) <= keep
    grid = np.arange(track.first_s, track.last_s + 1, STEP_S)
    known = np.concatenate([[0.0], thetas])
    expected = known[np.searchsorted(opens_s, grid, "right")]
    np.testing.assert_array_equal(track.at(grid), expected)
    assert track.at(np.array([track.first_s - STEP_S]))[0] == expected[0]


# ------------------------------------------------------------------ restarts


@pytest.mark.parametrize("n_lost", [0, 1, 5, 25], ids="{}-candles-not-written".format)
def test_restart_serves_the_same_bits_whatever_the_kill_lost(fresh, tmp_path, n_lost):
    """What was not written is computed again from what was, at a theta far from 0."""
    path = tmp_path / "calibration.json"
    feed = Feed(make_rows(400), make_raw(400), fresh(FAR))
    feed.run(FRAME - 1, 350 - n_lost)
    feed.calibration.save(path)
    column = feed.run(351 - n_lost, 350) if n_lost else feed.candle(350)
    again = Feed(feed.rows, feed.raw, fresh())
    again.calibration.restore(path)
    np.testing.assert_array_equal(again.candle(350), column)
    np.testing.assert_array_equal(again.run(351, 380), feed.run(351, 380))
    assert again.calibration.factor(ETH) == feed.calibration.factor(ETH) > 1.5


def test_return_after_a_long_absence_goes_on_from_the_last_theta(fresh, tmp_path):
    """No candle of the frame is known: theta is where it was, and moves on from there."""
    path = tmp_path / "calibration.json"
    feed = Feed(make_rows(700), make_raw(700), fresh(FAR))
    feed.run(FRAME - 1, 100)
    feed.calibration.save(path)
    theta = feed.calibration.tracks[ETH].last
    again = Feed(feed.rows, feed.raw, fresh())
    again.calibration.restore(path)
    column = again.candle(600)
    served, _ = again.expected(600, 600, theta)
    np.testing.assert_array_equal(column, served)
    assert column[0] == feed.raw[600 - FRAME + 1] * math.exp(theta)


def test_pair_that_is_not_traded_for_a_while_keeps_its_theta(fresh, tmp_path):
    """Its state is read and written again by a bot that does not follow it."""
    path = tmp_path / "calibration.json"
    feed = Feed(make_rows(200), make_raw(200), fresh(FAR))
    feed.calibration.tracks[SOL] = ThetaTrack(FIRST_S, STEP_S, np.array([0.1, 0.2]))
    feed.run(FRAME - 1, 100)
    feed.calibration.save(path)
    between = fresh()
    between.restore(path)
    between.save(path)
    after = fresh()
    after.restore(path)
    np.testing.assert_array_equal(after.tracks[SOL].thetas, [0.1, 0.2])


def test_calibration_is_written_when_a_candle_came_and_the_pause_is_over(fresh, tmp_path):
    """Neither an idle bot nor a busy one writes more often than it must."""
    path = tmp_path / "calibration.json"
    feed = Feed(make_rows(200), make_raw(200), fresh())
    assert not feed.calibration.is_due(0.0)
    feed.candle(100)
    assert feed.calibration.is_due(1_000.0)
    feed.calibration.save(path)
    assert not feed.calibration.is_due(0.0)
    feed.candle(101)
    assert feed.calibration.is_due(0.0)
    assert not feed.calibration.is_due(1_000.0)
    again = fresh()
    again.restore(path)
    assert not again.is_due(0.0)


def test_file_written_while_candles_are_served_is_whole_at_any_moment(fresh, tmp_path):
    """One thread serves, another writes: every file is a moment that really was."""
    path = tmp_path / "calibration.json"
    n_pairs, last = 6, 250
    feeds = [Feed(make_rows(last + 1, i), make_raw(last + 1, i), fresh()) for i in range(n_pairs)]
    shared = feeds[0].calibration
    seen, errors, is_over = [], [], threading.Event()

    def write() -> None:
        try:
            while not is_over.is_set():
                shared.save(path)
                read = fresh()
                read.restore(path)
                seen.append(dict(read.tracks))
        except Exception as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    for row in range(FRAME - 1, last + 1):
        for number, feed in enumerate(feeds):
            feed.calibration = fresh()
            if f"P{number}" in shared.tracks:
                feed.calibration.tracks[ETH] = shared.tracks[f"P{number}"]
            feed.candle(row)
            shared.tracks[f"P{number}"] = feed.calibration.tracks[ETH]
    is_over.set()
    writer.join()
    assert errors == []
    assert len(seen) > 3
    for tracks in seen:
        for pair, track in tracks.items():
            grid = np.arange(track.first_s, track.last_s + 1, STEP_S)
            np.testing.assert_array_equal(track.thetas, shared.tracks[pair].at(grid))


# ------------------------------------------------------------------ in the bot


@pytest.fixture
def start(world, tmp_path, write_store) -> Iterator[object]:
    """Give a function that starts a bot of one pair on the same state folder, and ends the last."""
    write_store(market_record(ETH, time.time_ns() - 10**9, num_leaves=31))
    running: list[LiveFeeder] = []

    def run(**feeder) -> LiveFeeder:
        stop()
        folder = world.folder(world.settings(tmp_path / "user_data", pairs=(ETH,), **feeder))
        running.append(LiveFeeder(folder, lambda _pair: world.candles[ETH].iloc[:0]))
        running[-1].start()
        return running[-1]

    def stop() -> None:
        while running:
            running.pop().stop()

    run.stop = stop
    yield run
    stop()


def put(live: LiveFeeder, theta: float = FAR) -> ThetaTrack:
    """Give a bot a theta, as a candle would."""
    track = ThetaTrack(FIRST_S, STEP_S, np.array([0.1, theta]))
    live.calibration.tracks[ETH] = track
    return track


def path_of(live: LiveFeeder) -> Path:
    """Return where a bot keeps its calibration."""
    return live.settings.state_dir / "calibration.json"


def factor_said(live: LiveFeeder) -> float:
    """Return the factor in the status file."""
    return read_status(live.settings.status_path)["pairs"][ETH]["model"]["calibration"]


def test_reload_and_new_parameters_keep_theta(start, write_store):
    """Theta is the pair's, not the record's; status has the factor, also without a model."""
    live = start()
    assert factor_said(live) == 1.0
    track = put(live)
    write_store(market_record(ETH, time.time_ns(), quantile_alpha=0.2))
    live.reload()
    assert live.snapshot.pairs[ETH].loaded.parameters["quantile_alpha"] == 0.2
    assert live.calibration.tracks[ETH] is track
    assert factor_said(live) == math.exp(FAR)


def test_bot_writes_theta_by_itself_and_at_its_end(start):
    """Soon after a candle, not on its thread; what came later is written when the bot stops."""
    live = start()
    put(live)
    wait_until(lambda: path_of(live).exists() and factor_said(live) != 1.0, "theta's file")
    assert factor_said(live) == math.exp(FAR)
    live.calibration.tracks[ETH] = ThetaTrack(FIRST_S, STEP_S, np.array([0.1, FAR, 0.3]))
    start.stop()
    assert path_of(live).stat().st_mode & 0o777 == 0o600
    again = start()
    np.testing.assert_array_equal(again.calibration.tracks[ETH].thetas, [0.1, FAR, 0.3])
    assert factor_said(again) == math.exp(0.3)


def test_rebuilt_bot_goes_on_with_theta(start):
    """`/reload_config` builds a new strategy in the same process."""
    put(start())
    assert start().calibration.factor(ETH) == math.exp(FAR)


def spoil(path: Path, how: str) -> None:
    """Damage a calibration file."""
    document = read_checked(path)
    entry = document["pairs"][ETH]
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        entry |= {
            "text": {"thetas": "####"},
            "nan": {"thetas": "AAAAAAAA+H8="},
            "no candle": {"thetas": ""},
            "number": {"thetas": 3},
            "future": {"first_candle_s": int(time.time()) + 86_400},
        }[how]
        write_checked(path, document)


@pytest.mark.parametrize("how", ["cut", "empty", "text", "nan", "no candle", "number", "future"])
def test_damaged_file_is_said_and_theta_begins_at_0(start, caplog, how):
    """An ERROR that names the file; the bot starts, and writes a whole file again."""
    live = start()
    put(live)
    start.stop()
    spoil(path_of(live), how)
    again = start()
    (line,) = [r for r in caplog.records if r.getMessage().startswith("Calibration is lost")]
    assert line.levelno == logging.ERROR
    assert str(path_of(live)) in line.getMessage()
    assert again.calibration.tracks == {}
    assert factor_said(again) == 1.0
    put(again, 0.2)
    assert start().calibration.factor(ETH) == math.exp(0.2)


@pytest.mark.parametrize(
    "feeder", [{"side": "short"}, {"horizon_candles": 7}], ids=["side", "horizon"]
)
def test_file_of_another_side_or_horizon_does_not_fit(start, caplog, feeder):
    """Theta of other labels says nothing here: said, and begun anew."""
    put(start())
    again = start(**feeder)
    (line,) = [r for r in caplog.records if "Saved calibration does not match" in r.getMessage()]
    assert line.levelno == logging.WARNING
    assert again.calibration.factor(ETH) == 1.0


def test_file_of_another_timeframe_does_not_fit(fresh, tmp_path, caplog):
    """Candles of another length are other rows."""
    path = tmp_path / "calibration.json"
    written = fresh(FAR)
    written.save(path)
    other = Calibration(replace(written.settings, timeframe="15m"), 900, FRAME_CANDLES)
    other.restore(path)
    assert other.tracks == {}
    assert "does not match" in caplog.text


def test_folder_that_can_not_be_written_is_said_once_and_theta_goes_on(start, caplog, monkeypatch):
    """As of the other files: a WARNING, not one a minute, and no end of anything."""
    live = start()
    nowhere = Path("/proc/nowhere/calibration.json")
    monkeypatch.setattr(StateFolder, "calibration_path", nowhere)
    for theta in (FAR, 0.3):
        live.calibration.tracks[ETH] = ThetaTrack(FIRST_S, STEP_S, np.array([theta]))
        live.keeper.keep_calibration(pause_s=0.0)
    lines = [r for r in caplog.records if "calibration file is not written" in r.getMessage()]
    assert len(lines) == 1
    assert live.calibration.factor(ETH) == math.exp(0.3)
