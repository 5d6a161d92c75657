"""`OptunaLightGBMRegressor` in FreqAI's own backtest: parameters, objectives, caches, bad input."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace

import pandas as pd
import pytest

pytest.importorskip("datasieve", reason="FreqAI's packages: make setup EXTRAS=freqai")

from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.prediction_models.LightGBMRegressorMultiTarget import (
    LightGBMRegressorMultiTarget,
)
from freqtrade.freqai.prediction_models.XGBoostRegressorMultiTarget import (
    XGBoostRegressorMultiTarget,
)

from feeder_mixin.freqai.model import OptunaLightGBMRegressor
from feeder_mixin.freqai.targets import Target, TunedOn
from feeder_mixin.mixin import OptunaParamsMixin
from feeder_mixin.schema import MODEL_TYPE, PARAMETERS, format_time_ns
from feeder_mixin.settings import RECORDS_KEY
from feeder_mixin.stores.sql import SqlStore
from tests.freqai.conftest import PAIRS, TARGETS, freqai_record
from tests.freqai.host import (
    HOST_WARNINGS,
    Strategy,
    all_frames,
    backtest,
    make_strategy,
    run_config,
)

pytestmark = pytest.mark.filterwarnings(*HOST_WARNINGS)

ETH = PAIRS[1]
SMALL = {"n_estimators": 20, "verbosity": -1, "n_jobs": 1}
ONE_WINDOW = "20251012-20251013"
LABELS = list(TARGETS)


@pytest.fixture(scope="module")
def frames():
    """Give the candles of both pairs, made once: no more than one window needs."""
    since = pd.Timestamp("2025-10-06", tz="UTC")
    until = pd.Timestamp("2025-10-13", tz="UTC")
    return {
        key: one[(one["date"] >= since) & (one["date"] < until)].reset_index(drop=True)
        for key, one in all_frames().items()
    }


@pytest.fixture
def make_config(tmp_path):
    """Give a function that makes a running freqtrade's config."""
    (tmp_path / "user_data").mkdir()

    def make(mode: RunMode = RunMode.BACKTEST, **changes):
        changes.setdefault("timerange", ONE_WINDOW)
        training = changes.pop("training", {})
        own = {"model_training_parameters": {**SMALL, **training}, "train_period_days": 4}
        freqai = own | changes.pop("freqai", {})
        return run_config(tmp_path / "user_data", mode, freqai=freqai, **changes)

    return make


@pytest.fixture
def store(tmp_path):
    """Give the default store of that config."""
    with SqlStore(tmp_path / "user_data" / "feeder_params.sqlite") as store:
        yield store


def estimators(model):
    """Return the regressors of the newest fit."""
    (trained,) = model.dd.model_dictionary.values()
    return trained.estimators_


def test_each_target_learns_its_own_quantile_with_the_records_values(make_config, store, frames):
    """What LightGBM is built from is what the store holds, to the last digit; the level is the target's."""
    record = freqai_record(ETH, n_estimators=110, learning_rate=0.1 / 3, num_leaves=17)
    store.write([record])
    _, model = backtest(make_config(), frames)
    for estimator, target in zip(estimators(model), TARGETS.values(), strict=True):
        used = estimator.get_params()
        assert (used["objective"], used["alpha"]) == ("quantile", target["quantile"])
        assert (used["n_jobs"], used["subsample_freq"]) == (1, 1)
        for parameter in PARAMETERS:
            if parameter.name != "quantile_alpha":
                assert used[parameter.lightgbm_name] == record.parameters[parameter.name]


def test_without_record_and_quantiles_it_is_freqais_own_model(make_config, frames, tmp_path):
    """Only the store's records make a difference: predictions are FreqAI's to the bit."""
    config = make_config(feeder={})
    ours, _ = backtest(config, frames)
    theirs, _ = backtest(make_config(), frames, model=LightGBMRegressorMultiTarget)
    pd.testing.assert_frame_equal(ours, theirs)


def test_early_stopping_is_lightgbms_own(make_config, frames):
    """``early_stopping_rounds`` of the config's block works as in FreqAI's own models."""
    _, model = backtest(
        make_config(training={"early_stopping_rounds": 3, "n_estimators": 500, "eta": 0.3}), frames
    )
    assert all(0 < one.best_iteration_ < 500 for one in estimators(model))


