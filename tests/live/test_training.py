"""Training beside the bot: what is due comes, in order; what fails changes nothing and is said."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.errors import CandleError
from feeder_mixin.live.serve.candles import DataFolder, LiveTails
from feeder_mixin.live.serve.snapshot import ParameterCache, Serving
from feeder_mixin.live.train import _process, due, training
from feeder_mixin.live.train import history as candle_history
from feeder_mixin.live.train.due import DueFits, due_cut_s
from feeder_mixin.live.train.history import TrainingHistory
from feeder_mixin.live.train.models import ModelStore, TrainedModel
from feeder_mixin.live.train.training import ModelTraining
from feeder_mixin.market import history
from feeder_mixin.market.features import warmup_candles
from feeder_mixin.schema import hash48
from tests.candle_factory import candle_file, make_candles, write_candles
from tests.inline_executor import InlineExecutor
from tests.live.conftest import (
    BTC,
    ETH,
    HORIZON,
    PAIRS,
    SOL,
    STEP_S,
    host_frame,
    loaded_pair,
    market_settings,
    open_s,
)
from tests.waiting import wait_until

N = 8_000  # candles: two weeks of warm-up and two weeks to learn from
DEADLINE_S = 40.0
DAY_S = 86_400


class Bench:
    """A training thread over candles that end now, with a cache and tails as the bot has them."""

    def __init__(self, tmp_path, pairs=PAIRS, n_disk=N - 20, **feeder) -> None:
        start = time.time() // STEP_S * STEP_S - N * STEP_S
        begin = time.strftime("%Y-%m-%d %H:%M", time.gmtime(start))
        self.candles = {p: make_candles(N, i, start=begin) for i, p in enumerate(PAIRS, 3)}
        settings = market_settings(tmp_path / "user_data", pairs, **feeder)
        self.datadir = settings.default_datadir
        write_candles(self.datadir, {p: c.iloc[:n_disk] for p, c in self.candles.items()})
        listed_s = {p: int(c.index[0].timestamp()) for p, c in self.candles.items()}
        self.folder = DataFolder(settings, self.datadir, STEP_S, listed_s)
        self.tails = LiveTails(self.folder, N)
        self.cache = ParameterCache()
        self.store = ModelStore(settings.model_dir, settings)
        self.generation = 0
        self.changed = threading.Event()
        self.history = TrainingHistory(self.folder, self.tails)
        self.due = DueFits(self.history, self.cache)
        self.training = ModelTraining(self.history, self.due, self.cache, self.store, self.changed)

    def see(self, n: int = N) -> None:
        """Take the host's candles of all pairs, as far as they have come."""
        for pair, candles in self.candles.items():
            self.tails.take(pair, host_frame(candles.iloc[:n]))
        self.tails.until_s = open_s(self.candles[ETH], n - 1)

    def load(self, *loaded) -> None:
        """Put parameters in force, and wake the thread as a reload does."""
        self.generation += 1
        now_s = int(time.time() // STEP_S * STEP_S)
        pairs = {pair.pair: pair for pair in loaded}
        self.cache.swap_parameters(pairs, self.generation, time.time_ns(), now_s)
        self.training.wake()

    def wait_current(self, *pairs: str) -> None:
        """Return once each pair's newest model is that of its parameters."""
        wait_until(lambda: self.is_current(*pairs), f"models of {', '.join(pairs)}")

    def serve(self, pair: str, cut_s: int, version: int = 1) -> None:
        """Put a model of some cut in force, as restored from an earlier process."""
        known = self.cache.snapshot.pairs[pair]
        (model,) = [s.model for s in known.servings] or [self.any_model(pair)]
        old = replace(model, cut_s=cut_s, parameters=known.loaded.parameters)
        serving = Serving(replace(known.loaded, version=version), old, cut_s, 0)
        self.cache.put_servings(pair, [serving], cut_s)

    def any_model(self, pair: str):
        """Return a model without trees."""
        s, name = self.folder.settings, f"{pair[:3]}-old"
        fits = hash48(*s.context_pairs), s.train_days
        return TrainedModel(pair, {}, 0, 100_000, 1.0, *fits, name, "shared-0-old", None)

    def newest(self, pair: str):
        """Return the newest serving of a pair, or None."""
        return self.cache.snapshot.pairs[pair].newest

    def is_current(self, *pairs: str) -> bool:
        """Return whether pairs have a model of this cut, trained from what is loaded."""
        cut_s = due_cut_s(time.time(), 24)
        return all(
            (known := self.cache.snapshot.pairs[pair]).newest is not None
            and known.newest.model.parameters == known.loaded.parameters
            and known.newest.model.cut_s == cut_s
            for pair in pairs
        )


@pytest.fixture
def make_bench(tmp_path) -> Iterator[Callable[..., Bench]]:
    """Give a function that makes a bench; its thread is stopped in the end."""
    made: list[Bench] = []

    def make(**options) -> Bench:
        made.append(Bench(tmp_path, **options))
        return made[-1]

    yield make
    for bench in made:
        if bench.training._thread.is_alive():
            # On a thread: a defect that keeps `stop` waiting must fail a test, not hang all.
            stopper = threading.Thread(target=bench.training.stop, daemon=True)
            stopper.start()
            stopper.join(DEADLINE_S)


@pytest.fixture
def inline(monkeypatch) -> type[InlineExecutor]:
    """Fit on the training thread instead of in a process of its own."""
    monkeypatch.setattr(_process, "ProcessExecutor", InlineExecutor)
    monkeypatch.setattr(_process, "LINGER_S", 0.0)
    monkeypatch.setattr(training, "POLL_S", 0.02)
    monkeypatch.setattr(InlineExecutor, "fits", [])
    monkeypatch.setattr(InlineExecutor, "before", staticmethod(lambda _pair: None))
    return InlineExecutor


# ------------------------------------------------------------------ the retraining grid


@given(st.floats(0, 4e9), st.integers(1, 10**7))
def test_due_cut_is_the_last_multiple_of_the_step_since_the_epoch(now_s, timeframe_s):
    """A whole number of steps since the epoch, not later than now, less than a step ago."""
    cut_s = due_cut_s(now_s, timeframe_s / 3600)
    assert isinstance(cut_s, int)
    # Steps in hours have no exact float: a grid point may be cut off to the second before.
    assert min(cut_s % timeframe_s, -cut_s % timeframe_s) <= 1
    assert now_s - timeframe_s - 1 <= cut_s <= now_s


@given(st.integers(0, 4 * 10**9), st.sampled_from((1, 2, 3, 4, 6, 8, 12, 24, 48, 168)))
def test_due_cut_of_whole_hours_is_exact(now_s, hours):
    """Every usual setting gives multiples of its hours in UTC: midnight for 24."""
    assert due_cut_s(now_s, hours) == now_s - now_s % (hours * 3600)


@given(st.integers(0, 4 * 10**9), st.integers(0, 10**6), st.floats(0.1, 1000))
def test_due_cut_never_goes_back(now_s, later_s, hours):
    """As time goes on, so does the grid."""
    assert due_cut_s(now_s, hours) <= due_cut_s(now_s + later_s, hours)


# ------------------------------------------------------------------ what is due, in which order


def test_new_parameters_get_a_model_that_serves_the_candle_now_open(make_bench, inline):
    """Trained until the last grid point, in force from the next candle to close, said by an event.

    Files of the bot's state are the keeper's: the training writes models and no other.
    """
    bench = make_bench()
    bench.load(*(loaded_pair(pair) for pair in PAIRS))
    bench.see()
    before_s = int(time.time() // STEP_S * STEP_S)
    bench.training.start()
    bench.wait_current(*PAIRS)
    for pair in PAIRS:
        serving = bench.newest(pair)
        assert before_s <= serving.first_candle_s <= time.time()
        assert serving.first_candle_s % STEP_S == 0
        assert serving.loaded == loaded_pair(pair)
        assert serving.model.rows > 0
    wait_until(bench.changed.is_set, "the event")
    assert [path.name for path in bench.folder.settings.state_dir.iterdir()] == ["models"]


def test_nothing_is_trained_before_the_first_candle(make_bench, inline):
    """Without a candle there is nothing to say how far the market has come."""
    bench = make_bench()
    bench.load(loaded_pair(ETH))
    bench.history.close_gaps(bench.due.cut_s(), lambda: None)
    assert bench.due.next() is None
    bench.see()
    assert bench.due.next() is not None


def test_changed_pairs_come_first_then_the_oldest_cut(make_bench, inline):
    """Changed or without a model, then the model that is oldest, then the others."""
    bench = make_bench()
    bench.load(*(loaded_pair(pair) for pair in PAIRS))
    cut_s = due_cut_s(time.time(), 24)
    bench.serve(BTC, cut_s - DAY_S)
    bench.serve(ETH, cut_s - 2 * DAY_S)
    bench.serve(SOL, cut_s)
    bench.load(loaded_pair(BTC), loaded_pair(ETH), loaded_pair(SOL, 2, num_leaves=30))
    bench.see()
    bench.training.start()
    bench.wait_current(*PAIRS)
    assert [fit.pair for fit, _ in inline.fits] == [SOL, ETH, BTC]


def test_unchanged_pair_with_a_model_of_this_cut_is_not_fitted(make_bench, inline):
    """A reload that changes one pair costs one fit; the other keeps its very model."""
    bench = make_bench(pairs=(BTC, ETH))
    bench.load(loaded_pair(BTC), loaded_pair(ETH))
    bench.see()
    bench.training.start()
    bench.wait_current(BTC, ETH)
    kept = bench.newest(BTC).model
    inline.fits.clear()
    bench.load(loaded_pair(BTC, 2), loaded_pair(ETH, 2, num_leaves=30))
    bench.wait_current(BTC, ETH)
    assert [fit.pair for fit, _ in inline.fits] == [ETH]
    assert bench.newest(BTC).model is kept
    assert bench.newest(BTC).loaded.version == 2


def test_files_of_models_that_no_longer_serve_are_deleted(make_bench, inline):
    """The folder holds what serves and no more."""
    bench = make_bench(pairs=(ETH,))
    bench.load(loaded_pair(ETH))
    bench.see()
    bench.training.start()
    bench.wait_current(ETH)
    folder = bench.folder.settings.model_dir
    (folder / "ETH_USDT_USDT-1-2-3.json").write_text("{}", encoding="utf-8")
    bench.load(loaded_pair(ETH, 2, num_leaves=30))
    bench.wait_current(ETH)
    wait_until(
        lambda: not (folder / "ETH_USDT_USDT-1-2-3.json").exists(), "the old model to be removed"
    )
    for serving in bench.cache.snapshot.pairs[ETH].servings:
        assert ModelStore(folder, bench.folder.settings).load(serving.model.name)


def test_parameters_replaced_during_the_fit_never_serve_the_old_ones(make_bench, inline):
    """The finished fit of outdated values is dropped, and the new values are fitted."""
    bench = make_bench(pairs=(ETH,))
    bench.load(loaded_pair(ETH))
    bench.see()
    newer = loaded_pair(ETH, 2, num_leaves=30)

    def replace_once(_pair):
        if bench.generation == 1:
            bench.load(newer)

    inline.before = staticmethod(replace_once)
    bench.training.start()
    bench.wait_current(ETH)
    servings = bench.cache.snapshot.pairs[ETH].servings
    assert [s.loaded for s in servings] == [newer]
    assert [fit.parameters["num_leaves"] for fit, _ in inline.fits] == [15, 30]


def test_pair_whose_candles_came_after_the_first_fit_began_is_fitted_with_them(make_bench, inline):
    """Each fit takes the pair's candles as they are then, not as they were when fits began."""
    bench = make_bench(context_pairs=[BTC], pairs=(BTC, ETH))
    bench.load(loaded_pair(BTC), loaded_pair(ETH))
    bench.see(N - 1)

    def come_on(pair):
        if pair == BTC:
            bench.see()

    inline.before = staticmethod(come_on)
    bench.training.start()
    bench.wait_current(BTC, ETH)
    newer = {fit.pair: tail for fit, tail in inline.fits}
    assert newer[ETH].last_s == open_s(bench.candles[ETH], N - 1)


# ------------------------------------------------------------------ what fails


@pytest.mark.parametrize("context", [[BTC], [BTC, ETH]], ids=["outside", "in_context"])
def test_failing_fit_leaves_the_old_model_and_is_retried_after_the_pause(
    make_bench, inline, monkeypatch, caplog, context
):
    """Damaged candles: the current model stays in use, why is in `errors` and log; mended, it comes."""
    monkeypatch.setattr(due, "RETRY_S", 0.5)
    monkeypatch.setattr(candle_history, "download_newer", refuse_download)
    monkeypatch.setattr(candle_history, "download_older", refuse_download)
    bench = make_bench(context_pairs=context, pairs=(BTC, ETH))
    bench.load(loaded_pair(BTC), loaded_pair(ETH))
    bench.see()
    bench.training.start()
    bench.wait_current(BTC, ETH)
    old = bench.newest(ETH)
    path = candle_file(bench.datadir, ETH)
    whole = path.read_bytes()
    path.write_bytes(b"nonsense")
    bench.load(loaded_pair(BTC), loaded_pair(ETH, 2, num_leaves=30))
    wait_until(
        lambda: ETH in bench.due.errors or bench.newest(ETH) is not old, "an end of ETH's fit"
    )
    assert path.name in bench.due.errors.get(ETH, "")
    assert bench.newest(ETH) is old
    line = f"No new model for {ETH}, the current one stays in use cut="
    assert any(r.getMessage().startswith(line) for r in caplog.records)
    n_failed = len(inline.fits)
    wait_until(lambda: len(inline.fits) > n_failed, "another fit")  # tried again by itself
    path.write_bytes(whole)
    bench.wait_current(ETH)
    wait_until(lambda: bench.due.errors == {}, "no error any more")


def test_failed_fit_is_not_tried_again_before_the_pause_is_over(make_bench, inline, monkeypatch):
    """A fit that fails does not keep a core busy; other pairs go on."""
    bench = make_bench(context_pairs=[BTC], pairs=(ETH, BTC))
    candle_file(bench.datadir, ETH).write_bytes(b"nonsense")
    bench.load(loaded_pair(ETH), loaded_pair(BTC))
    bench.see()
    monkeypatch.setattr(candle_history, "download_newer", refuse_download)
    bench.training.start()
    wait_until(
        lambda: ETH in bench.due.errors and bench.is_current(BTC),
        "ETH's error and BTC's model",
    )
    assert not bench.due.standing(bench.cache.snapshot.pairs[ETH]).is_waiting
    for _ in range(3):
        bench.training.wake()
        wait_until(lambda: not bench.training._wake.is_set(), "the thread to take the wake-up")
    assert [fit.pair for fit, _ in inline.fits].count(ETH) == 1
    bench.load(loaded_pair(ETH, 2, num_leaves=30), loaded_pair(BTC))  # something did change
    wait_until(lambda: [fit.pair for fit, _ in inline.fits].count(ETH) == 2, "ETH's second fit")


def test_wake_up_ends_the_pause_of_a_failed_thread(make_bench, inline, caplog):
    """A defect is said and waited out; new parameters are looked at before that."""
    bench = make_bench(pairs=(ETH,))
    calls = []

    def fail(*_arguments):
        calls.append(time.monotonic())
        raise ZeroDivisionError("a defect")

    bench.history.close_gaps = fail
    bench.training.start()
    wait_until(bench.changed.is_set, "the event")
    time.sleep(0.1)  # five polls
    assert len(calls) == 1
    assert bench.due.thread_error == "ZeroDivisionError: a defect"
    bench.training.wake()
    wait_until(lambda: len(calls) == 2, "the second failure")


def test_training_over_a_gap_is_said(make_bench, inline, caplog, monkeypatch):
    """A model that learned from candles with holes says so, with their number."""
    caplog.set_level(logging.INFO, "feeder_mixin")
    bench = make_bench(pairs=(ETH,))
    holed = bench.candles[ETH].drop(index=bench.candles[ETH].index[-900:-893])
    write_candles(bench.datadir, {ETH: holed.iloc[:-20]})
    bench.load(loaded_pair(ETH))
    bench.see()
    bench.training.start()
    bench.wait_current(ETH)
    wait_until(lambda: "Model is ready" in caplog.text, "the line about the model")
    assert f"Model was trained over a gap pair={ETH} missing_candles=7" in caplog.text


def test_gap_between_disk_and_host_is_named_and_downloaded_before_training(
    make_bench, inline, caplog, monkeypatch
):
    """The host's downloader is asked for exactly the pairs with a gap, then the fit comes."""
    asked = []
    bench = make_bench(pairs=(ETH,), n_disk=N - 600)

    def download(_settings, pairs, datadir, *_more, **_options):
        asked.append(sorted(pairs))
        write_candles(datadir, {p: c.iloc[: N - 5] for p, c in bench.candles.items()})

    monkeypatch.setattr(candle_history, "download_newer", download)
    bench.load(loaded_pair(ETH))
    bench.see()
    bench.training.start()
    bench.wait_current(ETH)
    assert asked == [sorted(PAIRS)]
    lines = [r.getMessage() for r in caplog.records]
    for pair in PAIRS:
        start = f"Candles are missing between disk and exchange pair={pair} gap=candles from "
        assert [line for line in lines if line.startswith(start)]
    assert "trained over a gap" not in caplog.text


def test_gap_that_can_not_be_filled_is_an_error_and_training_goes_on_saying_so(
    make_bench, inline, caplog, tmp_path
):
    """A folder that is not freqtrade's own is not downloaded into: said, with the command."""
    bench = make_bench(pairs=(ETH,), n_disk=N - 600)
    other = write_candles(
        tmp_path / "elsewhere", {p: c.iloc[: N - 600] for p, c in bench.candles.items()}
    )
    bench.folder = replace(bench.folder, datadir=other)
    bench.history.folder = bench.tails.folder = bench.folder
    bench.load(loaded_pair(ETH))
    bench.see()
    bench.training.start()
    bench.wait_current(ETH)
    assert "Gap is not filled: " in caplog.text
    assert "download-data" in caplog.text
    line = f"Model was trained over a gap pair={ETH} missing_candles=101"
    wait_until(lambda: line in caplog.text, "the line about the model")


# ------------------------------------------------------------------ short histories


def move_away(bench: Bench) -> Path:
    """Take the data folder away from a running bot; return where it is now."""
    away = bench.datadir.with_name("away")
    bench.datadir.rename(away)
    bench.datadir.mkdir()
    return away


def test_model_on_a_fraction_of_its_history_never_replaces_a_good_one(
    make_bench, inline, caplog, monkeypatch
):
    """Without the data folder the old model serves on, said; with it the pair is trained at once."""
    caplog.set_level(logging.INFO, "feeder_mixin")
    monkeypatch.setattr(candle_history, "download_older", refuse_download)
    bench = make_bench(pairs=(ETH,))
    bench.load(loaded_pair(ETH))
    bench.see()
    bench.training.start()
    bench.wait_current(ETH)
    good = bench.newest(ETH).model
    assert good.rows >= 0.95 * bench.due.expected_rows(good)
    bench.tails.tails[ETH] = bench.tails.tails[ETH].newest(5_400)  # what a bot keeps in memory
    away = move_away(bench)
    bench.load(loaded_pair(ETH, 2, num_leaves=30))
    wait_until(lambda: ETH in bench.due.errors, "ETH's error")
    assert bench.newest(ETH).model is good
    said = f"candles are missing: rows=\\d+ expected_rows={bench.due.expected_rows(good)} "
    assert re.search(f"{said}.* rows={good.rows} ", bench.due.errors[ETH])
    assert "No new model for ETH/USDT:USDT, the current one stays in use" in caplog.text
    # The fit may have begun before the thread looked for gaps again.
    wait_until(lambda: "gap=its candles are gone from" in caplog.text, "the gap to be said")
    bench.datadir.rmdir()
    away.rename(bench.datadir)
    wait_until(
        lambda: bench.newest(ETH).model.parameters["num_leaves"] == 30,
        "the model of the new parameters",
    )
    assert bench.newest(ETH).model.rows >= good.rows
    wait_until(lambda: not bench.due.errors, "no error any more")


def refuse_download(_settings, pairs, *_more) -> None:
    """Stand for an exchange that can't be reached."""
    raise CandleError(f"download failed: {', '.join(pairs)}")


def start_unlisted(make_bench):
    """Return a bench of a pair whose listing nobody knows, with its first model."""
    bench = make_bench(pairs=(ETH,))
    bench.folder = replace(bench.folder, listed_s={})
    bench.history.folder = bench.folder
    bench.load(loaded_pair(ETH))
    bench.see()
    bench.training.start()
    bench.wait_current(ETH)
    return bench


def test_first_model_on_a_short_history_serves_with_a_warning_until_older_candles_are_there(
    make_bench, inline, caplog, monkeypatch
):
    """Few days on disk: older ones are asked for; when they come, the pair is trained again."""
    caplog.set_level(logging.INFO, "feeder_mixin")
    monkeypatch.setattr(candle_history, "download_older", refuse_download)
    bench = start_unlisted(make_bench)
    short = bench.newest(ETH).model
    assert bench.due.is_short(short)
    assert (
        bench.due.expected_rows(short) == 21_597
    )  # of 150 days every second, but for those whose label ends behind the cut
    assert (
        f"Model has a short history, older candles are missing; it is trained again when they arrive pair={ETH} rows={short.rows} expected_rows=21597 "
        in caplog.text
    )
    assert "gap=candles from " in caplog.text
    older = make_candles(
        N + 6_000,
        4,
        start=f"{bench.candles[ETH].index[0] - 6_000 * pd.Timedelta('5min'):%Y-%m-%d %H:%M}",
    )
    write_candles(bench.datadir, {ETH: older.iloc[: N + 6_000 - 20]})
    wait_until(
        lambda: bench.newest(ETH).model.rows > 2 * short.rows, "a model of the longer history"
    )


def test_young_pair_is_not_a_short_history(make_bench, inline, caplog):
    """Expected rows count from the listing: nothing is asked for, warned of, or trained again."""
    caplog.set_level(logging.INFO, "feeder_mixin")
    bench = make_bench(pairs=(ETH,))
    bench.load(loaded_pair(ETH))
    bench.see()
    bench.training.start()
    bench.wait_current(ETH)
    model = bench.newest(ETH).model
    assert not bench.due.is_short(model)
    assert caplog.text.count("Training begins feeder=feeder120b pairs=1 cut=20") == 1
    assert "short history" not in caplog.text
    assert "Candles are missing" not in caplog.text
    said = f"rows={model.rows} expected_rows={bench.due.expected_rows(model)} "
    wait_until(lambda: said in caplog.text, "the line of the model")


def test_exchange_without_older_candles_tells_the_listing(make_bench, inline, caplog, monkeypatch):
    """Asked for older candles and given none: the first one on disk is where the pair began."""
    caplog.set_level(logging.INFO, "feeder_mixin")
    monkeypatch.setattr(candle_history, "download_older", lambda *_more: None)
    bench = start_unlisted(make_bench)
    assert not bench.due.is_short(bench.newest(ETH).model)
    assert (
        "The exchange has no older candles, expected rows count from the first one" in caplog.text
    )


def test_pair_with_too_few_rows_gets_no_model(make_bench, inline, caplog, monkeypatch):
    """Below the least rows nothing is trained: the error says how many there are and are needed."""
    monkeypatch.setattr(candle_history, "download_older", refuse_download)
    bench = make_bench(pairs=(ETH,), n_disk=N - 20)
    cut = pd.Timestamp(time.time() // 86_400 * 86_400, unit="s", tz="UTC")
    n_before = warmup_candles(HORIZON) + HORIZON + 100  # fifty rows, at any time of the day
    frame = bench.candles[ETH]
    young = frame[frame.index >= cut - n_before * pd.Timedelta("5min")]
    write_candles(bench.datadir, {ETH: young.iloc[:-20]})
    bench.load(loaded_pair(ETH))
    bench.see()
    bench.tails.tails[ETH] = bench.tails.tails[ETH].newest(len(young))
    bench.training.start()
    wait_until(lambda: ETH in bench.due.errors, "ETH's error")
    assert re.match(
        r"\d\d rows to learn from in the 150 days before 20\S+Z, minimum 100: ",
        bench.due.errors[ETH],
    )
    assert bench.newest(ETH) is None
    wait_until(lambda: "it has none and is never safe" in caplog.text, "the warning")


# ------------------------------------------------------------------ the real worker process


def worker_pid() -> int | None:
    """Return the worker process there is, from its very first moment."""
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread or the child has just ended
            for pid in path.read_text(encoding="utf-8").split():
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() and alive(int(pid)):
                    return int(pid)
    return None


def start_real(bench: Bench) -> int:
    """Start training and return its worker's pid as soon as there is one."""
    bench.load(loaded_pair(ETH))
    bench.see()
    bench.training.start()
    return wait_until(worker_pid, "a worker")


def test_worker_survives_sigusr1_from_its_first_moment_and_is_ended_after_the_fit(
    make_bench, caplog, monkeypatch
):
    """A reload signal to the whole group costs no fit; an idle bot has no worker."""
    monkeypatch.setattr(_process, "LINGER_S", 0.0)
    signal.signal(signal.SIGUSR1, lambda *_: None)  # as in a bot: a child starts with the default
    bench = make_bench(pairs=(ETH,), context_pairs=[ETH])
    pid = start_real(bench)

    def signal_until_current():
        if worker_pid() == pid:
            os.kill(pid, signal.SIGUSR1)
        return bench.is_current(ETH)

    # Not without a pause: a worker that is signalled all the time gets nowhere on a busy machine. It
    # works at the niceness of what else is busy there: a minute was not always enough.
    wait_until(signal_until_current, "ETH's model", 300.0, pause_s=0.05)
    assert "died" not in caplog.text
    wait_until(lambda: worker_pid() is None, "the worker's end")


def test_stop_during_a_fit_returns_promptly_and_leaves_no_worker(make_bench):
    """The bot's end waits for no fit, and takes the worker with it."""
    bench = make_bench(pairs=(ETH,), context_pairs=[ETH])
    pid = start_real(bench)
    started = time.monotonic()
    bench.training.stop()
    assert time.monotonic() - started < 5
    wait_until(lambda: not alive(pid), "the worker's end")
    assert bench.newest(ETH) is None
    assert worker_pid() is None


def alive(pid: int) -> bool:
    """Return whether a process lives; one that nobody waited for yet has ended, too."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123 - proc
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_killed_worker_is_replaced_and_its_fit_is_done(make_bench, caplog):
    """SIGKILL during a fit (out of memory) costs one more try."""
    bench = make_bench(pairs=(ETH,), context_pairs=[ETH])
    pid = start_real(bench)
    wait_until(multiprocessing.active_children, "the worker")  # it has taken its setup
    os.kill(pid, signal.SIGKILL)
    bench.wait_current(ETH)
    assert caplog.text.count("A worker process died") == 1
    assert bench.due.errors == {}


@pytest.mark.slow
def test_worker_killed_in_its_first_moment_is_replaced_and_its_fit_is_done(make_bench, caplog):
    """Neither training nor the bot's end waits for a worker that died before it took its setup."""
    bench = make_bench(pairs=(ETH,), context_pairs=[ETH])
    os.kill(start_real(bench), signal.SIGKILL)
    bench.wait_current(ETH)
    assert caplog.text.count("A worker process died") == 1


@pytest.mark.slow
def test_context_pair_whose_file_was_damaged_meanwhile_is_said_by_the_bot(make_bench, caplog):
    """With or without a new model, the bot's log names the file: the worker has no log."""
    bench = make_bench(pairs=(ETH,), context_pairs=[ETH, SOL])
    bench.see()
    path = candle_file(bench.datadir, SOL)
    path.write_bytes(b"nonsense")
    bench.load(loaded_pair(ETH))
    bench.training.start()
    wait_until(lambda: bench.is_current(ETH) or ETH in bench.due.errors, "an end of ETH's fit")
    assert path.name in caplog.text


@pytest.mark.slow
def test_damage_of_every_context_file_is_named_and_not_taken_for_a_dead_worker(make_bench, caplog):
    """An error while the worker is set up is that error, not 'out of memory'."""
    bench = make_bench(pairs=(ETH,), context_pairs=[ETH])
    bench.see()
    path = candle_file(bench.datadir, ETH)
    path.write_bytes(b"nonsense")
    bench.load(loaded_pair(ETH))
    bench.training.start()
    wait_until(lambda: path.name in caplog.text or bench.newest(ETH), "an end of ETH's fit")
    assert "out of memory" not in bench.due.errors.get(ETH, "")
    assert path.name in caplog.text


def test_stop_during_a_download_returns_promptly_and_ends_it(make_bench, tmp_path, monkeypatch):
    """A slow exchange does not hold up the bot's end or `/reload_config`."""
    sleeper, pid_file = tmp_path / "python", tmp_path / "pid"
    sleeper.write_text(f"#!/bin/sh\necho $$ > {pid_file}\nexec sleep 20\n", encoding="utf-8")
    sleeper.chmod(0o755)
    monkeypatch.setattr(history, "sys", SimpleNamespace(executable=str(sleeper)))
    bench = make_bench(pairs=(ETH,), n_disk=N - 600)
    bench.load(loaded_pair(ETH))
    bench.see()
    bench.training.start()
    wait_until(
        lambda: pid_file.exists() and pid_file.read_text(encoding="utf-8").strip(), "the download"
    )
    pid = int(pid_file.read_text(encoding="utf-8"))
    stopper = threading.Thread(target=bench.training.stop, daemon=True)
    stopper.start()
    stopper.join(5)
    is_stopped = not stopper.is_alive()
    if alive(pid):
        os.kill(pid, signal.SIGTERM)
    stopper.join(DEADLINE_S)
    assert is_stopped
