"""What the status file says of one pair: a snapshot in the words of `live.status`."""

from __future__ import annotations

from feeder_mixin.live.cache import PairSnapshot
from feeder_mixin.live.exceedance import Exceedance
from feeder_mixin.live.status import ExceedanceStatus, ModelState, ModelStatus, PairStatus
from feeder_mixin.schema import NANOSECONDS, format_time_ns


def describe_pair(
    pair: PairSnapshot,
    model_state: ModelState,
    *,
    error: str | None,
    factor: float,
    exceedance: Exceedance | None,
) -> PairStatus:
    """Return what a pair has loaded, what serves it, and how that does.

    Parameters
    ----------
    error
        Why its last fit failed, or None.
    factor
        What its forecasts are multiplied by.
    """
    newest = pair.newest
    model = ModelStatus(
        state=model_state,
        version=None if newest is None else _time_text(newest.loaded.version),
        generation=None if newest is None else newest.generation,
        trained_until=None if newest is None else _time_text(newest.model.cut_s * NANOSECONDS),
        rows=None if newest is None else newest.model.rows,
        error=error,
        calibration=factor,
    )
    return PairStatus(
        source=pair.loaded.source,
        version=_time_text(pair.loaded.version),
        parameters=dict(pair.loaded.parameters),
        rejected=pair.loaded.rejected,
        passed_over=pair.loaded.passed_over,
        model=model,
        last_good_at=_time_text(pair.loaded.saved_ns),
        exceedance=None
        if exceedance is None
        else ExceedanceStatus(
            share=exceedance.share, nominal=exceedance.nominal, candles=exceedance.n_candles
        ),
    )


def _time_text(time_ns: int | None) -> str | None:
    return None if time_ns is None else format_time_ns(time_ns)