def test_saved_models_hold_no_class_of_ours(make_config, store, frames, tmp_path):
    """They load in a freqtrade without this package."""
    store.write([freqai_record(ETH)])
    backtest(make_config(), frames)
    saved = [path for path in tmp_path.rglob("*") if path.suffix in {".joblib", ".pkl"}]
    assert saved
    assert not any(b"feeder_mixin" in path.read_bytes() for path in saved)


def test_record_of_other_features_never_trains(make_config, store, frames, caplog):
    """The refusal names what differs; the config's own values train instead."""
    other = TunedOn.of(["%-something"], [Target("&-min_low", 0.1)])
    store.write([freqai_record(ETH, metrics=other.metrics, num_leaves=17)])
    with caplog.at_level(logging.INFO, logger="feeder_mixin"):
        _, model = backtest(make_config(), frames)
    assert [one.get_params()["num_leaves"] for one in estimators(model)] == [31, 31]
    assert re.search(
        r"Rejected Optuna params for ETH/USDT:USDT reason=ETH/USDT:USDT: tuned on other features .*"
        r"running=config",
        caplog.text,
    )


def test_record_of_the_built_in_model_never_trains(make_config, store, frames, caplog):
    """The refusal names both model types."""
    store.write([replace(freqai_record(ETH, num_leaves=17), model_type=MODEL_TYPE)])
    with caplog.at_level(logging.INFO, logger="feeder_mixin"):
        _, model = backtest(make_config(), frames)
    assert [one.get_params()["num_leaves"] for one in estimators(model)] == [31, 31]
    assert "is of model type lightgbm_quantile, but my_freqai trains lightgbm_freqai" in caplog.text


@pytest.mark.slow
def test_tuning_between_two_backtests_changes_the_second(make_config, store, frames, monkeypatch):
    """No cache answers for other records; the records of a time give what they gave then."""
    then = time.time_ns() - 10**9
    store.write([freqai_record(ETH, then, num_leaves=17)])
    before, _ = backtest(make_config(), frames)
    store.write([freqai_record(ETH, then + 5 * 10**8, num_leaves=17, learning_rate=0.1)])
    after, _ = backtest(make_config(), frames)
    assert not before[LABELS].equals(after[LABELS])
    monkeypatch.setenv("FEEDER_RECORDS_AT", format_time_ns(then))
    again, model = backtest(make_config(), frames)
    pd.testing.assert_frame_equal(before, again)
    assert not model.dd.model_dictionary  # its own folder answered


def test_records_of_a_time_to_come_are_refused(make_config, monkeypatch):
    """A mistyped year is no empty store."""
    monkeypatch.setenv("FEEDER_RECORDS_AT", "2199-01-01T00:00:00Z")
    with pytest.raises(OperationalException, match=r"FEEDER_RECORDS_AT 2199.*in the future"):
        OptunaLightGBMRegressor(make_config())


def test_backtest_inside_of_the_tuned_candles_is_warned_of(make_config, store, frames, caplog):
    """A result on candles that the parameters have seen flatters."""
    seen = pd.Timestamp("2025-10-19", tz="UTC").timestamp()
    store.write([freqai_record(ETH, metrics={"candles_to_s": seen})])
    backtest(make_config(), frames)
    assert "is in-sample and looks better than it is" in caplog.text


def test_backtest_that_freqtrade_may_answer_from_its_cache_is_refused(make_config):
    """Freqtrade looks for an earlier result before it loads a FreqAI model."""
    with pytest.raises(OperationalException, match="run it with --cache none"):
        OptunaLightGBMRegressor(make_config(backtest_cache="day"))


class Mixed(Strategy, OptunaParamsMixin):
    """A FreqAI strategy that derives from the mixin, too."""

    def populate_indicators(self, dataframe, metadata):
        """Ask both."""
        return OptunaParamsMixin.populate_indicators(
            self, super().populate_indicators(dataframe, metadata), metadata
        )


