"""Trained models: kept on disk as LightGBM text, read back whole or not at all.

A model always serves as it was read back from its file, so that a restart gives the same bits. What
makes them is `live.train.trainer`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import numpy as np

from feeder_mixin.errors import ModelError, StateError
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.model.ordinary import MEASURES, OrdinaryRange
from feeder_mixin.model.quantile import (
    POOLED_ALPHAS,
    SafetyModel,
    SharedModels,
    pooled_weights,
)
from feeder_mixin.model.scale import LabelScale
from feeder_mixin.schema import PARAMETERS, hash48
from feeder_mixin.settings import FeederSettings

logger = logging.getLogger(__name__)

_FORMAT: Final = 6
"""Of the model files: raise it when their content changes."""

_PREPARED: Final = ".training.npz"

_UNREADABLE: Final = (KeyError, TypeError, ValueError, lgb.basic.LightGBMError)
"""What reading a document of another content raises."""


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
        Of its file and of the file of its label scale, without ending; pooled trees are named after it.
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

    @property
    def file_names(self) -> tuple[str, ...]:
        """Return the names of all files that it was read from."""
        levels = pooled_weights(self.parameters["quantile_alpha"])
        return (
            self.name,
            self.shared_name,
            *(pooled_name(self.shared_name, level) for level in levels),
        )

    def misfits(self, settings: FeederSettings) -> list[str]:
        """Return the keys of the config that ask for another model than this one, which still serves."""
        keys = []
        if self.context_hash != hash48(*settings.context_pairs):
            keys.append("context_pairs")
        if self.train_days != settings.train_days:
            keys.append("train_days")
        return keys


def pooled_name(shared_name: str, level: float) -> str:
    """Return the name of the file of a level's pooled trees.

    A file a level: pairs of many levels share one scale, and each level is fitted when first needed.
    """
    return f"{shared_name}-{level:g}"


def file_slug(pair: str) -> str:
    """Return a pair as freqtrade spells it in file names."""
    return pair.replace("/", "_").replace(":", "_")


class ModelStore:
    """The folder of model files; shared models are read once and handed to all pairs."""

    def __init__(self, folder: Path, settings: FeederSettings) -> None:
        self.folder = folder
        self._settings = settings
        self._scales: dict[str, LabelScale] = {}
        self._pooled: dict[str, lgb.Booster | None] = {}

    def path(self, name: str) -> Path:
        """Return where the model of that name is."""
        return self.folder / f"{name}.json"

    def prepared_path(self, pair: str) -> Path:
        """Return where a pair's training set is kept for the next parameters."""
        return self.folder / f"{file_slug(pair)}{_PREPARED}"

    def save_scale(self, name: str, scale: LabelScale) -> None:
        """Keep the label scale of a cut."""
        document = {
            "format": _FORMAT,
            "cut_s": scale.cut_s,
            "equations": scale.equations.tolist(),
            "mean": scale.mean.tolist(),
            "std": scale.std.tolist(),
            "coefficients": {pair: c.tolist() for pair, c in sorted(scale.coefficients.items())},
            "trees": _text_of(scale.trees),
        }
        write_checked(self.path(name), document)

    def save_pooled(self, name: str, trees: lgb.Booster | None) -> None:
        """Keep the pooled trees of one level; None where history was too short for any."""
        write_checked(self.path(name), {"format": _FORMAT, "trees": _text_of(trees)})

    def save(
        self,
        name: str,
        shared_name: str,
        model: SafetyModel,
        parameters: Mapping[str, float],
        n_rows: int,
        context_share: float,
    ) -> None:
        """Keep a pair's own trees beside the name of the shared models they go with.

        Of a pair outside of the context the weights of its label scale, too: the shared file has none.
        """
        scale, shared = model.shared.scale, self.load_scale(shared_name)
        is_known = scale.is_fallback or model.pair in shared.coefficients
        weights = None if is_known else scale.coefficients[model.pair].tolist()
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
            "scale_weights": weights,
            "trees": model.own.model_to_string(),
            "rule_constant": model.rule_constant,
            "ordinary": dict(model.ordinary.bounds),
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
            shared = self.load_shared(document["shared"], pooled_weights(alpha))
            if document["scale_weights"] is not None:
                shared = shared.with_weights(pair, np.array(document["scale_weights"]))
            own = lgb.Booster(model_str=document["trees"])
            ordinary = OrdinaryRange(
                {m.name: float(document["ordinary"][m.name]) for m in MEASURES}
            )
            rule_constant = float(document["rule_constant"])
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
                SafetyModel(pair, side, alpha, shared, own, rule_constant, ordinary),
            )
        except _UNREADABLE as error:
            raise self._unusable(name, error) from error

    def load_scale(self, name: str) -> LabelScale:
        """Return the label scale of a cut.

        Raises
        ------
        ModelError
            When the file is missing or damaged.
        """
        if name not in self._scales:
            document = self._read(name)
            try:
                self._scales[name] = LabelScale(
                    document["cut_s"],
                    np.array(document["mean"]),
                    np.array(document["std"]),
                    np.array(document["equations"]),
                    {p: np.array(c) for p, c in document["coefficients"].items()},
                    _trees_of(document["trees"]),
                )
            except _UNREADABLE as error:
                raise self._unusable(name, error) from error
        return self._scales[name]

    def load_pooled(self, name: str) -> lgb.Booster | None:
        """Return the pooled trees of a level, None where history was too short; raises as above."""
        if name not in self._pooled:
            document = self._read(name)
            try:
                self._pooled[name] = _trees_of(document["trees"])
            except _UNREADABLE as error:
                raise self._unusable(name, error) from error
        return self._pooled[name]

    def load_shared(self, name: str, levels: Iterable[float]) -> SharedModels:
        """Return the scale of a cut with the pooled trees of some levels; raises as above."""
        scale = self.load_scale(name)
        trees = {level: self.load_pooled(pooled_name(name, level)) for level in levels}
        pooled = {level: booster for level, booster in trees.items() if booster is not None}
        return SharedModels(scale.cut_s, scale, pooled)

    def keep_only(self, models: Iterable[TrainedModel]) -> None:
        """Delete the files of all other models and pairs, and free what they shared.

        Pooled trees of levels that no model has any more stay as long as their scale: the next
        parameters may have them again.
        """
        models = list(models)
        shared = {model.shared_name for model in models}
        pooled = {pooled_name(name, level) for name in shared for level in POOLED_ALPHAS}
        keep = shared | pooled | {model.name for model in models}
        for path in self.folder.glob("*.json"):
            if path.stem not in keep:
                path.unlink(missing_ok=True)
        prepared = {self.prepared_path(model.pair) for model in models}
        for path in self.folder.glob(f"*{_PREPARED}"):
            if path not in prepared:
                path.unlink(missing_ok=True)
        self._scales = {name: scale for name, scale in self._scales.items() if name in shared}
        self._pooled = {name: trees for name, trees in self._pooled.items() if name in pooled}

    def _unusable(self, name: str, error: Exception) -> ModelError:
        return ModelError(f"model {self.path(name)} can't be used: {error!r}")

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


def _text_of(trees: lgb.Booster | None) -> str | None:
    return None if trees is None else trees.model_to_string()


def _trees_of(text: str | None) -> lgb.Booster | None:
    return None if text is None else lgb.Booster(model_str=text)
