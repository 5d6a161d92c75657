"""Every other mode of freqtrade, by its real command: what it computes, and what it must not do.

The live bot has tests of its own; here it stands beside a backtest of the candles that it saw.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from feeder_mixin.live.reload.client import catches_sigusr1
from feeder_mixin.live.serve.calibration import Calibration
from feeder_mixin.live.serve.candles import DataFolder
from feeder_mixin.live.train.walkforward import WalkForward
from feeder_mixin.settings import load_settings
from feeder_mixin.stores.url import open_store
from tests.builders import make_record
from tests.e2e.bot import (
    BIN,
    CANDLE_PATIENCE_S,
    FEEDER_ID,
    PAIRS,
    ROOT,
    STEP_S,
    STOPPED,
    STORE_URL,
    Bot,
    Exchange,
    running_bot,
    start_bot,
)
from tests.e2e.project import (
    STRATEGY,
    ModesProject,
    Rest,
    days_back,
    make_modes_project,
    make_rest,
    quantile_of,
    run_here,
    table_of,
)
from tests.live.conftest import uncalibrated

FIRST, SECOND, THIRD = PAIRS
EXPLICIT_CONTEXT = {"context_pairs": [FIRST, SECOND]}


def write_records(project: ModesProject, candles_to_s: dict[str, float], **values: float) -> None:
    """Write a record for every pair; some say until when the candles went that tuned them."""
    records = [
        make_record(
            pair,
            time.time_ns(),
            feeder_id=FEEDER_ID,
            metrics={"candles_to_s": candles_to_s[pair]} if pair in candles_to_s else {},
            **values,
        )
        for pair in PAIRS
    ]
    with open_store(STORE_URL, root=project.root) as store:
        store.write(records)


# ------------------------------------------------------------------------------ backtesting


@dataclass
class Backtests:
    """Two runs of one backtest: what the first printed, and the model files after each."""

    project: ModesProject
    output: str
    frames: dict[str, pd.DataFrame]
    models: dict[str, int]
    frames_again: dict[str, pd.DataFrame]
    models_again: dict[str, int]

    @property
    def entries(self) -> pd.DataFrame:
        """Return all rows with an entry."""
        every = pd.concat(self.frames.values())
        return every[every["enter_long"] == 1]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, exchange: Exchange) -> ModesProject:
    """Give a long feeder with records; the third pair's was tuned on what is backtested."""
    project = make_modes_project(tmp_path_factory.mktemp("modes") / "project", exchange)
    long_ago, now = time.time() - 6 * 86_400, time.time()
    write_records(project, {SECOND: long_ago, THIRD: now}, n_estimators=120)
    return project


@pytest.fixture(scope="module")
def backtests(project: ModesProject) -> Backtests:
    """Give the same backtest, run twice, by two processes: the second one is this."""

    def look() -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
        frames = {pair: project.recorded(pair) for pair in PAIRS}
        project.forget_recorded()
        return frames, project.models

    # One trade at a time is enough of them: most of a backtest's time is freqtrade's, for each open one.
    options = ("--max-open-trades", 1)
    output = project.backtest(*options)
    first = look()
    run_here(project.backtest_command(*options), project.root)
    return Backtests(project, output, *first, *look())


def test_backtest_predicts_every_candle_by_models_due_each_day(backtests):
    """Walk-forward: no candle is without a prediction, and each day has its model per pair."""
    for pair, frame in backtests.frames.items():
        assert len(frame) > 2 * 1440 - 2, pair
        assert np.isfinite(frame["safety_q"]).all(), pair
        assert (frame["params_generation"] == 1).all(), pair
        assert frame["safe"].isin([0, 1]).all(), pair
        assert 0.02 < frame["safe"].mean() < 0.99, pair  # a market in which the gate decides
    cuts = {kind: [] for kind in (*(pair.split("/")[0] for pair in PAIRS), "shared")}
    for name in backtests.models:
        cuts[re.split("[_-]", name)[0]].append(int(re.findall(r"-(\d{10})-", name)[0]))
    shared = sorted(set(cuts.pop("shared")))  # scale and pooled trees have a file each
    own = [sorted(of_pair) for of_pair in cuts.values()]
    assert len(own[0]) >= 3 + 2  # the backtest's days, and of the thirty before those there are
    assert all(cut % 86_400 == 0 for cut in shared)
    assert all(c == own[0] == shared[-len(c) :] for c in own)
    # On the first day nobody has a label yet, on the second too few rows for a model.
    assert len(shared) <= len(own[0]) + 2