def test_strategy_with_the_mixin_works_and_marks_the_records(make_config, store, frames):
    """It adds no column; its config tells freqtrade's cache of the records."""
    store.write([freqai_record(ETH)])
    config = make_config(backtest_cache="day", freqaimodel="OptunaLightGBMRegressor")
    strategy = make_strategy(config, frames, Mixed)
    assert len(config[RECORDS_KEY]) == 12
    strategy.freqai = OptunaLightGBMRegressor(config)
    predicted = strategy.populate_indicators(frames[ETH, "5m"].copy(), {"pair": ETH})
    assert set(LABELS) <= set(predicted.columns)
    assert "safety_q" not in predicted
    assert strategy.informative_pairs() == []


class NoRules(OptunaParamsMixin):
    """A feeder's strategy, by mistake on a FreqAI config."""


def test_strategy_with_the_mixin_says_what_is_missing(make_config, frames, caplog):
    """Another model class, FreqAI off, a strategy that waits for safety columns: nothing is silent."""
    strategy = make_strategy(make_config(freqaimodel="LightGBMRegressor"), frames, NoRules)
    assert "Optuna params are not used: freqaimodel=LightGBMRegressor" in caplog.text
    with pytest.raises(OperationalException, match="NoRules defines no populate_entry_trend"):
        strategy.populate_entry_trend(frames[ETH, "5m"], {"pair": ETH})
    with pytest.raises(OperationalException, match=r"freqai.enabled=False, expected true"):
        NoRules(make_config(freqai={"enabled": False}))


class WithoutTargets(Strategy):
    """Forgot them."""

    def set_freqai_targets(self, dataframe, metadata, **kwargs):
        """Set none."""
        return dataframe


class Classes(Strategy):
    """Predicts up or down."""

    def set_freqai_targets(self, dataframe, metadata, **kwargs):
        """Set one of text."""
        dataframe["&-updown"] = ["up" if up else "down" for up in dataframe["close"] > 100]
        return dataframe


@pytest.mark.parametrize(
    ("kind", "feeder", "message"),
    [
        pytest.param(WithoutTargets, {}, "WithoutTargets: set_freqai_targets makes no", id="none"),
        pytest.param(
            Strategy,
            {"freqai_targets": {"&-min_low": {"quantile": 0.1}}},
            "does not name &-future_close: expected exactly the targets of Strategy",
            id="target_left_out",
        ),
        pytest.param(
            Strategy,
            {"freqai_targets": {**TARGETS, "&-min_lwo": {}}},
            "names &-min_lwo, which Strategy does not make",
            id="target_that_is_none",
        ),
        pytest.param(Classes, {}, "target &-updown holds classes", id="classifier"),
    ],
)
def test_targets_that_do_not_fit_end_the_run_by_name(make_config, frames, kind, feeder, message):
    """One clear error before anything is trained."""
    with pytest.raises(OperationalException, match=message):
        backtest(make_config(feeder=feeder), frames, kind=kind)


class EmptyFeature(Strategy):
    """Has a feature that never has a value."""

    def feature_engineering_standard(self, dataframe, metadata, **kwargs):
        """Add it."""
        dataframe["%-nothing"] = float("nan")
        return super().feature_engineering_standard(dataframe, metadata, **kwargs)


def test_feature_without_a_value_is_named(make_config, frames, caplog):
    """FreqAI drops every row for it and goes on; the log says which column it was."""
    backtest(make_config(), frames, kind=EmptyFeature)
    assert "ETH/USDT:USDT: %-nothing has no value on any of 1152 candles" in caplog.text


@pytest.mark.slow
def test_model_of_another_library_in_the_folder_is_named(make_config, frames):
    """A folder that another freqaimodel has filled does not answer for LightGBM."""
    config = make_config(training={"verbosity": 0})
    folder = OptunaLightGBMRegressor(make_config(training={"verbosity": 0})).identifier
    foreign = make_config(training={"verbosity": 0}, freqai={"identifier": folder})
    backtest(foreign, frames, model=XGBoostRegressorMultiTarget)
    for path in foreign["user_data_dir"].rglob("*_prediction.feather"):
        path.unlink()
    with pytest.raises(OperationalException, match=r"is a XGBRegressor, expected LightGBM's"):
        backtest(config, frames)
