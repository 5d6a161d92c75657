"""A FreqAI strategy's own model, tuned: what bots read afterwards, what commands say of it, bad input."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("datasieve", reason="FreqAI's packages: make setup EXTRAS=freqai")

from feeder_mixin.freqai.parameters import config_parameters
from feeder_mixin.freqai.targets import Target
from feeder_mixin.schema import (
    CANDIDATES,
    FREQAI_MODEL_TYPE,
    PARAMETER_BY_NAME,
    default_parameters,
    format_time_ns,
)
from feeder_mixin.tune.freqai.folds import target_losses
from feeder_mixin.tune.freqai.work import FreqaiStudy
from feeder_mixin.tune.search.space import start_sets
from tests.candle_factory import candle_file, make_candles, write_candles
from tests.executors.dask_cluster import running_cluster
from tests.freqai.conftest import BOT, PAIRS, TARGETS, freqai_block
from tests.freqai.host import HOST_WARNINGS
from tests.inline_executor import InlineExecutor

pytestmark = pytest.mark.filterwarnings(*HOST_WARNINGS)

BTC, ETH = PAIRS
SMALL = {"n_estimators": 30, "learning_rate": 0.4, "num_leaves": 64, "max_depth": -1}
"""The config's own values: outside of the schema's ranges, and easily beaten."""

STRATEGY = '''
import pandas as pd
import talib
from tests.freqai.host import Strategy


class MyFreqai(Strategy):
    """A user's, in a file of their own."""

    def set_freqai_targets(self, dataframe, metadata, **kwargs):
        """Read the horizon where FreqAI's example reads it."""
        assert self.freqai_info["feature_parameters"]["label_period_candles"] == 24
        return super().set_freqai_targets(dataframe, metadata, **kwargs)


class NoTargets(Strategy):
    def set_freqai_targets(self, dataframe, metadata, **kwargs):
        return dataframe


class EmptyLate(Strategy):
    def feature_engineering_standard(self, dataframe, metadata, **kwargs):
        """Have a feature that ends before the last days."""
        is_early = dataframe["date"] < dataframe["date"].iloc[-1] - pd.Timedelta(days=8)
        dataframe["%-late"] = is_early.astype(float).where(is_early)
        return super().feature_engineering_standard(dataframe, metadata, **kwargs)


class Classes(Strategy):
    def set_freqai_targets(self, dataframe, metadata, **kwargs):
        dataframe["&-min_low"] = "up"
        dataframe["&-future_close"] = 0.0
        return dataframe
