"""One bot's life in the real freqtrade: start, models, reloads, a rejected record, stop, restart.

A start costs a dozen seconds and a candle up to a minute, so one story is played once and every test
looks at a part of it. The clock is the story's only freedom: a candle may close anywhere in it.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from feeder_mixin.cli.main import main
from feeder_mixin.live.serve.calibration import Calibration, ThetaTrack
from feeder_mixin.live.state.status import Status
from feeder_mixin.schema import format_time_ns
from tests.e2e.bot import (
    PAIRS,
    RUNNING,
    STEP_S,
    STOPPED,
    Bot,
    Frame,
    TradingProject,
    lasting_facts,
    make_trading_project,
    running_bot,
)

KEPT, CHANGED, REFUSED = PAIRS
AWKWARD = 0.1 / 3 + 1e-17
"""A value with all the digits that a float has."""
THETA = 0.1 + 0.2
"""What a bot of before left: forecasts are served a third wider."""


def leave_theta(project: TradingProject) -> None:
    """Write a calibration as a bot does that ended a thousand candles ago."""
    calibration = Calibration(project.settings, STEP_S, 1_000)
    then_s = int(time.time()) // STEP_S * STEP_S - 1_000 * STEP_S
    for pair in PAIRS:
        calibration.tracks[pair] = ThetaTrack(then_s, STEP_S, np.array([THETA]))
    calibration.save(project.settings.state_dir / "calibration.json")


@dataclass
class Moment:
    """What was to be seen at one point of the story."""

    status: Status
    schedule: dict[str, Any]
    stored: dict[str, dict[str, float]]
    log_end: int


def look(bot: Bot) -> Moment:
    """Return what is to be seen now."""
    project = bot.project
    return Moment(project.status(), project.schedule(), project.stored(), bot.mark())


@dataclass
class Story:
    """All moments, by what had just happened; frames and logs of both bots."""

    project: TradingProject
    moments: dict[str, Moment]
    answers: dict[str, tuple[int, Any]]
    frames: dict[str, list[Frame]]
    frames_again: dict[str, list[Frame]]
    log: str
    log_again: str
    exit_code: int
    left: list[int]
    is_locked_after: bool

    def said(self, since: str, until: str, part: str) -> list[str]:
        """Return the log lines with `part` between two moments."""
        log = self.log[self.moments[since].log_end : self.moments[until].log_end]
        return [line for line in log.splitlines() if part in line]


@pytest.fixture(scope="module")
def story(tmp_path_factory, exchange) -> Story:
    """Play the story: two starts of one bot on one project."""
    project = make_trading_project(tmp_path_factory.mktemp("story") / "project", exchange)
    project.write({pair: {"learning_rate": 0.02} for pair in PAIRS})
    leave_theta(project)
    moments: dict[str, Moment] = {}
    answers: dict[str, tuple[int, Any]] = {}

    def ask(name: str, *arguments: str) -> None:
        out = io.StringIO()
        with contextlib.chdir(project.root), contextlib.redirect_stdout(out):
            code = main([*arguments, "--feeder", "test1", "--json"])
        answers[name] = code, json.loads(out.getvalue())

    with running_bot(project) as bot:
        bot.wait_running()
        bot.wait_ready()
        moments["ready"] = look(bot)

        project.write({CHANGED: {"learning_rate": AWKWARD}, REFUSED: {"quantile_alpha": 0.07}})
        bot.reload()
        moments["reloaded"] = look(bot)
        bot.wait_ready(generation=2)
        moments["retrained"] = look(bot)

        project.spoil(REFUSED, "num_leaves", 500.0)
        bot.reload()
        moments["rejected"] = look(bot)

        project.write({REFUSED: {"quantile_alpha": 0.07}})
        ask("reload", "reload")
        bot.wait_ready(generation=4)
        moments["recovered"] = look(bot)
        ask("status", "status")
        moments["asked"] = look(bot)

        bot.wait_for_candle(max(s[-1]["first_candle_s"] for s in project.schedule().values()) + 1)
        moments["last"] = look(bot)
        bot.wait_for_status(
            lambda s: all(facts["last_served"] for facts in s["pairs"].values()),
            "a prediction of every pair in the status",
        )
        moments["served"] = look(bot)
        exit_code = bot.stop()
        ask("status after", "status")
        frames = {pair: bot.frames(pair) for pair in PAIRS}
        left, log, is_locked = bot.left, bot.log, project.is_locked()
    with running_bot(project) as bot:
        bot.wait_for_candle(0)
        moments["restarted"] = look(bot)
        again = {pair: bot.frames(pair) for pair in PAIRS}
        log_again = bot.log
    return Story(
        project, moments, answers, frames, again, log, log_again, exit_code, left, is_locked
    )


def test_bot_without_models_is_running_before_the_first_one_and_then_gets_them_all(story):
    """Training never delays the start."""
    assert story.log.index(RUNNING) < story.log.index("Model is ready for")
    status = story.moments["ready"].status
    assert status["generation"] == 1
    for pair in PAIRS:
        model = status["pairs"][pair]["model"]
        assert model["version"] == status["pairs"][pair]["version"]
        assert model["rows"] > 100


def test_bot_with_new_models_predicts_the_next_candle(story):
    """What serves is in the frame from the first candle it is in force for; before there is none."""
    for pair in PAIRS:
        first_s = story.moments["ready"].schedule[pair][0]["first_candle_s"]
        frame = story.frames[pair][-1]
        table, is_served = frame.table, frame.opens_s >= first_s
        assert is_served.any()
        assert table.loc[is_served, "safety_q"].notna().all()
        assert (table.loc[is_served, "safety_q"] < 0).all()
        assert table.loc[~is_served, "safety_q"].isna().all()
        assert (table.loc[~is_served, "safe"] == 0).all()


def test_bot_goes_on_with_the_theta_that_one_of_before_left(story):
    """Over a start, reloads, new models and a restart: the factor is that of the file."""
    for name in ("ready", "reloaded", "retrained", "last", "restarted"):
        for pair, facts in story.moments[name].status["pairs"].items():
            # No label of a served candle ends within the story: theta stands still.
            assert facts["model"]["calibration"] == math.exp(THETA), (name, pair)
    calibration = Calibration(story.project.settings, STEP_S, 1_000)
    calibration.restore(story.project.settings.state_dir / "calibration.json")
    for pair in PAIRS:
        assert calibration.tracks[pair].last_s >= story.frames[pair][-1].open_s


def test_reload_by_signal_puts_the_stores_values_in_force_to_the_last_digit(story):
    """The status file is the store's content, bit by bit."""
    for name in ("ready", "reloaded", "recovered", "restarted"):
        moment = story.moments[name]
        values = {pair: facts["parameters"] for pair, facts in moment.status["pairs"].items()}
        assert values == moment.stored, name
    reloaded = story.moments["reloaded"].status["pairs"]
    assert reloaded[CHANGED]["parameters"]["learning_rate"] == AWKWARD


