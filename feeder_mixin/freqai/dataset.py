"""What FreqAI would train on, and be judged on, at any cut: by freqtrade's own code and the user's strategy.

A tuner asks here. Features, labels, filter, split, weights and pipelines are FreqAI's; nothing of it is copied.
What must stay true: the rows of a cut are those that FreqAI's own backtest trains on there, and no candle after
the cut has a part in them. One pair at a time is held; what a cut hands on is float32.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.data.dataprovider import DataProvider
from freqtrade.data.history import get_datahandler, load_pair_history
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.base_models.BaseRegressionModel import BaseRegressionModel
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError, MissingCandlesError, SettingsError
from feeder_mixin.freqai.checks import check_features, check_numbers
from feeder_mixin.freqai.targets import Target, TunedOn, match_targets
from feeder_mixin.processes import ScratchFolder

Floats = NDArray[np.float32]

_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as LightGBM gets them: scaled by FreqAI's pipelines, outliers removed.

    Attributes
    ----------
    features
        Shape (rows, features).
    labels
        Shape (rows, targets).
    weights
        Shape (rows,).
    """

    features: Floats
    labels: Floats
    weights: Floats

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Candles after a cut, to predict and to judge.

    Attributes
    ----------
    opens_s
        Open of every candle, in seconds since the epoch.
    features
        Shape (candles, features), through the pipeline that was fitted before the cut.
    labels
        Shape (candles, targets), as the strategy has them; NaN where their horizon has not ended.
    is_predicted
        Where FreqAI would tell the strategy to believe it (``do_predict`` 1).
    """

    opens_s: NDArray[np.int64]
    features: Floats
    labels: NDArray[np.float64]
    is_predicted: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cut:
    """One model's data: what it learns from, what stops it early, and what it is judged on.

    Attributes
    ----------
    names
        Features after the pipeline, in order: constant ones are gone.
    stop
        Rows of FreqAI's ``test_size``, for early stopping; empty without.
    tuned_on
        Identity of features and targets, for a record.
    """

    pair: str
    cut: datetime
    targets: tuple[Target, ...]
    names: tuple[str, ...]
    tuned_on: TunedOn
    train: Rows
    stop: Rows
    scored: ScoredRows
    label_pipeline: Any

    def in_label_units(self, predicted: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return predictions, shape (candles, targets), in the unit of the strategy's labels."""
        columns = [target.name for target in self.targets]
        frame, _, _ = self.label_pipeline.inverse_transform(
            pd.DataFrame(predicted, columns=columns)
        )
        values: NDArray[np.float64] = frame[columns].to_numpy(np.float64)
        return values


