"""The real freqtrade with FreqAI on: start, swap, signals, refusal, /reload_config, restart without the store.

FreqAI downloads, trains and predicts on 1m candles of the replay exchange; only the strategy is small. One story is
played once, and every test looks at a part of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from typing import Any, Final

import pandas as pd
import pytest

pytest.importorskip("datasieve", reason="FreqAI's packages: make setup EXTRAS=freqai")

from feeder_mixin.freqai.targets import Target, TunedOn
from feeder_mixin.live.state.status import Status
from feeder_mixin.schema import FREQAI_MODEL_TYPE, ParameterRecord, format_time_ns
from feeder_mixin.stores.url import open_store
from tests.builders import make_record
from tests.e2e.bot import (
    BIN,
    FEEDER_ID,
    PAIRS,
    PATIENCE_S,
    ROOT,
    STEP_S,
    STOPPED,
    STORE_URL,
    Bot,
    Exchange,
    Frame,
    TradingProject,
    make_trading_project,
    running_bot,
)
from tests.e2e.project import days_back, make_rest, run_command

pytestmark = pytest.mark.slow

STRATEGY: Final = '''
import json
import os
import time
from pathlib import Path

import talib
from freqtrade.strategy import IStrategy


class SmallFreqai(IStrategy):
    """Predicts two targets on a few features; records what it computed, never trades."""

    timeframe, minimal_roi, stoploss = "1m", {"0": 9.0}, -0.5
    startup_candle_count, process_only_new_candles = 30, True

    def feature_engineering_expand_all(self, dataframe, period, metadata, **kwargs):
        dataframe["%-rsi-period"] = talib.RSI(dataframe["close"].to_numpy(), period)
        return dataframe

    def feature_engineering_expand_basic(self, dataframe, metadata, **kwargs):
        dataframe["%-pct-change"] = dataframe["close"].pct_change()
        return dataframe

    def feature_engineering_standard(self, dataframe, metadata, **kwargs):
        dataframe["%-minute"] = dataframe["date"].dt.minute / 60
        return dataframe

    def set_freqai_targets(self, dataframe, metadata, **kwargs):
        low = dataframe["low"].rolling(10).min().shift(-10)
        dataframe["&-min_low"] = low / dataframe["close"] - 1
        dataframe["&-close"] = dataframe["close"].shift(-10) / dataframe["close"] - 1
        return dataframe

    def populate_indicators(self, dataframe, metadata):
        dataframe = self.freqai.start(dataframe, metadata, self)
        folder = Path(self.config["user_data_dir"]) / "recording"
        folder.mkdir(exist_ok=True)
        slug = metadata["pair"].split("/")[0]
        open_s = int(dataframe["date"].iloc[-1].timestamp())
        path = folder / f"{slug}-{open_s}-{os.getpid()}-{time.time_ns()}.feather"
        dataframe[["date", "&-min_low", "&-close", "do_predict"]].to_feather(path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        return dataframe
'''
FREQAI: Final = {
    "enabled": True,
    "identifier": "small",
    "train_period_days": 1,
    "backtest_period_days": 1,
    "live_retrain_hours": 24,
    "purge_old_models": 2,
    "feature_parameters": {
        "include_timeframes": ["1m"],
        "include_corr_pairlist": [PAIRS[0]],
        "label_period_candles": 10,
        "include_shifted_candles": 1,
        "indicator_periods_candles": [10],
    },
    "data_split_parameters": {"test_size": 0.1, "shuffle": False},
    "model_training_parameters": {"n_estimators": 30, "n_jobs": 1, "verbosity": -1},
}
TARGETS: Final = {"&-min_low": {"quantile": 0.1}, "&-close": {}}
KEPT, CHANGED, REFUSED = PAIRS
N_SIGNALS: Final = 1_000
TRAINED: Final = "Trained with Optuna params pair="
OPTIONS: Final = ("--freqaimodel", "OptunaLightGBMRegressor")
DOWN: Final = {
    "FEEDER_STORE_URL": "influxdb+http://127.0.0.1:9?org=o",
    "FEEDER_STORE_TOKEN": "of-no-server",
}


def make_project(root, exchange: Exchange) -> TradingProject:
    """Return a project with a FreqAI strategy, and the model class of this repository."""
    project = make_trading_project(root, exchange)
    user_data = root / "user_data"
    (user_data / "strategies" / "SmallFreqai.py").write_text(STRATEGY, encoding="utf-8")
    shutil.copytree(ROOT / "user_data" / "freqaimodels", user_data / "freqaimodels")
    project.edit_config(strategy="SmallFreqai", freqai=FREQAI, feeder={"freqai_targets": TARGETS})
    return project


def write(project: TradingProject, pair: str, *, metrics=None, **values: float) -> ParameterRecord:
    """Write a FreqAI record of a pair and return it."""
    record = make_record(pair, time.time_ns(), feeder_id=FEEDER_ID, metrics=metrics or {}, **values)
    record = replace(record, model_type=FREQAI_MODEL_TYPE)
    with open_store(STORE_URL, root=project.root) as store:
        store.write([record])
    return record


@dataclass
class Story:
    """What was to be seen, by what had just happened."""

    records: dict[str, ParameterRecord]
    moments: dict[str, Status]
    answers: dict[str, subprocess.CompletedProcess[str]]
    frames: dict[str, list[Frame]]
    log: str
    log_again: str
    exit_code: int
    left: list[int]


def version_of(status: Status, pair: str) -> tuple[str | None, str | None]:
    """Return the version that is loaded and the one that serves."""
    return status["pairs"][pair]["version"], status["pairs"][pair]["model"]["version"]


def storm_during_training(bot: Bot) -> None:
    """Send a thousand signals, and on until the training that the first of them began has ended."""
    mark, sent = bot.mark(), 0
    deadline = time.monotonic() + PATIENCE_S
    while sent < N_SIGNALS or not bot.lines(f"{TRAINED}{CHANGED}", mark):
        for _ in range(10):
            os.kill(bot.pid, signal.SIGUSR1)
            time.sleep(0.002)
        sent += 10
        assert time.monotonic() < deadline, bot.log[mark:]


def wait_served(bot: Bot, pair: str) -> Status:
    """Return the status once a pair is served by a model of what is loaded."""
    return bot.wait_for_status(
        lambda s: (
            s["pairs"][pair]["model"]["state"] == "ready" and len({*version_of(s, pair)}) == 1
        ),
        f"{pair} served by what is loaded",
    )


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, exchange: Exchange) -> Story:
    """Play it."""
    project = make_project(tmp_path_factory.mktemp("freqai") / "project", exchange)
    rest = make_rest()
    project.edit_config(api_server=rest.config)
    records = {f"first {pair}": write(project, pair, num_leaves=17) for pair in PAIRS}
    moments: dict[str, Status] = {}
    with running_bot(project, *OPTIONS) as bot:
        bot.wait_ready()
        moments["started"] = project.status()
        bot.wait_for_candle(time.time())
        records["changed"] = write(project, CHANGED, num_leaves=21, learning_rate=0.1 / 3)
        moments["reloaded"] = bot.reload()
        moments["swapped"] = wait_served(bot, CHANGED)
        other = TunedOn.of(["%-other"], [Target("&-close")])
        records["refused"] = write(project, REFUSED, metrics=other.metrics, num_leaves=30)
        moments["refused"] = bot.reload()
        records["stormed"] = write(project, CHANGED, num_leaves=23)
        storm_during_training(bot)
        bot.reload()
        moments["stormed"] = wait_served(bot, CHANGED)
        mark = bot.mark()
        rest.ask("reload_config", "POST")
        bot.wait_for_line("to: RUNNING", mark)
        moments["rebuilt"] = bot.wait_ready()
        bot.wait_for_candle(time.time())
        answers = {
            name: project.feeder(*words, "--feeder", FEEDER_ID)
            for name, words in {
                "status": ("status", "--json"),
                "reload": ("reload", "--json"),
                "doctor": ("doctor", "--json"),
                "diff": ("diff", "--json"),
                "metrics": ("metrics",),
            }.items()
        }
        bot.wait_until(lambda: predicted_twice(bot), "two predicted candles of every pair")
        frames = {pair: bot.frames(pair) for pair in PAIRS}
        log, exit_code = bot.log, bot.stop()
        left = bot.left
    with running_bot(project, *OPTIONS, **DOWN) as bot:
        moments["restarted"] = bot.wait_ready()
        bot.wait_for_candle(time.time())
        log_again = bot.log
    return Story(records, moments, answers, frames, log, log_again, exit_code, left)


def predicted_twice(bot: Bot) -> bool:
    """Return whether every pair has predictions of two candles: a quick story is over after one."""
    return all(
        len({frame.open_s for frame in bot.frames(pair) if frame.last["do_predict"] == 1}) > 1
        for pair in PAIRS
    )


def parameters_of(story: Story, moment: str, pair: str) -> dict[str, Any]:
    """Return what a pair had loaded."""
    return dict(story.moments[moment]["pairs"][pair]["parameters"])


def test_bot_loads_the_stores_records_at_start_and_trains_from_them(story):
    """Values are the store's, and the model says what it was trained with."""
    for pair in PAIRS:
        assert parameters_of(story, "started", pair) == dict(
            story.records[f"first {pair}"].parameters
        )
        loaded, serving = version_of(story.moments["started"], pair)
        assert loaded == serving is not None


