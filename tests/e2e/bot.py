"""The real `freqtrade trade` on generated candles: exchange, project, and the running bot.

Everything runs in processes of its own, each in a session of its own, so that signals reach nobody
else and whatever is left of it can be found and ended. One replay exchange serves all bots of a test
session. What a bot computed is read from files that `RECORDER`, its strategy, writes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.live.state.files import read_checked
from feeder_mixin.live.state.lock import is_bot_running
from feeder_mixin.live.state.status import Status, read_status
from feeder_mixin.schema import SIDE_NUMBERS
from feeder_mixin.settings import FeederSettings, build_settings
from feeder_mixin.stores.url import open_store
from tests.builders import make_record
from tests.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
PAIRS: Final = ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT")
MARKET_PAIRS: Final = (*PAIRS, "XRP/USDT:USDT")
FEEDER_ID: Final = "test1"
STORE_URL: Final = "sqlite:///user_data/feeder_params.sqlite"
STEP_S: Final = 60

STOPPED: Final = 130
"""freqtrade's own exit code after SIGTERM: it ends as after Ctrl-C."""

GENERATE_DAYS: Final = 8
"""So that 4,046 candles of warm-up leave enough rows for the regression, not its fallback."""

PATIENCE_S: Final = 90.0
"""Longest wait for anything that takes no new candle: a loaded machine, not a slow bot."""

CANDLE_PATIENCE_S: Final = 150.0
"""Longest wait for something in the next candle."""

RUNNING: Final = "to: RUNNING"
"""How the log line of freqtrade's change of state ends."""

RECORDER: Final = '''
import json
import os
import threading
import time
from pathlib import Path

import pandas as pd

from feeder_mixin.mixin import OptunaParamsMixin


class Recorder(OptunaParamsMixin):
    """Writes what it computed into a file per pair and analysis; never trades."""

    timeframe, minimal_roi, stoploss = "1m", {"0": 9.0}, -0.5

    def populate_indicators(self, dataframe, metadata):
        dataframe = super().populate_indicators(dataframe, metadata)
        folder = Path(self.config["user_data_dir"]) / "recording"
        folder.mkdir(exist_ok=True)
        slug = metadata["pair"].split("/")[0]
        open_s = int(dataframe["date"].iloc[-1].timestamp())
        path = folder / f"{slug}-{open_s}-{os.getpid()}-{time.time_ns()}.feather"
        columns = ["date", "safety_q", "safe", "params_generation", "max_adverse_ratio"]
        dataframe[columns].to_feather(path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        names = sorted(thread.name for thread in threading.enumerate())
        path = folder / f"threads-{os.getpid()}.json"
        path.with_suffix(".part").write_text(json.dumps(names))
        path.with_suffix(".part").replace(path)
        return dataframe

    def entry_trigger(self, dataframe, metadata):
        return pd.Series(False, index=dataframe.index)
'''

_Answer = TypeVar("_Answer")


def session_members(leader: int) -> list[int]:
    """Return the living processes of a session: what a process started, where it did not detach."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            # "pid (name) state ppid pgrp session ...", where a name may hold anything
            state, _ppid, _group, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                members.append(int(stat.parent.name))
    return members


def end_session(process: subprocess.Popen[bytes], number: int, patience_s: float) -> list[int]:
    """Signal a session's leader, wait for it, kill what is left, and return what was left."""
    if process.poll() is None:
        process.send_signal(number)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    # Python's resource tracker ends by itself when its parent is gone.
    with suppress(AssertionError):
        wait_until(lambda: not session_members(process.pid), "an empty session", 2.0)
    left = session_members(process.pid)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(patience_s)
    return left


def with_parent(command: Sequence[object]) -> list[str]:
    """Return a command that gets SIGTERM when pytest dies, killed or not, where there is `setpriv`."""
    tie = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    return [*tie, *map(str, command)]


def make_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without variables that bots and stores read."""
    # freqtrade sets up no logging where it sees pytest's own variables.
    foreign = ("FEEDER_", "FREQTRADE__", "PYTEST_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    # One thread in freqtrade's own libraries: test machines are small.
    return {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **more}


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask_json(url: str, method: str = "GET", document: object = None, auth: str = "") -> Any:
    """Return a loopback server's answer to one request."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": auth} if auth else {})
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
        return json.loads(answer.read())


