"""Walk-forward predictions over stored candles: what backtesting and its relatives run.

Models are due on the same grid as in the live bot, are fitted by the same `Trainer`, and are in
force from their cut on. Nothing after a frame's last candle is looked at, so that
lookahead-analysis sees what it would see in a live bot.

A bot's calibration goes on for as long as the bot runs. Here it begins anew for every cut,
`CALIBRATION_DAYS` before it, on the forecasts of the models in force in those days: no value depends
on where a frame begins, which recursive-analysis would find. The models of those days cost a fit
each; what they forecast is kept in the process, for the many frames of hyperopt and the analyses.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feeder_mixin.errors import CandleError, ModelError
from feeder_mixin.live.announce import log_blackouts, log_loaded, warn_hindsight
from feeder_mixin.live.reload.feeder_reader import FeederReader
from feeder_mixin.live.reload.loader import Loaded, LoadedPair, load_parameters, records_at
from feeder_mixin.live.serve.candles import DataFolder, from_host
from feeder_mixin.live.serve.columns import SafetyColumns, empty_columns
from feeder_mixin.live.train.due import due_cut_s
from feeder_mixin.live.train.models import TrainedModel
from feeder_mixin.live.train.trainer import Trainer, make_trainer
from feeder_mixin.market.features import FEATURE_HASH, labels, warmup_candles
from feeder_mixin.model.calibration import CALIBRATION_DAYS, calibrate
from feeder_mixin.model.decision import called_safe
from feeder_mixin.model.rows import DAY_S, LEAST_ROWS, open_seconds, thinning, train_stop_s
from feeder_mixin.schema import hash48, open_text

logger = logging.getLogger(__name__)

_GENERATION: Final = 1
_KEEP_DAYS: Final = 7.0
"""Models of backtests that nobody used for longer are deleted."""
_SAY_EVERY_S: Final = 10.0


class _Said(NamedTuple):
    """What a model says of rows: raw forecasts, and which rows are like those it learned from."""

    q: NDArray[np.float64]
    is_ordinary: NDArray[np.bool_]


_forecasts: dict[tuple[Path, str, int], tuple[tuple[str, str], _Said]] = {}
"""Model folder, pair and cut -> what the raw forecasts up to the next cut were made from, and these.

Made from: the model's name and the next cut's, in which all candles between the two have a part.
"""


@dataclass(frozen=True, slots=True)
class _PairBacktest:
    """A pair's way through its candles: with one set of parameters, from model to model."""

    loaded: LoadedPair
    trainer: Trainer
    candles: pd.DataFrame
    table: pd.DataFrame
    model_dir: Path

    def forecast(self, cut_s: int, next_s: int) -> _Said:
        """Return what the model of the first of two cuts says of the rows between them.

        Raises
        ------
        ModelError
            When there is nothing to learn from yet.
        """
        rows = self.table.iloc[self.rows(cut_s, next_s)]
        if next_s > self.candles.index[-1].timestamp() + self.trainer.timeframe_s:
            # Unfinished: a name would not say which of its candles there are.
            return self._ask(cut_s, rows)
        place = self.model_dir, self.loaded.pair, cut_s
        made_from = self._name(cut_s), self._name(next_s)
        known = _forecasts.get(place)
        if known is None or known[0] != made_from:
            _forecasts[place] = known = made_from, self._ask(cut_s, rows)
        return known[1]

    def _ask(self, cut_s: int, rows: pd.DataFrame) -> _Said:
        safety = self._model(cut_s).safety
        return _Said(safety.predict(rows), safety.ordinary.contains(rows))

    def rows(self, start_s: int, stop_s: int) -> slice:
        """Return the rows that open in ``[start_s, stop_s)``."""
        start, stop = np.searchsorted(open_seconds(self.table), [start_s, stop_s])
        return slice(int(start), int(stop))

    def _name(self, cut_s: int) -> str:
        return self.trainer.name(self.loaded.pair, self.candles, self.loaded.parameters, cut_s)

    def _model(self, cut_s: int) -> TrainedModel:
        name = self.trainer.fit(
            self.loaded.pair, self.candles, self.loaded.parameters, cut_s, self.table
        )
        model = self.trainer.store.load(name)
        for used in model.file_names:
            self.trainer.store.path(used).touch()
        return model


