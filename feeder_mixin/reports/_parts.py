"""What a section of the page is made of, and the small words that all sections share.

Nothing here knows HTML: `reports.page` writes it, escaped.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, NamedTuple

from feeder_mixin.reports._drawing import Plot
from feeder_mixin.reports._problems import MOST_NAMES
from feeder_mixin.reports.documents import FeederReport, short_names
from feeder_mixin.reports.records import percent
from feeder_mixin.stores.notes import some


@dataclass(frozen=True, slots=True)
class TableCell:
    """One cell of a table; `is_bad` marks what a reader should look at."""

    text: str
    is_bad: bool = False


Row = list[TableCell | str]


MOST_SHOWN: Final = 24
"""Rows of a table, or figures of a grid, that are shown until a reader asks for all, or for a pair."""

MOST_DRAWN: Final = 30
"""Pairs in a figure that has a row for each; the table below it has all."""


class Table(NamedTuple):
    """A table; columns in `texts` are words, the others numbers, which stand right.

    Columns in `wraps` hold sentences. The first column is the pair, unless `is_by_pair` is off.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    texts: Sequence[int] = (0,)
    wraps: Sequence[int] = ()
    is_folded: bool = False
    is_by_pair: bool = True

    @property
    def cells(self) -> list[list[TableCell]]:
        """Return the rows with every cell as a `TableCell`."""
        return [[c if isinstance(c, TableCell) else TableCell(c) for c in row] for row in self.rows]


class Figure(NamedTuple):
    """A figure: its title where it has one, what it shows for who can't see it, and the plot.

    `pair` is the name of the pair that it is about, empty where it is about all.
    """

    title: str
    alt: str
    plot: Plot
    pair: str = ""

    @property
    def height(self) -> int:
        """Return the figure's height in pixels."""
        height: int = self.plot.layout["height"]
        return height

    @property
    def packed(self) -> str:
        """Return the plot as JSON, compressed, as text: the page unpacks it when it is seen."""
        text = json.dumps(self.plot.to_json(), separators=(",", ":"), allow_nan=False)
        return packed(text)


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page; `missing` says what could not be shown and why."""

    name: str
    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    missing: Sequence[str] = ()
    is_grid: bool = False
    most_figures: int = MOST_SHOWN


def packed(text: str) -> str:
    """Return a text, compressed, as letters that HTML needs no escape for."""
    # No time in it: the same results give the same page.
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def first_pairs(report: FeederReport) -> FeederReport:
    """Return a report of the pairs that a figure with a row for each has room for."""
    return replace(report, results=dict(islice(report.results.items(), MOST_DRAWN)))


def drawn_text(report: FeederReport) -> list[str]:
    """Return what a figure with a row for each pair leaves out; empty where it has all."""
    if len(report.results) <= MOST_DRAWN:
        return []
    n_pairs = len(report.results)
    order = "changed sets, then by gain. The table has all"
    return [f"Drawn are the first {MOST_DRAWN} of {n_pairs} pairs: {order}."]


def signed(value: float | None, digits: int = 1) -> str:
    """Return a ratio as percent with its sign, ``-`` where it is absent.

    Examples
    --------
    >>> signed(0.0678), signed(None)
    ('+6.8', '-')
    """
    return "-" if value is None else f"{100 * value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def with_error(value: float | None, error: float | None, digits: int = 1) -> str:
    """Return a ratio as percent and its standard error, where it has one.

    Examples
    --------
    >>> with_error(0.0678, 0.012), with_error(0.0678, None)
    ('+6.8 ± 1.2', '+6.8')
    """
    if value is None:
        return "-"
    shown = signed(value, digits)
    return shown if error is None else f"{shown} ± {percent(error, digits)}"


def range_text(bounds: tuple[float, float] | None) -> str:
    """Return an interval of shares in percent, ``-`` where it is absent."""
    return "-" if bounds is None else f"{percent(bounds[0])} to {percent(bounds[1])}"


def lacking(report: FeederReport, what: str, has: Mapping[str, object]) -> list[str]:
    """Return a sentence that names the pairs of which `what` is not there; empty without any."""
    without = [pair for pair in report.results if not has.get(pair)]
    if not without:
        return []
    names = short_names(report.pairs)
    named = some((names[pair] for pair in without), MOST_NAMES)
    who = "any pair" if len(without) == len(report.results) else named
    from_store = not any(pair in report.tuned for pair in without)
    why = "only its stored record is known" if from_store else "its run has none"
    return [f"{what}: not available for {who} ({why})."]


def labels_of(report: FeederReport) -> dict[str, str]:
    """Return pair -> its short name, of the pairs that have a result."""
    names = short_names(report.pairs)
    return {pair: names[pair] for pair in report.results}


def in_words(what: str, rows: Iterable[Row], columns: Sequence[str]) -> str:
    """Return a figure in words: the same numbers as its table."""
    told = []
    for name, *values in rows:
        pairs = zip(columns, values, strict=False)
        told.append(f"{name}: " + ", ".join(f"{c} {_text(v)}" for c, v in pairs))
    return f"{what}. " + "; ".join(told)


def _text(cell: TableCell | str) -> str:
    return cell.text if isinstance(cell, TableCell) else cell