@dataclass
class Exchange:
    """A running `feeder replay-exchange` with a generated market, and the candles it wrote."""

    folder: Path
    process: subprocess.Popen[bytes]
    url: str = ""

    @property
    def datadir(self) -> Path:
        """Return the history on disk, in freqtrade's layout."""
        return self.folder / "binance"

    @property
    def overlay(self) -> Path:
        """Return the config that points a bot here."""
        return self.folder / "replay.json"

    def fault(self, **fault: object) -> None:
        """Put a fault into force."""
        ask_json(f"{self.url}/replay/faults", "POST", fault)

    def clear(self) -> None:
        """End all faults."""
        ask_json(f"{self.url}/replay/faults", "DELETE")

    def requests(self, path: str) -> int:
        """Return how many requests of a path were answered."""
        return int(ask_json(f"{self.url}/replay")["requests"].get(path, 0))


@contextmanager
def running_exchange(folder: Path, *options: object) -> Iterator[Exchange]:
    """Run a replay exchange in `folder` for the length of the block."""
    folder.mkdir(parents=True)
    command = [
        *(BIN / "feeder", "replay-exchange", "--generate-days", GENERATE_DAYS, "--seed", 7),
        *("--pairs", *MARKET_PAIRS, "--timeframe", "1m", "--port", 0),
        *("--write-datadir", folder / "binance", "--write-config", folder / "replay.json"),
        *options,
    ]
    log = folder / "exchange.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own script
            with_parent(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=make_environment(),
            start_new_session=True,
        )
    exchange = Exchange(folder, process)
    try:

        def ready() -> re.Match[str] | None:
            assert process.poll() is None, log.read_text()
            return re.search(r"ready at\s+(http://\S+)", log.read_text())

        exchange.url = wait_until(ready, "the replay exchange", PATIENCE_S)[1]
        yield exchange
    finally:
        end_session(process, signal.SIGTERM, 10)


@dataclass(frozen=True)
class Frame:
    """What one analysis of one pair gave."""

    pair: str
    open_s: int
    analysed_s: float
    table: pd.DataFrame

    @property
    def last(self) -> pd.Series:
        """Return the newest candle's row."""
        return self.table.iloc[-1]

    @property
    def opens_s(self) -> NDArray[np.int64]:
        """Return the opens of all its candles, in seconds since the epoch."""
        return pd.DatetimeIndex(self.table["date"]).as_unit("s").asi8

    @property
    def late_s(self) -> float:
        """Return how long after the candle's close its analysis was done."""
        return self.analysed_s - self.open_s - STEP_S


