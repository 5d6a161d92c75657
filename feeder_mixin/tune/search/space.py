"""What a study searches over: settings, parameter sets, and Optuna's coordinates of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import optuna

from feeder_mixin.schema import PARAMETER_BY_NAME, PARAMETERS, default_parameters
from feeder_mixin.settings import LabelSpec

ParameterSet = dict[str, float]

ALPHA: Final = "quantile_alpha"
_LEAF_SHARE: Final = "num_leaves"
"""Searched as a share of the leaves that the depth allows, or many trials would be duplicates."""

MAX_WARM_STARTS: Final = 8


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What decides a pair's search, beside candles and store content.

    Attributes
    ----------
    fixes
        Parameter -> value that is not searched.
    """

    feeder_id: str
    pair: str
    label: LabelSpec
    max_adverse_ratio: float
    train_days: float
    seed: int
    fixes: Mapping[str, float] = field(default_factory=dict)

    @property
    def start(self) -> ParameterSet:
        """Return the defaults with the fixes applied: trial 0, and the winner of near-ties."""
        return {**default_parameters(), **self.fixes}

    @property
    def table_alpha(self) -> float:
        """Return the one quantile level of all comparisons."""
        return self.start[ALPHA]


@dataclass(frozen=True, slots=True)
class Trial:
    """One finished or pruned trial."""

    number: int
    parameters: ParameterSet
    value: float
    pruned: bool


class SearchSpace:
    """Maps Optuna's coordinates to parameter sets and back; fixed parameters have no coordinate."""

    def __init__(self, fixes: Mapping[str, float]) -> None:
        self._fixes = {
            name: PARAMETER_BY_NAME[name].restore(value) for name, value in fixes.items()
        }
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {}
        for p in PARAMETERS:
            if p.name in fixes or p.name == "n_estimators":  # the learning curve gives the trees
                continue
            if p.name == _LEAF_SHARE:
                self.distributions[p.name] = optuna.distributions.FloatDistribution(0.0, 1.0)
            elif p.is_integer:
                distribution = optuna.distributions.IntDistribution(int(p.low), int(p.high))
                self.distributions[p.name] = distribution
            else:
                self.distributions[p.name] = optuna.distributions.FloatDistribution(
                    p.low, p.high, log=p.is_log
                )

    def decode(self, coordinates: Mapping[str, float]) -> ParameterSet:
        """Return the parameter set of Optuna's coordinates, without a tree count of its own."""
        values = {**default_parameters(), **self._fixes, **coordinates}
        if _LEAF_SHARE in coordinates:
            low, high = _leaf_range(values["max_depth"])
            values[_LEAF_SHARE] = low + round(coordinates[_LEAF_SHARE] * (high - low))
        return {p.name: p.restore(values[p.name]) for p in PARAMETERS}

    def encode(self, parameters: Mapping[str, float]) -> dict[str, float]:
        """Return the coordinates of a parameter set; fixed parameters are left out."""
        coordinates = {name: parameters[name] for name in self.distributions}
        if _LEAF_SHARE in coordinates:
            low, high = _leaf_range(self._fixes.get("max_depth", parameters["max_depth"]))
            share = (parameters[_LEAF_SHARE] - low) / (high - low) if high > low else 0.0
            coordinates[_LEAF_SHARE] = min(max(share, 0.0), 1.0)
        return coordinates


def _leaf_range(max_depth: float) -> tuple[int, int]:
    leaves = PARAMETER_BY_NAME[_LEAF_SHARE]
    low = int(leaves.low)
    return low, max(low, min(int(leaves.high), 2 ** int(max_depth)))


def warm_start_sets(
    settings: StudySettings, own: Mapping[str, float] | None, others: Sequence[Mapping[str, float]]
) -> list[ParameterSet]:
    """Return the first trials: defaults, the pair's own record, the other pairs' records.

    All with the fixes applied, without repeats, at most `MAX_WARM_STARTS`.
    """
    sets: list[ParameterSet] = []
    for values in (settings.start, *([own] if own else []), *others):
        candidate = {**values, **settings.fixes}
        # The tree count is not searched, so sets that differ only there are one trial.
        key = {name: value for name, value in candidate.items() if name != "n_estimators"}
        if all(key != {n: v for n, v in s.items() if n != "n_estimators"} for s in sets):
            sets.append(candidate)
    return sets[:MAX_WARM_STARTS]
