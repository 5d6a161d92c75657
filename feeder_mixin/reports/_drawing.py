"""What a figure is, and the look that all share: layout, axes, legend.

Figures are made as what plotly.js reads, without plotly's classes: those check each value, which took
0.2 s a figure (17 of the 20 CPU-seconds of a page of 163 pairs). Tests check every figure with them.

Axes don't move and nothing is dragged unless a figure says so: on a phone a finger scrolls the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, NamedTuple

from feeder_mixin.reports._palette import INK, LINE, MUTED, Colour


class Plot(NamedTuple):
    """A figure as plotly.js reads it."""

    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the form that the page carries."""
        return self._asdict()


_LEVELS: Final = 2_000
"""Prices between the lowest and the highest of a column that are told apart: more than pixels."""


def price_steps(prices: Sequence[float]) -> dict[str, Any]:
    """Return prices as the first one and whole steps, which the page adds up.

    They compress to a third this way.

    Examples
    --------
    >>> price_steps([100.0, 100.5, 100.25])
    {'steps': [1000000, 5000, -2500], 'per': 10000.0}
    """
    spread = max(prices, default=0.0) - min(prices, default=0.0)
    per = 10.0 ** math.ceil(math.log10(_LEVELS / spread)) if spread else 1.0
    return {"steps": _steps([round(price * per) for price in prices]), "per": per}


def time_steps(times: Sequence[datetime]) -> dict[str, Any]:
    """Return times as `price_steps` does prices: seconds since the epoch, by the second."""
    return {"steps": _steps([int(moment.timestamp()) for moment in times]), "is_time": True}


def _steps(whole: Sequence[int]) -> list[int]:
    return [after - before for before, after in pairwise([0, *whole])]


def layout(height: int, **changes: object) -> dict[str, Any]:
    """Return the layout all figures share; axes don't move, so that a finger scrolls the page."""
    return {
        "template": {},
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK.light},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"align": "left", "font": {"size": 12}},
        "dragmode": False,
        "showlegend": False,
        **changes,
    }


def axis(title: str = "", **changes: object) -> dict[str, Any]:
    """Return an axis in the page's style."""
    style = {"text": title, "standoff": 8, "font": {"size": 12, "color": MUTED.light}}
    return {
        **({"title": style} if title else {}),
        "tickfont": {"color": MUTED.light},
        "gridcolor": LINE.light,
        "linecolor": LINE.light,
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
        **changes,
    }


def line_at(value: float, colour: Colour, dash: str = "solid", way: str = "x") -> dict[str, Any]:
    """Return a line across the whole figure at a value of the x or y axis."""
    ends = {"x0": value, "x1": value, "yref": "paper", "y0": 0, "y1": 1}
    if way == "y":
        ends = {"y0": value, "y1": value, "xref": "paper", "x0": 0, "x1": 1}
    style = {"color": colour.light, "width": 1.5, "dash": dash}
    return {"type": "line", "layer": "between", "line": style, **ends}


def legend() -> dict[str, Any]:
    """Return a legend above a figure that can't be clicked away."""
    place = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 12}}
    return {
        "showlegend": True,
        "legend": {**place, "itemclick": False, "itemdoubleclick": False, "itemsizing": "constant"},
    }
