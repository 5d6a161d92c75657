"""The candle chart of one pair: what price did, what was predicted, where it was worse.

The band is the predicted excursion as a price, on the side that hurts: below the close for long,
above it for short. A candle is *breached* when price, within the horizon after it, went further than
its own band; it is marked on the band.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go

from feeder_mixin.reports._drawing import axis, layout, legend
from feeder_mixin.reports._palette import BAD, CARD, CHALLENGER, DEFAULT, INK, LINE, SPAN
from feeder_mixin.reports.documents import TunedPair
from feeder_mixin.settings import Side

SHOWN_HOURS: Final = 12
"""What the chart shows first, back from its end; a finger moves it, buttons widen it."""

_BUTTONS: Final = (("6 h", 6), ("12 h", 12), ("24 h", 24))


class CandleChart(NamedTuple):
    """Candles of a pair with the band of each; all lists are of one length.

    Attributes
    ----------
    times
        Opens of the candles, UTC.
    band, tolerance
        Prices; `tolerance` is the price at which a candle stops being safe.
    breached
        Whether the excursion after each candle was below its prediction.
    """

    pair: str
    times: list[datetime]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    band: list[float]
    tolerance: list[float]
    breached: list[bool]

    @property
    def breached_share(self) -> float:
        """Return the share of candles that were breached."""
        return sum(self.breached) / len(self.breached)


def candle_chart(pair: str, tuned: TunedPair, side: Side) -> CandleChart:
    """Return the chart's data."""
    chart, tolerance = tuned.result.chart, tuned.tolerance
    sign = 1.0 if side == "long" else -1.0
    return CandleChart(
        pair=pair,
        times=[datetime.fromtimestamp(s, UTC) for s in chart.opens_s],
        open=list(chart.open),
        high=list(chart.high),
        low=list(chart.low),
        close=list(chart.close),
        band=[close * (1 + sign * q) for close, q in zip(chart.close, chart.q, strict=True)],
        tolerance=[close * (1 - sign * tolerance) for close in chart.close],
        breached=[x < q for x, q in zip(chart.excursion, chart.q, strict=True)],
    )


def candle_figure(chart: CandleChart) -> go.Figure:
    """Return candles, band, tolerance and breaches; prices in the quote currency."""
    times = [f"{moment:%Y-%m-%d %H:%M}" for moment in chart.times]
    figure = go.Figure()
    figure.add_candlestick(
        x=times,
        open=chart.open,
        high=chart.high,
        low=chart.low,
        close=chart.close,
        name="candle",
        # Hollow and filled: up and down are told apart without a colour.
        increasing={"line": {"color": INK.light, "width": 1}, "fillcolor": CARD.light},
        decreasing={"line": {"color": INK.light, "width": 1}, "fillcolor": INK.light},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=times,
        y=chart.band,
        mode="lines",
        name="band",
        line={"color": CHALLENGER.light, "width": 2},
        text=_hovers(chart),
        hovertemplate="%{text}<extra></extra>",
    )
    figure.add_scatter(
        x=times,
        y=chart.tolerance,
        mode="lines",
        name="tolerance",
        line={"color": DEFAULT.light, "width": 1.2, "dash": "dot"},
        hoverinfo="skip",
    )
    hit = [number for number, breached in enumerate(chart.breached) if breached]
    figure.add_scatter(
        x=[times[number] for number in hit],
        y=[chart.band[number] for number in hit],
        mode="markers",
        name="breached",
        marker={"symbol": "x", "size": 7, "color": BAD.light},
        hoverinfo="skip",
    )
    figure.update_layout(
        layout(460, dragmode="pan", hovermode="x"),
        xaxis=axis(
            type="date",
            fixedrange=False,
            rangeslider={"visible": False},
            range=[times[max(0, len(times) - 1 - _candles_of(chart, SHOWN_HOURS))], times[-1]],
            rangeselector=_selector(),
            nticks=6,
            showgrid=False,
        ),
        yaxis=axis("price"),
        **legend(),
    )
    return figure


def _candles_of(chart: CandleChart, hours: float) -> int:
    """Return how many candles that many hours are, by the chart's own step."""
    if len(chart.times) < 2:
        return 0
    steps = zip(chart.times, chart.times[1:], strict=False)
    timeframe_s = min((after - before).total_seconds() for before, after in steps)
    return int(hours * 3600 / timeframe_s)


def _selector() -> dict[str, Any]:
    buttons = [
        {"count": hours, "label": label, "step": "hour", "stepmode": "backward"}
        for label, hours in _BUTTONS
    ]
    return {
        "buttons": [*buttons, {"step": "all", "label": "all"}],
        "bgcolor": CARD.light,
        "activecolor": SPAN.light,
        "bordercolor": LINE.light,
        "borderwidth": 1,
        "font": {"size": 12, "color": INK.light},
        "x": 0,
        "xanchor": "left",
        "y": -0.16,
        "yanchor": "top",
    }


def _hovers(chart: CandleChart) -> list[str]:
    return [
        f"<b>{moment:%d %b %H:%M} UTC</b><br>close {close:.6g}<br>band {band:.6g}"
        f"{'<br>breached' if breached else ''}"
        for moment, close, band, breached in zip(
            chart.times, chart.close, chart.band, chart.breached, strict=True
        )
    ]