@dataclass
class TradingProject:
    """A folder with config, user_data, store and candles of one feeder."""

    root: Path
    exchange: Exchange

    @property
    def settings(self) -> FeederSettings:
        """Return what the bot makes of the config."""
        config = {
            "bot_name": FEEDER_ID,
            "trading_mode": "futures",
            "timeframe": "1m",
            "feeder": {"side": "long"},
            "exchange": {"name": "binance", "pair_whitelist": list(PAIRS)},
        }
        return build_settings(config, self.config, self.root / "user_data")

    @property
    def config(self) -> Path:
        """Return the feeder's config file."""
        return self.root / "config" / f"{FEEDER_ID}.json"

    @property
    def store_path(self) -> Path:
        """Return the SQLite file of the default store."""
        return self.root / "user_data" / "feeder_params.sqlite"

    def edit_config(self, **keys: object) -> None:
        """Set keys of the config; None takes one out."""
        config = json.loads(self.config.read_text()) | keys
        self.config.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    def write(self, values: Mapping[str, Mapping[str, float]]) -> None:
        """Write a new record per pair: the defaults, but for the values given."""
        facts = {
            "side": SIDE_NUMBERS["long"],
            "horizon_candles": 30.0,
            "timeframe_s": float(STEP_S),
            "beats_rule": 1.0,
        }
        records = [
            make_record(
                pair,
                time.time_ns(),
                feeder_id=FEEDER_ID,
                metrics=facts,
                **chosen,
            )
            for pair, chosen in values.items()
        ]
        with open_store(STORE_URL, root=self.root) as store:
            store.write(records)

    def spoil(self, pair: str, name: str, value: float | str | None) -> None:
        """Write a record that no writer of ours would: one value is out of range, a text, missing."""
        self.write({pair: {}})
        with sqlite3.connect(self.store_path) as store:
            store.execute(
                f"UPDATE optimized_parameters SET {name} = ? WHERE pair = ? AND time_ns ="  # noqa: S608 - a name of ours
                " (SELECT MAX(time_ns) FROM optimized_parameters WHERE pair = ?)",
                (value, pair, pair),
            )
        store.close()

    def stored(self) -> dict[str, dict[str, float]]:
        """Return pair -> the ten values of its newest valid record."""
        with open_store(STORE_URL, root=self.root) as store:
            latest = store.latest(FEEDER_ID)
        return {pair: dict(record.parameters) for pair, record in latest.records.items()}

    def status(self) -> Status:
        """Return the status file."""
        return read_status(self.settings.status_path)

    def schedule(self) -> dict[str, Any]:
        """Return pair -> models in force, oldest first, as the bot keeps them for a restart."""
        document = read_checked(self.settings.state_dir / "schedule.json")
        return {} if document is None else document["pairs"]

    def is_locked(self) -> bool:
        """Return whether a bot has this feeder's lock."""
        return is_bot_running(self.settings)

    def feeder(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a `feeder` command to its end."""
        return subprocess.run(  # noqa: S603 - our own script
            [str(BIN / "feeder"), *map(str, arguments)],
            cwd=self.root,
            env=make_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def copy(self, root: Path) -> TradingProject:
        """Return a copy with all state, in another folder."""
        shutil.copytree(self.root, root)
        return TradingProject(root, self.exchange)


def safe_retrain_hours(now_s: float) -> int:
    """Return a step of the retraining grid of which no point comes during a test session.

    The last one lies at least two hours back and at most two days: models know recent candles.
    """
    return next(h for h in range(8, 48) if 2 <= (now_s / 3600) % h <= h - 3)


def make_trading_project(root: Path, exchange: Exchange) -> TradingProject:
    """Return a project folder of three pairs on 1m candles, with the exchange's candles on disk."""
    (root / "user_data" / "strategies").mkdir(parents=True)
    (root / "user_data" / "strategies" / "Recorder.py").write_text(RECORDER)
    (root / "config").mkdir()
    shutil.copy(ROOT / "config" / "base.json", root / "config")
    shutil.copytree(exchange.datadir, root / "user_data" / "data" / "binance")
    project = TradingProject(root, exchange)
    config = {
        "add_config_files": ["base.json"],
        "bot_name": FEEDER_ID,
        "timeframe": "1m",
        "strategy": "Recorder",
        "db_url": f"sqlite:///user_data/{FEEDER_ID}.sqlite",
        "feeder": {
            "side": "long",
            "train_days": 3,
            "retrain_hours": safe_retrain_hours(time.time()),
        },
        "exchange": {"pair_whitelist": list(PAIRS)},
        "internals": {"process_throttle_secs": 1},
    }
    project.config.write_text(json.dumps(config))
    return project


def lasting_facts(status: Status) -> dict[str, dict[str, object]]:
    """Return pair -> what a status says of it, without what every candle moves."""
    served = {"last_candle", "last_served", "last_q", "last_safe", "unusual_share", "exceedance"}
    return {
        pair: {
            **{key: value for key, value in facts.items() if key not in served},
            "model": {k: v for k, v in facts["model"].items() if k != "calibration"},
        }
        for pair, facts in status["pairs"].items()
    }


@dataclass
class Bot:
    """One started `freqtrade trade`; made by `running_bot`."""

    project: TradingProject
    process: subprocess.Popen[bytes]
    log_path: Path
    output_path: Path
    left: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Return the log so far; what came before logging was set up where there is no log."""
        path = self.log_path if self.log_path.exists() else self.output_path
        return path.read_text(errors="replace")

    def lines(self, part: str, since: int = 0) -> list[str]:
        """Return the log's lines that hold `part`, from a position of the log on."""
        return [line for line in self.log[since:].splitlines() if part in line]

    def mark(self) -> int:
        """Return the end of the log now, for `lines` and `wait_for_line`."""
        return len(self.log)

    def wait_until(
        self, ask: Callable[[], _Answer | None], what: str, patience_s: float = PATIENCE_S
    ) -> _Answer:
        """Return the first true answer of `ask`; fail early when the bot has ended."""

        def checked() -> _Answer | None:
            assert self.process.poll() is None, f"the bot ended: {self.log[-3000:]}"
            return ask()

        return wait_until(checked, f"{what}; log: {self.log_path}", patience_s, pause_s=0.1)

    def wait_for_line(self, part: str, since: int = 0, count: int = 1) -> list[str]:
        """Return the lines with `part` once there are `count`."""

        def enough() -> list[str] | None:
            found = self.lines(part, since)
            return found if len(found) >= count else None

        return self.wait_until(enough, f"{count} log lines with {part!r}")

    def wait_running(self) -> None:
        """Return when freqtrade says that it runs."""
        self.wait_for_line(RUNNING)

    def wait_for_status(self, check: Callable[[Status], bool], what: str) -> Status:
        """Return this bot's own status once it passes `check`."""
        path = self.project.settings.status_path

        def right() -> Status | None:
            status = self.project.status() if path.exists() else None
            return status if status and status["pid"] == self.pid and check(status) else None

        return self.wait_until(right, f"status: {what}")

    def wait_ready(self, generation: int | None = None) -> Status:
        """Return the status once every pair's newest parameters have their model."""
        return self.wait_for_status(
            lambda s: (
                all(p["model"]["state"] == "ready" for p in s["pairs"].values())
                and generation in (None, s["generation"])
            ),
            "every model ready",
        )

    def reload(self) -> Status:
        """Send SIGUSR1 and return the status in which this request is completed."""
        wanted = self.project.status()["reload"]["requested"] + 1
        os.kill(self.pid, signal.SIGUSR1)
        return self.wait_for_status(
            lambda s: s["reload"]["completed"] >= wanted, f"reload {wanted} completed"
        )

    def frames(self, pair: str) -> list[Frame]:
        """Return what this process recorded of a pair, oldest first."""
        folder = self.project.root / "user_data" / "recording"
        frames = []
        for path in folder.glob(f"{pair.split('/')[0]}-*-{self.pid}-*.feather"):
            _, open_s, _, time_ns = path.stem.split("-")
            frames.append(Frame(pair, int(open_s), int(time_ns) / 1e9, pd.read_feather(path)))
        return sorted(frames, key=lambda frame: frame.analysed_s)

    def wait_for_candle(self, since_s: float, pairs: tuple[str, ...] = PAIRS) -> dict[str, Frame]:
        """Return pair -> first frame whose newest candle closed after `since_s`, once all have one."""

        def newest() -> dict[str, Frame] | None:
            found = {
                pair: frame
                for pair in pairs
                for frame in reversed(self.frames(pair))
                if frame.open_s + STEP_S > since_s
            }
            return found if len(found) == len(pairs) else None

        return self.wait_until(newest, "the next candle of all pairs", CANDLE_PATIENCE_S)

    def thread_names(self) -> list[str]:
        """Return the names of the threads that Python knew at the newest analysis."""
        path = self.project.root / "user_data" / "recording" / f"threads-{self.pid}.json"
        return json.loads(path.read_text())

    def n_threads(self) -> int:
        """Return how many threads the process has now, those of C libraries included.

        The host alone (2026.9) leaves one behind with every ``/reload_config``.
        """
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def stop(self) -> int:
        """End the bot as an operator does, and return its exit code; `left` are its orphans."""
        self.left = end_session(self.process, signal.SIGTERM, 60)
        return self.process.returncode


@contextmanager
def running_bot(project: TradingProject, *options: object, **environment: str) -> Iterator[Bot]:
    """Start a bot as docs/use/run.md says, and end it with all it started, whatever happens.

    Parameters
    ----------
    options
        Further arguments of `freqtrade trade`.
    environment
        Further variables.
    """
    number = len(list(project.root.glob("bot*.out")))
    log, output = project.root / f"bot{number}.log", project.root / f"bot{number}.out"
    configs = ("--config", project.config, "--config", project.exchange.overlay)
    command = [BIN / "freqtrade", "trade", *configs, "--logfile", log, *options]
    with start_bot(project, command, log, output, environment) as bot:
        yield bot


@contextmanager
def start_bot(
    project: TradingProject,
    command: list[object],
    log: Path,
    output: Path,
    environment: Mapping[str, str],
) -> Iterator[Bot]:
    """Start a command with SIGUSR1 ignored until its handler stands; see `running_bot`."""
    with output.open("wb") as sink:
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            with_parent(["/bin/sh", "-c", "trap '' USR1; exec \"$@\"", "sh", *command]),
            cwd=project.root,
            env=make_environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    bot = Bot(project, process, log, output)
    try:
        yield bot
    finally:
        end_session(process, signal.SIGTERM, 30)
