"""The look that all figures share: layout, axes, legend.

Axes don't move and nothing is dragged unless a figure says so: on a phone a finger scrolls the page.
"""

from __future__ import annotations

from typing import Any

from feeder_mixin.reports._palette import INK, LINE, MUTED, Colour


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
