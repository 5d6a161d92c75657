"""What is kept of a search: trials and measured cells, in JSON by their fields.

A search opens no journal. It is a function of its cells: gone on with from what is kept, it asks for
the same cells again, finds them there, and ends where the undisturbed one would have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.documents import Numbers
from feeder_mixin.model.metrics import day_block_sums
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.tune.judge.result import RiskTable

TRIALS: Final = "trials"
"""Stage of the trials in the journal."""

CELLS: Final = "cells"
"""Stage of the measured cells in the journal."""

RISKS: Final = "risks"
"""Stage of what the level is chosen by in the journal."""

SEARCHED_DRAW: Final = 0
"""Number of the draw that trials are searched on; later ones are redraws."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One parameter set on one fold of a pair.

    Attributes
    ----------
    draw
        Which seed and rows: `SEARCHED_DRAW`, or the number of a redraw.
    fold
        Its number in the pair's layout.
    key
        The set (`search.space.key_of`).
    """

    pair: str
    draw: int
    fold: int
    key: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Pinball losses of a cell.

    Attributes
    ----------
    days
        Day numbers since the epoch, ascending.
    sums
        Loss summed over the scored rows of each day.
    n_rows
        Scored rows of the fold.
    """

    days: tuple[int, ...]
    sums: tuple[float, ...]
    n_rows: int

    @classmethod
    def of(cls, losses: NDArray[np.float64], opens_s: NDArray[np.int64]) -> Measured:
        """Return the losses of rows, which open in ascending order, summed by day."""
        days = np.unique(opens_s // DAY_S)
        by_day = day_block_sums(losses, opens_s)
        return cls(tuple(days.tolist()), tuple(by_day.tolist()), len(opens_s))

    @property
    def mean(self) -> float:
        """Return the mean loss of a row."""
        return sum(self.sums) / self.n_rows


@dataclass(frozen=True, slots=True)
class KeptCell:
    """A measured cell."""

    cell: Cell
    measured: Measured

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal keeps."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class KeptRisk:
    """What a pair's walk-forward with a set says of levels (`judge.risk`)."""

    pair: str
    key: tuple[float, ...]
    table: RiskTable

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal keeps."""
        return asdict(self)


Measure = Callable[[Sequence[Cell]], Mapping[Cell, Measured]]
"""Measures cells, wherever that is done; those of a pair that fails are missing in what it returns."""


@dataclass(frozen=True, slots=True)
class KeptTrial:
    """One finished or pruned trial of the feeder's study.

    Attributes
    ----------
    coordinates
        Optuna's.
    value
        Loss against the start set's, as a ratio, over the cells it was measured on; below 0 is better.
    reported
        Number of cells -> value at each rung of the race.
    """

    coordinates: Numbers
    parameters: Numbers
    value: float
    pruned: bool
    reported: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal keeps."""
        return asdict(self)
