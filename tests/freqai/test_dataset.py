"""The dataset against FreqAI's own backtest, cut by cut; later candles; bad input."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("datasieve", reason="FreqAI's packages: make setup EXTRAS=freqai")

from freqtrade.configuration import TimeRange
from freqtrade.data.dataprovider import DataProvider
from freqtrade.data.history import load_pair_history
from freqtrade.freqai.prediction_models.LightGBMRegressorMultiTarget import (
    LightGBMRegressorMultiTarget,
)

from feeder_mixin.errors import CandleError, MissingCandlesError, SettingsError
from feeder_mixin.freqai.dataset import FreqaiData
from feeder_mixin.freqai.targets import Target
from tests.candle_factory import candle_file, make_candles, write_candles
from tests.freqai.conftest import PAIRS
from tests.freqai.host import HORIZON, HOST_WARNINGS, N_CANDLES, TIMERANGE, Strategy, run_config

pytestmark = pytest.mark.filterwarnings(*HOST_WARNINGS)

ETH = PAIRS[1]
CUTS = [datetime(2025, 10, day, tzinfo=UTC) for day in (12, 17)]
END = datetime(2025, 10, 20, tzinfo=UTC)
SMALL = {"n_estimators": 2, "verbosity": -1, "n_jobs": 1}
TARGETS = (Target("&-min_low", 0.1), Target("&-future_close", 0.75))


def candles_of(number: int, timeframe_s: int) -> pd.DataFrame:
    """Return a pair's candles in a timeframe."""
    return make_candles(N_CANDLES * 300 // timeframe_s, number, timeframe_s=timeframe_s)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Give a folder with both pairs' candles on disk."""
    folder = tmp_path_factory.mktemp("freqai")
    (folder / "user_data").mkdir()
    for name, seconds in (("5m", 300), ("15m", 900)):
        candles = {pair: candles_of(number, seconds) for number, pair in enumerate(PAIRS)}
        write_candles(folder / "data", candles, name)
    return folder


def config_of(site, **changes):
    """Return the config of a backtest on that folder."""
    freqai = {"model_training_parameters": SMALL, **changes.pop("freqai", {})}
    config = run_config(site / "user_data", freqai=freqai, **changes)
    return config | {"datadir": site / "data", "dataformat_ohlcv": "feather"}


class Recording(LightGBMRegressorMultiTarget):
    """FreqAI's own model, which keeps what it was trained on and asked about."""

    def __init__(self, config):
        super().__init__(config)
        self.trained, self.asked, self.believed = [], [], []

    def fit(self, data_dictionary, dk, **kwargs):
        """Keep the data."""
        self.trained.append(dict(data_dictionary))
        return super().fit(data_dictionary, dk, **kwargs)

    def predict(self, unfiltered_df, dk, **kwargs):
        """Keep the features."""
        made = super().predict(unfiltered_df, dk, **kwargs)
        self.asked.append(dk.data_dictionary["prediction_features"].copy())
        self.believed.append(dk.do_predict)
        return made


def own_backtest(config, pair, kind=Strategy):
    """Run FreqAI's own backtest of a pair on what freqtrade would load."""
    strategy = kind(config)
    strategy.dp = DataProvider(config, None)
    base = load_pair_history(
        datadir=config["datadir"],
        timeframe="5m",
        pair=pair,
        timerange=TimeRange.parse_timerange(config["timerange"]),
        startup_candles=strategy.dp.get_required_startup("5m"),
        data_format="feather",
        candle_type=config["candle_type_def"],
    )
    model = Recording(config)
    predicted = model.start(base, {"pair": pair}, strategy)
    return model, predicted


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({}, id="plain"),
        pytest.param(
            {"use_SVM_to_remove_outliers": True, "buffer_train_data_candles": 5},
            id="svm",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"DI_threshold": 0.9, "principal_component_analysis": True},
            id="di_and_pca",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_cuts_are_what_freqais_own_backtest_trains_on(site, tmp_path, parameters):
    """Rows, scaling, weights, outliers and the window to predict: equal to the bit, at every cut."""
    (tmp_path / "user_data").mkdir()
    config = config_of(site) | {"user_data_dir": tmp_path / "user_data"}
    config["freqai"]["feature_parameters"].update(parameters)
    own, _ = own_backtest(config, ETH)
    assert len(own.trained) == len(CUTS)
    with FreqaiData(config, Strategy(config), TARGETS) as data:
        dataset = data.pair(ETH)
        for number, (at, until) in enumerate(zip(CUTS, [CUTS[1], END], strict=True)):
            cut = dataset.cut(at, until)
            theirs, exact = own.trained[number], data.model.data
            for part, rows in (("train", cut.train), ("test", cut.stop)):
                pd.testing.assert_frame_equal(
                    exact[f"{part}_features"], theirs[f"{part}_features"], check_exact=True
                )
                for name, made in (("features", rows.features), ("labels", rows.labels)):
                    expected = theirs[f"{part}_{name}"].to_numpy(np.float32)
                    np.testing.assert_array_equal(made, expected)
                np.testing.assert_array_equal(
                    rows.weights, np.asarray(theirs[f"{part}_weights"], np.float32)
                )
            asked = own.asked[number].to_numpy(np.float32)
            np.testing.assert_array_equal(cut.scored.features, asked)
            np.testing.assert_array_equal(cut.scored.is_predicted, own.believed[number] == 1)


@pytest.mark.parametrize(
    "later",
    [
        pytest.param("gone", id="gone"),
        pytest.param("others", id="other_prices", marks=pytest.mark.slow),
    ],
)
def test_later_candles_change_nothing_of_a_cut(site, tmp_path, later):
    """What comes after the cut has no part in features, labels, scaling or outliers."""
    at = CUTS[0]
    n_before = int((at - datetime(2025, 10, 1, tzinfo=UTC)).total_seconds())
    for name, seconds in (("5m", 300), ("15m", 900)):
        for number, pair in enumerate(PAIRS):
            candles = candles_of(number, seconds)
            n = n_before // seconds
            if later == "gone":
                candles = candles.iloc[: n + 1]
            else:
                candles.iloc[n:] *= 1.5
            write_candles(tmp_path / "data", {pair: candles}, name)
    (tmp_path / "user_data").mkdir()
    full = config_of(site)
    cut_off = config_of(site) | {"datadir": tmp_path / "data"}
    made = []
    for config in (full, cut_off):
        with FreqaiData(config, Strategy(config), TARGETS) as data:
            made.append(data.pair(ETH).cut(at, at))
    for part in ("train", "stop"):
        for name in ("features", "labels", "weights"):
            one, other = (getattr(getattr(cut, part), name) for cut in made)
            np.testing.assert_array_equal(one, other)
    assert made[0].tuned_on == made[1].tuned_on


def test_scored_labels_are_the_strategys_and_end_with_the_candles(site):
    """What is judged is in the label's unit; where the horizon is still open there is no label."""
    config = config_of(site)
    with FreqaiData(config, Strategy(config), TARGETS) as data:
        dataset = data.pair(ETH)
        cut = dataset.cut(CUTS[1], END)
    assert [target.name for target in cut.targets] == ["&-min_low", "&-future_close"]
    assert cut.scored.features.dtype == np.float32
    close = candles_of(1, 300)["close"]
    opens = pd.to_datetime(cut.scored.opens_s, unit="s", utc=True)
    expected = close.shift(-HORIZON).reindex(opens) / close.reindex(opens) - 1
    n_known = int((dataset.opens_s < END.timestamp()).sum()) and len(opens) - HORIZON
    np.testing.assert_allclose(
        cut.scored.labels[:n_known, 1], expected.to_numpy()[:n_known], rtol=1e-12
    )
    scaled = np.zeros((2, 2))
    back = cut.in_label_units(scaled)
    assert back.shape == (2, 2)
    assert (back[0] == back[1]).all()


def test_training_window_can_be_another(site):
    """A tuner measures windows: fewer days, fewer rows, and the same candles at the end."""
    config = config_of(site)
    with FreqaiData(config, Strategy(config), TARGETS) as data:
        dataset = data.pair(ETH)
        full, half = dataset.cut(CUTS[0], END), dataset.cut(CUTS[0], END, train_days=5)
    rows = [len(cut.train) + len(cut.stop) for cut in (full, half)]
    assert rows == [10 * 288 - HORIZON, 5 * 288 - HORIZON]


@pytest.mark.parametrize(
    ("pair", "timeframe", "said"),
    [
        pytest.param(ETH, "15m", "its own 15m candles", id="informative_timeframe"),
        pytest.param(PAIRS[0], "5m", "correlated pair BTC/USDT:USDT's 5m", id="correlated_pair"),
    ],
)
def test_missing_candles_are_named_with_file_and_command(site, tmp_path, pair, timeframe, said):
    """A user pastes the command and goes on."""
    (tmp_path / "user_data").mkdir()
    for name, seconds in (("5m", 300), ("15m", 900)):
        candles = {one: candles_of(number, seconds) for number, one in enumerate(PAIRS)}
        write_candles(tmp_path / "data", candles, name)
    file = candle_file(tmp_path / "data", pair, timeframe)
    file.unlink()
    config = config_of(site) | {"datadir": tmp_path / "data"}
    with FreqaiData(config, Strategy(config)) as data, pytest.raises(MissingCandlesError) as caught:
        data.pair(ETH)
    message = str(caught.value)
    assert said in message
    assert str(file) in message
    assert f"--pairs {pair} --timeframes {timeframe} --timerange {TIMERANGE}" in message


class EmptyLate(Strategy):
    """Has a feature without values in October's second week."""

    def feature_engineering_standard(self, dataframe, metadata, **kwargs):
        """Add it."""
        is_early = dataframe["date"] < pd.Timestamp("2025-10-02", tz="UTC")
        dataframe["%-late"] = np.where(is_early, 1.0, np.nan)
        return super().feature_engineering_standard(dataframe, metadata, **kwargs)


def test_bad_input_is_one_error(site):
    """No block, a feature without values at a cut, targets that do not fit."""
    config = config_of(site)
    with pytest.raises(SettingsError, match="no freqai block"):
        FreqaiData({**config, "freqai": None}, Strategy(config))
    with FreqaiData(config, EmptyLate(config)) as data:
        dataset = data.pair(ETH)
        with pytest.raises(CandleError, match="ETH/USDT:USDT: %-late has no value on any of"):
            dataset.cut(CUTS[1], CUTS[1] + timedelta(days=1))
    with (
        FreqaiData(config, Strategy(config), TARGETS[:1]) as data,
        pytest.raises(SettingsError, match="does not name &-future_close"),
    ):
        data.pair(ETH).cut(CUTS[0], END)


def test_folder_of_the_user_is_left_alone(site):
    """Neither models nor parameters are written where FreqAI's bot works."""
    config = config_of(site)
    before = sorted(path.name for path in (site / "user_data").rglob("*"))
    with FreqaiData(config, Strategy(config), TARGETS) as data:
        data.pair(ETH).cut(CUTS[0], END)
    assert sorted(path.name for path in (site / "user_data").rglob("*")) == before
