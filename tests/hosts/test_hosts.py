"""The wheel beside every release of freqtrade that is supported: `make test-hosts`.

Each release has an environment of its own, made anew from the package index.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pandas as pd
import pytest

from feeder_mixin.rehearsal.exchange.disk import write_datadir
from feeder_mixin.rehearsal.exchange.market import ReplayMarket
from tests.e2e.bot import MARKET_PAIRS, Exchange, running_exchange
from tests.e2e.project import quantile_of
from tests.hosts.environment import RELEASES, STRATEGY, Host, build_wheel

pytestmark = pytest.mark.slow

NOW_S: Final = datetime(2026, 6, 3, tzinfo=UTC).timestamp()
DAYS: Final = 30
TIMERANGE: Final = "20260601-20260603"
"""Fixed, so that a release can be compared with what another one predicted, any day."""

DEMO_PATIENCE_S: Final = 900
"""It waits for candles, 150 s on a quiet machine; two at once beside other work took over 300 s."""

STORED_COLUMN: Final = Path(__file__).with_name("safety_q.csv")
"""What the newest release predicted, every second hour (``FEEDER_TEST_HOSTS_RECORD=1`` writes it)."""

STORED_LIGHTGBM: Final = "4.7"
"""Of the stored column. pandas 2.3 or 3, numpy and TA-Lib change nothing in it; LightGBM 4.6 at most 0.026 points."""

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


def name_release(release: str) -> str:
    """Return a release as `-k` finds it, the first and the last by what they are."""
    ends = {RELEASES[0]: "oldest-", RELEASES[-1]: "newest-"}
    return ends.get(release, "") + release


@pytest.fixture(scope="session")
def exchange(tmp_path_factory) -> Iterator[Exchange]:
    """Give a replay exchange, for what freqtrade asks of one before a backtest."""
    with running_exchange(tmp_path_factory.mktemp("exchange") / "replay") as exchange:
        yield exchange


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Give the package as a user installs it."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=RELEASES, ids=name_release)
def bare_host(request, tmp_path_factory, exchange) -> Iterator[Host]:
    """Give an environment with one release of freqtrade and nothing of ours."""
    host = Host(request.param, tmp_path_factory.mktemp("host"), exchange)
    host.create()
    yield host
    shutil.rmtree(host.folder)  # two thirds of a gigabyte


@pytest.fixture(scope="module")
def packages(bare_host, wheel) -> tuple[dict[str, str], dict[str, str]]:
    """Install the wheel; give what was installed before and what is after."""
    before = bare_host.packages()
    bare_host.install(wheel)
    return before, bare_host.packages()


@pytest.fixture(scope="module")
def host(bare_host, packages) -> Host:
    """Give the environment with the wheel, after `feeder init` and with candles on disk."""
    (bare_host.user_data / "strategies").mkdir(parents=True)
    bare_host.run("feeder", "init", "--userdir", bare_host.user_data)
    market = ReplayMarket.generated(MARKET_PAIRS, "5m", days=DAYS, seed=3, clock=lambda: NOW_S)
    write_datadir(market, bare_host.user_data / "data" / "binance")
    return bare_host


def test_wheel_changes_no_version_of_what_is_installed(packages):
    """A bot that trades goes on with the packages that it was tried with."""
    before, after = packages
    assert "feeder-mixin" in after.keys() - before.keys()
    changed = {name: (was, after.get(name)) for name, was in before.items()}
    assert {name: both for name, both in changed.items() if both[0] != both[1]} == {}


def test_import_finds_freqtrade_and_package_in_the_environment(host):
    """Nothing comes from the clone."""
    code = "import feeder_mixin, freqtrade; print(feeder_mixin.__file__, freqtrade.__file__)"
    for path in host.run("python", "-c", code).split():
        assert Path(path).is_relative_to(host.folder / "venv")
    assert host.release in host.run("freqtrade", "--version")


def test_feeder_init_leaves_a_strategy_that_freqtrade_lists(host):
    """After `feeder init` freqtrade finds the strategy, sound and open to hyperopt."""
    table = host.run("freqtrade", "list-strategies", "--userdir", host.user_data)
    assert re.search(rf"{STRATEGY} │.*│ +OK │ +Yes", table), table


def test_feeder_settings_reads_the_example_config(host):
    """The wheel's own command knows the example as it stands."""
    options = ("--feeder", "feeder_example", "--config", host.config, "--userdir", host.user_data)
    shown = json.loads(host.run("feeder", "settings", *options, "--json"))
    assert "feeder_example" in json.dumps(shown)


def test_backtest_predicts_the_stored_column_and_enters_where_safe(host):
    """One release predicts what another does: a tuning on one host serves on all."""
    text = (host.user_data / "strategies" / f"{STRATEGY}.py").read_text(encoding="utf-8")
    host.add_recording(text, STRATEGY)
    frames = host.backtest("Recording", TIMERANGE)
    assert len(frames) > len(MARKET_PAIRS) * 2 * 288 - 8
    assert frames["safety_q"].notna().all()
    entries = frames[frames["enter_long"] == 1]
    assert len(entries) > 5
    assert (entries["safe"] == 1).all()
    every = frames[(frames["date"].dt.minute == 0) & (frames["date"].dt.hour % 2 == 0)]
    column = every[["pair", "date", "safety_q"]].reset_index(drop=True)
    if os.environ.get("FEEDER_TEST_HOSTS_RECORD"):
        column.to_csv(STORED_COLUMN, index=False, float_format="%.10f")
    stored = pd.read_csv(STORED_COLUMN, parse_dates=["date"])
    assert column["pair"].tolist() == stored["pair"].tolist()
    assert column["date"].tolist() == stored["date"].tolist()
    is_same = host.packages()["lightgbm"].startswith(STORED_LIGHTGBM)
    off = (column["safety_q"] - stored["safety_q"]).abs().max()
    assert off < (1e-8 if is_same else 5e-4)


def test_strategy_of_the_users_own_is_a_feeder_in_ten_lines(host):
    """A class that only gives a trigger predicts, enters where safe, and stops by the quantile."""
    host.add_recording(OWN_STRATEGY, "MyFeeder")
    frames = host.backtest("Recording", TIMERANGE)
    entries = frames[frames["enter_long"] == 1]
    assert len(entries) > 5
    assert (entries["safe"] == 1).all()
    for row in entries.itertuples():
        assert quantile_of(row.enter_tag)[0] == pytest.approx(row.safety_q, abs=5.1e-5)
    body = OWN_STRATEGY.partition("class ")[2].splitlines()
    assert len([line for line in body if line.strip()]) <= 10


def test_demo_trades_and_reloads_without_a_clone(host):
    """Tune, trade, tune again, SIGUSR1: the whole loop, and it fails unless the swap was seen."""
    assert "generation 1 -> 2" in host.run("feeder", "demo", patience_s=DEMO_PATIENCE_S)