class WalkForward:
    """Predicts whole frames, cut after cut; may be pickled (hyperopt), which drops what it built.

    Parameters
    ----------
    environ
        Where the store's URL and token are looked up; the process's environment by default.
    """

    def __init__(self, folder: DataFolder, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._environ = environ
        self._model_dir: Path = folder.settings.state_dir / "backtest_models"
        self._loaded: Loaded | None = None
        self._trainer: Trainer | None = None
        self._until_s = 0
        self._said_at = 0.0
        self._said_warm_up: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out models and tables: they are built or read again where they are needed."""
        return {**self.__dict__, "_trainer": None, "_environ": None}  # it may hold a token

    def predict(self, pair: str, frame: pd.DataFrame) -> SafetyColumns:
        """Return the columns of a frame, each candle by the model in force at it."""
        opens_s = pd.DatetimeIndex(frame["date"]).as_unit("s").asi8
        loaded = self._load().pairs.get(pair)
        if loaded is None:
            logger.warning("No predictions for %s: not in the config's pair_whitelist", pair)
            return empty_columns(opens_s)
        warn_hindsight(loaded, int(opens_s[0]))
        walk = self._begin(loaded, frame)
        cuts_s = self._cuts_s(int(opens_s[0]), int(opens_s[-1]))
        raw, is_ordinary = self._forecast(walk, cuts_s)
        served = self._calibrate(walk, raw, cuts_s)
        columns = self._columns(walk, served, is_ordinary).reindexed(opens_s)
        self._say_warm_up(walk, columns)
        return columns

    def identity(self) -> str:
        """Return what decides the predictions beside the config: equal, then they are, too.

        freqtrade answers a backtest from an earlier result where config and strategy file are the same.
        Ours depends on more: the records in use, the candles before the range, and the package.
        """
        settings = self.folder.settings
        pairs = sorted(self._load().pairs.items())
        candles = sorted({*settings.pairs, *settings.context_pairs})
        parts = (
            version("feeder-mixin"),
            str(FEATURE_HASH),
            *map(repr, self._load().blackouts.windows),
            *(
                f"{p} {w.version} {sorted(w.parameters.items())} {w.beats_rule} {w.auto_tolerance}"
                for p, w in pairs
            ),
            *(f"{pair} {self.folder.stamp(pair)}" for pair in candles),
        )
        return f"{hash48(*parts):012x}"

    def _begin(self, loaded: LoadedPair, frame: pd.DataFrame) -> _PairBacktest:
        candles = self._read(loaded.pair, frame)
        trainer = self._make_trainer(int(candles.index[-1].timestamp()))
        return _PairBacktest(
            loaded, trainer, candles, trainer.market.build(candles), self._model_dir
        )

    def _forecast(self, walk: _PairBacktest, cuts_s: Sequence[int]) -> _Said:
        """Return what is said of every row of a table that a frame's candles need, else NaN and False.

        Parameters
        ----------
        cuts_s
            In force in the frame, and the next one; those that its calibration needs come on top.
        """
        pair, n_rows = walk.loaded.pair, len(walk.table)
        raw, is_ordinary = np.full(n_rows, np.nan), np.zeros(n_rows, bool)
        every_s = self._cuts_s(_begin_s(cuts_s[0]), cuts_s[-1] - 1)
        for number, (cut_s, next_s) in enumerate(itertools.pairwise(every_s), 1):
            rows = walk.rows(cut_s, next_s)
            if rows.start == rows.stop:
                continue
            self._say_progress(pair, number, len(every_s) - 1)
            try:
                raw[rows], is_ordinary[rows] = walk.forecast(cut_s, next_s)
            except ModelError as error:
                # Earlier days without a model only calibrate nothing; the warm-up is said as a whole.
                if cut_s >= max(cuts_s[0], self._first_cut_s(walk)):
                    logger.warning("No model for %s at %s: %s", pair, open_text(cut_s), error)
        return _Said(raw, is_ordinary)

    def _calibrate(
        self, walk: _PairBacktest, raw: NDArray[np.float64], cuts_s: Sequence[int]
    ) -> NDArray[np.float64]:
        """Return what is served at every row of a table, calibrated anew from cut to cut, else NaN."""
        settings, opens_s = self.folder.settings, open_seconds(walk.table)
        excursion = labels(walk.table, settings.side)
        served = np.full(len(opens_s), np.nan)
        for cut_s, next_s in itertools.pairwise(cuts_s):
            warm, rows = walk.rows(_begin_s(cut_s), next_s), walk.rows(cut_s, next_s)
            if rows.start == rows.stop:
                continue
            warmed_up, _ = calibrate(
                raw[warm],
                excursion[warm],
                opens_s[warm],
                alpha=walk.loaded.parameters["quantile_alpha"],
                label_s=settings.horizon_candles * self.folder.timeframe_s,
            )
            served[rows] = warmed_up[rows.start - warm.start :]
        return served

    def _columns(
        self, walk: _PairBacktest, served: NDArray[np.float64], is_ordinary: NDArray[np.bool_]
    ) -> SafetyColumns:
        """Return the columns of a table's rows from what is served at them."""
        known = np.isfinite(served)
        opens_s, folder = open_seconds(walk.table), self.folder
        tolerance = walk.loaded.tolerance(folder.settings).ratio
        blacked_out = self._load().blackouts.cover(opens_s, folder.timeframe_s)
        # No model is too old here: one is fitted at every cut.
        is_allowed = ~blacked_out & is_ordinary & walk.loaded.beats_rule
        return SafetyColumns(
            opens_s,
            served,
            called_safe(served, tolerance, is_allowed),
            np.where(known, _GENERATION, 0),
            np.where(known, walk.loaded.parameters["quantile_alpha"], np.nan),
            np.where(known, tolerance, np.nan),
            known & is_ordinary,
        )

    def _cuts_s(self, first_s: int, last_s: int) -> list[int]:
        """Return the points of the retraining grid from the one in force at `first_s` on.

        The last one is the first that is later than `last_s`.
        """
        hours = self.folder.settings.retrain_hours
        cuts_s = [due_cut_s(first_s, hours)]
        while cuts_s[-1] <= last_s:
            cuts_s.append(due_cut_s(cuts_s[-1] + hours * 3600 + 1, hours))
        return cuts_s

    def _first_cut_s(self, walk: _PairBacktest) -> int:
        """Return the first point of the grid at which a pair's candles allow a model."""
        s, timeframe_s = self.folder.settings, self.folder.timeframe_s
        finished = np.flatnonzero(np.isfinite(labels(walk.table, s.side)))
        if len(finished):
            first_s = int(open_seconds(walk.table)[finished[0]])
        else:
            first_s = int(walk.candles.index[0].timestamp())
            first_s += warmup_candles(s.horizon_candles) * timeframe_s
        enough_s = first_s + LEAST_ROWS * thinning(s.horizon_candles).own * timeframe_s
        cut_s = due_cut_s(enough_s, s.retrain_hours)
        while train_stop_s(cut_s, s.label(timeframe_s)) < enough_s:
            cut_s = self._cuts_s(cut_s, cut_s)[1]
        return cut_s

    def _say_warm_up(self, walk: _PairBacktest, columns: SafetyColumns) -> None:
        """Say once a pair which candles lie before its first model, and when one is possible."""
        pair, opens_s, s = walk.loaded.pair, columns.opens_s, self.folder.settings
        first_cut_s = self._first_cut_s(walk)
        n_before = int(np.searchsorted(opens_s, first_cut_s))
        if not n_before or pair in self._said_warm_up:
            return
        self._said_warm_up.add(pair)
        logger.warning(
            "%s pair=%s from=%s to=%s candles=%d without_model=%d first_model=%s candles_begin=%s: "
            "features look back over %.1f days. Take a later --timerange, or download older candles "
            "(freqtrade download-data --prepend)",
            "No candle of this range has a model, so none is safe"
            if n_before == len(opens_s)
            else "Candles before the first model are never safe",
            pair,
            open_text(int(opens_s[0])),
            open_text(int(opens_s[-1])),
            len(opens_s),
            n_before,
            open_text(first_cut_s),
            open_text(int(walk.candles.index[0].timestamp())),
            warmup_candles(s.horizon_candles) * self.folder.timeframe_s / DAY_S,
        )

    def _load(self) -> Loaded:
        if self._loaded is None:
            # Records name the context that they were tuned on: pairs that had candles.
            settings = self.folder.settings.with_context(self.folder.has)
            environ = os.environ if self._environ is None else self._environ
            self._loaded = load_parameters(
                FeederReader(settings, self.folder.timeframe_s),
                environ,
                None,
                records_at(environ),
            )
            log_loaded(settings, self._loaded, _GENERATION)
            log_blackouts(settings, self._loaded.blackouts)
        return self._loaded

    def _read(self, pair: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the folder's candles up to the frame's last one, and the frame's where newer."""
        host = from_host(frame, self.folder.timeframe_s)
        joined = self.folder.load_joined(pair, host)
        if joined is None or host is None:
            raise CandleError(f"{pair}: the frame has no candles")
        up_to = joined.before(host.last_s + 1)
        return (joined if up_to is None else up_to).frame()

    def _make_trainer(self, until_s: int) -> Trainer:
        """Return a trainer whose context ends where the frame does, or later."""
        if self._trainer is None or until_s > self._until_s:
            if self._trainer is None:
                _delete_old(self._model_dir)
            self._until_s = until_s
            self._trainer, lacks = make_trainer(self.folder, {}, self._model_dir, until_s)
            for lack in lacks:
                logger.warning("Models lack a context pair: %s", lack)
        return self._trainer

    def _say_progress(self, pair: str, number: int, n: int) -> None:
        if time.monotonic() - self._said_at > _SAY_EVERY_S:
            self._said_at = time.monotonic()
            logger.info("Walk-forward pair=%s model=%d of %d", pair, number + 1, n)


def _begin_s(cut_s: int) -> int:
    """Return the open of the first candle that calibrates the model of a cut."""
    return cut_s - CALIBRATION_DAYS * DAY_S


def _delete_old(model_dir: Path) -> None:
    oldest_s = time.time() - _KEEP_DAYS * DAY_S
    for path in (*model_dir.glob("*.json"), *model_dir.glob(".*.tmp")):
        with contextlib.suppress(FileNotFoundError):  # another backtest was first
            if path.stat().st_mtime < oldest_s:
                path.unlink()