'''


@pytest.fixture
def site(project, write_freqai, monkeypatch):
    """Give a project with candles, a strategy, and its bot's config; tasks run in this process."""
    monkeypatch.setattr("feeder_mixin.tune.run.run.ProcessExecutor", InlineExecutor)
    for name, seconds in (("5m", 300), ("15m", 900)):
        frames = {
            pair: make_candles(24 * 86_400 // seconds, number, timeframe_s=seconds)
            for number, pair in enumerate(PAIRS)
        }
        write_candles(project / "data", frames, name)
    (project / "user_data" / "strategies").mkdir()
    (project / "user_data" / "strategies" / "MyFreqai.py").write_text(STRATEGY, encoding="utf-8")
    write_freqai(freqai=freqai_block(train_period_days=5, model_training_parameters=SMALL))
    return project


@pytest.fixture
def optimize(site, feeder):
    """Return a function that tunes a strategy of the project."""

    def run(*more: object, strategy: str = "MyFreqai"):
        config = site / "config" / f"{BOT}.json"
        options = ["--datadir", site / "data", "--n-trials", 3, "--days-back", 14]
        cheap = {"n_estimators": 100, "max_depth": 3}
        options += [part for n, v in cheap.items() for part in ("--fix", f"{n}={v}")]
        return feeder("optimize", "--config", config, "--strategy", strategy, *options, *more)

    return run


def test_search_tries_the_schemas_defaults_before_what_is_stored():
    """Once, even where the store holds them, too; a config that has them is no repeat."""
    ours, stored = default_parameters(), {**default_parameters(), "max_depth": 3}
    study = FreqaiStudy(BOT, 0, start=config_parameters(SMALL))
    assert start_sets(study, [stored, stored, ours]) == [study.start, ours, stored]
    assert start_sets(replace(study, start=ours), [stored]) == [ours, stored]


@pytest.mark.slow
def test_a_cluster_judges_as_this_machine_does(optimize, tmp_path):
    """The strategy is loaded on the workers; no number depends on where it ran."""
    told = []
    with running_cluster(tmp_path / "cluster") as cluster:
        for where in ((), ("--scheduler", cluster.address)):
            code, out, err = optimize("--pairs", ETH, "--promote", "never", "--json", *where)
            assert code == 0, err
            told.append(json.loads(out)[0])
    here, there = (one["pairs"][ETH] for one in told)
    assert there["test_window"] == here["test_window"]
    assert there["parameters"] == here["parameters"]


@pytest.mark.slow
def test_a_record_is_tuned_stored_shown_and_taken_back(site, optimize, feeder, store):
    """From an unchanged strategy to a record of its own type; every command knows it."""
    code, out, err = optimize("--pairs", ETH, "--promote", "always", "--json")
    assert code == 0, err
    (told,) = json.loads(out)
    pair = told["pairs"][ETH]
    assert list(pair["test_window"]) == ["config", "tuned"]
    assert pair["test_window"]["config"]["skill"] == 0.0
    assert pair["decision"]["beats_rule"] is None
    newest = store.history(BOT, ETH, 1, model_type=FREQAI_MODEL_TYPE)[0].build_record(BOT)
    assert newest.model_type == FREQAI_MODEL_TYPE
    assert newest.parameters["quantile_alpha"] == 0.10
    for name, value in newest.parameters.items():
        assert PARAMETER_BY_NAME[name].problem(value) is None
    metrics = set(newest.metrics)
    assert {"feature_hash", "target_hash", "horizon_candles", "skill"} <= metrics
    assert not metrics & {"side", "beats_rule", "safety_accuracy", "max_adverse_ratio"}
    assert set(newest.provenance["targets"]) == set(TARGETS)

    config = ("--config", site / "config" / f"{BOT}.json")
    assert json.loads(feeder("show", *config, "--json")[1])[0]["model_type"] == FREQAI_MODEL_TYPE
    code, out, err = feeder("report", *config, "--json")
    assert code == 0, err
    assert json.loads(out)[0]["pairs"][ETH]["served"] == "tuned"
    page = (site / "user_data" / "feeder_state" / BOT / "report.html").read_text("utf-8")
    assert "the config's own values" in page.replace("&#39;", "'")
    assert "ATR rule" not in page.partition("<script")[0]
    code, out, err = feeder("studies", *config, "--json")
    assert code == 0, err
    assert json.loads(out)[0]["trials"] == 3
    assert "tuned, 3 trials" in feeder("history", *config, "--pair", ETH)[1]

    # The same command once more meets its own record.
    code, out, err = optimize("--pairs", ETH, "--json")
    assert code == 0, err
    (again,) = json.loads(out)
    assert list(again["pairs"][ETH]["test_window"]) == ["config", "running", "tuned"]
    assert again["pairs"][ETH]["decision"]["outcome"] in {"kept", "refused", "promoted"}
    first = format_time_ns(newest.time_ns)
    code, _, err = feeder("rollback", *config, "--pair", ETH, "--to", first)
    assert code == 0, err
    code, out, err = feeder("doctor", *config, "--json")
    found = {one["check"]: one for one in json.loads(out)}
    assert "missing_records" in found  # of the pair that was not tuned


@pytest.mark.slow
def test_what_does_not_win_is_a_candidate_and_the_config_is_never_written(
    optimize, store, monkeypatch
):
    """Without evidence beyond noise nothing is written for bots: the config's own values need no record."""
    monkeypatch.setattr(
        "feeder_mixin.tune.judge.promotion._objection", lambda *_: "not beyond noise"
    )
    code, out, err = optimize("--pairs", ETH)
    assert code == 0, err
    assert "refused" in out or "kept" in out
    assert not store.history(BOT, ETH, model_type=FREQAI_MODEL_TYPE)
    for point in store.history(BOT, ETH, measurement=CANDIDATES, model_type=FREQAI_MODEL_TYPE):
        assert point.build_record(BOT).parameters["max_depth"] >= 3


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("Unknown", "Impossible to load Strategy 'Unknown'"),
        ("NoTargets", "NoTargets: set_freqai_targets makes no column whose name begins with '&'"),
        ("Classes", "Classes: target &-min_low holds classes"),
    ],
)
def test_a_strategy_that_can_not_be_tuned_is_one_error(optimize, strategy, said):
    """No such strategy, one without targets, one of classes: exit 2, nothing begun."""
    code, _, err = optimize(strategy=strategy)
    assert code == 2
    assert said in err


def test_targets_that_the_config_names_wrongly_are_one_error(optimize, write_freqai):
    """A target of no column; a column that no target names."""
    write_freqai(feeder={"freqai_targets": {"&-other": {"quantile": 0.1}}})
    code, _, err = optimize()
    assert code == 2
    assert "feeder.freqai_targets names &-other, which MyFreqai does not make" in err
    assert "does not name &-min_low, &-future_close" in err


def test_a_level_is_not_to_be_fixed(optimize):
    """Each target has its own."""
    code, _, err = optimize("--fix", "quantile_alpha=0.15")
    assert code == 2
    assert "--fix quantile_alpha=0.15: a FreqAI bot has a level for every target" in err


@pytest.mark.parametrize(
    ("pair", "timeframe", "whose"),
    [(ETH, "15m", "its own 15m candles"), (BTC, "5m", "its correlated pair's 5m candles")],
)
def test_missing_candles_name_file_and_command(site, optimize, pair, timeframe, whose):
    """Of an informative timeframe, or of a correlated pair: what is missing, and how to get it."""
    file = candle_file(site / "data", pair, timeframe)
    file.unlink()
    code, _, err = optimize("--pairs", ETH)
    assert code == 2
    assert file.name in err
    assert f"{whose} are features" in err
    assert f"--pairs {pair} --timeframes 5m 15m --days" in err


@pytest.mark.slow
def test_a_feature_without_a_value_at_a_cut_fails_its_pair_by_name(optimize):
    """FreqAI would drop every row for it."""
    code, _, err = optimize("--pairs", ETH, strategy="EmptyLate")
    assert code == 2
    assert "ETH/USDT:USDT failed: %-late has no value on any of" in err


@pytest.mark.slow
def test_other_windows_are_measured_with_what_won(optimize):
    """More of the same market teaches more; the config is not changed."""
    code, out, err = optimize("--pairs", ETH, "--n-trials", 1, "--windows", 2, 8, "--json")
    assert code == 0, err
    short, long = json.loads(out)[0]["summary"]["windows"]
    assert (short["train_period_days"], long["train_period_days"]) == (2, 8)
    assert short["gain"] < long["gain"]
    assert short["gain_se"] > 0


@pytest.mark.slow
def test_a_window_without_candles_costs_no_tuning(optimize):
    """Said, beside the results."""
    code, out, err = optimize("--pairs", ETH, "--n-trials", 1, "--windows", 100, "--json")
    assert code == 0
    assert "--windows 100: ETH/USDT:USDT has" in err
    assert json.loads(out)[0]["pairs"][ETH]["decision"]["outcome"] == "kept"


def test_packages_that_are_missing_are_named_with_the_command(optimize, monkeypatch):
    """Before anything is begun."""
    monkeypatch.setattr("feeder_mixin.freqai.installed._NEEDED", ("datasieve", "not_there"))
    code, _, err = optimize()
    assert code == 2
    assert (
        "FreqAI's packages are not installed (not_there): pip install 'feeder-mixin[freqai]'" in err
    )


def test_losses_are_pinball_where_a_quantile_is_asked_and_squares_elsewhere():
    """Of each target its own."""
    labels, predicted = np.array([[1.0, 3.0], [0.0, 3.0]]), np.array([[0.0, 1.0], [1.0, 1.0]])
    losses = target_losses(labels, predicted, [Target("&-a", 0.1), Target("&-b")])
    np.testing.assert_allclose(losses, [[0.1, 4.0], [0.9, 4.0]])


def test_the_configs_own_values_start_the_search(optimize):
    """Whatever ranges they lie outside of."""
    code, out, err = optimize("--pairs", ETH, "--n-trials", 1, "--json")
    assert code == 0, err
    (told,) = json.loads(out)
    start = config_parameters(SMALL)
    assert told["pairs"][ETH]["parameters"] == pytest.approx(start)
    assert told["pairs"][ETH]["decision"]["written"] is None
    assert "the config's own values won the search" in told["pairs"][ETH]["decision"]["reason"]
