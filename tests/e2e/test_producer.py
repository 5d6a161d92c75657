"""Producer and consumer: two real bots, the feeder's columns in the other bot's frames.

The consumer is the example of this repository with its config, started as docs/use/consumers.md says. A start
costs a dozen seconds and a candle up to a minute, so one story is played and looked at in parts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.e2e.bot import (
    BIN,
    CANDLE_PATIENCE_S,
    PAIRS,
    ROOT,
    STEP_S,
    STOPPED,
    Bot,
    Exchange,
    Frame,
    TradingProject,
    running_bot,
    start_bot,
)
from tests.e2e.project import Rest, install_strategy, make_rest

pytestmark = pytest.mark.slow

CONSUMER = "ExampleConsumerStrategy"
COLUMNS = ("safety_q", "safe", "params_generation", "max_adverse_ratio")
TOLERANCES = {PAIRS[0]: 0.004, "default": 0.02}
NAME = "feeder75a"
"""The producer's name in the example's config."""

WIRE_DECIMALS = 10
"""So many decimals freqtrade's websocket carries of a float."""

NOTE_ARRIVALS = """
    def populate_entry_trend(self, dataframe, metadata):
        import time
        from pathlib import Path
        dataframe = super().populate_entry_trend(dataframe, metadata)
        last = dataframe.iloc[-1]
        if last["safety_q"] == last["safety_q"]:
            folder = Path(self.config["user_data_dir"]) / "arrived"
            folder.mkdir(exist_ok=True)
            open_s = int(last["date"].timestamp())
            path = folder / f"{metadata['pair'].split('/')[0]}-{open_s}"
            if not path.exists():
                path.write_text(str(time.time()))
        return dataframe
"""
"""When a candle's prediction was first in the consumer's hands."""


@dataclass
class Consumer:
    """The running consumer."""

    bot: Bot
    user_data: Path

    def frame(self, pair: str) -> pd.DataFrame | None:
        """Return the newest frame of a pair, None before the first."""
        path = self.user_data / "recorded" / f"{pair.split('/')[0]}.feather"
        return pd.read_feather(path) if path.exists() else None

    def wait_for(self, since_s: float, generation: int | None = None) -> dict[str, pd.DataFrame]:
        """Return pair -> frame once a candle that opened since has a prediction, for every pair."""

        def received() -> dict[str, pd.DataFrame] | None:
            frames = {pair: self.frame(pair) for pair in PAIRS}
            for frame in frames.values():
                if frame is None:
                    return None
                told = frame[frame["safety_q"].notna()]
                if told.empty or told["date"].iloc[-1].timestamp() < since_s:
                    return None
                if generation not in (None, told["params_generation"].iloc[-1]):
                    return None
            return frames

        return self.bot.wait_until(received, "the feeder's columns", 2 * CANDLE_PATIENCE_S)

    def wait_for_silence(self, n_candles: int) -> dict[str, pd.DataFrame]:
        """Return pair -> frame once so many newest candles are without prediction."""

        def silent() -> dict[str, pd.DataFrame] | None:
            frames = {pair: self.frame(pair) for pair in PAIRS}
            newest = [frame["safety_q"].iloc[-n_candles:] for frame in frames.values()]
            return frames if all(q.isna().all() for q in newest) else None

        return self.bot.wait_until(silent, "silence", (n_candles + 1) * CANDLE_PATIENCE_S)

    def arrivals(self) -> dict[tuple[str, int], float]:
        """Return (pair, candle's open) -> when its prediction was first seen."""
        found = {}
        for path in (self.user_data / "arrived").iterdir():
            slug, _, open_s = path.name.partition("-")
            pair = next(pair for pair in PAIRS if pair.startswith(f"{slug}/"))
            found[pair, int(open_s)] = float(path.read_text())
        return found


@contextmanager
def running_consumer(root: Path, exchange: Exchange, rest: Rest) -> Iterator[Consumer]:
    """Run the example consumer by its own config; only token and port come by the environment."""
    shutil.copytree(ROOT / "config", root / "config")
    install_strategy(root, CONSUMER)
    with (root / "user_data" / "strategies" / "Recording.py").open("a") as file:
        file.write(NOTE_ARRIVALS)
    test = {"timeframe": "1m", "strategy": "Recording", "internals": {"process_throttle_secs": 1}}
    test["exchange"] = {"pair_whitelist": list(PAIRS)}
    (root / "test.json").write_text(json.dumps(test))
    log = root / "consumer.log"
    configs = (root / "config" / "consumer.json", root / "test.json", exchange.overlay)
    command = [BIN / "freqtrade", "trade", "--logfile", log]
    for config in configs:
        command += ["--config", config]
    producer = {"name": NAME, "host": "127.0.0.1", "port": rest.port, "ws_token": rest.ws_token}
    variable = "FREQTRADE__EXTERNAL_MESSAGE_CONSUMER__PRODUCERS"
    environment = {variable: json.dumps([producer])}
    project = TradingProject(root, exchange)
    with start_bot(project, command, log, root / "consumer.out", environment) as bot:
        yield Consumer(bot, root / "user_data")
        assert bot.stop() == STOPPED


@dataclass
class Story:
    """What both bots had computed, step by step.

    Attributes
    ----------
    analysed
        Per process of the feeder: pair -> its frames.
    """

    frames: dict[str, dict[str, pd.DataFrame]]
    analysed: list[dict[str, list[Frame]]]
    arrivals: dict[tuple[str, int], float]
    log: str

    def said(self, step: str, pair: str) -> pd.DataFrame:
        """Return the columns of the feeder that ran at a step, each candle as it was last said."""
        process = self.analysed[1 if step == "back" else 0]
        tables = pd.concat(frame.table for frame in process[pair])
        return tables.drop_duplicates("date", keep="last")


