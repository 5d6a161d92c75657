"""A FreqAI bot without an exchange: load, swap, turn, refusal, restart; training is FreqAI's own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("datasieve", reason="FreqAI's packages: make setup EXTRAS=freqai")

from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy

from feeder_mixin.freqai.model import OptunaLightGBMRegressor
from feeder_mixin.freqai.targets import Target, TunedOn
from feeder_mixin.live import memory
from feeder_mixin.live.reload.watcher import RELOAD_SIGNAL
from feeder_mixin.live.state.status import PairStatus, read_status
from feeder_mixin.schema import PARAMETERS, format_time_ns
from feeder_mixin.stores.sql import SqlStore
from tests.candle_factory import make_candles, write_candles
from tests.freqai.conftest import BOT, PAIRS, freqai_record
from tests.freqai.host import (
    HOST_WARNINGS,
    N_CANDLES,
    Strategy,
    host_frame,
    make_strategy,
    run_config,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(*HOST_WARNINGS)]

BTC, ETH = PAIRS
SMALL = {"n_estimators": 20, "verbosity": -1, "n_jobs": 1}
STEP_S = 300


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memories", {})


@pytest.fixture(scope="module")
def candles() -> dict[tuple[str, str], pd.DataFrame]:
    """Give candles of both pairs that end now."""
    begin_s = int(time.time()) // 900 * 900 - N_CANDLES * STEP_S
    start = pd.Timestamp(begin_s, unit="s")
    return {
        (pair, name): make_candles(
            N_CANDLES * STEP_S // seconds, number, timeframe_s=seconds, start=str(start)
        )
        for number, pair in enumerate(PAIRS)
        for name, seconds in (("5m", 300), ("15m", 900))
    }


@dataclass
class Run:
    """One bot process, as far as freqtrade drives it."""

    userdir: Path
    model: Any
    strategy: IStrategy
    frames: dict[tuple[str, str], pd.DataFrame]
    trained: list[tuple[str, int]] = field(default_factory=list)
    """Pair and trees of every training, in order."""

    def candle(self, pair: str) -> pd.DataFrame:
        """Analyse a candle of a pair."""
        frame = self.frames[pair, "5m"].tail(400).reset_index(drop=True)
        return self.model.start(frame, {"pair": pair}, self.strategy)

    def pair(self, pair: str) -> PairStatus:
        """Return what the status file says of a pair."""
        path = self.userdir / "feeder_state" / BOT / "status.json"
        return read_status(path)["pairs"][pair]

    def serving(self, pair: str) -> dict[str, Any]:
        """Return what the serving model's first regressor was built from."""
        return self.model.dd.model_dictionary[pair].estimators_[0].get_params()

    def wait(self, is_so: Callable[[], object], what: str) -> None:
        """Wait until something is so."""
        wait_until(is_so, what, 25.0)


@dataclass
class Site:
    """Folder, config and store, in which bots are started one after the other."""

    userdir: Path
    candles: dict[tuple[str, str], pd.DataFrame]
    freqai: dict[str, Any] = field(default_factory=dict)

    def write(self, *records: Any) -> None:
        """Write records to the store."""
        with SqlStore(self.userdir / "feeder_params.sqlite") as store:
            store.write(records)

    @contextmanager
    def bot(self, kind: type = Strategy) -> Iterator[Run]:
        """Run a bot."""
        freqai = {"model_training_parameters": dict(SMALL), **self.freqai}
        config = run_config(self.userdir, RunMode.DRY_RUN, freqai=freqai)
        frames = {key: host_frame(one) for key, one in self.candles.items()}
        strategy = make_strategy(config, frames, kind)
        model = OptunaLightGBMRegressor(config)
        run = Run(self.userdir, model, strategy, frames)
        fit = model.fit

        def noting(data: Any, dk: FreqaiDataKitchen, **options: Any) -> Any:
            made = fit(data, dk, **options)
            run.trained.append((dk.pair, made.estimators_[0].get_params()["n_estimators"]))
            return made

        model.fit = noting
        try:
            yield run
        finally:
            model.shutdown()


@pytest.fixture
def site(tmp_path, candles) -> Site:
    """Give an empty site with both pairs' candles on disk."""
    userdir = tmp_path / "user_data"
    userdir.mkdir()
    for name in ("5m", "15m"):
        write_candles(userdir / "data", {p: candles[p, name] for p in PAIRS}, name)
    return Site(userdir, candles)


def reload(run: Run) -> None:
    """Send the signal and wait until it is answered."""
    path = run.userdir / "feeder_state" / BOT / "status.json"
    n_done = read_status(path)["reload"]["completed"]
    os.kill(os.getpid(), RELOAD_SIGNAL)
    run.wait(lambda: read_status(path)["reload"]["completed"] > n_done, "an answer to the signal")


def both_ready(run: Run) -> None:
    """Let both pairs have a model."""
    for pair in PAIRS:
        run.candle(pair)
    run.wait(lambda: len(run.model.dd.model_dictionary) == len(PAIRS), "both models")
    run.wait(
        lambda: all(run.pair(pair)["model"]["state"] == "ready" for pair in PAIRS),
        "a status of both",
    )


