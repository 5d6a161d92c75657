"""What a FreqAI bot says of itself, in the words of `live.state.status`.

FreqAI expires models by its own rules and calibrates nothing, so there is no warning of age here, no factor
and no exceedance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from feeder_mixin.freqai.trained import TrainedModels
from feeder_mixin.live.reload.counts import ReloadCounts
from feeder_mixin.live.serve.snapshot import PairSnapshot, ParameterCache
from feeder_mixin.live.state.describe import time_text, whole_status
from feeder_mixin.live.state.status import ModelState, ModelStatus, PairStatus, Status
from feeder_mixin.schema import NANOSECONDS
from feeder_mixin.settings import BotSettings


@dataclass(slots=True)
class SeenCandles:
    """Pair -> open of the newest candle that the host asked about, and that a model answered for."""

    asked_s: dict[str, int] = field(default_factory=dict)
    served_s: dict[str, int] = field(default_factory=dict)

    def note(self, pair: str, open_s: int, *, is_served: bool) -> None:
        """Note a candle of a pair."""
        self.asked_s[pair] = open_s
        if is_served:
            self.served_s[pair] = open_s


class FreqaiStatus:
    """Says what every pair has loaded and what its serving model was trained with; any thread.

    Parameters
    ----------
    outdated
        Gives the pairs whose model waits for a training with what was loaded.
    errors
        Pair -> why its last training failed; others write it.
    """

    def __init__(
        self,
        settings: BotSettings,
        cache: ParameterCache,
        models: TrainedModels,
        reloads: ReloadCounts,
        outdated: Callable[[], Collection[str]],
    ) -> None:
        self._settings, self._cache = settings, cache
        self._models, self._reloads, self._outdated = models, reloads, outdated
        self.seen = SeenCandles()
        self.errors: dict[str, str] = {}

    @property
    def until_s(self) -> int:
        """Return the open of the newest candle that the host has asked about, 0 before the first."""
        return max(self.seen.asked_s.copy().values(), default=0)

    def build(self) -> Status:
        """Return the whole status."""
        snapshot, outdated = self._cache.snapshot, self._outdated()
        pairs = {
            pair: self._pair(known, is_outdated=pair in outdated)
            for pair, known in snapshot.pairs.items()
        }
        return whole_status(self._settings, snapshot, self._reloads, pairs)

    def count_exceedances(self) -> None:
        """Do nothing: FreqAI's predictions are not compared with what came."""

    def age_warnings(self) -> Mapping[str, str | None]:
        """Return nothing: FreqAI has ``expiration_hours``, and tells the strategy."""
        return {}

    def _pair(self, known: PairSnapshot, *, is_outdated: bool) -> PairStatus:
        loaded, seen = known.loaded, self.seen
        return PairStatus(
            source=loaded.source,
            version=time_text(loaded.version),
            parameters=dict(loaded.parameters),
            rejected=loaded.rejected,
            passed_over=loaded.passed_over,
            last_candle=_open_text(seen.asked_s.get(loaded.pair)),
            last_served=_open_text(seen.served_s.get(loaded.pair)),
            model=self._model(loaded.pair, is_outdated=is_outdated),
            last_good_at=time_text(loaded.saved_ns),
            exceedance=None,
            tolerance=None,
        )

    def _model(self, pair: str, *, is_outdated: bool) -> ModelStatus:
        model = self._models.pairs.get(pair)
        state: ModelState = "ready" if model is not None else "none"
        return ModelStatus(
            state="training" if is_outdated else state,
            version=None if model is None else time_text(model.version),
            generation=None if model is None else model.generation,
            trained_until=None if model is None else _open_text(model.until_s),
            rows=None if model is None else model.rows,
            expected_rows=None,
            context_share=None,
            error=self.errors.get(pair),
            calibration=1.0,
        )


def _open_text(open_s: int | None) -> str | None:
    return None if open_s is None else time_text(open_s * NANOSECONDS)
