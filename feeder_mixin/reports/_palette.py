"""The page's colours, once: style sheet and figures take them from here.

Contenders have the hues of Okabe and Ito (2008), which stay apart for colour-blind readers; each has
a symbol of its own, too. Figures are made in the light colours; the page's script swaps each for
its dark twin, so a light value stands for one name only.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from feeder_mixin.tune.judge.contenders import ATR_RULE, CONFIG, DEFAULTS, RUNNING, TUNED


class Colour(NamedTuple):
    """One colour on a light page and its twin on a dark one."""

    light: str
    dark: str


INK: Final = Colour("#1b1f24", "#e4e7eb")
MUTED: Final = Colour("#5b6570", "#9ba5b0")
LINE: Final = Colour("#dde1e6", "#2d333b")
CARD: Final = Colour("#ffffff", "#181c21")
SPAN: Final = Colour("#d3dae2", "#36404b")
BAD: Final = Colour("#9c2c6f", "#e893c6")
RULE: Final = Colour("#737b84", "#8b949e")
DEFAULT: Final = Colour("#b85c00", "#e69f00")
CHAMPION: Final = Colour("#00785a", "#2fc79c")
CHALLENGER: Final = Colour("#0068a8", "#5ab4e8")

COLOURS: Final = {
    "ink": INK,
    "muted": MUTED,
    "line": LINE,
    "card": CARD,
    "span": SPAN,
    "bad": BAD,
    "rule": RULE,
    "default": DEFAULT,
    "champion": CHAMPION,
    "challenger": CHALLENGER,
    "page": Colour("#f5f6f8", "#101317"),
}
"""Name in the style sheet -> colour."""


class Mark(NamedTuple):
    """How figures and tables show a contender."""

    label: str
    colour: Colour
    symbol: str


MARKS: Final = {
    ATR_RULE: Mark("ATR rule", RULE, "x-thin"),
    DEFAULTS: Mark("defaults", DEFAULT, "square"),
    CONFIG: Mark("config", DEFAULT, "square"),
    TUNED: Mark("tuned", CHALLENGER, "circle"),
    RUNNING: Mark("champion", CHAMPION, "diamond"),
}
"""Contender -> mark, in the order of rows."""
