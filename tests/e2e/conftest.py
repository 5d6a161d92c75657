"""A user's project with generated candles, and the real `feeder` process in it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from feeder_mixin.cli.main import main
from tests.candle_factory import make_candles, write_candles
from tests.e2e.bot import (
    PAIRS,
    STOPPED,
    Exchange,
    TradingProject,
    make_trading_project,
    running_bot,
    running_exchange,
)
from tests.inline_executor import InlineExecutor
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
FEEDER = Path(sys.executable).parent / "feeder"
DAYS = 30
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Project:
    """A folder with configs, user_data and candles; commands run in it."""

    root: Path
    datadir: Path

    def command(self, *arguments: object) -> list[str]:
        """Return the command line of the real `feeder` script."""
        return [str(FEEDER), *(str(a) for a in arguments)]

    def optimize(self, *arguments: object) -> list[str]:
        """Return the command line of a small optimizer run."""
        options = ("--feeder", "test1", "--datadir", self.datadir, "--seed", 3)
        return self.command("optimize", *options, *arguments)

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(  # noqa: S603 - our own script
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a command in a session of its own, so that signals reach nobody else."""
        return subprocess.Popen(  # noqa: S603 - our own script
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Return this process's environment without store variables."""
        return {k: v for k, v in os.environ.items() if not k.startswith("FEEDER_STORE")}

    def cells_kept(self) -> int:
        """Return how many measured cells the journal has, of all runs."""
        return self._count("SELECT COUNT(*) FROM trials WHERE stage = 'cells'")

    def trials_kept(self) -> int:
        """Return how many trials the journal has, of all runs."""
        return self._count("SELECT COUNT(*) FROM trials WHERE stage = 'trials'")

    def results_kept(self) -> int:
        """Return how many results of pairs the journal has, of all runs."""
        return self._count("SELECT COUNT(result) FROM runs")

    def _count(self, query: str) -> int:
        path = self.root / "user_data" / "feeder_state" / "test1" / "journal.sqlite"
        if not path.exists():
            return 0
        db = sqlite3.connect(path, timeout=30)
        try:
            ((n,),) = db.execute(query).fetchall()
        except sqlite3.OperationalError:  # the tables are not there yet
            n = 0
        finally:
            db.close()
        return int(n)

    def wait_for_cells(self, process: subprocess.Popen[str], n_cells: int) -> None:
        """Return once the journal holds so many cells in all."""
        self._wait_for(process, self.cells_kept, n_cells)

    def wait_for_results(self, process: subprocess.Popen[str], n_results: int) -> None:
        """Return once the journal holds so many results in all."""
        self._wait_for(process, self.results_kept, n_results)

    def _wait_for(
        self, process: subprocess.Popen[str], kept: Callable[[], int], wanted: int
    ) -> None:
        wait_until(
            lambda: kept() >= wanted,
            lambda: f"{kept.__name__} of {wanted}; there are {kept()}",
            PATIENCE_S,
            process=process,
        )

    def run_here(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command and its tasks in this process, which has imported all that it needs."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.root),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr("feeder_mixin.tune.run.run.ProcessExecutor", InlineExecutor)
            code = main(command[1:])
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

    def ask(self, command: str) -> Any:
        """Return what a command that only looks prints."""
        done = self.run_here(self.command(command, "--feeder", "test1", "--json"))
        return json.loads(done.stdout)

    def records(self) -> list[dict[str, Any]]:
        """Return what `feeder show --json` prints."""
        return list(self.ask("show"))


def make_project(root: Path) -> Project:
    """Return a project folder with one feeder of three pairs."""
    (root / "user_data").mkdir(parents=True)
    shutil.copytree(ROOT / "config", root / "config")
    config = {
        "add_config_files": ["base.json"],
        "bot_name": "test1",
        "feeder": {"side": "short"},
        "exchange": {"pair_whitelist": list(PAIRS)},
    }
    (root / "config" / "test1.json").write_text(json.dumps(config), encoding="utf-8")
    frames = {pair: make_candles(DAYS * 288, seed) for seed, pair in enumerate(PAIRS)}
    return Project(root, write_candles(root / "candles", frames))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Give a fresh project."""
    return make_project(tmp_path / "project")


@pytest.fixture
def other_project(tmp_path: Path) -> Callable[[str], Project]:
    """Give a function that makes further projects with the same candles."""
    return lambda name: make_project(tmp_path / name)


@pytest.fixture(scope="session")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exchange]:
    """Give one replay exchange for all bots; a test that sets faults clears them."""
    with running_exchange(tmp_path_factory.mktemp("exchange") / "market") as exchange:
        yield exchange


@pytest.fixture(scope="session")
def seasoned(tmp_path_factory: pytest.TempPathFactory, exchange: Exchange) -> TradingProject:
    """Give a project whose bot has run: records, models, schedule, last good copy. Copy it."""
    project = make_trading_project(tmp_path_factory.mktemp("seasoned") / "project", exchange)
    project.write({pair: {"learning_rate": 0.02} for pair in PAIRS})
    with running_bot(project) as bot:
        bot.wait_ready()
        assert bot.stop() == STOPPED
    return project


@pytest.fixture
def trading(seasoned: TradingProject, tmp_path: Path) -> TradingProject:
    """Give a copy of the seasoned project, so that a bot serves at once."""
    return seasoned.copy(tmp_path / "trading")


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without what differs between equal runs: the clock."""
    metrics = {k: v for k, v in record["metrics"].items() if k != "optimization_time"}
    return {"pair": record["pair"], "parameters": record["parameters"], "metrics": metrics}
