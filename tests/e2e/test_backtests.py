"""`freqtrade backtesting` of what users have beside the plain feeder: a cache, two sides, spot."""

from __future__ import annotations

import subprocess
import time

import pytest

from feeder_mixin.schema import default_parameters
from feeder_mixin.stores.url import open_store
from tests.builders import make_record
from tests.e2e.bot import FEEDER_ID, PAIRS, STORE_URL, Exchange
from tests.e2e.project import STRATEGY, ModesProject, make_modes_project

pytestmark = pytest.mark.slow

BOTH_SIDES = '''

class BothSides(LightGBMSafetyFeederStrategy):
    """Enters both sides on every fifth candle, beside the feeder's own entries."""

    def populate_entry_trend(self, dataframe, metadata):
        dataframe = super().populate_entry_trend(dataframe, metadata)
        dataframe.loc[dataframe.index % 5 == 0, ["enter_long", "enter_short"]] = 1
        return dataframe


class Shorting(BothSides):
    """Says what it wants."""

    can_short = True
'''


@pytest.fixture
def make_project(tmp_path, exchange: Exchange):
    """Give a function that makes a feeder of one side, with strategies of both."""

    def make(side: str) -> ModesProject:
        project = make_modes_project(tmp_path / side, exchange, side=side)
        strategies = project.user_data / "strategies"
        text = (strategies / f"{STRATEGY}.py").read_text(encoding="utf-8")
        (strategies / "Both.py").write_text(text + BOTH_SIDES, encoding="utf-8")
        return project

    return make


def write_records(project: ModesProject, alpha: float) -> None:
    """Write a record for every pair, as a tuning does."""
    parameters = {**default_parameters(), "quantile_alpha": alpha}
    records = [
        make_record(pair, time.time_ns(), feeder_id=FEEDER_ID, metrics={}, **parameters)
        for pair in PAIRS
    ]
    with open_store(STORE_URL, root=project.root) as store:
        store.write(records)


def test_backtest_after_a_tuning_is_computed_anew(make_project):
    """The same command twice is answered from freqtrade's cache, and never with old parameters."""
    project, reused = make_project("long"), "Reusing result of previous backtest"
    write_records(project, 0.05)
    first = project.backtest("--cache", "day", strategy=STRATEGY)
    assert reused not in " ".join(first.split())
    again = project.backtest("--cache", "day", strategy=STRATEGY)
    assert reused in " ".join(again.split())
    before = project.trades()
    write_records(project, 0.2)
    tuned = project.backtest("--cache", "day", strategy=STRATEGY)
    assert reused not in " ".join(tuned.split())
    assert {trade["enter_tag"].split()[2] for trade in before} == {"alpha=0.05"}
    assert {trade["enter_tag"].split()[2] for trade in project.trades()} == {"alpha=0.2"}


def test_backtest_of_a_strategy_that_shorts_is_refused_by_a_long_feeder(make_project):
    """It ends at the start, and the last lines name strategy, feeder and what to do."""
    project = make_project("long")
    command = project.arguments("backtesting", "--strategy", "Shorting", "--cache", "none")
    done = subprocess.run(  # noqa: S603 - our own arguments
        command, cwd=project.root, capture_output=True, text=True, timeout=120, check=False
    )
    words = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert f"Shorting has can_short=True, but {FEEDER_ID} is a long feeder" in words
    assert "Traceback" not in words


@pytest.mark.parametrize(("side", "other"), [("long", "short"), ("short", "long")], ids=str)
def test_backtest_trades_no_entry_of_the_other_side(make_project, side, other):
    """Ungated entries of a strategy's other side are counted in the log and never traded."""
    project = make_project(side)
    words = " ".join(project.backtest(strategy="BothSides").split())
    for pair in PAIRS:
        assert f"pair={pair} strategy=BothSides feeder={FEEDER_ID} side={side} signals=" in words
    trades = project.trades()
    assert len(trades) > 5
    assert {trade["is_short"] for trade in trades} == {side == "short"}, other