def test_backtest_says_what_it_loaded_and_warns_of_hindsight(backtests):
    """The load is said once, and a pair tuned on the candles that are backtested by its name."""
    assert backtests.output.count("Loaded Optuna params for 3 pairs") == 1
    words = " ".join(backtests.output.split())
    flattered = set(re.findall(r"Parameters of (\S+) were tuned on candles up to", words))
    assert flattered == {THIRD}
    assert "and looks better than it is" in words


def test_backtest_enters_only_where_safe_and_tags_name_the_prediction(backtests):
    """An entry stands on a safe candle; its tag has q, alpha and generation of that candle."""
    entries = backtests.entries
    assert len(entries) > 20
    assert (entries["safe"] == 1).all()
    assert (entries["safety_q"] >= -0.01).all()
    assert (entries["rsi"] < 42).all()
    for row in entries.itertuples():
        q, alpha, generation = quantile_of(row.enter_tag)
        assert q == pytest.approx(row.safety_q, abs=5.1e-5)
        assert alpha == pytest.approx(row.safety_alpha)
        assert generation == row.params_generation


def test_backtest_stops_lie_at_twice_the_predicted_quantile(backtests):
    """The stop of every trade is where the prediction at its entry puts it."""
    trades = backtests.project.trades()
    assert len(trades) > 5
    for trade in trades:
        q, _, _ = quantile_of(trade["enter_tag"])
        assert trade["stop_loss_ratio"] == pytest.approx(2 * q, abs=1e-4), trade
        assert trade["stop_loss_abs"] == pytest.approx(trade["open_rate"] * (1 + 2 * q), rel=1e-4)


def test_backtest_again_fits_nothing_and_gives_the_same(backtests):
    """A second run reads the models of the first, untouched, and predicts the same bits."""
    assert backtests.models_again == backtests.models
    for pair, frame in backtests.frames.items():
        pd.testing.assert_frame_equal(frame, backtests.frames_again[pair])


