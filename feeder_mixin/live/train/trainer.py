"""How a served model comes about: in the bot's worker process and in a backtest alike.

The file's name carries pair, cut, parameters and the identity of the data: an equal fit is not done
twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd

from feeder_mixin.errors import ModelError
from feeder_mixin.live.serve.candles import DataFolder, Tail
from feeder_mixin.live.train.models import ModelStore, file_slug, pooled_name
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import FEATURE_HASH
from feeder_mixin.model.quantile import (
    SharedModels,
    fit_pooled,
    fit_to,
    pooled_dataset,
    pooled_weights,
    shared_context,
)
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.model.scale import LabelScale, fit_scale
from feeder_mixin.model.training_set import (
    TrainingSet,
    TrainingWindow,
    make_training_set,
    pair_rows,
)
from feeder_mixin.schema import PARAMETERS, hash48
from feeder_mixin.settings import FeederSettings

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Trainer:
    """Fits pairs at cuts: on the same rows, whoever asks.

    The pair's own trees learn from `train_days` before the cut; scale and pooled trees, one fit for all
    pairs, from all candles of the context pairs before the cut.

    Parameters
    ----------
    context
        Context pair -> all its candles on a regular grid; pairs without candles are left out.
    until
        Open of the newest candle of any pair.
    listed_s
        Pair -> when it was listed, in seconds since the epoch; pairs of which that is not known are
        left out, and counted as old.
    """

    settings: FeederSettings
    timeframe_s: int
    context: Mapping[str, pd.DataFrame]
    until: pd.Timestamp | None
    store: ModelStore
    listed_s: Mapping[str, int] = field(default_factory=dict)
    market: FeatureContext = field(init=False)
    _context_rows: dict[str, pd.DataFrame] = field(default_factory=dict, init=False)
    _datasets: dict[str, lgb.Dataset | None] = field(default_factory=dict, init=False)
    _context_shares: dict[int, float] = field(default_factory=dict, init=False)
    _hashes: dict[tuple[str, int], str] = field(default_factory=dict, init=False)
    _hashed: dict[str, tuple[int, Any]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        horizon = self.settings.horizon_candles
        self.market = FeatureContext(self.context, horizon, self.timeframe_s, self.until)

    def name(
        self, pair: str, candles: pd.DataFrame, parameters: Mapping[str, float], cut_s: int
    ) -> str:
        """Return the name of a pair's model at a cut: the same for the same candles before it."""
        return model_name(pair, cut_s, parameters, self.data_hash(pair, candles, cut_s))

    def data_hash(self, pair: str, candles: pd.DataFrame, cut_s: int) -> str:
        """Return what decides a pair's model at a cut beside the ten values, as 12 hex digits."""
        identity = self._identity({**self.context, pair: candles}, cut_s)
        return f"{hash48(identity, self.settings.side, repr(self.settings.train_days)):012x}"

    def shared_name(self, cut_s: int) -> str:
        """Return the name of the context's models at a cut: the same for the same candles before it."""
        return f"shared-{cut_s}-{hash48(self._identity(self.context, cut_s)):012x}"

    def fit(
        self,
        pair: str,
        candles: pd.DataFrame,
        parameters: Mapping[str, float],
        cut_s: int,
        table: pd.DataFrame | None = None,
    ) -> str:
        """Return the name of the pair's model at a cut; fitted unless its file is there.

        Parameters
        ----------
        candles
            All the pair's candles.
        table
            `FeatureContext.build` of them, where the caller has it.

        Raises
        ------
        ModelError
            When too few labels ended in the training window.
        StateError
            When the model can't be written.
        """
        name = self.name(pair, candles, parameters, cut_s)
        if not self.is_there(name):
            learned_from = self.training_set(pair, candles, cut_s, table)
            self.fit_to(learned_from, parameters, cut_s, name)
        return name

    def training_set(
        self, pair: str, candles: pd.DataFrame, cut_s: int, table: pd.DataFrame | None = None
    ) -> TrainingSet:
        """Return what every parameter set of a pair is fitted to at a cut.

        Without a `table`, only the rows that are learned from are made, which gives the same set.

        Raises
        ------
        ModelError
            When too few labels ended in the training window.
        """
        s, label = self.settings, self.settings.label(self.timeframe_s)
        shared_scale = self._fit_scale(cut_s)
        outline = None
        if table is None:
            choose = partial(pair_rows, horizon=label.horizon, timeframe_s=label.timeframe_s)
            table, outline = self.market.build_for_fit(candles, choose)
        scale = shared_scale.with_pair(pair, table, label)
        window = TrainingWindow(cut_s, s.train_days)
        return make_training_set(pair, table, scale, label, window, outline)

    def fit_to(
        self, learned_from: TrainingSet, parameters: Mapping[str, float], cut_s: int, name: str
    ) -> None:
        """Fit a parameter set to a training set of a cut, and write the model under its name.

        Raises
        ------
        StateError
            When the model can't be written.
        """
        scale = self._fit_scale(cut_s)
        self._fit_pooled(scale, pooled_weights(parameters["quantile_alpha"]))
        shared = SharedModels(cut_s, scale, {})  # its pooled trees are no part of a fit
        model = fit_to(learned_from, parameters, shared)
        share, n_rows = self.context_share(cut_s), len(learned_from.trees.rows)
        self.store.save(name, self.shared_name(cut_s), model, parameters, n_rows, share)

    def is_there(self, name: str) -> bool:
        """Return whether a model's file is there and whole; damage is said."""
        if not self.store.path(name).exists():
            return False
        try:
            self.store.load(name)
        except ModelError as error:
            logger.warning("Model is fitted anew: %s", error)
            return False
        return True

    def forget(self, pair: str) -> None:
        """Forget the hashes of a pair's candles: others may come under its name."""
        self._hashed.pop(pair, None)
        self._hashes = {key: text for key, text in self._hashes.items() if key[0] != pair}

    def context_share(self, cut_s: int) -> float:
        """Return which share of the training window's candles the context pairs have, on average.

        A pair without candles counts 0, and one that was listed later only from then on.
        """
        if cut_s in self._context_shares:
            return self._context_shares[cut_s]
        shares = []
        for pair in self.settings.context_pairs:
            start_s = max(cut_s - self.settings.train_days * DAY_S, self.listed_s.get(pair, 0))
            wanted = (cut_s - start_s) / self.timeframe_s
            shares.append(
                min(1.0, self._n_candles(pair, start_s, cut_s) / wanted) if wanted > 0 else 1.0
            )
        self._context_shares[cut_s] = float(np.mean(shares))
        return self._context_shares[cut_s]

    def _n_candles(self, pair: str, start_s: float, stop_s: float) -> int:
        if pair not in self.context:
            return 0
        frame = self.context[pair]
        first, last = frame.index.searchsorted(
            pd.DatetimeIndex(pd.to_datetime([start_s, stop_s], unit="s", utc=True))
        )
        return int(np.isfinite(frame["close"].to_numpy()[first:last]).sum())

    def _fit_scale(self, cut_s: int) -> LabelScale:
        """Return the label scale of a cut as it serves, read back; fitted where it has no file."""
        name = self.shared_name(cut_s)
        try:
            return self.store.load_scale(name)
        except ModelError:
            label = self.settings.label(self.timeframe_s)
            self.store.save_scale(name, fit_scale(self._context_tables(), cut_s, label))
            return self.store.load_scale(name)

    def _fit_pooled(self, scale: LabelScale, levels: Iterable[float]) -> None:
        """Fit the pooled trees of levels that have no file: a level costs half as much as the scale."""
        name, horizon = self.shared_name(scale.cut_s), self.settings.horizon_candles
        for level in levels:
            level_name = pooled_name(name, level)
            try:
                self.store.load_pooled(level_name)
            except ModelError:
                dataset = self._pooled_dataset(name, scale)
                trees = None if dataset is None else fit_pooled(dataset, level, horizon)
                self.store.save_pooled(level_name, trees)

    def _pooled_dataset(self, name: str, scale: LabelScale) -> lgb.Dataset | None:
        """Return what the pooled trees of all levels learn from, made once for a scale."""
        if name not in self._datasets:
            label = self.settings.label(self.timeframe_s)
            self._datasets = {name: pooled_dataset(self._context_tables(), scale, label)}
        return self._datasets[name]

    def _context_tables(self) -> Mapping[str, pd.DataFrame]:
        if not self._context_rows:
            self._context_rows.update(shared_context(self.market))
        return self._context_rows

    def _identity(self, candles: Mapping[str, pd.DataFrame], cut_s: int) -> str:
        """Return what a fit depends on beside parameters and side: candles, recipe, versions."""
        parts = [
            f"{pair}={self._candle_hash(pair, candles[pair], cut_s)}" for pair in sorted(candles)
        ]
        recipe = (
            "context=" + ",".join(sorted(self.context)),
            str(FEATURE_HASH),
            str(self.settings.horizon_candles),
            str(self.timeframe_s),
            *_versions(),
        )
        return "|".join((*parts, *recipe))

    def _candle_hash(self, pair: str, candles: pd.DataFrame, cut_s: int) -> str:
        """Return a hash of a pair's candles that open before the cut.

        A later cut goes on from the last one: a backtest has dozens, over all candles each.
        """
        if (pair, cut_s) not in self._hashes:
            n = int(candles.index.searchsorted(pd.Timestamp(cut_s, unit="s", tz="UTC")))
            done, digest = self._hashed.get(pair, (0, None))
            if digest is None or n < done:
                first = str(candles.index[0] if n else None)
                done, digest = 0, hashlib.blake2b(first.encode(), digest_size=12)
            rows = candles.iloc[done:n].to_numpy(np.float64)
            digest.update(np.ascontiguousarray(rows).tobytes())
            self._hashes[pair, cut_s] = digest.hexdigest()
            if n:
                self._hashed[pair] = (n, digest)
        return self._hashes[pair, cut_s]