def test_bot_loads_swaps_on_the_signal_and_trains_changed_pairs_first(site):
    """Values are the store's; the old model serves until the new one is there; no candle is left out."""
    first = {pair: freqai_record(pair, num_leaves=17, n_estimators=100) for pair in PAIRS}
    site.write(*first.values())
    with site.bot() as run:
        both_ready(run)
        assert run.pair(ETH)["source"] == "store"
        assert run.pair(ETH)["parameters"] == dict(first[ETH].parameters)
        assert run.pair(ETH)["model"]["version"] == format_time_ns(first[ETH].time_ns)
        changed = freqai_record(ETH, num_leaves=21, n_estimators=110, learning_rate=0.1 / 3)
        site.write(changed)
        n_before = len(run.trained)
        reload(run)
        assert run.pair(ETH)["version"] == format_time_ns(changed.time_ns)
        served = run.candle(ETH)
        assert served["do_predict"].iloc[-1] in (0, 1)
        run.wait(lambda: run.serving(ETH)["num_leaves"] == 21, "the swap")
        for parameter in PARAMETERS:
            if parameter.name != "quantile_alpha":
                stored = changed.parameters[parameter.name]
                assert run.serving(ETH)[parameter.lightgbm_name] == stored
        assert run.trained[n_before:] == [(ETH, 110)]  # long before FreqAI's queue would
        assert run.serving(BTC)["num_leaves"] == 17
        run.wait(
            lambda: run.pair(ETH)["model"]["version"] == format_time_ns(changed.time_ns),
            "a status of the new model",
        )
        assert run.pair(ETH)["model"]["generation"] == 2


def test_bot_restarts_with_its_models_and_retrains_only_what_changed(site):
    """After a restart the status says what the saved model was trained with; the queue is not run anew."""
    site.write(*(freqai_record(pair, num_leaves=17) for pair in PAIRS))
    with site.bot() as run:
        both_ready(run)
    newer = freqai_record(BTC, num_leaves=19)
    site.write(newer)
    with site.bot() as run:
        assert run.pair(ETH)["model"]["state"] == "ready"
        assert run.pair(BTC)["model"]["state"] == "training"
        for pair in PAIRS:
            run.candle(pair)
        run.wait(lambda: run.serving(BTC)["num_leaves"] == 19, "the changed pair")
        assert {pair for pair, _ in run.trained} == {BTC}


def test_bot_whose_store_is_down_starts_on_the_last_good_copy(site, monkeypatch):
    """And with no copy on the config's own values, shown as they are."""
    site.write(freqai_record(ETH, num_leaves=17))
    with site.bot():
        pass
    monkeypatch.setenv("FEEDER_STORE_URL", "influxdb+http://127.0.0.1:9?org=o")
    monkeypatch.setenv("FEEDER_STORE_TOKEN", "t")
    with site.bot() as run:
        assert run.pair(ETH)["source"] == "last_good"
        assert run.pair(ETH)["parameters"]["num_leaves"] == 17
        assert run.pair(BTC)["source"] == "config"
        assert run.pair(BTC)["parameters"]["max_depth"] == -1


def test_record_of_other_features_is_refused_when_they_are_known(site):
    """At the first training by its hash, from then on at every load; the running set stays."""
    other = TunedOn.of(["%-x"], [Target("&-min_low", 0.1)])
    site.write(freqai_record(ETH, metrics=other.metrics, num_leaves=17))
    with site.bot() as run:
        assert run.pair(ETH)["source"] == "store"
        both_ready(run)
        run.wait(lambda: run.pair(ETH)["source"] == "config", "the refusal")
        assert "tuned on other features" in (run.pair(ETH)["rejected"] or "")
        assert run.serving(ETH)["num_leaves"] == 31
        site.write(freqai_record(ETH, metrics=other.metrics, num_leaves=18))
        reload(run)
        assert run.pair(ETH)["source"] == "config"
        assert run.serving(ETH)["num_leaves"] == 31


def test_thousand_signals_during_a_training_are_one_answer_after_it(site):
    """The bot lives, nothing is lost: the last state of the store is what serves in the end."""
    site.write(*(freqai_record(pair, num_leaves=17) for pair in PAIRS))
    with site.bot() as run:
        both_ready(run)
        site.write(freqai_record(ETH, num_leaves=22, n_estimators=300))
        for number in range(1_000):
            os.kill(os.getpid(), RELOAD_SIGNAL)
            if number == 500:
                site.write(freqai_record(ETH, num_leaves=23))
        os.kill(os.getpid(), RELOAD_SIGNAL)
        run.wait(lambda: run.serving(ETH)["num_leaves"] == 23, "the newest record's model")
        run.candle(ETH)


def test_continual_learning_with_changed_parameters_starts_anew(site, caplog):
    """Trees of other parameters are no beginning, and the log says so."""
    site.freqai = {"continual_learning": True}
    site.write(*(freqai_record(pair, n_estimators=100) for pair in PAIRS))
    with site.bot() as run:
        both_ready(run)
        site.write(freqai_record(ETH, n_estimators=110))
        reload(run)
        run.wait(lambda: run.serving(ETH)["n_estimators"] == 110, "the swap")
        trees = run.model.dd.model_dictionary[ETH].estimators_[0].booster_.num_trees()
        assert trees == 110
    assert "Continual learning of ETH/USDT:USDT starts anew" in caplog.text


def test_second_bot_of_the_same_id_does_not_start(site, tmp_path):
    """The id's state folder has one bot, whichever model it trains."""
    from feeder_mixin.live.state.lock import LOCK_NAME

    folder = site.userdir / "feeder_state" / BOT
    folder.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        import fcntl

        handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT)
        fcntl.flock(handle, fcntl.LOCK_EX)
        signal.pause()
    try:
        time.sleep(0.3)
        with pytest.raises(OperationalException, match="my_freqai"), site.bot():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
