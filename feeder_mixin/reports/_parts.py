"""What a section of the page is made of, and the small words that all sections share.

Nothing here knows HTML: `reports.page` writes it, escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import plotly.graph_objects as go

from feeder_mixin.reports.documents import FeederReport, short_names
from feeder_mixin.reports.records import percent


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table; `is_bad` marks what a reader should look at."""

    text: str
    is_bad: bool = False


Row = list[Cell | str]


class Table(NamedTuple):
    """A table; columns in `texts` are words, the others numbers, which stand right.

    Columns in `wraps` hold sentences.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    texts: Sequence[int] = (0,)
    wraps: Sequence[int] = ()
    is_folded: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """Return the rows with every cell as a `Cell`."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]


class Figure(NamedTuple):
    """A figure: its title where it has one, what it shows for who can't see it, and the plot."""

    title: str
    alt: str
    plot: Mapping[str, Any]


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
    who = (
        "any pair" if len(without) == len(report.results) else ", ".join(names[p] for p in without)
    )
    from_store = not any(pair in report.tuned for pair in without)
    why = "only its stored record is known" if from_store else "its run has none"
    return [f"{what}: not available for {who} ({why})."]


def labels_of(report: FeederReport) -> dict[str, str]:
    """Return pair -> its short name, of the pairs that have a result."""
    names = short_names(report.pairs)
    return {pair: names[pair] for pair in report.results}


def plot_of(figure: go.Figure) -> Mapping[str, Any]:
    """Return a figure as what the page's script draws."""
    plot: Mapping[str, Any] = figure.to_plotly_json()
    return plot


def in_words(what: str, rows: Iterable[Row], columns: Sequence[str]) -> str:
    """Return a figure in words: the same numbers as its table."""
    told = []
    for name, *values in rows:
        pairs = zip(columns, values, strict=False)
        told.append(f"{name}: " + ", ".join(f"{c} {_text(v)}" for c, v in pairs))
    return f"{what}. " + "; ".join(told)


def _text(cell: Cell | str) -> str:
    return cell.text if isinstance(cell, Cell) else cell