@pytest.mark.slow
def test_backtest_of_one_pair_and_one_day_equals_that_part_of_the_whole(backtests):
    """Neither fewer pairs nor a shorter time range changes a candle's prediction."""
    project = backtests.project
    project.backtest("--pairs", SECOND, "--timerange", days_back(2, 1))
    part, whole = project.recorded(SECOND), backtests.frames[SECOND]
    both = part.merge(whole, on="date", suffixes=("", "_whole"))
    assert len(both) == len(part) > 1400
    for column in (
        "safety_q",
        "safe",
        "ordinary",
        "safety_alpha",
        "params_generation",
        "safety_band",
    ):
        np.testing.assert_allclose(both[column], both[f"{column}_whole"], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_backtest_of_a_short_feeder_enters_short_with_stops_above(tmp_path, exchange):
    """The other side: only shorts, only where safe, stops above the entry, tolerance above too."""
    project = make_modes_project(tmp_path / "short", exchange, side="short")
    output = project.backtest()
    frames = pd.concat(project.recorded(pair) for pair in PAIRS)
    assert "No pair has Optuna params from the store" in " ".join(output.split())
    assert "enter_long" not in frames or not frames["enter_long"].any()
    entries = frames[frames["enter_short"] == 1]
    assert len(entries) > 20
    assert (entries["safe"] == 1).all()
    assert (frames["tolerance_band"] > frames["close"]).all()
    trades = project.trades()
    assert len(trades) > 5
    for trade in trades:
        q, _, _ = quantile_of(trade["enter_tag"])
        assert trade["is_short"]
        assert trade["stop_loss_abs"] == pytest.approx(trade["open_rate"] * (1 - 2 * q), rel=1e-4)


# ------------------------------------------------------------------------------ bias


LEAKING = '''

class Leaking(LightGBMSafetyFeederStrategy):
    """Looks at the prediction of later candles: what the analysis must find."""

    def entry_trigger(self, dataframe, metadata):
        later = dataframe["safety_q"].shift(-5)
        return super().entry_trigger(dataframe, metadata) & later.notna()
'''

SCOPES = pytest.mark.parametrize(
    ("feeder", "options"),
    [
        pytest.param(EXPLICIT_CONTEXT, (), id="all-pairs-named-context"),
        pytest.param({}, ("--pairs", SECOND), id="one-pair-default-context"),
    ],
)
"""What `--pairs` narrows must not narrow the context."""


def set_context(project: ModesProject, feeder: dict[str, list[str]]) -> None:
    """Give the config these context pairs, or none."""
    config = json.loads(project.trading.config.read_text())
    kept = {k: v for k, v in config["feeder"].items() if k != "context_pairs"}
    project.trading.edit_config(feeder=kept | feeder)


def find_lookahead(project: ModesProject, *options: object) -> dict[str, str]:
    """Return what `freqtrade lookahead-analysis` exports of one strategy."""
    path = project.root / "lookahead.csv"
    path.unlink(missing_ok=True)
    project.freqtrade(
        "lookahead-analysis",
        *("--timerange", project.timerange, "--lookahead-analysis-exportfilename", path),
        *("--targeted-trade-amount", 5, "--minimum-trade-amount", 3, *options),
    )
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    return row


@pytest.mark.slow
@SCOPES
def test_lookahead_analysis_finds_no_bias(project, feeder, options):
    """`freqtrade lookahead-analysis` finds none in entries, exits and columns."""
    set_context(project, feeder)
    row = find_lookahead(project, "--strategy", STRATEGY, *options)
    assert row["has_bias"] == "False", row
    assert int(row["total_signals"]) >= 3
    assert (row["biased_entry_signals"], row["biased_exit_signals"]) == ("0", "0")
    assert row["biased_indicators"] == ""


@pytest.mark.slow
def test_lookahead_analysis_finds_a_leak_where_there_is_one(project):
    """The analysis above is not blind to our columns: a strategy that leaks them is found."""
    strategies = project.user_data / "strategies"
    text = (strategies / f"{STRATEGY}.py").read_text(encoding="utf-8")
    (strategies / "Leaking.py").write_text(text + LEAKING, encoding="utf-8")
    row = find_lookahead(project, "--strategy", "Leaking", "--pairs", SECOND)
    assert row["has_bias"] == "True", row


@pytest.mark.slow
@SCOPES
def test_recursive_analysis_finds_no_bias(project, feeder, options):
    """No column depends on how many candles come before, from the strategy's own warm-up on."""
    set_context(project, feeder)
    result = project.freqtrade(
        "recursive-analysis",
        *("--strategy", STRATEGY, "--timerange", project.timerange),
        *("--startup-candle", 499, 999, *options),
    )
    words = " ".join((result.stdout + result.stderr).split())
    assert "No lookahead bias on indicators found." in words
    rows = re.findall(r"│\s+(\w+) │\s+(\S+)% │", result.stdout)
    ours = {"safety_q", "safe", "ordinary", "safety_alpha", "params_generation", "safety_band"}
    assert not ours & {name for name, _ in rows}, rows
    assert all(abs(float(value)) < 0.01 for _, value in rows), rows  # nan would fail as well


# ------------------------------------------------------------------------------ hyperopt


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-j", 1), id="one-job"),
        pytest.param(("-j", 2), id="two-jobs"),
        pytest.param(("-j", 2, "--analyze-per-epoch"), id="two-jobs-analysing-each-epoch"),
    ],
)
def test_hyperopt_over_the_strategys_own_thresholds_finds_a_result(project, options):
    """Epochs run, in workers too, a result is printed, and no parameter file is left behind."""
    result = project.freqtrade(
        "hyperopt",
        *("--strategy", STRATEGY, "--timerange", project.timerange, "--random-state", 5),
        *("--spaces", "buy", "sell", "--epochs", 3, "--disable-param-export"),
        *("--hyperopt-loss", "ShortTradeDurHyperOptLoss", *options),
    )
    assert "Best result" in result.stdout
    assert re.search(r'"pullback_rsi": \d+', result.stdout)
    assert re.search(r'"exit_rsi": \d+', result.stdout)
    assert "Traceback" not in result.stdout + result.stderr
    newest = max((project.user_data / "hyperopt_results").glob("*.fthypt"))
    epochs = [json.loads(line) for line in newest.read_text().splitlines()]
    assert len(epochs) == 3
    assert all(epoch["results_metrics"]["total_trades"] > 0 for epoch in epochs)
    assert not list((project.user_data / "strategies").glob("*.json"))


