"""What runs in the worker process: fits, one after the other, by a trainer made for the first.

The worker is niced and a process of its own, so that neither its LightGBM nor its pandas ever holds
up a candle. It knows nothing of what serves: it writes a model's file and answers with the name.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from feeder_mixin.errors import CandleError, StateError
from feeder_mixin.live.serve.candles import DataFolder, Tail, followed
from feeder_mixin.live.train.prepared import KeptTrainingSet, read_prepared, write_prepared
from feeder_mixin.live.train.trainer import Trainer, make_trainer, model_name
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

    def prepare(self, fit: Fit, newer: Tail | None) -> KeptTrainingSet:
        """Return what a pair's parameters are fitted to; made where nothing fitting is kept.

        Parameters
        ----------
        newer
            The pair's candles at the host.

        Raises
        ------
        CandleError
            When there are no candles, or the pair's file is damaged.
        ModelError
            When too few labels ended in the training window.
        """
        trainer, settings = self.trainer[0], self.folder.settings
        path = trainer.store.prepared_path(fit.pair)
        stamp = self.folder.stamp(fit.pair)  # before the file is read: what changes later shows
        kept = read_prepared(path, fit.pair, settings.side)
        if kept is not None:
            made_from = self._made_from(fit, stamp, kept.last_on_disk_s, newer)
            if kept.made_from == made_from:
                return kept
        candles, last_on_disk_s = self._candles(fit.pair, newer)
        stop = candles.index.searchsorted(pd.Timestamp(fit.cut_s, unit="s", tz="UTC"))
        n_window = int(settings.train_days * DAY_S / self.folder.timeframe_s)
        closes = candles["close"].to_numpy()[max(0, stop - n_window) : stop]
        prepared = KeptTrainingSet(
            self._made_from(fit, stamp, last_on_disk_s, newer),
            last_on_disk_s,
            trainer.data_hash(fit.pair, candles, fit.cut_s),
            int(np.isnan(closes).sum()),
            trainer.training_set(fit.pair, candles, fit.cut_s),
        )
        with suppress(StateError):  # it only saves time; what the model's own file meets is said
            write_prepared(path, prepared)
        return prepared

    def _made_from(self, fit: Fit, stamp: str, last_on_disk_s: int, newer: Tail | None) -> str:
        """Return what is equal where a pair's training set at a cut would be made the same again."""
        trainer, settings = self.trainer[0], self.folder.settings
        parts = [trainer.shared_name(fit.cut_s), settings.side, repr(settings.train_days)]
        if fit.pair not in trainer.context:  # whose candles the shared models' name stands for
            later = None if newer is None else newer.after(last_on_disk_s)
            known = None if later is None else later.before(fit.cut_s)
            rows = b"" if known is None else f"{known.first_s}".encode() + known.rows.tobytes()
            parts += [stamp, hashlib.blake2b(rows, digest_size=12).hexdigest()]
        return "|".join(parts)

    def _candles(self, pair: str, newer: Tail | None) -> tuple[pd.DataFrame, int]:
        """Return all candles of a pair, and the open of the newest one on disk, 0 without any."""
        trainer, _ = self.trainer
        if pair in trainer.context:
            return trainer.context[pair], 0
        trainer.forget(pair)  # its file may have changed since its last fit
        on_disk = self.folder.load(pair)
        joined = followed(on_disk, newer)
        if joined is None:
            other = self.folder.describe_other_forms(pair)
            raise CandleError(
                f"{pair}: no candles in {self.folder.datadir} and none from the exchange{other}"
            )
        return joined.frame(), 0 if on_disk is None else on_disk.last_s


def run_fit(setup: WorkerSetup, fit: Fit, newer: Tail | None) -> Fitted:
    """Fit a pair unless an equal model's file is there; `newer` are the pair's candles at the host."""
    # Log lines of a worker reach no handler of the host: what matters comes back with the answer.
    logging.getLogger("feeder_mixin").addHandler(_NO_LOG)
    logging.getLogger("feeder_mixin").propagate = False
    started = time.monotonic()
    trainer, lacks = setup.trainer
    prepared = setup.prepare(fit, newer)
    name = model_name(fit.pair, fit.cut_s, fit.parameters, prepared.data_hash)
    if not trainer.is_there(name):
        trainer.fit_to(prepared.learned_from, fit.parameters, fit.cut_s, name)
    return Fitted(name, prepared.n_missing, lacks, time.monotonic() - started)
