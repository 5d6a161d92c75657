"""What a study searches over: settings, parameter sets, and Optuna's coordinates of them.

The schema says which values are valid; what is searched is narrower and a property of the model
(`Searched`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import optuna

from feeder_mixin.market.blackouts import NO_BLACKOUTS, Blackouts
from feeder_mixin.schema import PARAMETER_BY_NAME, PARAMETERS, default_parameters
from feeder_mixin.settings import LabelSpec
from feeder_mixin.tolerance import MaxAdverseRatio

ParameterSet = dict[str, float]

ALPHA: Final = "quantile_alpha"
"""Never searched: a loss at one level can't be compared with that at another."""

_RATE: Final = "learning_rate"
_TREES: Final = "n_estimators"
_DEPTH: Final = "max_depth"
_LEAVES: Final = "num_leaves"
_BOOST: Final = "rate_x_trees"
"""Coordinate in place of the tree count: with rate and trees apart, good sets lie on a thin ridge."""

MAX_WARM_STARTS: Final = 8


@dataclass(frozen=True, slots=True)
class SearchedRange:
    """Where a coordinate is searched, both ends included."""

    low: float
    high: float
    is_log: bool = False
    is_integer: bool = False


@dataclass(frozen=True, slots=True)
class Searched:
    """Where a model's sets are searched.

    Attributes
    ----------
    ranges
        Coordinate -> its range. That of the leaves is a share of those that the depth allows (depth 4
        has no more than 16), up to `most_leaves`.
    """

    ranges: Mapping[str, SearchedRange]
    most_leaves: int


RECIPE: Final = Searched(
    {
        _RATE: SearchedRange(0.01, 0.03, is_log=True),
        _BOOST: SearchedRange(1.0, 5.0, is_log=True),
        _DEPTH: SearchedRange(4, 6, is_integer=True),
        _LEAVES: SearchedRange(0.0, 1.0),
        "min_child_samples": SearchedRange(20, 50, is_integer=True),
        "reg_alpha": SearchedRange(0.0, 1.0),
        "reg_lambda": SearchedRange(0.0, 1.0),
        "feature_fraction": SearchedRange(0.6, 0.9),
        "bagging_fraction": SearchedRange(0.6, 0.9),
    },
    most_leaves=31,
)
"""Of the built-in recipe (2026-11, ten pairs, both sides). Rates of 0.05 and more lose 0.3 to 1.0
points of skill, those under 0.01 gain nothing and cost twice as much; more than 5 of rate x trees
overfits at any horizon, 2.5 wins 0.1 points over 1 at 5m and 6 candles. A depth of 3 is the worst at 6
and 30 candles. Of the others nothing far from the defaults was better in 140 cells, so trees of more
than 31 leaves, which cost twice as much, are left out."""


def _of_schema(name: str) -> SearchedRange:
    one = PARAMETER_BY_NAME[name]
    return SearchedRange(one.low, one.high, is_log=one.is_log, is_integer=one.is_integer)


MORE_TREES: Final = 2.0
"""Times the start set's trees, in the set of the built-in recipe that is tried right behind it.

2026-11, ten pairs, three cuts, 5m and 6 candles: they gain 0.05 points of skill. A set that differs from
the start set in nothing else errs on the same candles, so its gain is told from noise by fewer days.
"""

WHOLE_SCHEMA: Final = Searched(
    {
        _RATE: _of_schema(_RATE),
        # From the fewest trees at the lowest rate to the most at the highest.
        _BOOST: SearchedRange(
            PARAMETER_BY_NAME[_RATE].low * PARAMETER_BY_NAME[_TREES].low,
            PARAMETER_BY_NAME[_RATE].high * PARAMETER_BY_NAME[_TREES].high,
            is_log=True,
        ),
        _DEPTH: _of_schema(_DEPTH),
        _LEAVES: SearchedRange(0.0, 1.0),
        **{
            name: _of_schema(name)
            for name in (
                "min_child_samples",
                "reg_alpha",
                "reg_lambda",
                "feature_fraction",
                "bagging_fraction",
            )
        },
    },
    most_leaves=int(PARAMETER_BY_NAME[_LEAVES].high),
)
"""Of models whose features and targets are a user's own: sets differ there by twenty points of skill
and more, and nobody knows beforehand where the good ones are."""


