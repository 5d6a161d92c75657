"""Trained models: fitted at a cut, kept on disk as LightGBM text, read back whole or not at all.

`Trainer` is the one way a served model comes about: in the bot's worker process and in a backtest.
A model always serves as it was read back from its file, so that a restart gives the same bits. The
file's name carries pair, cut, parameters and the identity of the data: an equal fit is not done
twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import pandas as pd

from feeder_mixin.errors import ModelError, StateError
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import FEATURE_HASH
from feeder_mixin.model.quantile import (
    SafetyModel,
    SharedModels,
    fit_safety_model,
    fit_shared,
    pooled_weights,
    shared_context,
    shared_rows,
)
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.model.scale import LabelScale
from feeder_mixin.schema import PARAMETERS, hash48
from feeder_mixin.settings import FeederSettings

logger = logging.getLogger(__name__)

_FORMAT: Final = 3
"""Of the model files: raise it when their content changes."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model as it serves: trees, parameters, cut, and the file it was read from.

    Attributes
    ----------
    cut_s
        Seconds since the epoch; every label it learned from had ended by then.
    rows
        Rows the pair's own trees learned from, after thinning.
    context_share
        Share of the candles that the context pairs should have before the cut, and had.
    context_hash, train_days
        The context pairs and the training window that it was trained for.
    name, shared_name
        Of its file and of the file of its shared models, without ending.
    """

    pair: str
    parameters: Mapping[str, float]
    cut_s: int
    rows: int
    context_share: float
    context_hash: int
    train_days: float
    name: str
    shared_name: str
    safety: SafetyModel

    def misfits(self, settings: FeederSettings) -> list[str]:
        """Return the keys of the config that ask for another model than this one, which still serves."""
        keys = []
        if self.context_hash != hash48(*settings.context_pairs):
            keys.append("context_pairs")
        if self.train_days != settings.train_days:
            keys.append("train_days")
        return keys


class ModelStore:
    """The folder of model files; shared models are read once and handed to all pairs."""

    def __init__(self, folder: Path, settings: FeederSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._scales: dict[str, LabelScale] = {}
        self._pooled: dict[tuple[str, float], lgb.Booster] = {}

    def path(self, name: str) -> Path:
        """Return where the model of that name is."""
        return self._folder / f"{name}.json"

    def save_shared(self, name: str, shared: SharedModels) -> None:
        """Keep scale and pooled trees of a cut."""
        scale = shared.scale
        document = {
            "format": _FORMAT,
            "cut_s": shared.cut_s,
            "mean": scale.mean.tolist(),
            "std": scale.std.tolist(),
            "coefficients": {pair: c.tolist() for pair, c in sorted(scale.coefficients.items())},
            "scale_trees": None if scale.trees is None else scale.trees.model_to_string(),
            "pooled": {str(a): trees.model_to_string() for a, trees in shared.pooled.items()},
        }
        write_checked(self.path(name), document)

    def save(
        self,
        name: str,
        shared_name: str,
        model: SafetyModel,
        parameters: Mapping[str, float],
        n_rows: int,
        context_share: float,
    ) -> None:
        """Keep a pair's own trees beside the name of the shared models they go with."""
        document = {
            "format": _FORMAT,
            "pair": model.pair,
            "side": model.side,
            "cut_s": model.shared.cut_s,
            "rows": n_rows,
            "context_share": context_share,
            "context_hash": hash48(*self._settings.context_pairs),
            "train_days": self._settings.train_days,
            "parameters": dict(parameters),
            "shared": shared_name,
            "trees": model.own.model_to_string(),
            "rule_constant": model.rule_constant,
        }
        write_checked(self.path(name), document)

    def load(self, name: str) -> TrainedModel:
        """Return a model, read back whole.

        Raises
        ------
        ModelError
            When a file is missing, damaged, or of the other side.
        """
        document = self._read(name)
        try:
            pair, side = document["pair"], document["side"]
            if side != self._settings.side:
                raise ModelError(f"model {self.path(name)} is for side {side}")
            parameters = {p.name: p.restore(document["parameters"][p.name]) for p in PARAMETERS}
            alpha = parameters["quantile_alpha"]
            shared = self.load_shared(document["shared"], tuple(pooled_weights(alpha)))
            own = lgb.Booster(model_str=document["trees"])
            return TrainedModel(
                pair,
                parameters,
                document["cut_s"],
                document["rows"],
                document["context_share"],
                document["context_hash"],
                document["train_days"],
                name,
                document["shared"],
                SafetyModel(pair, side, alpha, shared, own, float(document["rule_constant"])),
            )
        except (KeyError, TypeError, ValueError, lgb.basic.LightGBMError) as error:
            raise ModelError(f"model {self.path(name)} can't be used: {error!r}") from error

    def load_shared(self, name: str, alphas: Sequence[float] = ()) -> SharedModels:
        """Return the scale of a cut, and the pooled trees of the levels asked for.

        Raises
        ------
        ModelError
            When the file is missing or damaged.
        """
        missing = [alpha for alpha in alphas if (name, alpha) not in self._pooled]
        cut_s = int(name.split("-")[1])
        if name not in self._scales or missing:
            document = self._read(name)
            try:
                coefficients = {p: np.array(c) for p, c in document["coefficients"].items()}
                mean, std = np.array(document["mean"]), np.array(document["std"])
                text = document["scale_trees"]
                trees = None if text is None else lgb.Booster(model_str=text)
                self._scales.setdefault(name, LabelScale(mean, std, coefficients, trees))
                for alpha in missing if document["pooled"] else ():
                    text = document["pooled"][str(alpha)]
                    self._pooled[name, alpha] = lgb.Booster(model_str=text)
            except (KeyError, TypeError, ValueError, lgb.basic.LightGBMError) as error:
                raise ModelError(f"model {self.path(name)} can't be used: {error!r}") from error
        pooled = {a: self._pooled[name, a] for a in alphas if (name, a) in self._pooled}
        return SharedModels(cut_s, self._scales[name], pooled)

    def keep_only(self, models: Iterable[TrainedModel]) -> None:
        """Delete the files of all other models, and free what they shared."""
        models = list(models)
        shared = {model.shared_name for model in models}
        keep = shared | {model.name for model in models}
        for path in self._folder.glob("*.json"):
            if path.stem not in keep:
                path.unlink(missing_ok=True)
        self._scales = {name: scale for name, scale in self._scales.items() if name in shared}
        self._pooled = {key: trees for key, trees in self._pooled.items() if key[0] in shared}

    def _read(self, name: str) -> dict[str, Any]:
        try:
            document = read_checked(self.path(name))
        except StateError as error:
            raise ModelError(str(error)) from error
        if document is None:
            raise ModelError(f"model {self.path(name)} does not exist")
        if document.get("format") != _FORMAT:
            raise ModelError(f"model {self.path(name)} has format {document.get('format')}")
        return document


