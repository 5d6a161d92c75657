"""Which models are due: the retraining grid, new parameters, short histories, and failed fits.

Under a storm of reloads every pair moves on: pairs take turns, and a fit whose values were replaced
while it ran is done again at once, with the newest. Where the values of a pair stay for two fits, its
model is in force after at most three fits a pair (`note_outdated`); such a model of replaced values
never serves.

The training thread asks `DueFits.next` and tells it how a fit went; the status asks why a pair has
no newer model. Nothing here trains, downloads or changes what serves.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from feeder_mixin.errors import ModelError
from feeder_mixin.live.reload.loader import LoadedPair
from feeder_mixin.live.serve.snapshot import PairSnapshot, ParameterCache
from feeder_mixin.live.train._worker import Fit
from feeder_mixin.live.train.history import RETRY_S, TrainingHistory
from feeder_mixin.live.train.models import TrainedModel
from feeder_mixin.market.candles import CLOCK_SLACK_S
from feeder_mixin.model.rows import SHORT_SHARE

_TRIES_AT_ONCE: Final = 3
"""Fits of a pair in a row whose values were replaced meanwhile, before the next pair has its turn."""

PATIENCE_S: Final = 600.0
"""Wait behind which an unchanged pair has its turn among the changed ones: they may never end."""


def due_cut_s(now_s: float, retrain_hours: float) -> int:
    """Return the last point of the UTC grid at which models are due: multiples since the epoch."""
    grid_s = retrain_hours * 3600
    return int(now_s // grid_s * grid_s)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a pair stands with its next model.

    Attributes
    ----------
    is_due
        Whether a newer model than the newest is due.
    is_waiting
        Whether its fit has its turn by itself: it is due, and not given up for now.
    error
        Why there is none yet, where it is due and that is known.
    """

    is_due: bool
    is_waiting: bool
    error: str | None


