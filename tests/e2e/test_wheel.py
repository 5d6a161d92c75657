"""The user's own freqtrade: the built wheel in another environment, with another user_data.

The environment sees this one's site-packages through a ``.pth`` file, so that freqtrade need not be
installed again; lines of other ``.pth`` files there are not followed, so an editable install of this
package is out of sight and `feeder_mixin` can only come from the wheel.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd
import pytest

from feeder_mixin.rehearsal.exchange.disk import write_datadir
from feeder_mixin.rehearsal.exchange.market import ReplayMarket
from tests.e2e.bot import MARKET_PAIRS, ROOT, Exchange
from tests.e2e.project import RECORDING, days_back, quantile_of, run_command

pytestmark = pytest.mark.slow

DAYS: Final = 30

OWN_STRATEGY: Final = """\
import talib.abstract as ta

from feeder_mixin import OptunaParamsMixin


class MyFeeder(OptunaParamsMixin):
    minimal_roi = {"0": 0.02}
    stoploss = -0.06
    use_custom_stoploss = True  # the stop follows the predicted quantile
    startup_candle_count = 200  # RSI's warm-up

    def entry_trigger(self, dataframe, metadata):
        return ta.RSI(dataframe) < 40
"""
"""The strategy of the user's own, as docs/start/own-freqtrade.md shows it."""


@dataclass
class Host:
    """An environment of the user's own with the wheel, and a user_data folder."""

    folder: Path
    exchange: Exchange

    @property
    def python(self) -> Path:
        """Return the environment's interpreter."""
        return self.folder / "venv" / "bin" / "python"

    @property
    def user_data(self) -> Path:
        """Return the user's folder, which is not named like ours."""
        return self.folder / "my_data"

    @property
    def config(self) -> Path:
        """Return the example config that `feeder init` wrote."""
        return self.user_data / "feeder_example.json"

    def run(self, *command: object) -> str:
        """Run a command of the environment; return what it printed."""
        script, *arguments = map(str, command)
        return run_command([str(self.python.parent / script), *arguments], self.folder).stdout

    def freqtrade(self, command: str, *options: object) -> str:
        """Run freqtrade of the environment with the example config; return all it printed."""
        configs = ("--config", self.config, "--config", self.exchange.overlay)
        result = run_command(
            [
                *(str(self.python), "-m", "freqtrade", command, "--userdir", str(self.user_data)),
                *map(str, (*configs, *options)),
            ],
            self.folder,
        )
        return result.stdout + result.stderr

    def backtest(self, strategy: str) -> pd.DataFrame:
        """Run a backtest of two days, and return the frames of all pairs."""
        self.freqtrade(
            "backtesting",
            *("--strategy", strategy, "--cache", "none", "--timerange", days_back(2)),
        )
        frames = (self.user_data / "recorded").glob("*.feather")
        return pd.concat(pd.read_feather(path) for path in frames)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, exchange: Exchange) -> Host:
    """Give an environment with the wheel, after `feeder init` and with candles on disk."""
    folder = tmp_path_factory.mktemp("host")
    wheel = build_wheel(folder)
    venv.create(folder / "venv", symlinks=True)
    host = Host(folder, exchange)
    site = Path(
        sysconfig.get_path("purelib", "venv", {"base": str(folder / "venv"), "platbase": ""})
    )
    (site / "host.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["--python", str(host.python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "pip", *install, str(wheel)], check=True, capture_output=True
    )
    (host.user_data / "strategies").mkdir(parents=True)
    host.run("feeder", "init", "--userdir", host.user_data)
    market = ReplayMarket.generated(MARKET_PAIRS, "5m", days=DAYS, seed=3)
    write_datadir(market, host.user_data / "data" / "binance")
    return host


def build_wheel(folder: Path) -> Path:
    """Return the wheel of a copy of this repository: building leaves files in its source."""
    source = folder / "source"
    for name in ("feeder_mixin", "user_data/strategies"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "-m", "pip", *build, str(source)], check=True, capture_output=True
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def record(host: Host, name: str, text: str, base: str) -> None:
    """Put a strategy beside its recording subclass."""
    folder = host.user_data / "strategies"
    (folder / name).write_text(text + RECORDING.format(base=base), encoding="utf-8")
    shutil.rmtree(host.user_data / "recorded", ignore_errors=True)


def test_wheel_is_what_the_users_environment_imports(host):
    """The package comes from the wheel, the host from where it was."""
    code = "import feeder_mixin, freqtrade; print(feeder_mixin.__file__, freqtrade.__file__)"
    ours, theirs = host.run("python", "-c", code).split()
    assert Path(ours).is_relative_to(host.folder / "venv")
    assert not Path(theirs).is_relative_to(host.folder)


def test_feeder_init_leaves_a_strategy_that_freqtrade_lists(host):
    """After `feeder init` freqtrade finds the strategy, sound and open to hyperopt."""
    command = ("-m", "freqtrade", "list-strategies", "--userdir", host.user_data)
    table = host.run("python", *command)
    assert re.search(r"LightGBMSafetyFeederStrategy │.*│ +OK │ +Yes", table), table


def test_feeder_settings_reads_the_example_config(host):
    """The wheel's own command knows the example as it stands."""
    options = ("--feeder", "feeder_example", "--config", host.config, "--userdir", host.user_data)
    shown = json.loads(host.run("feeder", "settings", *options, "--json"))
    assert "feeder_example" in json.dumps(shown)


def test_backtest_by_the_example_config_predicts_and_enters(host):
    """The example feeder predicts every candle of its four pairs and enters where safe."""
    text = (host.user_data / "strategies" / "LightGBMSafetyFeederStrategy.py").read_text()
    record(host, "Recording.py", text, "LightGBMSafetyFeederStrategy")
    frames = host.backtest("Recording")
    assert len(frames) > 4 * 2 * 288 - 8
    assert frames["safety_q"].notna().all()
    entries = frames[frames["enter_long"] == 1]
    assert len(entries) > 5
    assert (entries["safe"] == 1).all()
    assert (host.user_data / "feeder_state" / "feeder_example" / "backtest_models").is_dir()


def test_strategy_of_the_users_own_is_a_feeder_in_ten_lines(host):
    """A class that only gives a trigger predicts, enters where safe, and stops by the quantile."""
    (host.user_data / "strategies" / "MyFeeder.py").write_text(OWN_STRATEGY, encoding="utf-8")
    output = host.freqtrade(
        "backtesting",
        *("--strategy", "MyFeeder", "--cache", "none", "--timerange", days_back(2)),
    )
    assert "Result for strategy MyFeeder" in output
    record(host, "Recording.py", OWN_STRATEGY, "MyFeeder")
    frames = host.backtest("Recording")
    entries = frames[frames["enter_long"] == 1]
    assert len(entries) > 5
    assert (entries["safe"] == 1).all()
    for row in entries.itertuples():
        assert quantile_of(row.enter_tag)[0] == pytest.approx(row.safety_q, abs=5.1e-5)
    body = OWN_STRATEGY.partition("class ")[2].splitlines()
    assert len([line for line in body if line.strip()]) <= 10
