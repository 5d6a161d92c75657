"""From a record, or the config's own values, to what LightGBM is told.

A FreqAI config has one ``model_training_parameters`` block for all pairs. A record's values take the place of
its values of the same meaning; all else in it (threads, seed, early stopping) stays. What runs without a
record is the block as it is: its values may lie outside of the schema's ranges, are shown as they are, and
are never written to a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import PARAMETER_BY_NAME, PARAMETERS

BY_TARGET_ALPHA: Final = PARAMETER_BY_NAME["quantile_alpha"].default
"""What a record's ``quantile_alpha`` is: it needs all ten values, and nobody reads this one."""

CONFIG: Final = "config"
"""Source of what runs without a record."""

SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "learning_rate": ("learning_rate", "shrinkage_rate", "eta"),
        "n_estimators": (
            "n_estimators",
            "num_iterations",
            "num_iteration",
            "n_iter",
            "num_tree",
            "num_trees",
            "num_round",
            "num_rounds",
            "nrounds",
            "num_boost_round",
            "max_iter",
        ),
        "num_leaves": ("num_leaves", "num_leaf", "max_leaves", "max_leaf", "max_leaf_nodes"),
        "max_depth": ("max_depth",),
        "min_child_samples": (
            "min_child_samples",
            "min_data_in_leaf",
            "min_data_per_leaf",
            "min_data",
            "min_samples_leaf",
        ),
        "reg_alpha": ("reg_alpha", "lambda_l1", "l1_regularization"),
        "reg_lambda": ("reg_lambda", "lambda_l2", "lambda", "l2_regularization"),
        "quantile_alpha": ("alpha",),
        "feature_fraction": ("colsample_bytree", "feature_fraction", "sub_feature"),
        "bagging_fraction": ("subsample", "bagging_fraction", "sub_row", "bagging"),
    }
)
"""Parameter -> how LightGBM lets a config spell it, scikit-learn's name first."""

_BAGGING_FREQUENCY: Final = ("subsample_freq", "bagging_freq")
_OBJECTIVE: Final = ("objective", "objective_type", "app", "application", "loss")

_LIGHTGBM_DEFAULTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "learning_rate": 0.1,
        "n_estimators": 100,
        "num_leaves": 31,
        "max_depth": -1,
        "min_child_samples": 20,
        "reg_alpha": 0.0,
        "reg_lambda": 0.0,
        "quantile_alpha": BY_TARGET_ALPHA,
        "feature_fraction": 1.0,
        "bagging_fraction": 1.0,
    }
)
"""What LightGBM takes where a config is silent; of the level, what stands for "by target"."""


def config_parameters(block: Mapping[str, object]) -> dict[str, float]:
    """Return the ten values that ``freqai.model_training_parameters`` makes, to be shown and compared.

    Raises
    ------
    SettingsError
        When one of them is not a number.
    """
    values = {}
    for name, spellings in SPELLINGS.items():
        found = next((block[key] for key in spellings if key in block), None)
        if found is None or name == "quantile_alpha":
            values[name] = _LIGHTGBM_DEFAULTS[name]
        elif isinstance(found, bool) or not isinstance(found, int | float):
            raise SettingsError(
                f"freqai.model_training_parameters.{name}={found!r}, expected a number"
            )
        else:
            values[name] = found
    return values


def training_parameters(
    block: Mapping[str, object], tuned: Mapping[str, float] | None
) -> dict[str, object]:
    """Return what ``LGBMRegressor`` is built from, without what a target decides.

    Parameters
    ----------
    block
        The config's ``freqai.model_training_parameters``.
    tuned
        A record's ten values; None: the block as it is.
    """
    if tuned is None:
        return dict(block)
    replaced = {key for spellings in SPELLINGS.values() for key in spellings}
    kept = {k: v for k, v in block.items() if k not in replaced and k not in _BAGGING_FREQUENCY}
    values = {
        parameter.lightgbm_name: tuned[parameter.name]
        for parameter in PARAMETERS
        if parameter.name != "quantile_alpha"
    }
    # Every tree draws its rows, as the range of `bagging_fraction` was measured with.
    return {**kept, **values, "subsample_freq": 1}


class TrainsWith(Protocol):
    """What a model is, or shall be, trained with."""

    @property
    def source(self) -> str:
        """Return where the values come from."""

    @property
    def parameters(self) -> Mapping[str, float]:
        """Return the ten values."""


def same_training(one: TrainsWith, other: TrainsWith) -> bool:
    """Return whether two sets make the same model; the level is each target's, so it does not count."""
    if (one.source == CONFIG) != (other.source == CONFIG):
        return False
    names = (name for name in SPELLINGS if name != "quantile_alpha")
    return all(one.parameters[name] == other.parameters[name] for name in names)


def without_objective(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return parameters without what they say of the objective: a target's level decides."""
    alpha = SPELLINGS["quantile_alpha"]
    return {k: v for k, v in parameters.items() if k not in _OBJECTIVE and k not in alpha}