@dataclass(slots=True)
class Trainer:
    """Fits pairs at cuts: on the same rows, whoever asks.

    The pair's own trees learn from `train_days` before the cut; scale and pooled trees from all
    candles before the cut of the context pairs, and of the pair itself.

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
    _hashes: dict[tuple[str, int], str] = field(default_factory=dict, init=False)
    _hashed: dict[str, tuple[int, Any]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        horizon = self.settings.horizon_candles
        self.market = FeatureContext(self.context, horizon, self.timeframe_s, self.until)

    def name(
        self, pair: str, candles: pd.DataFrame, parameters: Mapping[str, float], cut_s: int
    ) -> str:
        """Return the name of a pair's model at a cut: the same for the same candles before it."""
        values = hash48(*(f"{p.name}={parameters[p.name]!r}" for p in PARAMETERS))
        identity = self._identity([*self.context, pair], pair, candles, cut_s)
        data = hash48(identity, self.settings.side, repr(self.settings.train_days))
        return f"{_slug(pair)}-{cut_s}-{values:012x}-{data:012x}"

    def fit(
        self,
        pair: str,
        candles: pd.DataFrame,
        table: pd.DataFrame,
        parameters: Mapping[str, float],
        cut_s: int,
    ) -> str:
        """Return the name of the pair's model at a cut; fitted unless its file is there.

        Parameters
        ----------
        candles, table
            All the pair's candles, and `FeatureContext.build` of them.

        Raises
        ------
        ModelError
            When no label ended in the training window.
        StateError
            When the model can't be written.
        """
        s = self.settings
        name = self.name(pair, candles, parameters, cut_s)
        if self._is_there(name):
            return name
        levels = tuple(pooled_weights(parameters["quantile_alpha"]))
        shared_name = self._fit_shared(pair, candles, table, cut_s, levels)
        model, rows = fit_safety_model(
            pair,
            table,
            s.label(self.timeframe_s),
            parameters,
            self.store.load_shared(shared_name),
            s.train_days,
        )
        share = self.context_share(cut_s)
        self.store.save(name, shared_name, model, parameters, len(rows), share)
        return name

    def context_share(self, cut_s: int) -> float:
        """Return which share of the training window's candles the context pairs have, on average.

        A pair without candles counts 0, and one that was listed later only from then on.
        """
        shares = []
        for pair in self.settings.context_pairs:
            start_s = max(cut_s - self.settings.train_days * DAY_S, self.listed_s.get(pair, 0))
            wanted = (cut_s - start_s) / self.timeframe_s
            shares.append(
                min(1.0, self._n_candles(pair, start_s, cut_s) / wanted) if wanted > 0 else 1.0
            )
        return float(np.mean(shares))

    def _n_candles(self, pair: str, start_s: float, stop_s: float) -> int:
        if pair not in self.context:
            return 0
        frame = self.context[pair]
        first, last = frame.index.searchsorted(
            pd.DatetimeIndex(pd.to_datetime([start_s, stop_s], unit="s", utc=True))
        )
        return int(np.isfinite(frame["close"].to_numpy()[first:last]).sum())

    def _fit_shared(
        self,
        pair: str,
        candles: pd.DataFrame,
        table: pd.DataFrame,
        cut_s: int,
        levels: tuple[float, ...],
    ) -> str:
        """Return the name of the context's models at a cut, with the pair where it is outside.

        Pooled trees are grown at the levels asked for only: most pairs share one, and a level costs as
        much as half of the scale.
        """
        outside = pair not in self.context
        identity = self._identity(
            [*self.context, *([pair] if outside else [])], pair, candles, cut_s
        )
        name = f"shared-{cut_s}-{hash48(identity, repr(levels)):012x}"
        try:
            self.store.load_shared(name)
        except ModelError:
            tables = dict(self._context_tables())
            if outside:
                tables[pair] = shared_rows(table, self.timeframe_s)
            label = self.settings.label(self.timeframe_s)
            shared = fit_shared(tables, cut_s, label, levels)
            self.store.save_shared(name, shared)
        return name

    def _is_there(self, name: str) -> bool:
        if not self.store.path(name).exists():
            return False
        try:
            self.store.load(name)
        except ModelError as error:
            logger.warning("Model is fitted anew: %s", error)
            return False
        return True

    def _context_tables(self) -> Mapping[str, pd.DataFrame]:
        if not self._context_rows:
            self._context_rows.update(shared_context(self.market))
        return self._context_rows

    def _identity(self, pairs: Iterable[str], own: str, candles: pd.DataFrame, cut_s: int) -> str:
        """Return what a fit depends on beside parameters and side: candles, recipe, versions."""
        parts = [
            f"{pair}={self._candle_hash(pair, candles if pair == own else self.context[pair], cut_s)}"
            for pair in sorted(set(pairs))
        ]
        recipe = (
            "context=" + ",".join(sorted(self.context)),
            str(FEATURE_HASH),
            str(self.settings.horizon_candles),
            str(self.timeframe_s),
            version("feeder-mixin"),
            version("lightgbm"),
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


def _slug(pair: str) -> str:
    """Return a pair as freqtrade spells it in file names."""
    return pair.replace("/", "_").replace(":", "_")