def newest_open(bot: Bot) -> float:
    """Return the open of the newest candle that the feeder analysed."""
    return float(max(frame.open_s for pair in PAIRS for frame in bot.frames(pair)))


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, exchange: Exchange, seasoned: TradingProject
) -> Story:
    """Play it: both start, the feeder reloads, goes away, comes back."""
    rest = make_rest()
    feeder = seasoned.copy(tmp_path_factory.mktemp("feeder") / "project")
    block = json.loads(feeder.config.read_text())["feeder"]
    feeder.edit_config(api_server=rest.config, feeder={**block, "max_adverse_ratio": TOLERANCES})
    root = tmp_path_factory.mktemp("consumer") / "project"
    frames: dict[str, dict[str, pd.DataFrame]] = {}
    analysed: list[dict[str, list[Frame]]] = []
    with running_consumer(root, exchange, rest) as consumer:
        with running_bot(feeder) as bot:
            bot.wait_ready()
            frames["connected"] = consumer.wait_for(newest_open_of(bot) + STEP_S)
            feeder.write({pair: {"n_estimators": 140} for pair in PAIRS})
            bot.reload()
            bot.wait_ready(generation=2)
            frames["reloaded"] = consumer.wait_for(newest_open(bot), generation=2)
            analysed.append({pair: bot.frames(pair) for pair in PAIRS})
            assert bot.stop() == STOPPED
        frames["silent"] = consumer.wait_for_silence(1)
        with running_bot(feeder) as bot:
            bot.wait_ready()
            frames["back"] = consumer.wait_for(newest_open_of(bot))
            analysed.append({pair: bot.frames(pair) for pair in PAIRS})
            assert bot.stop() == STOPPED
        log = consumer.bot.log
        arrivals = consumer.arrivals()
    return Story(frames, analysed, arrivals, log)


def newest_open_of(bot: Bot) -> float:
    """Return `newest_open` once the feeder analysed anything."""
    bot.wait_until(lambda: all(bot.frames(pair) for pair in PAIRS), "the first frames")
    return newest_open(bot)


@pytest.mark.parametrize("step", ["connected", "reloaded", "back"])
def test_consumer_has_the_feeders_columns_to_the_last_digit_sent(story, step):
    """Every value in the consumer's frame is the feeder's, as far as the websocket carries digits."""
    for pair in PAIRS:
        received = story.frames[step][pair]
        told = received[received["safety_q"].notna()]
        both = told.merge(story.said(step, pair), on="date", suffixes=("", "_said"))
        assert len(both) == len(told) >= 1, pair
        for column in COLUMNS:
            difference = (both[column] - both[f"{column}_said"]).abs().max()
            assert difference <= 10.0**-WIRE_DECIMALS, (pair, column)
        assert set(told["max_adverse_ratio"]) == {TOLERANCES.get(pair, TOLERANCES["default"])}


def test_consumer_sees_the_generation_change_after_a_reload_of_the_feeder(story):
    """Candles before the reload keep generation and value, newer ones have the new generation."""
    for pair in PAIRS:
        before, after = story.frames["connected"][pair], story.frames["reloaded"][pair]
        assert after["params_generation"].dropna().iloc[-1] == 2
        generations = after["params_generation"].dropna()
        assert generations.is_monotonic_increasing
        both = before.merge(after, on="date", suffixes=("", "_after"))
        known = both["safety_q"].notna()
        np.testing.assert_array_equal(
            both.loc[known, "safety_q"], both.loc[known, "safety_q_after"]
        )


def test_consumer_enters_only_where_the_feeder_says_safe(story):
    """An entry needs the feeder's word for that very candle; without it there is none."""
    for frames in story.frames.values():
        for frame in frames.values():
            entries = frame[frame["enter_long"] == 1]
            assert (entries["safe"] == 1).all()
            assert entries["safety_q"].notna().all()
            assert (frame.loc[frame["safety_q"].isna(), "safe"] == 0).all()


def test_consumer_without_the_feeder_calls_new_candles_unsafe_until_it_is_back(story):
    """A feeder that went away leaves no stale "safe"; after its restart the columns come again."""
    for pair in PAIRS:
        silent, back = story.frames["silent"][pair], story.frames["back"][pair]
        assert np.isnan(silent["safety_q"].iloc[-1])
        assert silent["safe"].iloc[-1] == 0
        told = back[back["safety_q"].notna()]
        assert told["date"].iloc[-1] >= silent["date"].iloc[-1]
    assert "Connection Refused" in story.log  # said while it was away
    assert "Traceback" not in story.log


def test_consumer_has_a_prediction_within_seconds_of_its_analysis(story):
    """While connected, what the feeder computed is in the consumer's hands two loops later."""
    delays = []
    for process in story.analysed:
        for pair, frames in process.items():
            first_open_s = min(frame.open_s for frame in frames)  # the consumer connects during it
            analysed = {f.open_s: f.analysed_s for f in reversed(frames) if f.open_s > first_open_s}
            delays += [
                story.arrivals[pair, open_s] - analysed_s
                for open_s, analysed_s in analysed.items()
                if (pair, open_s) in story.arrivals
            ]
    print(f"delays_s={[round(delay, 2) for delay in sorted(delays)]}")  # noqa: T201 - a figure
    assert len(delays) >= len(PAIRS)
    assert max(delays) < 5