@cache
def _versions() -> tuple[str, ...]:
    """Return what decides, beside the recipe, which trees are grown; reading them takes 10 ms."""
    return version("feeder-mixin"), version("lightgbm")


def make_trainer(
    folder: DataFolder, newer: Mapping[str, Tail], model_dir: Path, until_s: int
) -> tuple[Trainer, tuple[str, ...]]:
    """Return a trainer over all candles of the context pairs, and a text for each one without any.

    Parameters
    ----------
    newer
        Context pair -> candles that may not be on disk.
    until_s
        Open of the newest candle that is looked at, of any pair.

    Raises
    ------
    CandleError
        When a file is damaged: what serves was trained with that pair, and goes on serving.
    """
    s = folder.settings
    context, lacks = {}, []
    for pair in s.context_pairs:
        candles = folder.load_joined(pair, newer.get(pair))
        known = None if candles is None else candles.before(until_s + 1)
        if known is None:
            other = folder.describe_other_forms(pair)
            lacks.append(
                f"{pair}: no candles in {folder.datadir}, models are trained without it{other}"
            )
        else:
            context[pair] = known.frame()
    until = pd.Timestamp(until_s, unit="s", tz="UTC")
    store = ModelStore(model_dir, s)
    return Trainer(s, folder.timeframe_s, context, until, store, folder.listed_s), tuple(lacks)


def model_name(pair: str, cut_s: int, parameters: Mapping[str, float], data_hash: str) -> str:
    """Return the name of a model: pair, cut, ten values, and what else decides it."""
    values = hash48(*(f"{p.name}={parameters[p.name]!r}" for p in PARAMETERS))
    return f"{file_slug(pair)}-{cut_s}-{values:012x}-{data_hash}"