def test_signal_swaps_the_changed_pair_alone(story):
    """The others keep their model; the swap is there long before FreqAI's queue would come by."""
    assert parameters_of(story, "reloaded", CHANGED) == dict(story.records["changed"].parameters)
    before, after = story.moments["started"], story.moments["swapped"]
    kept = (s["pairs"][KEPT]["model"]["trained_until"] for s in (before, after))
    assert len(set(kept)) == 1
    assert after["pairs"][CHANGED]["model"]["generation"] == 2


def test_no_candle_is_left_out(story):
    """Every candle is analysed; from the first model on each is predicted: the old one serves meanwhile."""
    for pair in PAIRS:
        frames = sorted(story.frames[pair], key=lambda frame: (frame.open_s, frame.analysed_s))
        opens = list(dict.fromkeys(frame.open_s for frame in frames))
        assert opens == list(range(opens[0], opens[-1] + STEP_S, STEP_S))
        predicted = [frame.last["do_predict"] == 1 for frame in frames]
        first = predicted.index(True)
        assert all(predicted[first:])
        assert len({frame.last["&-min_low"] for frame in frames[first:]}) > 1


def test_record_of_other_features_is_refused_and_the_running_set_stays(story):
    """The reason names what differs, in the status and in the log."""
    refused = story.moments["refused"]["pairs"][REFUSED]
    assert "tuned on other features" in (refused["rejected"] or "")
    assert parameters_of(story, "refused", REFUSED)["num_leaves"] == 17
    assert f"Rejected Optuna params for {REFUSED}" in story.log