# ------------------------------------------------------------------------------ looking only


def test_list_strategies_needs_neither_exchange_nor_store(tmp_path):
    """Every strategy of the repository is listed as sound, and nothing is asked or written."""
    strategies = tmp_path / "user_data" / "strategies"
    strategies.mkdir(parents=True)
    sources = sorted((ROOT / "user_data" / "strategies").glob("*.py"))
    for source in sources:
        (strategies / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    output = run_here(
        [str(BIN / "freqtrade"), "list-strategies", "--userdir", str(tmp_path / "user_data")],
        tmp_path,
        FEEDER_STORE_URL="postgresql+psycopg://nobody@127.0.0.1:1/nowhere",
    )
    for source in sources:
        assert re.search(rf"{source.stem} │ +{source.name} │ +OK │", output), output
    assert re.search(rf"{STRATEGY} │.*│ +Yes │ +1 │ +1 │", output), output
    files = {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert files == {strategies / source.name for source in sources}  # its folders are freqtrade's
    assert not (tmp_path / "user_data" / "feeder_state").exists()


def test_show_config_prints_the_feeders_block(project):
    """The host accepts our key and shows it."""
    output = run_here(project.arguments("show-config"), project.root)
    assert re.search(r'"?side"?: "?long"?', output), output
    assert FEEDER_ID in output


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("plotly") is None, reason="plotly is not installed")
def test_plot_dataframe_draws_the_band(project):
    """`freqtrade plot-dataframe` draws our columns by the strategy's plot_config."""
    project.freqtrade(
        "plot-dataframe",
        *("--strategy", STRATEGY, "--pairs", FIRST, "--timerange", days_back(1), "--no-trades"),
    )
    (plot,) = (project.user_data / "plot").glob("*.html")
    text = plot.read_text(encoding="utf-8")
    assert "safety_band" in text
    assert "tolerance_band" in text


# ------------------------------------------------------------------------------ webserver


@pytest.fixture
def webserver(project: ModesProject) -> Iterator[tuple[Bot, Rest]]:
    """Give a running `freqtrade webserver` and its REST interface."""
    rest = make_rest()
    config = project.root / "webserver.json"
    config.write_text(json.dumps({"api_server": rest.config, "strategy": None}))
    log, output = project.root / "webserver.log", project.root / "webserver.out"
    command = project.arguments("webserver", "--config", config, "--logfile", log)
    with start_bot(project.trading, command, log, output, {}) as server:
        server.wait_until(rest.is_up, "the webserver")
        yield server, rest


@pytest.mark.slow
def test_webserver_predicts_in_its_threads_and_takes_no_signal(webserver, backtests):
    """`pair_history` gives a backtest's columns, in two threads at once, and no handler is set."""
    server, rest = webserver
    days = backtests.project.timerange

    def ask(pair: str) -> pd.DataFrame:
        query = f"pair={pair}&timeframe=1m&timerange={days}&strategy={STRATEGY}"
        return table_of(rest.ask(f"pair_history?{query}"))

    with ThreadPoolExecutor(2) as pool:
        tables = dict(zip(PAIRS, pool.map(ask, PAIRS), strict=True))
    for pair, table in tables.items():
        both = table.merge(backtests.frames[pair], on="date", suffixes=("", "_backtest"))
        assert len(both) > 2800
        for column in ("safety_q", "safe", "params_generation"):
            np.testing.assert_allclose(
                both[column].astype(float), both[f"{column}_backtest"], rtol=0, atol=1e-9
            )
    assert not catches_sigusr1(server.pid)
    assert server.project.is_locked() is False
    assert server.lines("ERROR") == []


@pytest.mark.slow
def test_webserver_backtests_as_the_command_does(webserver, backtests):
    """A backtest started from freqUI runs in a thread of the webserver and gives the same trades."""
    server, rest = webserver
    project = backtests.project
    request = {"strategy": STRATEGY, "timerange": project.timerange, "enable_protections": False}
    assert rest.ask("backtest", "POST", request)["running"]

    def finished() -> dict[str, object] | None:
        answer = rest.ask("backtest")
        return None if answer["running"] else answer

    answer = server.wait_until(finished, "the backtest")
    assert answer["status"] == "ended", answer
    trades = answer["backtest_result"]["strategy"][STRATEGY]["trades"]
    project.backtest(strategy=STRATEGY)
    told = [(t["pair"], t["open_timestamp"], t["enter_tag"]) for t in trades]
    assert told == [(t["pair"], t["open_timestamp"], t["enter_tag"]) for t in project.trades()]
    assert not catches_sigusr1(server.pid)


# ------------------------------------------------------------------------------ the trading bot


@dataclass
class TradingStory:
    """What a trading bot's REST interface and its frames said, step by step."""

    project: ModesProject
    answers: dict[str, object]
    frames: dict[str, pd.DataFrame]
    frames_end: dict[str, pd.DataFrame]
    log: str


def wait_for_frames(bot: Bot, project: ModesProject, since_s: float, n_candles: int) -> None:
    """Return once every pair's newest recorded candle is the `n_candles`-th that opened since."""

    def recorded() -> bool:
        wanted = since_s + (n_candles - 1) * STEP_S
        try:
            tables = [project.recorded(pair) for pair in PAIRS]
        except FileNotFoundError:
            return False
        return all(table["date"].iloc[-1].timestamp() >= wanted for table in tables)

    bot.wait_until(recorded, f"{n_candles} candles", n_candles * STEP_S + CANDLE_PATIENCE_S)


def first_candles(project: ModesProject) -> float:
    """Return the open of the first candle that all pairs' newest models serve."""
    return max(float(pair[-1]["first_candle_s"]) for pair in project.trading.schedule().values())


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, exchange: Exchange) -> TradingStory:
    """Play it: two records one after the other, then /stop, /start and /reload_config."""
    project = make_modes_project(tmp_path_factory.mktemp("story") / "project", exchange)
    rest = make_rest()
    project.trading.edit_config(api_server=rest.config, strategy="Recording")
    write_records(project, {}, n_estimators=100)
    answers: dict[str, object] = {}
    with running_bot(project.trading) as bot:
        bot.wait_ready()
        wait_for_frames(bot, project, first_candles(project), 2)
        answers["before"] = rest.ask("show_config")
        write_records(project, {}, n_estimators=160, learning_rate=0.05)
        bot.reload()
        bot.wait_ready(generation=2)
        wait_for_frames(bot, project, first_candles(project), 3)
        answers["candles"] = rest.ask(f"pair_candles?pair={FIRST}&timeframe=1m&limit=50")
        answers["plot"] = rest.ask("plot_config")
        answers["after"] = rest.ask("show_config")
        frames = {pair: project.recorded(pair) for pair in PAIRS}
        answers["stop"] = rest.ask("stop", "POST")
        bot.wait_for_line("to: STOPPED")
        answers["stopped"] = rest.ask("show_config")
        os.kill(bot.pid, signal.SIGUSR1)  # a stopped bot reloads, too
        bot.wait_ready(generation=3)
        mark = bot.mark()
        answers["start"] = rest.ask("start", "POST")
        bot.wait_for_line("to: RUNNING", mark)
        answers["started"] = rest.ask("show_config")
        mark = bot.mark()
        answers["reload"] = rest.ask("reload_config", "POST")
        bot.wait_for_line("to: RUNNING", mark)
        bot.wait_ready(generation=4)
        wait_for_frames(bot, project, time.time() - STEP_S, 2)
        bot.wait_until(rest.is_up, "REST after /reload_config")
        answers["reloaded"] = rest.ask("show_config")
        bot.reload()
        frames_end = {pair: project.recorded(pair) for pair in PAIRS}
        log = bot.log
        assert bot.stop() == STOPPED
        assert bot.left == []
    return TradingStory(project, answers, frames, frames_end, log)