def test_reload_by_signal_raises_the_generation_by_one_and_says_how_many_pairs(story):
    """The line the owner greps for, with the number of pairs that the store gave."""
    moments = story.moments
    assert moments["reloaded"].status["generation"] == moments["ready"].status["generation"] + 1
    (line,) = story.said("ready", "reloaded", "Loaded Optuna params for")
    assert "Loaded Optuna params for 3 pairs feeder=test1 loaded=3 defaulted=0 rejected=0" in line
    assert "generation=2" in line
    assert moments["reloaded"].status["reload"]["last_error"] is None


def test_reload_by_signal_leaves_the_model_of_an_unchanged_pair_alone(story):
    """Same record, same model: nothing is fitted, nothing moves in the schedule."""
    before, after = story.moments["ready"], story.moments["retrained"]
    assert after.schedule[KEPT] == before.schedule[KEPT]
    assert lasting_facts(after.status)[KEPT] == lasting_facts(before.status)[KEPT]
    assert story.said("ready", "last", f"Model is ready for {KEPT}") == []


def test_reload_by_signal_trains_changed_pairs_while_the_old_model_serves(story):
    """Right after the swap the old model is in force; the new one comes by itself."""
    old, swapped, new = (story.moments[name] for name in ("ready", "reloaded", "retrained"))
    for pair in (CHANGED, REFUSED):
        serving = old.status["pairs"][pair]["model"]
        waiting = swapped.status["pairs"][pair]["model"]
        assert (waiting["state"], waiting["version"]) == ("training", serving["version"])
        ready = new.status["pairs"][pair]["model"]
        assert (ready["state"], ready["generation"]) == ("ready", 2)
        assert ready["version"] == new.status["pairs"][pair]["version"] != serving["version"]
        (line,) = story.said("ready", "retrained", f"Model is ready for {pair}")
        assert "generation=2" in line


def test_bot_through_all_reloads_skips_no_candle(story):
    """Every pair is analysed once per candle, one after the other."""
    for pair in PAIRS:
        opens_s = [frame.open_s for frame in story.frames[pair]]
        assert opens_s == list(range(opens_s[0], opens_s[-1] + 1, STEP_S))


