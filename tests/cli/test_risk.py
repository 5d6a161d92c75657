"""`feeder risk`: the curve of what the newest tuning kept, without a fit, with the present settings on it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import pytest

from feeder_mixin.settings import load_settings
from feeder_mixin.tune.judge.risk import LEVELS, TOLERANCE_FACTORS, at_settings, pool_risk
from feeder_mixin.tune.run.journal import Journal
from tests.cli.conftest import FEEDER
from tests.reports import builder

PAIRS = ("BNB/USDT:USDT", "DOGE/USDT:USDT", "BCH/USDT:USDT", "ZEC/USDT:USDT")
ID = FEEDER[1]


def keep(project, **results):
    """Write a journal with results of pairs, the base currency -> changes of the built result."""
    with Journal(load_settings(ID).journal_path) as journal:
        for seed, (base, changes) in enumerate(results.items()):
            pair = f"{base}/USDT:USDT"
            run = journal.begin({pair: {"pair": pair}}, {})[pair]
            journal.finish(run.run_id, builder.make_result(pair, seed, **changes))


def write_backtest(project, **trade):
    """Write a backtest result of ten days with twenty trades, as freqtrade leaves it."""
    folder = project / "user_data" / "backtest_results"
    folder.mkdir(parents=True)
    one = {"pair": PAIRS[0], "is_short": True, "enter_tag": "safe q=-0.0081 alpha=0.1", **trade}
    stats = {"trades": [one] * 20, "backtest_start_ts": 0, "backtest_end_ts": 864_000_000}
    document = json.dumps({"strategy": {"S": stats}, "metadata": {}})
    with zipfile.ZipFile(folder / "result.zip", "w") as archive:
        archive.writestr("result.json", document)
    (folder / "result.meta.json").write_text("{}")
    (folder / ".last_result.json").write_text('{"latest_backtest": "result.zip"}')


def test_risk_prints_the_curve_and_marks_the_settings_in_force(project, feeder):
    """Each tolerance has its table; the present level stands at the pairs' own."""
    keep(project, BNB={}, DOGE={})
    code, out, err = feeder("risk", *FEEDER)
    assert code == 0, err
    assert f"{ID} short: 2 pairs, tolerances of 1.00 %, level 0.1" in out
    assert out.count("times the tolerance in force") == 4
    (now,) = [line for line in out.splitlines() if line.rstrip().endswith(" now")]
    assert now.split()[0] == "0.1"
    assert "left out, not tuned here or at another level: BCH/USDT:USDT, ZEC/USDT:USDT" in err


def test_risk_json_has_every_level_and_tolerance_in_shares(project, feeder):
    """One document a feeder: what a script reads is what the table shows."""
    wider = replace(builder.make_risk(), tolerance=0.02)
    keep(project, BNB={"risk": wider}, DOGE={})
    code, out, _ = feeder("risk", *FEEDER, "--json")
    (told,) = json.loads(out)
    assert code == 0
    assert told["tolerances"] == {PAIRS[0]: 0.02, PAIRS[1]: 0.01}
    assert (told["quantile_alpha"], told["chosen"], told["backtest"]) == (0.1, None, None)
    assert len(told["curve"]) == len(LEVELS) * len(TOLERANCE_FACTORS)
    (now,) = [point for point in told["curve"] if point["is_present"]]
    assert (now["level"], now["tolerance_factor"]) == (0.1, 1.0)
    counted = at_settings(pool_risk([wider, builder.make_risk()]), 0.1)
    assert 0 < now["unsafe_share"] == counted.unsafe_share
    assert now["unsafe_share_upper"] == counted.upper < 1
    assert now["called_safe"] == pytest.approx(now["called_safe_share"] * 2 * 40 * 96)
    assert now["entries_a_day"] is None


def test_risk_counts_entries_in_the_proportion_of_a_backtest_of_the_feeder(project, feeder):
    """Two a day at the settings in force; at others as many more as are called safe."""
    keep(project, BNB={}, DOGE={})
    write_backtest(project)
    _, out, _ = feeder("risk", *FEEDER, "--json")
    (told,) = json.loads(out)
    assert told["backtest"] == {"file": "result.zip", "trades": 20, "days": 10.0}
    (now,) = [point for point in told["curve"] if point["is_present"]]
    assert now["entries_a_day"] == pytest.approx(2.0)
    for point in told["curve"]:
        expected = 2.0 * point["called_safe"] / now["called_safe"]
        assert point["entries_a_day"] == pytest.approx(expected)
    _, out, _ = feeder("risk", *FEEDER)
    assert "as in result.zip: 20 in 10.0 days" in out


@pytest.mark.parametrize(
    "other", [{"is_short": False}, {"pair": "BTC/USDT:USDT"}, {"enter_tag": "mine"}]
)
def test_backtest_of_something_else_is_not_counted(project, feeder, other):
    """Another side, other pairs, or a strategy without the gate."""
    keep(project, BNB={})
    write_backtest(project, **other)
    _, out, _ = feeder("risk", *FEEDER, "--json")
    assert json.loads(out)[0]["backtest"] is None


def test_risk_of_pairs_alone_counts_those(project, feeder):
    """A pair that is not the feeder's is refused by name."""
    keep(project, BNB={}, DOGE={})
    _, out, _ = feeder("risk", *FEEDER, "--pairs", PAIRS[1], "--json")
    assert list(json.loads(out)[0]["tolerances"]) == [PAIRS[1]]
    code, _, err = feeder("risk", *FEEDER, "--pairs", "BTC/USDT:USDT")
    assert code == 2
    assert "BTC/USDT:USDT" in err


def test_risk_without_a_tuning_says_how_to_make_one(project, feeder):
    """Also where the newest tuning was an earlier version's, which counted nothing."""
    for results in ({}, {"BNB": {"risk": None}}):
        keep(project, **results)
        code, out, err = feeder("risk", *FEEDER)
        assert (code, out) == (2, "")
        assert "tune first: feeder optimize" in err or "optimize --feeder" in err