class DueFits:
    """Decides which fit is next; any thread may ask what is due.

    Attributes
    ----------
    errors
        Pair -> why its last fit failed.
    thread_error
        Why the training thread itself failed, or None.
    """

    def __init__(self, history: TrainingHistory, cache: ParameterCache) -> None:
        self._settings = history.settings
        self._history = history
        self._cache = cache
        self._failed: dict[str, tuple[Fit, float]] = {}
        self._stamps: dict[str, str] = {}
        self._turns: dict[str, int] = {}
        self._waiting_since: dict[str, float] = {}
        self._n_outdated: Counter[str] = Counter()
        self.errors: dict[str, str] = {}
        self.thread_error: str | None = None

    # -------------------------------------------------------------- what is due

    def cut_s(self) -> int:
        """Return the cut at which models are due now."""
        return due_cut_s(time.time(), self._settings.retrain_hours)

    def due(self, pair: PairSnapshot, now_s: float) -> Fit | None:
        """Return the fit that a pair needs, or None when its model is as new as it can be."""
        cut_s = due_cut_s(now_s, self._settings.retrain_hours)
        newest, loaded = pair.newest, pair.loaded
        if newest is not None and self._is_current(newest.model, loaded, cut_s, now_s):
            return None
        return Fit(loaded.pair, loaded.parameters, cut_s)

    def _is_current(
        self, model: TrainedModel, loaded: LoadedPair, cut_s: int, now_s: float
    ) -> bool:
        return (
            model.parameters == loaded.parameters
            and cut_s <= model.cut_s <= now_s + CLOCK_SLACK_S
            and not model.misfits(self._settings)
            and not (self.is_short(model) and self._has_new_candles(model.pair))
        )

    def next(self) -> Fit | None:
        """Return the fit to do now: changed pairs and those without a model, then the oldest cut.

        Pairs take turns: whose last fit is the longest ago is next. One that waits for longer than
        `PATIENCE_S` is among the changed ones.
        """
        now_s = time.time()
        waiting = []
        for pair in self._cache.snapshot.pairs.values():
            fit = self.due(pair, now_s)
            if fit is None:
                self._waiting_since.pop(pair.loaded.pair, None)
            elif not self._is_paused(fit) and self._history.has_candles(fit.pair, fit.cut_s, now_s):
                waiting.append((*self._urgency(pair, fit), fit))
        return min(waiting, key=lambda item: item[:3])[3] if waiting else None

    def _urgency(self, pair: PairSnapshot, fit: Fit) -> tuple[bool, int, int]:
        """Return what orders fits that are due; the least is next."""
        newest, turn = pair.newest, self._turns.get(fit.pair, 0)
        waits_since = self._waiting_since.setdefault(fit.pair, time.monotonic())
        cut_s = 0 if newest is None else newest.model.cut_s
        is_changed = newest is None or newest.model.parameters != fit.parameters
        if is_changed or time.monotonic() - waits_since > PATIENCE_S:
            return False, turn, cut_s
        return True, cut_s, turn

    def standing(self, pair: PairSnapshot) -> Standing:
        """Return how a pair stands with its next model."""
        fit = self.due(pair, time.time())
        if fit is None:
            return Standing(is_due=False, is_waiting=False, error=None)
        error = self.errors.get(fit.pair, self.thread_error)
        return Standing(is_due=True, is_waiting=not self._is_paused(fit), error=error)

    def n_waiting(self) -> int:
        """Return for how many pairs a fit is due and not given up for now."""
        return sum(self.standing(pair).is_waiting for pair in self._cache.snapshot.pairs.values())

    def _is_paused(self, fit: Fit) -> bool:
        failed, until = self._failed.get(fit.pair, (None, 0.0))
        is_waiting = failed == fit and time.monotonic() < until
        return is_waiting and not self._has_new_candles(fit.pair)

    def _has_new_candles(self, pair: str) -> bool:
        """Return whether candle files have changed since the pair's last fit."""
        return self._stamps.get(pair) != self._history.stamp(pair)

    # -------------------------------------------------------------- how a fit went

    def note_begun(self, fit: Fit) -> None:
        """Remember which candle files a fit reads."""
        self._stamps[fit.pair] = self._history.stamp(fit.pair)

    def note_failed(self, fit: Fit, error: Exception) -> None:
        """Give a fit up for now: `RETRY_S` from now, or when its candle files change, it is due."""
        self._end_turn(fit)
        self._failed[fit.pair] = (fit, time.monotonic() + RETRY_S)
        self.errors[fit.pair] = str(error)

    def note_outdated(self, fit: Fit) -> None:
        """Note that a pair's values were replaced while it was fitted.

        The pair stays first in line: right behind a reload its fit most likely ends before the next.
        Going to the end instead, a storm in step with the fits could meet the same pair each time.
        """
        self._n_outdated[fit.pair] += 1
        if self._n_outdated[fit.pair] >= _TRIES_AT_ONCE:
            self._end_turn(fit)

    def note_done(self, fit: Fit) -> None:
        """Forget what was wrong with a pair's fits."""
        self._failed.pop(fit.pair, None)
        self.errors.pop(fit.pair, None)
        self._end_turn(fit)

    def _end_turn(self, fit: Fit) -> None:
        self._turns[fit.pair] = max(self._turns.values(), default=0) + 1
        self._n_outdated.pop(fit.pair, None)

    # -------------------------------------------------------------- short histories

    def expected_rows(self, model: TrainedModel) -> int:
        """Return how many rows a model has where no candle is missing since the pair's listing."""
        return self._history.folder.expected_rows(model.pair, model.cut_s)

    def is_short(self, model: TrainedModel) -> bool:
        """Return whether a model learned from under half of what there should be.

        Measured (five pairs, both sides, three cuts, level 0.10; 9.4 % skill on 150 days and more):
        candles of pair and context from the last 75, 30, 15, 4 days alone give 8.4, 6.5, 3.4, -7.6 %.
        Half of 150 days costs a point, less is a model of another kind. The pair's own rows alone
        matter less: 200 give 9.3 %, 100 7.8 %.
        """
        is_thin = model.rows < SHORT_SHARE * self.expected_rows(model)
        return is_thin or model.context_share < SHORT_SHARE

    def check_history(self, model: TrainedModel) -> None:
        """Raise `ModelError` for a model on a fraction of what the serving one has learned from."""
        serving = self._cache.snapshot.pairs[model.pair].newest
        if serving is not None and self._is_worse(model, serving.model):
            raise ModelError(
                f"candles are missing: rows={model.rows} expected_rows={self.expected_rows(model)} "
                f"context_share={model.context_share:.2f}, the current model has "
                f"rows={serving.model.rows} context_share={serving.model.context_share:.2f}. It is "
                "trained again as soon as its candle files change"
            )

    def _is_worse(self, model: TrainedModel, serving: TrainedModel) -> bool:
        """Return whether a model is on a short history where the serving one is on more."""
        is_less = model.rows < serving.rows or model.context_share < serving.context_share
        return is_less and self.is_short(model)
