"""What the status file says of the running bot, in the words of `live.state.status`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import numpy as np

from feeder_mixin.live.reload.counts import ReloadCounts
from feeder_mixin.live.serve.columns import SafetyColumns
from feeder_mixin.live.serve.exceedance import Exceedance, realised_exceedance
from feeder_mixin.live.serve.predictor import Predictor
from feeder_mixin.live.serve.snapshot import (
    PairSnapshot,
    ParameterCache,
    ParameterSnapshot,
    Serving,
)
from feeder_mixin.live.state.status import (
    BlackoutStatus,
    BlackoutWindow,
    ExceedanceStatus,
    ModelState,
    ModelStatus,
    PairStatus,
    Status,
    ToleranceStatus,
)
from feeder_mixin.live.train.due import DueFits, Standing
from feeder_mixin.live.train.models import TrainedModel
from feeder_mixin.market.blackouts import Blackouts
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.schema import NANOSECONDS, format_time_ns, open_text
from feeder_mixin.settings import BotSettings, FeederSettings


class StatusBuilder:
    """Says what the bot runs on and how that does; reads only, on any thread."""

    def __init__(
        self,
        settings: FeederSettings,
        cache: ParameterCache,
        predictor: Predictor,
        due: DueFits,
        reloads: ReloadCounts,
    ) -> None:
        self._settings, self._cache = settings, cache
        self._predictor, self._due, self._reloads = predictor, due, reloads
        self._exceedances: Mapping[str, Exceedance | None] = {}

    @property
    def until_s(self) -> int:
        """Return the open of the newest candle that the host has asked about, 0 before the first."""
        return self._predictor.tails.until_s

    def build(self) -> Status:
        """Return the whole status."""
        snapshot = self._cache.snapshot
        pairs = {pair: self._pair(known) for pair, known in snapshot.pairs.items()}
        return whole_status(self._settings, snapshot, self._reloads, pairs)

    def count_exceedances(self) -> None:
        """Count anew how often candles went worse than served; it takes longer than all the rest."""
        s, predictor = self._settings, self._predictor
        self._exceedances = {
            pair: realised_exceedance(
                predictor.served(pair), predictor.tails.tails.get(pair), s.horizon_candles, s.side
            )
            for pair in s.pairs
        }

    def age_warnings(self) -> Mapping[str, str | None]:
        """Return pair -> what to warn of where its model calls no candle safe for its age, else None."""
        return {
            pair: self._age_warning(pair, known.newest)
            for pair, known in self._cache.snapshot.pairs.items()
        }

    def _age_warning(self, pair: str, newest: Serving | None) -> str | None:
        if newest is None or not self.is_too_old(newest.model):
            return None
        return (
            f"Model of {pair} is too old, no candle is safe: "
            f"trained_until={open_text(newest.model.cut_s)} "
            f"feeder.model_max_age_hours={self._settings.model_max_age_hours:g}"
        )

    def is_too_old(self, model: TrainedModel) -> bool:
        """Return whether no new candle is safe by a model, for its age."""
        return time.time() >= model.cut_s + self._settings.model_max_age_hours * 3600

    def _pair(self, pair: PairSnapshot) -> PairStatus:
        loaded = pair.loaded
        served = self._predictor.served(loaded.pair)
        exceedance = self._exceedances.get(loaded.pair)
        last_served, last_q, last_safe = _newest(served)
        return PairStatus(
            source=loaded.source,
            version=time_text(loaded.version),
            parameters=dict(loaded.parameters),
            rejected=loaded.rejected,
            passed_over=loaded.passed_over,
            last_candle=None if served is None else _open_text(served.opens_s[-1]),
            last_served=last_served,
            last_q=last_q,
            last_safe=last_safe,
            model=self._model(pair),
            tolerance=self._tolerance(pair),
            unusual_share=None if served is None else served.unusual_share(DAY_S),
            last_good_at=time_text(loaded.saved_ns),
            exceedance=None
            if exceedance is None
            else ExceedanceStatus(
                share=exceedance.share, nominal=exceedance.nominal, candles=exceedance.n_candles
            ),
        )

    def _tolerance(self, pair: PairSnapshot) -> ToleranceStatus:
        in_force = pair.loaded if pair.newest is None else pair.newest.loaded
        tolerance = in_force.tolerance(self._settings)
        return ToleranceStatus(max_adverse_ratio=tolerance.ratio, origin=tolerance.origin)

    def _model(self, pair: PairSnapshot) -> ModelStatus:
        newest, standing = pair.newest, self._due.standing(pair)
        return ModelStatus(
            state=self._model_state(pair, standing),
            version=None if newest is None else time_text(newest.loaded.version),
            generation=None if newest is None else newest.generation,
            trained_until=None if newest is None else time_text(newest.model.cut_s * NANOSECONDS),
            rows=None if newest is None else newest.model.rows,
            expected_rows=None if newest is None else self._due.expected_rows(newest.model),
            context_share=None if newest is None else newest.model.context_share,
            error=standing.error,
            calibration=self._predictor.calibration.factor(pair.loaded.pair),
        )

    def _model_state(self, pair: PairSnapshot, standing: Standing) -> ModelState:
        if standing.is_waiting:
            return "training"
        if pair.newest is None:
            return "none"
        is_stale = standing.is_due or self.is_too_old(pair.newest.model)
        return "stale" if is_stale else "ready"


def whole_status(
    settings: BotSettings,
    snapshot: ParameterSnapshot,
    reloads: ReloadCounts,
    pairs: dict[str, PairStatus],
) -> Status:
    """Return what this process says of itself, of either kind of bot."""
    return Status(
        feeder_id=settings.feeder_id,
        pid=os.getpid(),
        generation=snapshot.generation,
        loaded_at=format_time_ns(snapshot.loaded_at_ns),
        reload=reloads.status,
        pairs=pairs,
        blackouts=_blackouts(settings, snapshot.blackouts),
    )


def _blackouts(settings: BotSettings, blackouts: Blackouts) -> BlackoutStatus | None:
    """Return what was read of the blackouts; None without."""
    if settings.blackouts is None:
        return None
    upcoming = blackouts.next_at(time.time())
    return BlackoutStatus(
        file=str(settings.blackouts_path),
        windows=len(blackouts.windows),
        next=None
        if upcoming is None
        else BlackoutWindow(
            start=format_time_ns(int(upcoming.start_s * NANOSECONDS)),
            end=format_time_ns(int(upcoming.end_s * NANOSECONDS)),
            name=upcoming.name,
        ),
    )


def _newest(served: SafetyColumns | None) -> tuple[str | None, float | None, bool | None]:
    """Return open, q and safe of the newest candle with a prediction; None without any."""
    if served is None or (at := served.newest_predicted) is None:
        return None, None, None
    return _open_text(served.opens_s[at]), float(served.q[at]), bool(served.safe[at])


def _open_text(open_s: np.int64) -> str:
    return format_time_ns(int(open_s) * NANOSECONDS)


def time_text(time_ns: int | None) -> str | None:
    """Return a time as the status has it, None where there is none."""
    return None if time_ns is None else format_time_ns(time_ns)
