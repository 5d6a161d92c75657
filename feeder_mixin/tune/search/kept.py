"""What is kept of a search: trials and redraws, in JSON by their fields.

A search opens no journal: it is given what is kept, and hands back what it adds (`SearchLog`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from feeder_mixin.documents import Numbers

SEARCH: Final = "search"
"""Stage of the trials in the journal."""

REDRAW: Final = "redraw"
"""Stage of the redraws in the journal."""


@dataclass(frozen=True, slots=True)
class KeptTrial:
    """One finished or pruned trial.

    Attributes
    ----------
    coordinates
        Optuna's, from which a study is made again.
    value
        Loss against the defaults', as a ratio; below 0 is better.
    reported
        Trees -> value at each checkpoint.
    """

    coordinates: Numbers
    parameters: Numbers
    value: float
    pruned: bool
    reported: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal keeps."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class KeptRedraw:
    """The losses of one parameter set on one redraw.

    Attributes
    ----------
    key
        Of set and redraw.
    day_losses
        Pinball loss summed by day.
    """

    key: str
    day_losses: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal keeps."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class KeptSearch:
    """What is kept of one pair's search: number -> trial, and number -> redraw, in order."""

    trials: Mapping[int, KeptTrial] = field(default_factory=dict)
    redraws: Mapping[int, KeptRedraw] = field(default_factory=dict)

    def joined(self, added: KeptSearch) -> KeptSearch:
        """Return this and what was added to it."""
        return KeptSearch({**self.trials, **added.trials}, {**self.redraws, **added.redraws})


class BatchOverError(Exception):
    """The time of a batch is over; what it added is in the `SearchLog`."""


class SearchLog:
    """What is kept of a search, and what one batch of it adds.

    Parameters
    ----------
    kept
        What earlier batches found, those of an interrupted run included.
    batch_s
        Seconds from now after which `BatchOverError` is raised, behind whatever is added last. So a
        batch adds something in any case.
    """

    def __init__(self, kept: KeptSearch, batch_s: float = math.inf) -> None:
        self.kept, self._over_s = kept, time.monotonic() + batch_s
        self._trials: dict[int, KeptTrial] = {}
        self._redraws: dict[int, KeptRedraw] = {}

    @property
    def added(self) -> KeptSearch:
        """Return what this batch has added so far."""
        return KeptSearch(dict(self._trials), dict(self._redraws))

    def add_trial(self, number: int, trial: KeptTrial) -> None:
        """Add a trial that has ended."""
        self._trials[number] = trial
        self._check_time()

    def add_redraw(self, number: int, redraw: KeptRedraw) -> None:
        """Add a redraw that has ended."""
        self._redraws[number] = redraw
        self._check_time()

    def _check_time(self) -> None:
        if time.monotonic() > self._over_s:
            raise BatchOverError