@pytest.mark.slow
def test_rest_shows_columns_plot_and_generation_of_the_running_bot(story):
    """`/pair_candles` has our columns, `/plot_config` the band, `/show_config` the generation."""
    table = table_of(story.answers["candles"])
    assert {"safety_q", "safe", "params_generation", "tolerance_band"} <= set(table.columns)
    assert table["safety_q"].iloc[-1] == pytest.approx(
        story.frames[FIRST].set_index("date")["safety_q"][table["date"].iloc[-1]], abs=1e-9
    )
    plot = story.answers["plot"]
    assert "safety_band" in plot["main_plot"]
    assert "safe" in plot["subplots"]["safe"]
    versions = {
        step: story.answers[step]["strategy_version"]
        for step in ("before", "after", "stopped", "started", "reloaded")
    }
    assert [int(text.rpartition(" ")[2]) for text in versions.values()] == [1, 2, 2, 3, 4]
    assert story.answers["stopped"]["state"] == "stopped"
    assert story.answers["reloaded"]["state"] == "running"


@pytest.mark.slow
def test_stop_start_and_reload_config_leave_predictions_in_order(story):
    """Nothing is logged as an error, and no candle is said anew."""
    assert not [line for line in story.log.splitlines() if " - ERROR - " in line]
    for pair in PAIRS:
        both = story.frames[pair].merge(story.frames_end[pair], on="date", suffixes=("", "_end"))
        known = both["safety_q"].notna()
        assert known.sum() >= 5
        np.testing.assert_allclose(
            both.loc[known, "safety_q_end"], both.loc[known, "safety_q"], rtol=0, atol=1e-9
        )