def test_thousand_signals_lose_nothing(story):
    """The bot lives, and serves the newest record in the end."""
    assert parameters_of(story, "stormed", CHANGED) == dict(story.records["stormed"].parameters)
    reload = story.moments["stormed"]["reload"]
    assert reload["requested"] == reload["completed"]


def test_reload_config_goes_on_with_models_and_generations(story):
    """A new strategy and a new FreqAI, the same process: no pair is trained again."""
    before, after = story.moments["stormed"], story.moments["rebuilt"]
    assert after["generation"] > before["generation"]
    for pair in PAIRS:
        assert (
            after["pairs"][pair]["model"]["trained_until"]
            == before["pairs"][pair]["model"]["trained_until"]
        )


def test_commands_know_the_bot(story):
    """Status, reload, doctor, diff and metrics say of it what they say of a feeder."""
    answers = story.answers
    for name in ("status", "reload", "diff", "metrics"):
        assert answers[name].returncode == 0, answers[name].stderr
    (status,) = json.loads(answers["status"].stdout)
    assert status["alive"]
    assert set(status["status"]["pairs"]) == set(PAIRS)
    assert f'feeder_up{{feeder_id="{FEEDER_ID}"}} 1.0' in answers["metrics"].stdout
    found = {one["check"]: one for one in json.loads(answers["doctor"].stdout)}
    assert "check itself failed" not in answers["doctor"].stdout
    for check in ("config", "bot", "status_file", "handler"):
        assert found[check]["state"] == "pass", found[check]


def test_restart_without_the_store_serves_on_the_last_good_copy(story):
    """Parameters and models are those of before; the log says that the store gave no answer."""
    for pair in (KEPT, CHANGED):
        now = story.moments["restarted"]["pairs"][pair]
        assert now["source"] == "last_good"
        assert now["parameters"] == story.moments["stormed"]["pairs"][pair]["parameters"]
        assert (
            now["model"]["trained_until"]
            == (story.moments["stormed"]["pairs"][pair]["model"]["trained_until"])
        )
    assert "Store gave no answer" in story.log_again


