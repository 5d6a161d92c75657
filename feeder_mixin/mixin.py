"""`OptunaParamsMixin`: the base class that makes a freqtrade strategy a feeder.

It wires the live side into freqtrade's callbacks and adds no trading rule of its own. A strategy
derives from it and gives an entry trigger and an exit rule; between them stands the safety gate. It
derives from ``IStrategy`` (with a plain class in its place hyperopt dies in pickling) and keeps
threads, locks and models off the instance until a bot really trades.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from freqtrade.enums import TRADE_MODES, RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy, stoploss_from_absolute

from feeder_mixin.errors import BusyError, FeederError, SettingsError, StateError
from feeder_mixin.freqai.settings import build_freqai_settings, is_freqai
from feeder_mixin.settings import RECORDS_KEY, FeederSettings, Side, as_written, build_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from feeder_mixin.live.bot import LiveFeeder
    from feeder_mixin.live.serve.columns import SafetyColumns
    from feeder_mixin.live.train.walkforward import WalkForward

logger = logging.getLogger(__name__)

_TAG: Final = "safe q={q:.4f} alpha={alpha:g} tolerance={tolerance:.4f} generation={generation}"
"""Entry tag: which prediction let an entry pass, and what `predicted_at_entry` reads.

To a basis point: a report lists every tag, and with more digits each trade would be a row.
"""


_FREQAI_MODEL: Final = "OptunaLightGBMRegressor"

_OTHER_SIDE: Final[dict[Side, Side]] = {"long": "short", "short": "long"}


class OptunaParamsMixin(IStrategy):  # type: ignore[misc]
    """A feeder: predicts per pair and candle how far price may move against a position.

    With a ``freqai`` block and without ``feeder.side`` it adds nothing to a strategy: FreqAI's model has the
    parameters (`feeder_mixin.freqai.model`), and the strategy is a FreqAI strategy like any other.

    A strategy of yours derives from it and overrides `entry_trigger` and `exit_trigger`; what it adds
    to ``populate_indicators`` goes on top of ``super().populate_indicators(...)``. It trades the
    feeder's side alone, which sets ``can_short``.

    It adds these columns to a frame:

    - ``safety_q``: predicted quantile of the adverse excursion within the horizon, calibrated: a ratio,
      negative = adverse. NaN where no model was in force: in a live bot on all candles before its very
      first model.
    - ``safe``: 1 where ``safety_q`` is not below minus ``max_adverse_ratio``, else 0; always 0 in
      a blackout (``feeder.blackouts``) and where ``ordinary`` is 0.
    - ``ordinary``: 1 where the candle is like those that the serving model learned from, else 0 (a flash
      wick, a jump, a halt); 0 without prediction.
    - ``params_generation``: generation whose record trained the serving model; 0 without, or from before
      this process.
    - ``safety_alpha``: quantile level of the serving model.
    - ``max_adverse_ratio``: the pair's tolerance; NaN where no model was in force.
    - ``safety_band``, ``tolerance_band``: ``safety_q`` and the tolerance as prices.
    """

    INTERFACE_VERSION = 3
    process_only_new_candles = True
    startup_candle_count = 1  # warm-up comes from the data folder, not from the frame

    can_short: bool  # freqtrade's, which has no types
    stop_quantiles = 2.0
    """The stop of an entry lies at so many times the quantile predicted for it."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        from feeder_mixin.live.reload.loader import check_store_url
        from feeder_mixin.market.blackouts import load_blackouts

        self._live: LiveFeeder | None = None
        self._walk_forward: WalkForward | None = None
        self._is_freqai = is_freqai(config)
        if self._is_freqai:
            self._check_freqai(config)
            return
        try:
            self.feeder = settings_of(config)
            check_store_url(self.feeder, os.environ)
            load_blackouts(self.feeder)
            if RunMode(config.get("runmode", RunMode.OTHER)) in TRADE_MODES:
                self._check_alone()
        except (SettingsError, BusyError) as error:
            raise OperationalException(str(error)) from error
        if self.can_short:  # of the strategy: the feeder's own side needs no word of it
            self._check_can_short()
        self.can_short = self.feeder.side == "short"
        self._said_other_side: set[str] = set()
        if _may_be_answered_from_cache(config):
            try:
                config[RECORDS_KEY] = self._walk().identity()
            except FeederError as error:
                raise OperationalException(str(error)) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the live side: hyperopt pickles strategies."""
        return {**self.__dict__, "_live": None}

    # ------------------------------------------------------------------ rules of the strategy

    def entry_trigger(self, dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.Series:
        """Return where the strategy wants to enter, on the feeder's side; the gate comes after."""
        raise NotImplementedError(f"{type(self).__name__} does not define entry_trigger")

    def exit_trigger(self, dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.Series:  # noqa: ARG002
        """Return where the strategy wants to leave; by default only stop and ROI do."""
        return pd.Series(data=False, index=dataframe.index)

    # ------------------------------------------------------------------ freqtrade's callbacks

    def bot_start(self, **kwargs: Any) -> None:  # noqa: ANN401  (freqtrade's signature)
        """Start the live side of a trading bot; every other mode predicts walk-forward."""
        super().bot_start(**kwargs)
        if self._is_freqai:
            return
        self._check_can_short()
        if RunMode(self.config.get("runmode", RunMode.OTHER)) not in TRADE_MODES:
            return
        if threading.current_thread() is not threading.main_thread():
            return  # an API thread that only looks at the strategy
        from feeder_mixin.live.announce import warn_blacklisted, warn_newer_host, warn_unlisted
        from feeder_mixin.live.bot import LiveFeeder
        from feeder_mixin.live.serve.candles import DataFolder

        warn_newer_host(self.feeder, version("freqtrade"))
        warn_unlisted(self.feeder, self._is_listed)
        warn_blacklisted(self.feeder)
        folder = self._data_folder(DataFolder, self.feeder.with_context(self._is_listed))
        folder = replace(folder, listed_s=self._listings())
        self._stop_live()  # of an earlier call
        # The host rounds a frame up to whole requests of at most 499 candles.
        frame_candles = self.startup_candle_count + 500
        self._live = LiveFeeder(folder, self._host_frame, frame_candles, self.dp.send_msg)
        try:
            self._live.start()
        except BaseException:
            self._stop_live()
            raise

    def ft_bot_cleanup(self) -> None:
        """Stop the live side: at the end, and before ``/reload_config`` builds a new strategy."""
        self._stop_live()
        super().ft_bot_cleanup()

    def informative_pairs(self) -> list[tuple[str, str, str]]:
        """Return the context pairs that the exchange lists, so that the host keeps their candles."""
        if self._is_freqai:
            return []
        listed = filter(self._is_listed, self.feeder.context_pairs)
        return [(pair, self.timeframe, "") for pair in listed]

    def version(self) -> str:
        """Return package version and generation: shown in the heartbeat and in ``/show_config``."""
        generation = 0 if self._live is None else self._live.snapshot.generation
        return f"feeder_mixin {version('feeder-mixin')} generation {generation}"

    def populate_indicators(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any]
    ) -> pd.DataFrame:
        """Add the safety columns; call it from your own with ``super()``. A FreqAI strategy gets none."""
        if self._is_freqai:
            return dataframe
        columns = self._predict(dataframe, metadata["pair"])
        close = dataframe["close"].to_numpy(np.float64)
        sign = -1.0 if self.feeder.side == "short" else 1.0
        added = pd.DataFrame(
            {
                "safety_q": columns.q,
                "safety_alpha": columns.alpha,
                "safe": columns.safe.astype(np.int64),
                "ordinary": columns.is_ordinary.astype(np.int64),
                "params_generation": columns.generation,
                "max_adverse_ratio": columns.tolerance,
                "safety_band": close * (1 + sign * columns.q),
                "tolerance_band": close * (1 - sign * columns.tolerance),
            },
            index=dataframe.index,
        )
        # At once: pandas takes six times as long for one column after the other.
        return pd.concat([dataframe, added], axis=1)

    def advise_entry(self, dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        """Drop entries of the other side, and say so.

        freqtrade's own method, and the one place behind whatever `populate_entry_trend` a strategy has:
        on the other side nothing is predicted, so no entry there would be gated.
        """
        dataframe = super().advise_entry(dataframe, metadata)
        if self._is_freqai:
            return dataframe
        other = _OTHER_SIDE[self.feeder.side]
        column, pair = f"enter_{other}", metadata["pair"]
        if column not in dataframe:
            return dataframe
        n_signals = int((dataframe[column] == 1).sum())
        if n_signals and pair not in self._said_other_side:
            self._said_other_side.add(pair)
            logger.error(
                "Entries on the other side are dropped, because nothing is predicted there: set no %s, or "
                "run a feeder of side %s pair=%s strategy=%s feeder=%s side=%s signals=%d",
                column,
                other,
                pair,
                type(self).__name__,
                self.feeder.feeder_id,
                self.feeder.side,
                n_signals,
            )
        dataframe[column] = 0
        return dataframe

    def populate_entry_trend(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any]
    ) -> pd.DataFrame:
        """Enter where the trigger says so and the candle is safe."""
        if self._is_freqai:
            raise OperationalException(
                f"{type(self).__name__} defines no populate_entry_trend: with FreqAI there is no safety "
                "column to gate entries by, and the strategy needs rules of its own"
            )
        trigger = self.entry_trigger(dataframe, metadata).fillna(value=False).astype(bool)
        enter = trigger & (dataframe["safe"] == 1)
        dataframe[f"enter_{self.feeder.side}"] = enter.astype(np.int64)
        if not enter.any():
            return dataframe
        dataframe.loc[enter, "enter_tag"] = [
            _TAG.format(q=q, alpha=alpha, tolerance=tolerance, generation=generation)
            for q, alpha, tolerance, generation in dataframe.loc[
                enter, ["safety_q", "safety_alpha", "max_adverse_ratio", "params_generation"]
            ].itertuples(index=False)
        ]
        return dataframe

    def populate_exit_trend(
        self, dataframe: pd.DataFrame, metadata: dict[str, Any]
    ) -> pd.DataFrame:
        """Leave where the exit rule says so, safe or not."""
        leave = self.exit_trigger(dataframe, metadata).fillna(value=False).astype(bool)
        dataframe[f"exit_{self.feeder.side}"] = leave.astype(np.int64)
        return dataframe

    def custom_stoploss(
        self,
        pair: str,  # noqa: ARG002
        trade: Trade,
        current_time: datetime,  # noqa: ARG002
        current_rate: float,
        current_profit: float,  # noqa: ARG002
        after_fill: bool,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401, ARG002
    ) -> float | None:
        """Return the stop at `stop_quantiles` times the quantile predicted at entry.

        Fixed for the life of the trade; None, that is ``stoploss``, for a trade without prediction.
        """
        q = predicted_at_entry(trade.enter_tag)
        if q is None:
            return None
        away = self.stop_quantiles * min(q, 0.0)
        price = trade.open_rate * (1 - away if trade.is_short else 1 + away)
        stop: float = stoploss_from_absolute(
            price, current_rate, is_short=trade.is_short, leverage=trade.leverage
        )
        return stop or None

    # ------------------------------------------------------------------ wiring

    def _check_freqai(self, config: dict[str, Any]) -> None:
        """Check a FreqAI bot's config, and let freqtrade tell backtests of other records apart."""
        from feeder_mixin.freqai.stored import StoredParameters

        if config.get("freqaimodel") != _FREQAI_MODEL:
            logger.warning(
                "Optuna params are not used: freqaimodel=%s, expected %s",
                config.get("freqaimodel"),
                _FREQAI_MODEL,
            )
        found = as_written(config)
        try:
            settings = build_freqai_settings(
                found.merged, found.shown, found.user_data_dir(None), found.paths
            )
            if _may_be_answered_from_cache(config):
                config[RECORDS_KEY] = StoredParameters.load(settings, os.environ).identity
        except FeederError as error:
            raise OperationalException(str(error)) from error

    def _check_alone(self) -> None:
        """Refuse to start beside another bot of this feeder.

        Here, because what `bot_start` raises the host calls unexpected, with a traceback.
        """
        from feeder_mixin.live.state.lock import bot_lock

        with suppress(StateError):  # it can't be asked: `bot_start` says what follows from that
            bot_lock(self.feeder).check()

    def _check_can_short(self) -> None:
        """Refuse a strategy whose ``can_short`` is not that of the feeder's one side."""
        side = self.feeder.side
        if self.can_short == (side == "short"):
            return
        raise OperationalException(
            f"{type(self).__name__} has can_short={self.can_short}, but {self.feeder.feeder_id} is a "
            f"{side} feeder (feeder.side), and a feeder trades one side, that of its models. Leave "
            f"can_short out, the side sets it; for the other side run a feeder of side "
            f"{_OTHER_SIDE[side]}"
        )

    def _is_listed(self, pair: str) -> bool:
        return self.dp.market(pair) is not None

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _predict(self, dataframe: pd.DataFrame, pair: str) -> SafetyColumns:
        if self._live is not None:
            return self._live.predict(pair, dataframe)
        try:
            return self._walk().predict(pair, dataframe)
        except FeederError as error:
            raise OperationalException(str(error)) from error

    def _walk(self) -> WalkForward:
        if self._walk_forward is None:
            from feeder_mixin.live.serve.candles import DataFolder
            from feeder_mixin.live.train.walkforward import WalkForward

            self._walk_forward = WalkForward(self._data_folder(DataFolder, self.feeder))
        return self._walk_forward

    def _data_folder(self, make: type, settings: FeederSettings) -> Any:  # noqa: ANN401
        from feeder_mixin.market.candles import timeframe_seconds

        timeframe_s = timeframe_seconds(settings.timeframe)
        return make(settings, Path(self.config["datadir"]), timeframe_s)

    def _listings(self) -> dict[str, int]:
        """Return pair -> when the exchange listed it, in seconds since the epoch, as far as it says."""
        pairs = {*self.feeder.pairs, *self.feeder.context_pairs}
        markets = {pair: self.dp.market(pair) or {} for pair in pairs}
        return {
            pair: int(market["created"]) // 1000
            for pair, market in markets.items()
            if market.get("created")
        }

    def _host_frame(self, pair: str) -> pd.DataFrame:
        frame: pd.DataFrame = self.dp.ohlcv(
            pair, self.timeframe, copy=False, candle_type=self.config["candle_type_def"]
        )
        return frame


def _may_be_answered_from_cache(config: Mapping[str, Any]) -> bool:
    """Return whether freqtrade looks for an earlier result of this run: in backtesting alone."""
    is_backtest = config.get("runmode") == RunMode.BACKTEST
    return is_backtest and config.get("backtest_cache") != "none"


def settings_of(config: dict[str, Any]) -> FeederSettings:
    """Return the settings of the feeder that a freqtrade config describes.

    Pairs come from the config as it was written: ``--pairs`` and the analysis commands narrow the
    whitelist, which must not change the context pairs.
    """
    found = as_written(config)
    return build_settings(found.merged, found.shown, found.user_data_dir(None), found.paths)


def predicted_at_entry(tag: str | None) -> float | None:
    """Return the quantile that an entry tag names, or None where it names none."""
    for part in (tag or "").split():
        if part.startswith("q="):
            try:
                return float(part[2:])
            except ValueError:
                return None
    return None