class _Capture(BaseRegressionModel):  # type: ignore[misc]
    """FreqAI's regression model up to the fit: keeps what it would train on, and predict for."""

    def fit(self, data_dictionary: dict[str, Any], dk: FreqaiDataKitchen, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002
        """Keep the data instead."""
        self.data = data_dictionary
        return self

    def prepare(self, frame: pd.DataFrame, dk: FreqaiDataKitchen) -> tuple[Any, NDArray[np.int_]]:
        """Return a window's features through the fitted pipeline, and where FreqAI believes them."""
        self.n_targets = len(dk.label_list)
        self.model = self  # whose `predict` FreqAI calls for the values
        _, do_predict = super().predict(frame, dk)
        return self.asked, do_predict

    def predict(self, unfiltered_df: Any, dk: Any = None, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002
        """Keep the features that FreqAI asks about; the values are of no use here."""
        self.asked = unfiltered_df
        return np.zeros((len(unfiltered_df), self.n_targets))


class PairDataset:
    """One pair's features, built once; cuts are taken from it. Get it from `FreqaiData.pair`."""

    def __init__(
        self, data: FreqaiData, pair: str, frame: pd.DataFrame, dk: FreqaiDataKitchen
    ) -> None:
        self._data, self.pair = data, pair
        self._frame, self._dk = frame, dk
        self._labels: pd.DataFrame | None = None
        """By all candles there are: what came of every candle, for judging alone."""

    @property
    def opens_s(self) -> NDArray[np.int64]:
        """Return the open of every candle, in seconds since the epoch."""
        return _seconds(self._frame["date"])

    def cut(self, at: datetime, until: datetime, train_days: int | None = None) -> Cut:
        """Return the data of the model that FreqAI would make at a time.

        Parameters
        ----------
        at
            The cut: no candle from here on has a part in training.
        until
            End of the candles to judge on.
        train_days
            Training window; ``freqai.train_period_days`` by default.

        Raises
        ------
        CandleError
            When no row is left to train on: it names the features without a value.
        SettingsError
            When strategy and ``feeder.freqai_targets`` do not name the same targets.
        """
        data, dk = self._data, self._dk
        days = train_days or int(data.config["freqai"]["train_period_days"])
        stop_s = int(at.timestamp())
        window = dk.buffer_timerange(TimeRange("date", "date", stop_s - days * _DAY_S, stop_s))
        known = self._labelled(self._frame["date"] < at)
        train = dk.slice_dataframe(window, known)
        dk.find_features(train)
        dk.find_labels(train)
        targets = match_targets(data.targets, dk.label_list, data.strategy_name)
        check_numbers(train, dk.label_list, data.strategy_name)
        check_features(train, self.pair, dk.training_features_list)
        tuned_on = TunedOn.of(dk.training_features_list, targets)
        try:
            data.model.train(train, self.pair, dk)
        except OperationalException as error:
            raise CandleError(f"{self.pair}: {' '.join(str(error).split())}") from error
        made = data.model.data
        return Cut(
            pair=self.pair,
            cut=at,
            targets=targets,
            names=tuple(made["train_features"].columns),
            tuned_on=tuned_on,
            train=_rows(made, "train"),
            stop=_rows(made, "test"),
            scored=self._scored(at, until, [target.name for target in targets]),
            label_pipeline=dk.label_pipeline,
        )

    def tuned_on(self) -> TunedOn:
        """Return the identity of features and targets, as far as the candles there are make them.

        Raises
        ------
        SettingsError
            When there is no feature or no target, a target of classes, or one that
            ``feeder.freqai_targets`` does not name.
        """
        data, dk = self._data, self._dk
        labelled = self._labelled(pd.Series(data=True, index=self._frame.index))
        try:
            dk.find_features(labelled)
        except OperationalException as error:
            raise SettingsError(f"{data.strategy_name}: {' '.join(str(error).split())}") from error
        dk.find_labels(labelled)
        targets = match_targets(data.targets, dk.label_list, data.strategy_name)
        check_numbers(labelled, dk.label_list, data.strategy_name)
        return TunedOn.of(dk.training_features_list, targets)

    def _scored(self, at: datetime, until: datetime, columns: Sequence[str]) -> ScoredRows:
        """Return the candles from the cut on; labels by all candles there are, features by the past."""
        frame = self._frame
        window = frame[(frame["date"] >= at) & (frame["date"] < until)]
        if window.empty:
            return _nothing_scored(
                len(columns), len(self._data.model.data["train_features"].columns)
            )
        if self._labels is None:
            labelled = self._labelled(pd.Series(data=True, index=frame.index))
            self._labels = labelled[list(columns)]
        named = self._dk.remove_special_chars_from_feature_names(window.copy())
        features, do_predict = self._data.model.prepare(named, self._dk)
        labels = self._labels.loc[window.index, list(columns)]
        return ScoredRows(
            _seconds(window["date"]),
            features.to_numpy(np.float32),
            labels.to_numpy(np.float64),
            np.asarray(do_predict) == 1,
        )

    def _labelled(self, rows: pd.Series[bool]) -> pd.DataFrame:
        """Return rows with the labels that the strategy sets by those rows alone."""
        data = self._data
        frame = data.strategy.set_freqai_targets(
            self._frame.loc[rows, :].copy(), metadata={"pair": self.pair}
        )
        named: pd.DataFrame = self._dk.remove_special_chars_from_feature_names(frame)
        return named


class FreqaiData:
    """Datasets of one FreqAI strategy; a context manager, because FreqAI wants a folder to work in.

    Parameters
    ----------
    config
        A freqtrade config as a backtest has it (``freqtrade.configuration.Configuration``), ``timerange``
        included: features are built on what a backtest of that range would load.
    strategy
        The user's, loaded from that config.
    targets
        Those of ``feeder.freqai_targets``; empty: every target by its squared error.
    """

    def __init__(
        self, config: Mapping[str, Any], strategy: IStrategy, targets: Sequence[Target] = ()
    ) -> None:
        if not isinstance(config.get("freqai"), dict):
            raise SettingsError(
                "the config has no freqai block, expected that of a FreqAI strategy"
            )
        self._folder = ScratchFolder("freqai")
        # FreqAI makes folders and notes its parameters wherever it works: not in the user's.
        freqai = {**config["freqai"], "identifier": "dataset", "activate_tensorboard": False}
        self.config: dict[str, Any] = {
            **config,
            "freqai": freqai,
            "user_data_dir": self._folder.path,
            "runmode": RunMode.BACKTEST,
        }
        self.strategy, self.targets = strategy, tuple(targets)
        self.strategy_name = type(strategy).__name__
        self.provider = DataProvider(self.config, None)
        strategy.dp = self.provider
        strategy.freqai_info = freqai  # which freqtrade gives it with the model
        self.model = _Capture(self.config)
        self.model.live = False

    def __enter__(self) -> FreqaiData:
        return self

    def __exit__(self, *_error: object) -> None:
        self._folder.remove()

    def pair(self, pair: str) -> PairDataset:
        """Return a pair's dataset, its features built on all candles of the time range.

        Raises
        ------
        MissingCandlesError
            When candles of the pair, an informative timeframe or a correlated pair are missing: the
            file and the command that downloads it.
        """
        self._check_candles(pair)
        dk = FreqaiDataKitchen(self.config, live=False, pair=pair)
        frame = dk.use_strategy_to_populate_indicators(
            self.strategy, prediction_dataframe=self._base(pair), pair=pair
        )
        return PairDataset(self, pair, frame, dk)

    def _base(self, pair: str) -> pd.DataFrame:
        """Return the pair's candles as freqtrade's backtesting loads them."""
        config, timeframe = self.config, str(self.config["timeframe"])
        frame: pd.DataFrame = load_pair_history(
            datadir=config["datadir"],
            timeframe=timeframe,
            pair=pair,
            timerange=TimeRange.parse_timerange(config["timerange"]),
            startup_candles=self.provider.get_required_startup(timeframe),
            data_format=config.get("dataformat_ohlcv", "feather"),
            candle_type=config["candle_type_def"],
        )
        return frame

    def _check_candles(self, pair: str) -> None:
        """Raise for the first timeframe and pair without candles in the time range."""
        parameters = self.config["freqai"]["feature_parameters"]
        others = parameters.get("include_corr_pairlist", [])
        for name in dict.fromkeys([pair, *others]):
            for timeframe in dict.fromkeys(
                [str(self.config["timeframe"]), *parameters["include_timeframes"]]
            ):
                if self.provider.historic_ohlcv(name, timeframe).empty:
                    raise self._missing(pair, name, timeframe)

    def _missing(self, pair: str, name: str, timeframe: str) -> MissingCandlesError:
        config = self.config
        handler = get_datahandler(config["datadir"], config.get("dataformat_ohlcv", "feather"))
        file = handler._pair_data_filename(
            config["datadir"], name, timeframe, config["candle_type_def"]
        )
        what = "its own" if name == pair else f"its correlated pair {name}'s"
        files = [
            word for path in config.get("config_files", []) for word in ("--config", str(path))
        ]
        command = shlex.join(
            [
                *("freqtrade", "download-data", *files, "--pairs", name),
                *("--timeframes", timeframe, "--timerange", str(config["timerange"]), "--prepend"),
            ]
        )
        return MissingCandlesError(
            f"{pair}: {what} {timeframe} candles are missing in {config['timerange']}, expected in {file}. "
            f"Download them, with the days of training before: {command}"
        )


def _rows(made: Mapping[str, Any], part: str) -> Rows:
    features, labels = made[f"{part}_features"], made[f"{part}_labels"]
    if not len(features):  # FreqAI leaves stand-ins where `test_size` is 0
        train = made["train_features"].shape[1], made["train_labels"].shape[1]
        return Rows(
            np.empty((0, train[0]), np.float32),
            np.empty((0, train[1]), np.float32),
            np.empty(0, np.float32),
        )
    return Rows(
        features.to_numpy(np.float32),
        labels.to_numpy(np.float32),
        np.asarray(made[f"{part}_weights"], np.float32),
    )


def _nothing_scored(n_targets: int, n_features: int) -> ScoredRows:
    return ScoredRows(
        np.empty(0, np.int64),
        np.empty((0, n_features), np.float32),
        np.empty((0, n_targets)),
        np.empty(0, np.bool_),
    )


def _seconds(dates: pd.Series[Any]) -> NDArray[np.int64]:
    return pd.DatetimeIndex(dates).as_unit("s").asi8


def moment_of(seconds: float) -> datetime:
    """Return a time as cuts are given."""
    return datetime.fromtimestamp(seconds, UTC)