def test_bot_through_all_reloads_writes_the_generation_that_trained_each_model(story):
    """The newest candle tells which load gave the record behind its prediction."""
    generations = {pair: story.frames[pair][-1].last["params_generation"] for pair in PAIRS}
    assert generations == {KEPT: 1, CHANGED: 2, REFUSED: 4}


def test_reload_with_a_record_out_of_range_keeps_what_runs_and_says_why(story):
    """The pair goes on as before, and both log and status name field, value and range."""
    before, after = story.moments["retrained"], story.moments["rejected"]
    facts = after.status["pairs"][REFUSED]
    assert "num_leaves=500.0 is outside 15 to 63" in facts["rejected"]
    assert facts["parameters"] == before.status["pairs"][REFUSED]["parameters"]
    assert facts["model"] == before.status["pairs"][REFUSED]["model"]
    assert after.schedule == before.schedule
    (line,) = story.said("retrained", "rejected", f"Rejected Optuna params for {REFUSED}")
    assert "ERROR" in line
    assert "num_leaves=500.0 is outside 15 to 63" in line
    assert "running=store" in line
    assert lasting_facts(after.status)[CHANGED] == lasting_facts(before.status)[CHANGED]


def test_reload_after_a_rejected_record_recovers(story):
    """A good record ends the rejection; equal values need no new fit."""
    status = story.moments["recovered"].status
    assert status["pairs"][REFUSED]["rejected"] is None
    assert status["pairs"][REFUSED]["model"]["generation"] == 4
    assert story.said("rejected", "last", "Model is ready for") == []


def test_feeder_reload_prints_what_the_bot_answered(story):
    """Accepted pairs, generations and changes are those of the status file."""
    code, (answer,) = story.answers["reload"]
    assert code == 0
    assert answer["ok"]
    assert answer["pid"] == story.moments["recovered"].status["pid"]
    assert (answer["generation_before"], answer["generation_after"]) == (3, 4)
    assert answer["accepted"] == list(PAIRS)
    assert answer["rejected"] == {}
    assert answer["changed"] == [REFUSED]


def test_feeder_status_prints_what_the_bot_runs_on(story):
    """The command finds the process and shows its own words."""
    code, (answer,) = story.answers["status"]
    assert code == 0
    assert answer["alive"]
    assert answer["pid"] == answer["status"]["pid"]
    # Once a minute the bot writes what candles moved: maybe just before the command.
    assert answer["status"] in [story.moments[name].status for name in ("recovered", "asked")]


def test_sigterm_ends_the_bot_cleanly(story):
    """Freqtrade's exit code for it, no child left, the lock free, and `feeder status` says that none runs."""
    assert story.exit_code == STOPPED
    assert story.left == []
    assert not story.is_locked_after
    code, (answer,) = story.answers["status after"]
    assert code == 1
    assert not answer["alive"]
    assert "Traceback" not in story.log


def test_status_has_the_newest_prediction_that_the_frame_has(story):
    """Value for value: what `feeder status` shows is what the strategy got."""
    for pair, facts in story.moments["served"].status["pairs"].items():
        frame = story.frames[pair][-1]
        served = [format_time_ns(int(open_s) * 10**9) for open_s in frame.opens_s]
        row = frame.table.iloc[served.index(facts["last_served"])]
        assert facts["last_q"] == row["safety_q"]
        assert facts["last_safe"] == bool(row["safe"])


def test_restart_on_an_unchanged_store_serves_the_same_models_at_once(story):
    """Sources, versions, values, models and schedule are those of before; nothing is fitted."""
    before, after = story.moments["last"], story.moments["restarted"]
    assert after.schedule == before.schedule
    assert after.status["generation"] == 1
    for pair in PAIRS:
        was, now = (lasting_facts(moment.status)[pair] for moment in (before, after))
        assert now["model"].pop("generation") == 1
        was["model"].pop("generation")
        assert now == was
    assert "Model is ready for" not in story.log_again


def test_restart_on_the_same_candles_gives_the_same_bits(story):
    """A candle's prediction does not depend on which process made it."""
    for pair in PAIRS:
        was = story.frames[pair][-1].table.set_index("date")
        now = story.frames_again[pair][-1].table.set_index("date")
        both = was.index.intersection(now.index)
        assert len(both) > 400
        assert was.loc[both, "safety_q"].notna().any()
        for column in ("safety_q", "safe"):
            np.testing.assert_array_equal(was.loc[both, column], now.loc[both, column])
