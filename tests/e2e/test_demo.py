"""`feeder demo`: the real loop, and nothing of it left however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from feeder_mixin.cli.main import main
from feeder_mixin.freqai.settings import FreqaiSettings, build_bot_settings
from feeder_mixin.rehearsal.demo import subjects
from feeder_mixin.rehearsal.demo.bot import BotApi, Candle, free_port, make_config
from feeder_mixin.rehearsal.demo.story import N_STEPS, CandleWatch, Scene
from feeder_mixin.rehearsal.demo.subjects import FEEDER, FREQAI, PAIRS
from feeder_mixin.rehearsal.demo.workplace import (
    DemoError,
    DemoInterrupted,
    Workplace,
    clean_environment,
    script,
)
from tests.waiting import wait_until

PATIENCE_S = 600.0
RUN = "from feeder_mixin.cli.main import run; run()"
SLEEP = [sys.executable, "-c", "import time; print('awake', flush=True); time.sleep(60)"]
_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(helper.pid, flush=True)
time.sleep(60)
"""
STUBBORN = [sys.executable, "-c", _STUBBORN]
OPENED_S = 1_795_489_440
"""Tuesday 2026-11-24 03:04:00 UTC."""


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of living processes whose working directory is `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").readlink().is_relative_to(folder):
                found.append(process.joinpath("cmdline").read_text().replace("\0", " "))
        except OSError:  # ended, or another user's
            continue
    return found


def environment_of_a_user(tmp: Path) -> dict[str, str]:
    """Return this environment with `tmp` for temporary files, and without pytest's variables.

    With PYTEST_VERSION in it freqtrade sets up no logging (`freqtrade.loggers`).
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "TMPDIR": str(tmp)}


class RunningDemo:
    """The real command in a session and a temporary folder of its own."""

    def __init__(self, tmp: Path, *options: str, code: str = RUN) -> None:
        self.tmp = tmp
        self.err = tmp.with_suffix(".err")
        self.out = tmp.with_suffix(".out")
        tmp.mkdir()
        environment = {
            **environment_of_a_user(tmp),
            # What a user may have set: none of it is the demo's.
            "FEEDER_STORE_URL": f"sqlite:///{tmp}/not_the_demos.sqlite",
            "FREQTRADE__BOT_NAME": "another",
        }
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-c", code, "demo", *options],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait_for(self, text: str) -> None:
        """Return once the demo has printed `text`."""
        wait_until(
            lambda: text in self.out.read_text(),
            lambda: f"{text!r}; printed: {self.out.read_text()} {self.err.read_text()}",
            PATIENCE_S,
            process=self.process,
            pause_s=0.1,
        )

    def end(self) -> int:
        """Return the exit code, once it has ended."""
        return self.process.wait(PATIENCE_S)

    def leftovers(self) -> list[str]:
        """Return what is left: processes at work in its folder, and files."""
        return processes_in(self.tmp) + [str(path) for path in self.tmp.iterdir()]


@pytest.fixture
def start_demo(tmp_path):
    """Give a function that starts the demo; it is killed at the end of the test."""
    started: list[RunningDemo] = []

    def start(*options: str, code: str = RUN) -> RunningDemo:
        started.append(RunningDemo(tmp_path / "tmp", *options, code=code))
        return started[-1]

    yield start
    for demo in started:
        if demo.process.poll() is None:
            demo.process.terminate()
            demo.process.wait(60)


@pytest.mark.slow
def test_demo_shows_the_swap_and_leaves_nothing(start_demo):
    """The README's first command, from tuning to the new models' first predictions."""
    demo = start_demo("--json")
    code = demo.end()
    assert code == 0, demo.err.read_text()
    document = json.loads(demo.out.read_text())
    assert document["ok"]
    assert "generated" in document["market"]
    assert (document["generation_before"], document["generation_after"]) == (1, 2)
    assert document["equals_store"]
    assert document["missed_candles"] == 0
    assert len(document["steps"]) == N_STEPS
    assert list(document["pairs"]) == list(PAIRS)
    for sides in document["pairs"].values():
        before, after = sides["before"], sides["after"]
        assert before["version"] < after["version"]
        assert before["parameters"] != after["parameters"]
        assert after["parameters"]["num_leaves"] == 31
        assert (before["candle"]["params_generation"], after["model"]["generation"]) == (1, 2)
        assert before["candle"]["opened"] < after["candle"]["opened"]
        assert after["candle"]["safety_q"] < 0
    log = "\n".join(document["log"])
    assert log.count("Loaded Optuna params for 3 pairs") == 2
    assert log.count("Using Optuna params for") == 2 * len(PAIRS)
    assert log.count("Model is ready for") == 2 * len(PAIRS)
    assert "GENERATED" in demo.err.read_text()
    assert demo.leftovers() == []


@pytest.mark.slow
def test_demo_of_freqai_shows_the_swap_and_leaves_nothing(start_demo):
    """Freqtrade's own example, tuned, traded, tuned again, swapped: values are the store's throughout."""
    pytest.importorskip("datasieve", reason="FreqAI's packages: make setup EXTRAS=freqai")
    demo = start_demo("--freqai", "--json")
    code = demo.end()
    assert code == 0, demo.err.read_text()
    document = json.loads(demo.out.read_text())
    assert (document["generation_before"], document["generation_after"]) == (1, 2)
    assert document["equals_store"]
    assert document["missed_candles"] == 0
    assert list(document["pairs"]) == list(PAIRS)
    for sides in document["pairs"].values():
        before, after = sides["before"], sides["after"]
        assert before["model"]["version"] == before["version"] < after["version"]
        assert after["model"]["version"] == after["version"]
        assert (after["parameters"]["num_leaves"], after["model"]["generation"]) == (31, 2)
        assert before["candle"]["opened"] < after["candle"]["opened"]
        assert after["candle"]["do_predict"] == 1
        assert after["candle"]["&-s_close"] != 0.0
    log = "\n".join(document["log"])
    assert log.count("Loaded Optuna params for 3 pairs") == 2
    assert log.count("Trained with Optuna params pair=") >= 2 * len(PAIRS)
    said = demo.err.read_text()
    assert "freqtrade's own FreqaiExampleStrategy.py, unchanged" in said
    assert demo.leftovers() == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param("$ feeder replay-exchange", signal.SIGINT, id="exchange-SIGINT"),
        # While it tunes: also test_demo_whose_output_nobody_reads_leaves_nothing, a fast test.
        pytest.param(
            "$ feeder optimize", signal.SIGTERM, id="tuning-SIGTERM", marks=pytest.mark.slow
        ),
        pytest.param(
            "exec freqtrade", signal.SIGTERM, id="starting-SIGTERM", marks=pytest.mark.slow
        ),
        pytest.param("Model is ready", signal.SIGINT, id="trading-SIGINT", marks=pytest.mark.slow),
        pytest.param("kill -USR1", signal.SIGHUP, id="swap-SIGHUP", marks=pytest.mark.slow),
    ],
)
def test_demo_interrupted_at_any_moment_leaves_nothing(start_demo, moment, number):
    """Neither a process nor the folder outlives Ctrl-C, SIGTERM or a closed terminal."""
    demo = start_demo()
    demo.wait_for(moment)
    demo.process.send_signal(number)
    assert demo.end() == 130, demo.err.read_text()
    assert f"ended by {number.name}" in demo.out.read_text()
    assert demo.leftovers() == []


def test_demo_whose_output_nobody_reads_leaves_nothing(tmp_path):
    """`feeder demo | head -1`, or a terminal that is gone: it goes on until it is ended."""
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", RUN, "demo"],
        env={**environment_of_a_user(tmp), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert b"GENERATED" in process.stdout.readline()
        process.stdout.close()
        pattern = "*/logs/optimize-1.log"
        wait_until(lambda: list(tmp.glob(pattern)), "the optimizer", PATIENCE_S, process=process)
        process.terminate()
        assert process.wait(PATIENCE_S) == 130
    assert processes_in(tmp) == []
    assert list(tmp.iterdir()) == []


@pytest.mark.slow
def test_demo_that_is_killed_leaves_no_process_and_its_folder_until_the_next(
    start_demo, monkeypatch
):
    """`kill -9`: exchange and optimizer end by themselves, the next demo removes the folder."""
    demo = start_demo()
    demo.wait_for("$ feeder optimize")
    demo.process.kill()
    demo.process.wait()
    wait_until(
        lambda: not processes_in(demo.tmp),
        lambda: f"the end of {processes_in(demo.tmp)}",
        PATIENCE_S,
        pause_s=0.1,
    )
    monkeypatch.setattr(tempfile, "tempdir", str(demo.tmp))
    with Workplace(keep=False):
        pass
    assert demo.leftovers() == []


def test_demo_whose_exchange_fails_names_step_and_log(tmp_path, monkeypatch, capsys):
    """What failed, its last lines, and how to see more; then everything is cleaned up."""
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    monkeypatch.setattr(subjects, "FEEDER", replace(FEEDER, history_days=-1))
    assert main(["demo"]) == 1
    said = capsys.readouterr().err
    assert "feeder demo: step 1, 'Write a feeder of three pairs" in said
    assert "exchange ended with exit code 2" in said
    assert "days=-1, expected above 0" in said
    assert "--keep leaves it" in said
    assert "Traceback" not in said
    assert processes_in(tmp) == []
    assert list(tmp.iterdir()) == []


@pytest.mark.slow
def test_demo_whose_port_is_taken_says_so(start_demo):
    """Where freqtrade would wait for ever without a word."""
    code = (
        "import socket\n"
        "import feeder_mixin.rehearsal.demo.story as story\n"
        "taken = socket.create_server(('127.0.0.1', 0))\n"
        "story.free_port = lambda: taken.getsockname()[1]\n"
    ) + RUN
    demo = start_demo(code=code)
    assert demo.end() == 1
    assert "step 3, 'Start the bot': another program took the bot's API port" in (
        demo.err.read_text()
    )
    assert demo.leftovers() == []


# ------------------------------------------------------------------ the workplace


def test_workplace_keeps_its_folder_only_when_asked():
    """`--keep` leaves config, store and logs."""
    with Workplace(keep=False) as gone:
        assert gone.log_dir.is_dir()
    with Workplace(keep=True) as kept:
        pass
    assert not gone.root.exists()
    assert kept.log_dir.is_dir()
    kept.log_dir.rmdir()
    kept.root.rmdir()


def test_workplace_notes_a_signal_and_ends_its_processes():
    """The signal ends the next wait, not what happens to run."""
    with Workplace(keep=False) as place:
        child = place.start("sleeper", SLEEP)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(DemoInterrupted, match="SIGTERM"):
            place.wait("answer", child, lambda: None, PATIENCE_S)
        assert child.exit_code() is None
    assert child.exit_code() == -signal.SIGTERM
    assert not place.root.exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_workplace_starts_nothing_after_a_signal():
    """What comes between two steps is not lost."""
    with Workplace(keep=False) as place:
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(DemoInterrupted, match="SIGHUP"):
            place.start("sleeper", SLEEP)
    assert place.children == []


def test_workplace_ends_its_processes_when_an_exception_passes():
    """Whatever goes wrong in a step."""
    place = Workplace(keep=False)
    with pytest.raises(ZeroDivisionError):
        raise_in(place)
    assert [child.exit_code() for child in place.children] == [-signal.SIGTERM]
    assert not place.root.exists()


def raise_in(place: Workplace) -> None:
    """Start a process and fail."""
    with place:
        place.start("sleeper", SLEEP)
        raise ZeroDivisionError


def test_workplace_kills_a_stubborn_process_and_its_helper(monkeypatch):
    """A process that ignores SIGTERM, and one that it started."""
    monkeypatch.setattr("feeder_mixin.rehearsal.demo.workplace.STOP_S", 0.2)
    with Workplace(keep=False) as place:
        child = place.start("stubborn", STUBBORN)
        (helper,) = place.wait("helper", child, lambda: child.log_lines() or None, PATIENCE_S)
    assert child.exit_code() == -signal.SIGKILL
    wait_until(lambda: not is_at_work(int(helper)), "the helper's end")


def is_at_work(pid: int) -> bool:
    """Return whether a process lives; one that nobody has waited for yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_workplace_names_the_process_that_failed():
    """Also one that is not waited for: the exchange may die while the bot starts."""
    failing = [sys.executable, "-c", "print('out of luck'); raise SystemExit(7)"]
    match = r"exchange ended with exit code 7\nlast lines of exchange.log:\n  out of luck"
    with Workplace(keep=False) as place:
        place.start("exchange", failing)
        bot = place.start("bot", SLEEP)
        with pytest.raises(DemoError, match=match):
            place.wait("answer", bot, lambda: None, PATIENCE_S)


def test_workplace_wait_without_answer_names_what_was_missing():
    """Nothing waits for ever."""
    with Workplace(keep=False) as place:
        bot = place.start("bot", SLEEP)
        with pytest.raises(DemoError, match=r"no answer within 0 s\nlast lines of bot.log"):
            place.wait("answer", bot, lambda: None, 0.0)


def test_clean_environment_drops_store_settings_and_proxies():
    """The demo writes to its own store, whatever the user's shell has set."""
    kept = clean_environment(
        {"FEEDER_STORE_URL": "x", "FREQTRADE__X": "y", "HTTPS_PROXY": "z", "HOME": "/root"}
    )
    assert kept == {"HOME": "/root", "PYTHONUNBUFFERED": "1"}


def test_script_that_is_missing_says_how_to_get_it():
    """A half-installed package."""
    with pytest.raises(DemoError, match="no-such-command is missing: run make setup"):
        script("no-such-command")


# ------------------------------------------------------------------ bot and story


@pytest.mark.parametrize("subject", [FEEDER, FREQAI], ids=["feeder", "freqai"])
def test_config_of_the_demo_is_a_bots(subject, tmp_path):
    """The demo's own config passes the checks that every bot's does."""
    config = make_config(subject, 1, "secret")
    settings = build_bot_settings(config, tmp_path / "demo.json", tmp_path / "user_data")
    assert isinstance(settings, FreqaiSettings) == (subject is FREQAI)
    assert settings.feeder_id == "demo"
    assert settings.pairs == PAIRS
    assert settings.timeframe == "1m"


def test_freqai_demo_has_freqtrades_own_example_unchanged(tmp_path):
    """Byte for byte; the feeder's demo needs none."""
    assert FEEDER.write_strategy(tmp_path) is None
    assert "unchanged" in str(FREQAI.write_strategy(tmp_path))
    (written,) = tmp_path.iterdir()
    assert written.read_bytes() == (files("freqtrade.templates") / written.name).read_bytes()


def test_freqai_demo_without_freqais_packages_says_the_command(monkeypatch, capsys):
    """Before anything is started."""
    monkeypatch.setattr("feeder_mixin.freqai.installed._NEEDED", ("not_there",))
    assert main(["demo", "--freqai"]) == 2
    assert "(not_there): pip install 'feeder-mixin[freqai]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "is_predicted"),
    [
        pytest.param({"&-s_close": 0.001, "do_predict": 1}, True, id="predicted"),
        pytest.param({"&-s_close": 0.0, "do_predict": 0}, False, id="no-model-yet"),
        pytest.param({"close": 1.0}, False, id="not-asked-yet"),
    ],
)
def test_freqai_demo_waits_for_a_prediction_that_freqai_believes_in(row, is_predicted):
    """FreqAI fills candles without a model with zeros."""
    assert FREQAI.is_predicted(FREQAI.read(row), 1) is is_predicted


def test_api_of_a_bot_that_is_not_there_has_no_answer():
    """A bot that is still starting is no error."""
    api = BotApi(FEEDER, free_port(), "secret")
    assert not api.is_running()
    assert api.newest_candle(PAIRS[0]) is None


def candle(minute: int) -> Candle:
    """Return a candle of 03:`minute`."""
    return Candle(f"2026-11-24T03:{minute:02d}:00Z", 1.0, {"safety_q": -0.01})


@pytest.mark.parametrize(
    ("minutes", "n_missed"),
    [
        pytest.param([4, 5, 6], 0, id="none"),
        pytest.param([4, 4, 5], 0, id="seen-twice"),
        pytest.param([4, 6, 9], 3, id="three"),
        pytest.param([], 0, id="nothing-seen"),
    ],
)
def test_watch_counts_the_candles_left_out(minutes, n_missed):
    """Between the first and the last one seen."""
    watch = CandleWatch()
    for minute in minutes:
        watch.note(PAIRS[0], candle(minute), OPENED_S)
    assert watch.n_missed() == n_missed


def test_watch_tells_the_latest_sight_after_a_close():
    """The first candle had closed before anybody looked."""
    watch = CandleWatch()
    watch.note(PAIRS[0], candle(4), OPENED_S + 60 + 50)
    watch.note(PAIRS[0], candle(5), OPENED_S + 120 + 1.5)
    watch.note(PAIRS[0], candle(5), OPENED_S + 120 + 3)
    assert watch.latest_s() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("version", "learning_rate"),
    [
        pytest.param("b", 0.01, id="version"),
        pytest.param("a", 0.010000000000000002, id="last-digit"),
    ],
)
def test_scene_that_differs_from_the_store_is_an_error(version, learning_rate):
    """No swap was seen where status and store disagree, were it in the last digit."""
    records = {"P": {"time": "a", "parameters": {"learning_rate": 0.01}}}
    pairs = {"P": {"version": version, "parameters": {"learning_rate": learning_rate}}}
    with pytest.raises(DemoError, match="P: the bot runs"):
        Scene(records, {"pairs": pairs}, {}).check()
