"""`OptunaLightGBMRegressor`: FreqAI's LightGBM regressor with parameters from the store, per pair and target.

A FreqAI strategy stays as it is; it is run with ``--freqaimodel OptunaLightGBMRegressor``. FreqAI does all
that it does for its own models: features, filters, pipelines, windows, queue, expiry, files. Decided here is
what LightGBM is built from, and which pair is trained next after a reload.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Protocol

import pandas as pd
from freqtrade.enums import TRADE_MODES, RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import timeframe_to_seconds
from freqtrade.freqai.base_models.BaseRegressionModel import BaseRegressionModel
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.freqai.tensorboard import LightGBMCallback
from lightgbm import LGBMRegressor

from feeder_mixin.errors import FeederError, ModelError, SettingsError
from feeder_mixin.freqai.bot import FreqaiFeeder
from feeder_mixin.freqai.checks import check_features, check_numbers
from feeder_mixin.freqai.parameters import CONFIG, same_training, training_parameters
from feeder_mixin.freqai.regressors import FitOptions, estimators_of, fit_regressors
from feeder_mixin.freqai.settings import FreqaiSettings, build_freqai_settings
from feeder_mixin.freqai.stored import StoredParameters, check_result_cache, separate_models
from feeder_mixin.freqai.targets import Target, TunedOn, match_targets
from feeder_mixin.freqai.trained import TrainedWith
from feeder_mixin.freqai.turns import TrainingTurns
from feeder_mixin.live.reload.loader import LoadedPair, check_store_url
from feeder_mixin.settings import as_written

logger = logging.getLogger(__name__)


class ParameterSource(Protocol):
    """Who says what a pair trains with: a running bot, or what was stored when a backtest began."""

    def parameters_for(self, pair: str, tuned_on: TunedOn) -> tuple[LoadedPair, int]:
        """Return what a pair trains with and its generation, told what the training is on."""


@dataclass(frozen=True, slots=True)
class _Fitted:
    """What the last fit of a pair was made with."""

    loaded: LoadedPair
    generation: int
    tuned_on: TunedOn
    rows: int


class OptunaLightGBMRegressor(BaseRegressionModel):  # type: ignore[misc]
    """One LightGBM regressor a target, with the pair's own parameters from the store.

    A pair without a usable record trains with the config's ``model_training_parameters``. Targets that
    ``feeder.freqai_targets`` gives a quantile learn that quantile, others the config's objective.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        mode = RunMode(config.get("runmode", RunMode.OTHER))
        is_bot = mode in TRADE_MODES and threading.current_thread() is threading.main_thread()
        self._fitted: dict[str, _Fitted] = {}
        self._targets: dict[str, tuple[Target, ...]] = {}
        self._strategy: Any = None
        self._bot: FreqaiFeeder | None = None
        try:
            found = as_written(config)
            self._settings: FreqaiSettings = build_freqai_settings(
                found.merged, found.shown, found.user_data_dir(None), found.paths
            )
            check_store_url(self._settings, os.environ)
            if mode == RunMode.BACKTEST:
                check_result_cache(config)
            stored = None if is_bot else self._load_stored(config, mode)
        except FeederError as error:
            raise OperationalException(str(error)) from error
        super().__init__(config)
        self._turns = TrainingTurns(self._outdated, self._train_changed, self._stop_event)
        self._stored = stored
        if is_bot:
            self._bot = self._start_bot()

    # ------------------------------------------------------------------ FreqAI's callbacks

    def start(self, dataframe: pd.DataFrame, metadata: dict[str, Any], strategy: Any) -> Any:  # noqa: ANN401
        """Predict, as FreqAI does; first look whether config and strategy name the same targets."""
        pair = metadata["pair"]
        self._check_targets(dataframe, metadata, strategy)
        if self._stored is not None and len(dataframe):
            begins = self.config.get("timerange") or ""
            self._stored.warn_hindsight(pair, _begin_s(begins, dataframe))
        predicted = super().start(dataframe, metadata, strategy)
        if self._bot is not None and len(dataframe):
            open_s = int(dataframe["date"].iloc[-1].timestamp())
            self._bot.note_candle(pair, open_s, is_served=pair in self.dd.model_dictionary)
        return predicted

    def start_scanning(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  (FreqAI's)
        """Start FreqAI's training thread, and the one for pairs whose parameters change."""
        if self._bot is not None:
            _share_zone(self.dd.historic_data)
            self._strategy = kwargs["strategy"] if "strategy" in kwargs else args[0]
            self._turns.thread.start()
            self._threads.append(self._turns.thread)  # FreqAI's shutdown waits for it
            self._bot.connect(self._strategy.dp.send_msg, self._turns.wake)
        super().start_scanning(*args, **kwargs)

    def shutdown(self) -> None:
        """Stop, as FreqAI does, and give the signal back."""
        try:
            super().shutdown()
        finally:
            if self._bot is not None:
                self._bot.stop()

    def extract_data_and_train_model(
        self,
        new_trained_timerange: Any,  # noqa: ANN401
        pair: str,
        strategy: Any,  # noqa: ANN401
        dk: FreqaiDataKitchen,
        data_load_timerange: Any,  # noqa: ANN401
    ) -> None:
        """Train when it is the pair's turn, and note what the model was trained with."""
        with self._turns.turn():
            try:
                super().extract_data_and_train_model(
                    new_trained_timerange, pair, strategy, dk, data_load_timerange
                )
            except Exception as error:
                if self._bot is not None:
                    self._bot.note_failed(pair, error)
                raise
            if self._bot is not None:
                self._note_trained(self._bot, pair, dk.model_filename, new_trained_timerange.stopts)

    def train(
        self,
        unfiltered_df: pd.DataFrame,
        pair: str,
        dk: FreqaiDataKitchen,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Train, as FreqAI does; again where other parameters came meanwhile."""
        check_features(unfiltered_df, pair, dk.training_features_list)
        while True:
            model = super().train(unfiltered_df, pair, dk, **kwargs)
            fitted = self._fitted[pair]
            if (
                self._bot is None
                or self._stop_event.is_set()
                or self._bot.is_current(pair, fitted.loaded)
            ):
                return model
            logger.info("Parameters of %s changed while it was trained, it is trained again", pair)

    def fit(self, data_dictionary: dict[str, Any], dk: FreqaiDataKitchen, **kwargs: Any) -> Any:  # noqa: ANN401, ARG002
        """Fit one regressor a target with the pair's parameters."""
        targets = match_targets(self._settings.targets, dk.label_list, type(self).__name__)
        tuned_on = TunedOn.of(dk.training_features_list, targets)
        loaded, generation = self._source.parameters_for(dk.pair, tuned_on)
        tuned = None if loaded.source == CONFIG else loaded.parameters
        options = FitOptions(
            self._init_models(dk.pair, loaded, tuned_on),
            lambda: self._callbacks(dk),
            bool(self.freqai_info.get("multitarget_parallel_training", False)),
        )
        parameters = training_parameters(self.model_training_parameters, tuned)
        model = fit_regressors(data_dictionary, parameters, targets, options)
        rows = len(data_dictionary["train_features"])
        self._fitted[dk.pair] = _Fitted(loaded, generation, tuned_on, rows)
        logger.info(
            "Trained with Optuna params pair=%s source=%s version=%s generation=%d targets=%s rows=%d",
            dk.pair,
            loaded.source,
            loaded.version_text,
            generation,
            ",".join(map(str, targets)),
            rows,
        )
        return model

    def predict(
        self,
        unfiltered_df: pd.DataFrame,
        dk: FreqaiDataKitchen,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Predict, as FreqAI does, with a model of LightGBM's alone."""
        self._check_lightgbm(dk.pair)
        return super().predict(unfiltered_df, dk, **kwargs)

    # ------------------------------------------------------------------ parameters

    @property
    def _source(self) -> ParameterSource:
        source = self._bot or self._stored
        if source is None:
            raise ModelError("nothing is loaded yet: a defect, please report it")
        return source

    def _load_stored(self, config: dict[str, Any], mode: RunMode) -> StoredParameters:
        stored = StoredParameters.load(self._settings, os.environ)
        stored.log()
        # Live predictions are found by the identifier, and an API thread shares a bot's folder.
        if mode not in TRADE_MODES and not config.get("freqai_backtest_live_models", False):
            separate_models(config, stored)
        return stored

    def _start_bot(self) -> FreqaiFeeder:
        served = {
            p: i["model_filename"] for p, i in self.dd.pair_dict.items() if i["model_filename"]
        }
        try:
            bot = FreqaiFeeder(
                self._settings, timeframe_to_seconds(self.config["timeframe"]), served
            )
        except FeederError as error:
            raise OperationalException(str(error)) from error
        try:
            bot.start()
        except BaseException as error:
            bot.stop()
            if isinstance(error, FeederError):
                raise OperationalException(str(error)) from error
            raise
        return bot

    def _outdated(self) -> Sequence[str]:
        return () if self._bot is None else self._bot.outdated()

    def _train_changed(self, pair: str) -> None:
        """Train a pair now, on FreqAI's window of now."""
        if pair not in self._strategy.dp.current_whitelist():
            raise SettingsError(f"{pair} is not in the current whitelist")
        dk = FreqaiDataKitchen(self.config, self.live, pair)
        _, window, load_window = dk.check_if_new_training_required(0)
        dk.set_paths(pair, window.stopts)
        self.extract_data_and_train_model(window, pair, self._strategy, dk, load_window)

    def _note_trained(self, bot: FreqaiFeeder, pair: str, name: str, until_s: int) -> None:
        fitted = self._fitted[pair]
        loaded = fitted.loaded
        model = TrainedWith(
            name=name,
            parameters=dict(loaded.parameters),
            source=loaded.source,
            version=loaded.version,
            generation=fitted.generation,
            tuned_on=fitted.tuned_on,
            until_s=int(until_s),
            rows=fitted.rows,
        )
        bot.note_trained(pair, model)

    def _init_models(
        self, pair: str, loaded: LoadedPair, tuned_on: TunedOn
    ) -> Sequence[LGBMRegressor]:
        """Return what continual learning goes on from: nothing where the parameters have changed."""
        before = self.get_init_model(pair)
        if before is None:
            return ()
        if self._bot is None:
            return estimators_of(before)
        with_ = self._bot.models.pairs.get(pair)
        if with_ is not None and with_.tuned_on == tuned_on and same_training(with_, loaded):
            return estimators_of(before)
        logger.warning(
            "Continual learning of %s starts anew: its model was trained with other parameters, features "
            "or targets version=%s",
            pair,
            loaded.version_text,
        )
        return ()

    def _callbacks(self, dk: FreqaiDataKitchen) -> list[Any]:
        if LightGBMCallback is None:  # FreqAI's, where tensorboard is not installed
            return []
        return [LightGBMCallback(dk.data_path, self.activate_tensorboard)]

    # ------------------------------------------------------------------ bad input

    def _check_targets(
        self,
        dataframe: pd.DataFrame,
        metadata: dict[str, Any],
        strategy: Any,  # noqa: ANN401
    ) -> None:
        """Raise for a strategy whose targets are not those that the config names; once a pair."""
        pair = metadata["pair"]
        if pair in self._targets:
            return
        name = type(strategy).__name__
        labelled = strategy.set_freqai_targets(dataframe.copy(), metadata={"pair": pair})
        columns = [column for column in labelled.columns if "&" in column]
        try:
            self._targets[pair] = match_targets(self._settings.targets, columns, name)
            check_numbers(labelled, columns, name)
        except FeederError as error:
            self._targets.pop(pair, None)
            raise OperationalException(str(error)) from error

    def _check_lightgbm(self, pair: str) -> None:
        """Raise where the identifier's folder has given a model of another library."""
        foreign = [one for one in estimators_of(self.model) if not isinstance(one, LGBMRegressor)]
        if foreign:
            kind = type(foreign[0]).__name__
            raise OperationalException(
                f"{pair}: the model in {self.full_path} is a {kind}, expected LightGBM's regressors: it was "
                "trained by another freqaimodel. Give freqai.identifier another name, or delete that folder"
            )


def _share_zone(history: dict[str, dict[str, pd.DataFrame]]) -> None:
    """Give candles from disk the time zone object of the exchange's; changes the frames in place.

    With pandas 3.1 a file's UTC is a ``ZoneInfo``, freqtrade's own ``datetime.UTC``. FreqAI appends the one to the
    other, which makes a column of objects: from the first new candle on no training would succeed.
    """
    for frames in history.values():
        for timeframe, frame in frames.items():
            if not frame.empty:
                frames[timeframe] = frame.assign(date=frame["date"].dt.tz_convert(UTC))


def _begin_s(timerange: str, dataframe: pd.DataFrame) -> int:
    """Return when a backtest begins, in seconds: its time range's start, else the frame's."""
    from freqtrade.configuration import TimeRange

    begin = TimeRange.parse_timerange(timerange).startts if timerange else 0
    return int(begin or dataframe["date"].iloc[0].timestamp())
