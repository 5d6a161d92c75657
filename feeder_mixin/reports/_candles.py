"""The candle chart of one pair: what price did, what was predicted, where it was worse.

The band is the predicted excursion as a price, on the side that hurts: below the close for long,
above it for short. A candle is *breached* when price, within the horizon after it, went further than
its own band; it is marked on the band.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from feeder_mixin.reports._drawing import Plot, axis, layout, legend, price_steps, time_steps
from feeder_mixin.reports._palette import BAD, CARD, CHALLENGER, DEFAULT, INK, LINE, SPAN
from feeder_mixin.reports.documents import TunedPair
from feeder_mixin.settings import Side

MOST_CANDLES: Final = 100_000
"""Of all charts of a page together, about 1.5 MB; at 5m that is 173 pairs of two days."""

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


def candle_chart(pair: str, tuned: TunedPair, side: Side | None) -> CandleChart:
    """Return the chart's data, of a pair that has one."""
    chart, tolerance = tuned.result.chart, tuned.tolerance
    if chart is None or tolerance is None:
        raise ValueError(f"{pair}: a result without candles has no chart")
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


def candle_figure(chart: CandleChart) -> Plot:
    """Return candles, band, tolerance and breaches; prices in the quote currency."""
    times = [f"{moment:%Y-%m-%d %H:%M}" for moment in chart.times]
    x = time_steps(chart.times)
    hit = [number for number, breached in enumerate(chart.breached) if breached]
    prices = {
        "type": "candlestick",
        "x": x,
        "open": price_steps(chart.open),
        "high": price_steps(chart.high),
        "low": price_steps(chart.low),
        "close": price_steps(chart.close),
        "name": "candle",
        # Hollow and filled: up and down are told apart without a colour.
        "increasing": {"line": {"color": INK.light, "width": 1}, "fillcolor": CARD.light},
        "decreasing": {"line": {"color": INK.light, "width": 1}, "fillcolor": INK.light},
        "hoverinfo": "skip",
    }
    band = {
        "type": "scatter",
        "x": x,
        "y": price_steps(chart.band),
        "mode": "lines",
        "name": "band",
        "line": {"color": CHALLENGER.light, "width": 2},
        "text": ["<br>breached" if breached else "" for breached in chart.breached],
        "hovertemplate": "<b>%{x|%d %b %H:%M} UTC</b><br>band %{y:.6g}%{text}<extra></extra>",
    }
    tolerance = {
        "type": "scatter",
        "x": x,
        "y": price_steps(chart.tolerance),
        "mode": "lines",
        "name": "tolerance",
        "line": {"color": DEFAULT.light, "width": 1.2, "dash": "dot"},
        "hoverinfo": "skip",
    }
    breached = {
        "type": "scatter",
        "x": [times[number] for number in hit],
        "y": [chart.band[number] for number in hit],
        "mode": "markers",
        "name": "breached",
        "marker": {"symbol": "x", "size": 7, "color": BAD.light},
        "hoverinfo": "skip",
    }
    x_axis = axis(
        type="date",
        fixedrange=False,
        rangeslider={"visible": False},
        range=[times[max(0, len(times) - 1 - _candles_of(chart, SHOWN_HOURS))], times[-1]],
        rangeselector=_selector(),
        nticks=6,
        showgrid=False,
    )
    axes = {"xaxis": x_axis, "yaxis": axis("price"), **legend()}
    return Plot(
        [prices, band, tolerance, breached], layout(460, dragmode="pan", hovermode="x", **axes)
    )


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
