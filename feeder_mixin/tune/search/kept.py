"""What a search keeps in the journal: trials and redraws, in JSON by their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
