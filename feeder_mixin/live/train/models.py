"""Trained models: kept on disk as LightGBM text, read back whole or not at all.

A model always serves as it was read back from its file, so that a restart gives the same bits. What
makes them is `live.train.trainer`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import numpy as np

from feeder_mixin.errors import ModelError, StateError
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.model.quantile import (
    SafetyModel,
    SharedModels,
    pooled_weights,
)
from feeder_mixin.model.scale import LabelScale
from feeder_mixin.schema import PARAMETERS, hash48
from feeder_mixin.settings import FeederSettings

logger = logging.getLogger(__name__)

_FORMAT: Final = 4
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
        self.folder = folder
        self._settings = settings
        self._scales: dict[str, LabelScale] = {}
        self._pooled: dict[tuple[str, float], lgb.Booster] = {}

    def path(self, name: str) -> Path:
        """Return where the model of that name is."""
        return self.folder / f"{name}.json"

    def save_shared(self, name: str, shared: SharedModels) -> None:
        """Keep scale and pooled trees of a cut."""
        scale = shared.scale
        document = {
            "format": _FORMAT,
            "cut_s": shared.cut_s,
            "equations": scale.equations.tolist(),
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
        """Keep a pair's own trees beside the name of the shared models they go with.

        Of a pair outside of the context the weights of its label scale, too: the shared file has none.
        """
        scale, shared = model.shared.scale, self.load_shared(shared_name).scale
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
            if document["scale_weights"] is not None:
                shared = shared.with_weights(pair, np.array(document["scale_weights"]))
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
                equations = np.array(document["equations"])
                scale = LabelScale(cut_s, mean, std, equations, coefficients, trees)
                self._scales.setdefault(name, scale)
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
        for path in self.folder.glob("*.json"):
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
