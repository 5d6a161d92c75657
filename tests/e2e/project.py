"""freqtrade's other commands in a user's project: backtesting and its relatives, REST, consumers.

Built on `tests.e2e.bot`, whose project it equips with the real strategy. What a mode computed is read
from the frames that `RECORDING`, a subclass in the same file, leaves per pair.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import subprocess
import urllib.error
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pandas as pd
import pytest
from freqtrade.main import main as freqtrade_main

from tests.e2e.bot import (
    BIN,
    ROOT,
    Exchange,
    TradingProject,
    ask_json,
    free_port,
    make_environment,
    make_trading_project,
)

STRATEGY: Final = "LightGBMSafetyFeederStrategy"
COMMAND_PATIENCE_S: Final = 300
DAY: Final = timedelta(days=1)

RECORDING: Final = '''

class Recording({base}):
    """Leaves the newest frame of every pair in a file, with entries and exits."""

    def populate_exit_trend(self, dataframe, metadata):
        dataframe = super().populate_exit_trend(dataframe, metadata)
        from pathlib import Path
        folder = Path(self.config["user_data_dir"]) / "recorded"
        folder.mkdir(exist_ok=True)
        part = folder / (metadata["pair"].split("/")[0] + ".part")
        dataframe.to_feather(part)
        part.replace(part.with_suffix(".feather"))
        return dataframe
'''
"""A resolver of freqtrade finds a strategy only in the file that defines it: appended to its base."""


def install_strategy(root: Path, name: str = STRATEGY) -> None:
    """Put a strategy of this repository into a project, and its `RECORDING` beside it."""
    text = (ROOT / "user_data" / "strategies" / f"{name}.py").read_text(encoding="utf-8")
    folder = root / "user_data" / "strategies"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "Recording.py").write_text(text + RECORDING.format(base=name), encoding="utf-8")


@dataclass
class ModesProject:
    """A project with the real strategy, and freqtrade's commands in it."""

    trading: TradingProject
    timerange: str
    """Two whole days; fixed, so that a midnight between two runs changes nothing."""

    @property
    def root(self) -> Path:
        """Return the project's folder."""
        return self.trading.root

    @property
    def user_data(self) -> Path:
        """Return freqtrade's folder."""
        return self.root / "user_data"

    @property
    def models(self) -> dict[str, int]:
        """Return name -> inode of the models that backtests keep; a file written anew has another."""
        folder = self.trading.settings.state_dir / "backtest_models"
        return {path.name: path.stat().st_ino for path in folder.glob("*.json")}

    def arguments(self, command: str, *options: object) -> list[str]:
        """Return freqtrade's command line, with the bot's and the exchange's config."""
        configs = ("--config", self.trading.config, "--config", self.trading.exchange.overlay)
        everything = (BIN / "freqtrade", command, "--userdir", self.user_data, *configs, *options)
        return [str(part) for part in everything]

    def freqtrade(
        self, command: str, *options: object, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; it must succeed."""
        return run_command(self.arguments(command, *options), self.root, **environment)

    def backtest(self, *options: object, strategy: str = "Recording") -> str:
        """Run a backtest and return what it printed; later options win."""
        result = run_command(self.backtest_command(*options, strategy=strategy), self.root)
        return result.stdout + result.stderr

    def backtest_command(self, *options: object, strategy: str = "Recording") -> list[str]:
        """Return the command line of a backtest; later options win."""
        usual = ("--strategy", strategy, "--cache", "none", "--timerange", self.timerange)
        return self.arguments("backtesting", *usual, *options)

    def recorded(self, pair: str) -> pd.DataFrame:
        """Return the newest frame of a pair."""
        return pd.read_feather(self.user_data / "recorded" / f"{pair.split('/')[0]}.feather")

    def trades(self) -> list[dict[str, Any]]:
        """Return the trades of the newest backtest."""
        path = max((self.user_data / "backtest_results").glob("*.zip"))
        with zipfile.ZipFile(path) as archive:
            document = json.loads(archive.read(f"{path.stem}.json"))
        (result,) = document["strategy"].values()
        return list(result["trades"])

    def forget_recorded(self) -> None:
        """Drop all frames, so that the next ones are of the next command."""
        for path in (self.user_data / "recorded").glob("*.feather"):
            path.unlink()


def make_modes_project(root: Path, exchange: Exchange, **feeder: object) -> ModesProject:
    """Return a project of three pairs on 1m candles, with the real strategy.

    Parameters
    ----------
    feeder
        Keys of the config's ``feeder`` block to set; models are due each midnight by default, so
        that a backtest of two days crosses one.
    """
    project = make_trading_project(root, exchange)
    config = json.loads(project.config.read_text())
    project.edit_config(
        strategy=STRATEGY, feeder={**config["feeder"], "retrain_hours": 24, **feeder}
    )
    install_strategy(root)
    return ModesProject(project, days_back(2))


def days_back(n: int, end: int = 0) -> str:
    """Return freqtrade's time range from `n` to `end` whole days before today."""
    today = datetime.now(UTC)
    return f"{today - n * DAY:%Y%m%d}-{today - end * DAY:%Y%m%d}"


def run_command(
    command: Sequence[str],
    root: Path,
    patience_s: float = COMMAND_PATIENCE_S,
    *,
    exit_code: int = 0,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a project to its end; it must end with that code."""
    result = subprocess.run(  # noqa: S603 - our own arguments
        list(command),
        cwd=root,
        # Wide, so that freqtrade's tables keep their words whole.
        env=make_environment(COLUMNS="250", **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience_s,
        check=False,
    )
    assert result.returncode == exit_code, result.stdout + result.stderr
    return result


def run_here(command: Sequence[str], root: Path, **environment: str) -> str:
    """Run freqtrade in this process, which has imported it, and return what it printed.

    It must succeed. One that loads a strategy or looks only leaves nothing behind in the process.
    """
    out = io.StringIO()
    with (
        contextlib.chdir(root),
        contextlib.redirect_stdout(out),
        mock.patch.dict(os.environ, {"COLUMNS": "250", **environment}),
        warnings.catch_warnings(action="ignore"),  # they are the host's
        pytest.raises(SystemExit) as ended,
    ):
        freqtrade_main(list(command[1:]))
    assert not ended.value.code, out.getvalue()
    return out.getvalue()


@dataclass(frozen=True)
class Rest:
    """The REST interface of one bot or webserver on the loopback."""

    port: int
    username: str = "someone"
    password: str = "something"  # noqa: S105 - of a test
    ws_token: str = "a-token-of-a-test"  # noqa: S105 - of a test

    @property
    def config(self) -> dict[str, Any]:
        """Return freqtrade's ``api_server`` block."""
        return {
            "enabled": True,
            "listen_ip_address": "127.0.0.1",
            "listen_port": self.port,
            "username": self.username,
            "password": self.password,
            "jwt_secret_key": "a-secret-of-a-test-long-enough-for-jwt",
            "ws_token": self.ws_token,
        }

    def ask(self, path: str, method: str = "GET", document: object = None) -> Any:
        """Return the answer to a request."""
        secret = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}"
        return ask_json(url, method, document, f"Basic {secret}")

    def is_up(self) -> bool:
        """Return whether it answers."""
        try:
            return self.ask("ping") == {"status": "pong"}
        except (urllib.error.URLError, OSError):
            return False


def make_rest() -> Rest:
    """Return a REST interface on a free port."""
    return Rest(free_port())


def table_of(answer: Mapping[str, Any]) -> pd.DataFrame:
    """Return the frame in an answer to ``pair_candles`` or ``pair_history``."""
    table = pd.DataFrame(answer["data"], columns=answer["columns"])
    return table.assign(date=pd.to_datetime(table["date"], utc=True))


def quantile_of(tag: str) -> tuple[float, float, int]:
    """Return q, alpha and generation as an entry tag names them."""
    found = re.fullmatch(r"safe q=(\S+) alpha=(\S+) tolerance=(\S+) generation=(\d+)", tag)
    assert found is not None, tag
    return float(found[1]), float(found[2]), int(found[4])