def uncalibrated_column(project: ModesProject, pair: str) -> np.ndarray:
    """Return a backtest's recorded column without its calibration: what its models forecast."""
    frame = project.recorded(pair)
    settings = load_settings(FEEDER_ID, project.trading.config, project.user_data)
    forward = WalkForward(DataFolder(settings, settings.default_datadir, STEP_S), {})
    columns = forward.predict(pair, frame)
    np.testing.assert_allclose(columns.q, frame["safety_q"], rtol=0, atol=1e-9)
    return uncalibrated(forward, pair, frame)


def thetas_of(project: ModesProject, pair: str, opens_s: np.ndarray) -> np.ndarray:
    """Return the theta that the bot left of each candle."""
    settings = project.trading.settings
    calibration = Calibration(settings, STEP_S, 1_000)
    calibration.restore(settings.state_dir / "calibration.json")
    return calibration.tracks[pair].at(opens_s)


@pytest.mark.slow
def test_live_predictions_equal_a_backtest_of_the_same_candles(story):
    """Where the same cut and record were in force, live and backtest agree to 1e-9, given one theta."""
    project = story.project
    project.freqtrade("download-data", "--timeframes", "1m", "--days", 1)
    project.forget_recorded()
    project.backtest("--timerange", days_back(1).rpartition("-")[0] + "-")
    for pair in PAIRS:
        live = story.frames_end[pair]
        seen = live[live["safety_q"].notna()]
        back = project.recorded(pair).assign(raw=uncalibrated_column(project, pair))
        both = seen.merge(back, on="date", suffixes=("", "_backtest"))
        assert len(both) == len(seen)
        opens_s = pd.DatetimeIndex(both["date"]).as_unit("s").asi8
        expected = both["raw"] * np.exp(thetas_of(project, pair, opens_s))
        distance = (both["safety_q"] - expected).abs()
        # Told by the frame from before /reload_config, which numbers generations anew.
        early = story.frames[pair]
        is_older = both["date"].isin(early.loc[early["params_generation"] == 1, "date"])
        assert (~is_older).sum() >= 5, pair
        assert distance[~is_older].max() < 1e-9, pair
        equal_ordinary = both["ordinary"] == both["ordinary_backtest"]
        assert equal_ordinary[~is_older].all(), pair
        equal_safe = (both["safe"] == 1) == ((expected >= -0.01) & (both["ordinary"] == 1))
        assert equal_safe[~is_older].all(), pair
        # The older record gives other values, or this comparison could not fail.
        assert is_older.sum() >= 2, pair
        assert distance[is_older].min() > 1e-7, pair