def test_bot_stops_as_freqtrade_does(story):
    """No process is left behind."""
    assert (story.exit_code, story.left) == (STOPPED, [])


def test_nothing_of_ours_raised(story):
    """A whole life without a traceback."""
    for log in (story.log, story.log_again):
        assert "Traceback" not in log
        assert json.dumps("Traceback") not in log


def freqtrade(
    project: TradingProject, mode: str, *options: object, exit_code: int = 0, **environment: str
) -> str:
    """Run freqtrade over a day of candles, and return what it printed."""
    configs = ("--config", project.config, "--config", project.exchange.overlay)
    command = [
        *(BIN / "freqtrade", mode, "--userdir", project.root / "user_data", *configs),
        *("--timerange", days_back(2, 1), *OPTIONS, *options),
    ]
    done = run_command(
        [str(word) for word in command], project.root, exit_code=exit_code, **environment
    )
    return done.stdout + done.stderr


def recorded(project: TradingProject) -> bytes:
    """Return what the newest backtest predicted of the changed pair."""
    paths = (project.root / "user_data" / "recording").glob(f"{CHANGED.split('/')[0]}-*.feather")
    newest = max(paths, key=lambda path: path.stat().st_mtime_ns)
    return pd.read_feather(newest)["&-min_low"].to_numpy().tobytes()


def test_backtesting_takes_the_stores_records_and_no_cache_answers_for_others(tmp_path, exchange):
    """Before and after a tuning differ, and the records of a time give what they gave."""
    project = make_project(tmp_path / "project", exchange)
    then = write(project, CHANGED, num_leaves=17)
    assert "run it with --cache none" in freqtrade(project, "backtesting", exit_code=2)
    results = []
    for at in ({}, {}, {"FEEDER_RECORDS_AT": format_time_ns(then.time_ns)}):
        said = freqtrade(project, "backtesting", "--cache", "none", **at)
        assert "Loaded Optuna params for 1 pairs" in said
        results.append(recorded(project))
        if len(results) == 1:
            write(project, CHANGED, num_leaves=21, learning_rate=0.1)
    before, after, again = results
    assert before != after
    assert before == again


def test_hyperopt_of_thresholds_is_on_models_of_the_stores_records(tmp_path, exchange):
    """Models are trained once, from the records; epochs search the strategy's own threshold."""
    project = make_project(tmp_path / "project", exchange)
    write(project, CHANGED, num_leaves=17)
    path = project.root / "user_data" / "strategies" / "SmallFreqai.py"
    path.write_text(searched(path.read_text(encoding="utf-8")), encoding="utf-8")
    said = freqtrade(
        project,
        "hyperopt",
        *("--spaces", "buy", "--epochs", 3, "-j", 1, "--random-state", 5),
        *("--hyperopt-loss", "ShortTradeDurHyperOptLoss", "--disable-param-export"),
    )
    assert "Traceback" not in said
    assert "Loaded Optuna params for 1 pairs" in said
    assert any(CHANGED in line and "source=store" in line for line in said.splitlines())
    assert "Best result" in said
    newest = max((project.root / "user_data" / "hyperopt_results").glob("*.fthypt"))
    epochs = [json.loads(line) for line in newest.read_text().splitlines()]
    assert len(epochs) == 3
    assert all(epoch["results_metrics"]["total_trades"] > 0 for epoch in epochs)


def searched(strategy: str) -> str:
    """Return a strategy that enters where the prediction is above a threshold of its own."""
    return (
        strategy.replace("import IStrategy", "import IntParameter, IStrategy")
        .replace(
            "    def feature_engineering_expand_all",
            '    low_bp = IntParameter(-500, -50, default=-100, space="buy")\n\n'
            "    def feature_engineering_expand_all",
        )
        .replace(
            "    def populate_entry_trend(self, dataframe, metadata):\n",
            "    def populate_entry_trend(self, dataframe, metadata):\n"
            '        is_mild = dataframe["&-min_low"] > self.low_bp.value / 10_000\n'
            '        dataframe.loc[is_mild, "enter_long"] = 1\n',
        )
    )
