"""What the status file says of one pair: a snapshot in the words of `live.state.status`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feeder_mixin.live.serve.columns import SafetyColumns
from feeder_mixin.live.serve.exceedance import Exceedance
from feeder_mixin.live.serve.snapshot import PairSnapshot
from feeder_mixin.live.state.status import ExceedanceStatus, ModelState, ModelStatus, PairStatus
from feeder_mixin.schema import NANOSECONDS, format_time_ns


def describe_pair(
    pair: PairSnapshot,
    model_state: ModelState,
    *,
    error: str | None,
    expected_rows: int | None,
    served: SafetyColumns | None,
    factor: float,
    exceedance: Exceedance | None,
) -> PairStatus:
    """Return what a pair has loaded, what serves it, and how that does.

    Parameters
    ----------
    error
        Why its last fit failed, or None.
    expected_rows
        Of the serving model; None without one.
    served
        Columns of the host's newest frame; None before the first.
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
        expected_rows=expected_rows,
        context_share=None if newest is None else newest.model.context_share,
        error=error,
        calibration=factor,
    )
    return PairStatus(
        source=pair.loaded.source,
        version=_time_text(pair.loaded.version),
        parameters=dict(pair.loaded.parameters),
        rejected=pair.loaded.rejected,
        passed_over=pair.loaded.passed_over,
        last_candle=None if served is None else _open_text(served.opens_s),
        last_served=None if served is None else _open_text(served.opens_s[np.isfinite(served.q)]),
        model=model,
        last_good_at=_time_text(pair.loaded.saved_ns),
        exceedance=None
        if exceedance is None
        else ExceedanceStatus(
            share=exceedance.share, nominal=exceedance.nominal, candles=exceedance.n_candles
        ),
    )


def _open_text(opens_s: NDArray[np.int64]) -> str | None:
    """Return the last of ascending opens; None without any."""
    return _time_text(int(opens_s[-1]) * NANOSECONDS) if len(opens_s) else None


def _time_text(time_ns: int | None) -> str | None:
    return None if time_ns is None else format_time_ns(time_ns)
