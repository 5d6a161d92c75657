"""What runs in the worker process: fits, one after the other, by a trainer made for the first.

The worker is niced and a process of its own, so that neither its LightGBM nor its pandas ever holds
up a candle. It knows nothing of what serves: it writes a model's file and answers with the name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from feeder_mixin.errors import CandleError
from feeder_mixin.live.serve.candles import DataFolder, Tail
from feeder_mixin.live.train.trainer import Trainer, make_trainer
from feeder_mixin.model.rows import DAY_S

_NO_LOG: Final = logging.NullHandler()


@dataclass(frozen=True, slots=True)
class Fit:
    """A fit that is due: which pair, with which values, at which cut."""

    pair: str
    parameters: Mapping[str, float]
    cut_s: int


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit gave: the model's name, and what it was trained without.

    Attributes
    ----------
    n_missing
        Candles missing in the pair's training window.
    lacks
        A text for each context pair without candles.
    took_s
        Wall time, candles and tables included.
    """

    name: str
    n_missing: int
    lacks: tuple[str, ...]
    took_s: float


@dataclass(frozen=True)
class WorkerSetup:
    """What all fits of a worker process share; made at the first, the trainer stays.

    Attributes
    ----------
    newer
        Context pair -> candles of the host that may not be on disk.
    model_dir
        Where models are written.
    until_s
        Open of the newest candle that is looked at, of any pair.
    """

    folder: DataFolder
    newer: Mapping[str, Tail]
    model_dir: Path
    until_s: int

    @cached_property
    def trainer(self) -> tuple[Trainer, tuple[str, ...]]:
        """Return the trainer and what it lacks; made by the first fit, whose answer an error is."""
        return make_trainer(self.folder, self.newer, self.model_dir, self.until_s)

    def candles(self, pair: str, newer: Tail | None) -> pd.DataFrame:
        """Return all candles of a pair; `newer` are the host's.

        Raises
        ------
        CandleError
            When there are none, or the pair's file is damaged.
        """
        trainer, _ = self.trainer
        if pair in trainer.context:
            return trainer.context[pair]
        trainer.forget(pair)  # its file may have changed since its last fit
        joined = self.folder.load_joined(pair, newer)
        if joined is None:
            other = self.folder.describe_other_forms(pair)
            raise CandleError(
                f"{pair}: no candles in {self.folder.datadir} and none from the exchange{other}"
            )
        return joined.frame()


def run_fit(setup: WorkerSetup, fit: Fit, newer: Tail | None) -> Fitted:
    """Fit a pair unless an equal model's file is there; `newer` are the pair's candles at the host."""
    # Log lines of a worker reach no handler of the host: what matters comes back with the answer.
    logging.getLogger("feeder_mixin").addHandler(_NO_LOG)
    logging.getLogger("feeder_mixin").propagate = False
    started = time.monotonic()
    trainer, lacks = setup.trainer
    candles = setup.candles(fit.pair, newer)
    name = trainer.fit(fit.pair, candles, fit.parameters, fit.cut_s)
    folder = setup.folder
    window = candles.iloc[-int(folder.settings.train_days * DAY_S / folder.timeframe_s) :]
    n_missing = int(np.isnan(window["close"].to_numpy()).sum())
    return Fitted(name, n_missing, lacks, time.monotonic() - started)
