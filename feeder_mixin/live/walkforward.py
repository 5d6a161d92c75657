"""Walk-forward predictions over stored candles: what backtesting and its relatives run.

Models are due on the same grid as in the live bot, are fitted by the same `Trainer`, and are in
force from their cut on. Nothing after a frame's last candle is looked at, so that
lookahead-analysis sees what it would see in a live bot.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from feeder_mixin.errors import CandleError, ModelError
from feeder_mixin.live.cache import Serving
from feeder_mixin.live.candles import DataFolder, from_host, open_text
from feeder_mixin.live.loader import Loaded, LoadedPair, load_parameters, log_loaded
from feeder_mixin.live.models import Trainer
from feeder_mixin.live.predictor import SafetyColumns, empty_columns, fill
from feeder_mixin.live.training import due_cut_s, make_trainer
from feeder_mixin.model.rows import DAY_S, open_seconds

logger = logging.getLogger(__name__)

_GENERATION: Final = 1
_KEEP_DAYS: Final = 7.0
"""Models of backtests that nobody used for longer are deleted."""
_SAY_EVERY_S: Final = 10.0


class WalkForward:
    """Predicts whole frames, cut after cut; may be pickled (hyperopt), which drops what it built.

    Parameters
    ----------
    environ
        Where the store's URL and token are looked up; the process's environment by default.
    """

    def __init__(self, folder: DataFolder, environ: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environ = environ
        self._model_dir: Path = folder.settings.state_dir / "backtest_models"
        self._loaded: Loaded | None = None
        self._trainer: Trainer | None = None
        self._until_s = 0
        self._said_at = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out models and tables: they are built or read again where they are needed."""
        return {**self.__dict__, "_trainer": None, "_environ": None}  # it may hold a token

    def predict(self, pair: str, frame: pd.DataFrame) -> SafetyColumns:
        """Return the columns of a frame, each candle by the model in force at it."""
        opens_s = pd.DatetimeIndex(frame["date"]).as_unit("s").asi8
        columns = empty_columns(opens_s)
        loaded = self._load().pairs.get(pair)
        if loaded is None:
            logger.warning("No predictions for %s: not in the config's pair_whitelist", pair)
            return columns
        _warn_hindsight(loaded, int(opens_s[0]))
        candles = self._read(pair, frame)
        trainer = self._make_trainer(int(opens_s[-1]))
        table = trainer.market.build(candles)
        inside = open_seconds(table) >= opens_s[0]
        cuts_s = self._cuts_s(int(opens_s[0]), int(opens_s[-1]))
        number_of = np.searchsorted(cuts_s, open_seconds(table), "right") - 1
        for number, cut_s in enumerate(cuts_s):
            rows = table[inside & (number_of == number)]
            if rows.empty:
                continue
            self._say_progress(pair, number, len(cuts_s))
            try:
                name = trainer.fit(pair, candles, table, loaded.parameters, cut_s)
                model = trainer.store.load(name)
                for used in (name, model.shared_name):
                    trainer.store.path(used).touch()
            except ModelError as error:
                logger.warning("No model for %s at %s: %s", pair, open_text(cut_s), error)
                continue
            serving = Serving(loaded, model, cut_s, _GENERATION)
            fill(columns, rows, [serving], self._folder.settings.max_adverse_ratio)
        return columns

    def _cuts_s(self, first_s: int, last_s: int) -> list[int]:
        """Return the points of the retraining grid from the one in force at `first_s` on."""
        hours = self._folder.settings.retrain_hours
        cut_s = due_cut_s(first_s, hours)
        cuts_s = [cut_s]
        while (cut_s := due_cut_s(cuts_s[-1] + hours * 3600 + 1, hours)) <= last_s:
            cuts_s.append(cut_s)
        return cuts_s

    def _load(self) -> Loaded:
        if self._loaded is None:
            settings = self._folder.settings
            environ = os.environ if self._environ is None else self._environ
            self._loaded = load_parameters(settings, environ, self._folder.step_s, None)
            log_loaded(settings, self._loaded, _GENERATION)
        return self._loaded

    def _read(self, pair: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the folder's candles up to the frame's last one, and the frame's where newer."""
        host = from_host(frame, self._folder.step_s)
        joined = self._folder.load_joined(pair, host)
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
            self._trainer, lacks = make_trainer(self._folder, {}, self._model_dir, until_s)
            for lack in lacks:
                logger.warning("Models are trained with a lack: %s", lack)
        return self._trainer

    def _say_progress(self, pair: str, number: int, n: int) -> None:
        if time.monotonic() - self._said_at > _SAY_EVERY_S:
            self._said_at = time.monotonic()
            logger.info("Walk-forward pair=%s model=%d of %d", pair, number + 1, n)


def _warn_hindsight(loaded: LoadedPair, first_s: int) -> None:
    """Say when the parameters were tuned on candles of the frame: its result then flatters."""
    if loaded.candles_to_s is not None and loaded.candles_to_s >= first_s:
        logger.warning(
            "Parameters of %s were tuned on candles up to %s: a backtest from %s on knows them "
            "already, its result flatters",
            loaded.pair,
            open_text(int(loaded.candles_to_s)),
            open_text(first_s),
        )


def _delete_old(model_dir: Path) -> None:
    oldest_s = time.time() - _KEEP_DAYS * DAY_S
    for path in (*model_dir.glob("*.json"), *model_dir.glob(".*.tmp")):
        with contextlib.suppress(FileNotFoundError):  # another backtest was first
            if path.stat().st_mtime < oldest_s:
                path.unlink()
