"""A trader's own environment with one release of freqtrade, and this package's wheel in it.

``VERSION.txt`` holds what a bot had that was installed in that release's month: pip's choice of
everything that freqtrade asks for, as of then. Two of them have freqtrade's extras for plots and
hyperopt and a LightGBM for FreqAI, too, so that there is more that could be changed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from tests.e2e.bot import ROOT, Exchange
from tests.e2e.project import COMMAND_PATIENCE_S, RECORDING, run_command

RELEASES: Final = sorted(
    (path.stem for path in Path(__file__).parent.glob("*.txt")),
    key=lambda release: [int(part) for part in release.split(".")],
)
"""Releases of freqtrade that are tested, oldest first."""

STRATEGY: Final = "LightGBMSafetyFeederStrategy"


@dataclass(frozen=True)
class Host:
    """An environment of the user's own, and a user_data folder."""

    release: str
    folder: Path
    exchange: Exchange

    @property
    def user_data(self) -> Path:
        """Return the user's folder, which is not named like ours."""
        return self.folder / "my_data"

    @property
    def config(self) -> Path:
        """Return the example config that `feeder init` wrote."""
        return self.user_data / "feeder_example.json"

    def run(self, *command: object, patience_s: float = COMMAND_PATIENCE_S) -> str:
        """Run a command of the environment; return what it printed."""
        script, *arguments = map(str, command)
        path = self.folder / "venv" / "bin" / script
        return run_command([str(path), *arguments], self.folder, patience_s).stdout

    @property
    def python(self) -> Path:
        """Return the environment's interpreter."""
        return self.folder / "venv" / "bin" / "python"

    def create(self) -> None:
        """Make the environment with its release of freqtrade, and nothing of ours."""
        pins = Path(__file__).with_name(f"{self.release}.txt")
        run_python(
            "uv", "venv", "--quiet", "--seed", "--python", sys.executable, self.folder / "venv"
        )
        run_python("uv", "pip", "install", "--quiet", "--python", self.python, "-r", pins)

    def install(self, wheel: Path) -> None:
        """Install as a user does, by the environment's own pip; what is not imported is not compiled."""
        self.run("python", "-m", "pip", "install", "--quiet", "--no-compile", wheel)

    def packages(self) -> dict[str, str]:
        """Return name -> version of what is installed."""
        found = json.loads(self.run("python", "-m", "pip", "list", "--format", "json"))
        return {package["name"]: package["version"] for package in found}

    def freqtrade(self, command: str, *options: object) -> str:
        """Run freqtrade with the example config; return all it printed."""
        configs = ("--config", self.config, "--config", self.exchange.overlay)
        result = run_command(
            [
                *(str(self.python), "-m", "freqtrade", command, "--userdir", str(self.user_data)),
                *map(str, (*configs, *options)),
            ],
            self.folder,
        )
        return result.stdout + result.stderr

    def add_recording(self, text: str, base: str) -> None:
        """Put a strategy into the folder, in one file with a subclass that keeps its frames."""
        path = self.user_data / "strategies" / "Recording.py"
        path.write_text(text + RECORDING.format(base=base), encoding="utf-8")
        shutil.rmtree(self.user_data / "recorded", ignore_errors=True)

    def backtest(self, strategy: str, timerange: str) -> pd.DataFrame:
        """Run a backtest, and return the frames of all pairs under each other."""
        self.freqtrade(
            "backtesting",
            *("--strategy", strategy, "--cache", "none", "--timerange", timerange),
        )
        frames = sorted((self.user_data / "recorded").glob("*.feather"))
        return pd.concat([pd.read_feather(path).assign(pair=path.stem) for path in frames])


def copy_sources(folder: Path) -> None:
    """Copy what a wheel is built from: a build leaves files beside its sources."""
    ignore = shutil.ignore_patterns("__pycache__")
    linked = ("user_data/strategies", "user_data/freqaimodels", "config/systemd")
    for name in ("feeder_mixin", *linked):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)


def build_wheel(folder: Path) -> Path:
    """Return the wheel of a copy of this repository, built from its sdist, both checked by twine."""
    source = folder / "source"
    copy_sources(source)
    dist = folder / "dist"
    run_python("build", "--no-isolation", "--outdir", dist, source)
    run_python("twine", "check", "--strict", *dist.iterdir())
    (wheel,) = dist.glob("*.whl")
    return wheel


def run_python(module: str, *arguments: object) -> None:
    """Run a module of this environment; it must succeed."""
    done = subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