class SearchSettings(Protocol):
    """What a study asks of what is tuned, whichever model it is."""

    @property
    def feeder_id(self) -> str:
        """Return whose study it is: part of every seed."""

    @property
    def seed(self) -> int:
        """Return the seed of the search."""

    @property
    def fixes(self) -> Mapping[str, float]:
        """Return parameter -> value that is not searched."""

    @property
    def start(self) -> ParameterSet:
        """Return trial 0, and the winner of near-ties; its values may lie outside of `searched`."""

    @property
    def promising(self) -> Sequence[ParameterSet]:
        """Return sets that are tried right behind the start set, because they do well elsewhere."""

    @property
    def table_alpha(self) -> float:
        """Return the one quantile level of all sets."""

    @property
    def searched(self) -> Searched:
        """Return where it is searched."""


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What decides the study of a feeder's built-in model, beside candles and store content.

    Attributes
    ----------
    fixes
        Parameter -> value that is not searched.
    blackouts
        When nothing is called safe; of the safety metrics alone, trials know nothing of it.
    """

    feeder_id: str
    label: LabelSpec
    max_adverse_ratio: MaxAdverseRatio
    train_days: float
    seed: int
    fixes: Mapping[str, float] = field(default_factory=dict)
    blackouts: Blackouts = NO_BLACKOUTS

    @property
    def start(self) -> ParameterSet:
        """Return the defaults with the fixes applied: trial 0, and the winner of near-ties."""
        return {**default_parameters(), **self.fixes}

    @property
    def promising(self) -> Sequence[ParameterSet]:
        """Return the start set with more trees: what short horizons want, and easy to tell from noise."""
        return ({**self.start, _TREES: MORE_TREES * self.start[_TREES]},)

    @property
    def table_alpha(self) -> float:
        """Return the one quantile level of all comparisons."""
        return self.start[ALPHA]

    @property
    def searched(self) -> Searched:
        """Return where the built-in recipe is searched."""
        return RECIPE


@dataclass(frozen=True, slots=True)
class Trial:
    """One finished or pruned trial.

    Attributes
    ----------
    value
        Its loss against the start set's; below 0 is better.
    is_promising
        Whether it was named before the search (`SearchSettings.promising`), not found by it.
    """

    number: int
    parameters: ParameterSet
    value: float
    pruned: bool
    is_promising: bool = False


class SearchSpace:
    """Maps Optuna's coordinates to parameter sets and back; fixed parameters have no coordinate."""

    def __init__(
        self,
        fixes: Mapping[str, float],
        searched: Searched = RECIPE,
    ) -> None:
        self._fixes = {
            name: PARAMETER_BY_NAME[name].restore(value) for name, value in fixes.items()
        }
        fixed = {_BOOST if name == _TREES else name for name in fixes}
        self.distributions: dict[str, optuna.distributions.BaseDistribution] = {
            name: _distribution(one) for name, one in searched.ranges.items() if name not in fixed
        }
        self._ranges = {name: searched.ranges[name] for name in self.distributions}
        self._most_leaves = searched.most_leaves

    def decode(self, coordinates: Mapping[str, float]) -> ParameterSet:
        """Return the parameter set of Optuna's coordinates."""
        values = {**default_parameters(), **self._fixes}
        values |= {n: x for n, x in coordinates.items() if n in PARAMETER_BY_NAME}
        if _BOOST in coordinates:
            trees = PARAMETER_BY_NAME[_TREES]
            wanted = round(coordinates[_BOOST] / values[_RATE])
            values[_TREES] = min(max(wanted, int(trees.low)), int(trees.high))
        if _LEAVES in coordinates:
            low, high = self._leaf_range(values[_DEPTH])
            values[_LEAVES] = low + round(coordinates[_LEAVES] * (high - low))
        return {p.name: p.restore(values[p.name]) for p in PARAMETERS}

    def encode(self, parameters: Mapping[str, float]) -> dict[str, float]:
        """Return the coordinates of a parameter set, the nearest ones where it lies outside."""
        wanted = {**parameters, _BOOST: parameters[_RATE] * parameters[_TREES]}
        low, high = self._leaf_range(self._fixes.get(_DEPTH, parameters[_DEPTH]))
        wanted[_LEAVES] = (parameters[_LEAVES] - low) / (high - low) if high > low else 0.0
        return {
            name: min(max(wanted[name], one.low), one.high) for name, one in self._ranges.items()
        }

    def _leaf_range(self, max_depth: float) -> tuple[int, int]:
        low = int(PARAMETER_BY_NAME[_LEAVES].low)
        return low, max(low, min(self._most_leaves, 2 ** int(max_depth)))


def _distribution(one: SearchedRange) -> optuna.distributions.BaseDistribution:
    if one.is_integer:
        return optuna.distributions.IntDistribution(int(one.low), int(one.high))
    return optuna.distributions.FloatDistribution(one.low, one.high, log=one.is_log)


def start_sets(
    settings: SearchSettings, stored: Sequence[Mapping[str, float]]
) -> list[ParameterSet]:
    """Return what the first trials try: the start set, promising ones, then those of the store.

    All but the start set with the fixes and the study's level, without repeats, what is stored by how
    often, at most `MAX_WARM_STARTS`.
    """
    often = [key for key, _ in Counter(_searched_keys(settings, stored)).most_common()]
    others = dict.fromkeys((*promising_keys(settings), *often))
    others.pop(key_of(settings.start), None)
    return [settings.start, *map(set_of, others)][:MAX_WARM_STARTS]


def promising_keys(settings: SearchSettings) -> list[tuple[float, ...]]:
    """Return the values of the promising sets, with the fixes and the study's level."""
    return _searched_keys(settings, settings.promising)


def _searched_keys(
    settings: SearchSettings, sets: Sequence[Mapping[str, float]]
) -> list[tuple[float, ...]]:
    fixed = {**settings.fixes, ALPHA: settings.table_alpha}
    return [
        key_of({p.name: p.restore({**one, **fixed}[p.name]) for p in PARAMETERS}) for one in sets
    ]


def key_of(parameters: Mapping[str, float]) -> tuple[float, ...]:
    """Return a set's values in the schema's order."""
    return tuple(float(parameters[p.name]) for p in PARAMETERS)


def set_of(key: Sequence[float]) -> ParameterSet:
    """Return the set of these values."""
    return {p.name: p.restore(value) for p, value in zip(PARAMETERS, key, strict=True)}


def derive_seed(*parts: object) -> int:
    """Return a 31-bit seed that is a function of `parts`, the same in every process."""
    # Not `hash`, which differs from process to process; 31 bits, because LightGBM's seed is an int32.
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
