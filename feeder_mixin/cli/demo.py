"""``feeder demo``: the whole loop on a generated market, with the real optimizer and the real bot.

The exit code is 0 only when the swap was seen: what the bot says it loaded equals the store to the
last digit, new models predict, the process is the same and no candle was missed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from feeder_mixin.cli.common import make_console, print_json
from feeder_mixin.freqai.installed import check_installed

if TYPE_CHECKING:
    from feeder_mixin.rehearsal.demo.bot import Candle
    from feeder_mixin.rehearsal.demo.workplace import Workplace

_INDENT: Final = " " * 10
_TABLE_WIDTH: Final = 100
"""Least width of tables: on a narrower terminal lines wrap instead of losing digits."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-command."""
    demo = commands.add_parser(
        "demo",
        help="tune, trade, tune again and reload on a generated market; offline, about two minutes",
        description="Shows the whole loop on a generated market (no real prices): tunes three pairs, "
        "starts the real bot against a replayed exchange on this machine, tunes again and swaps the "
        "parameters in the running bot by SIGUSR1. Needs no network; your user_data is not touched.",
    )
    demo.add_argument(
        "--freqai",
        action="store_true",
        help="the same with freqtrade's own FreqAI example, unchanged, instead of a feeder (needs FreqAI's "
        "packages)",
    )
    demo.add_argument("--keep", action="store_true", help="keep the folder with config and logs")
    demo.add_argument("--json", action="store_true", help="print one JSON document")
    demo.add_argument("--verbose", action="store_true", help="show what the processes print, too")
    demo.set_defaults(run=run_demo)


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demo and return its exit code."""
    # Imported here: they need what only POSIX has, and no other command needs them.
    from feeder_mixin.rehearsal.demo import subjects
    from feeder_mixin.rehearsal.demo.story import Story
    from feeder_mixin.rehearsal.demo.workplace import (
        DemoError,
        DemoInterrupted,
        Workplace,
        cpu_seconds,
    )

    if arguments.freqai:
        check_installed()
    subject = subjects.FREQAI if arguments.freqai else subjects.FEEDER
    console = make_console(stderr=arguments.json)
    place, told = Workplace(keep=arguments.keep), ConsoleNarrator(console)
    try:
        with place:
            console.print(
                f"The whole loop on a GENERATED market (no real prices), offline, in {place.root}",
                markup=False,
            )
            document = Story(subject, place, told, is_verbose=arguments.verbose).run()
    except DemoInterrupted as stop:
        console.print(f"feeder demo: ended by {stop}{_left(place, arguments)}", markup=False)
        return 130
    except (DemoError, OSError) as error:
        raise DemoError(f"{error}\nall processes stopped{_left(place, arguments)}") from error
    document |= {
        "elapsed_s": round(told.elapsed_s(), 2),
        "cpu_s": cpu_seconds(),
        "folder": str(place.root) if arguments.keep else None,
    }
    _print_document(told, document)
    told.title(f"all processes stopped{_left(place, arguments)}; CPU {document['cpu_s']:.0f} s")
    if arguments.json:
        print_json(document)
    return 0


def _left(place: Workplace, arguments: argparse.Namespace) -> str:
    """Return what is left of the demo."""
    if arguments.keep:
        return f"; config, store and logs are in {place.root}"
    return f", {place.root} removed (--keep leaves it, with all logs)"


class ConsoleNarrator:
    """Tells the story in lines that read well on a terminal and in a log; see `Narrator`."""

    def __init__(self, console: Console) -> None:
        self._console, self._started = console, time.monotonic()

    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started

    def title(self, text: str) -> None:
        """Print a line with the time it was reached."""
        line = f"[{self.elapsed_s():5.1f} s] {text}"
        self._console.print(line, markup=False, style="bold")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """See `Narrator`; on a terminal, something turns while it goes on."""
        self.title(name)
        console = self._console
        spinner = "line" if console.options.ascii_only else "dots"
        with console.status(name, spinner=spinner) if console.is_terminal else nullcontext():
            yield

    def say(self, text: str) -> None:
        """See `Narrator`."""
        self._console.print(f"{_INDENT}{text}", markup=False)

    def command(self, text: str) -> None:
        """See `Narrator`."""
        self.say(f"$ {text}")

    def output(self, name: str, line: str) -> None:
        """See `Narrator`."""
        self.say(f"{name}: {line}")

    def candles(self, candles: Mapping[str, Candle]) -> None:
        """See `Narrator`."""
        shown = next(iter(candles.values())).shown
        table = _table("pair", "newest candle", "close", *map(_heading, shown))
        for pair, candle in candles.items():
            side = {"candle": candle.to_dict()}
            known = (_ROWS["newest candle"](side), _ROWS["its close"](side))
            table.add_row(pair, *known, *map(_text, candle.shown.values()))
        self.print(table)

    def print(self, table: Table) -> None:
        """Print a table, wide enough for all digits."""
        self._console.print(table, width=max(self._console.width, _TABLE_WIDTH))


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


_Show = Callable[[Mapping[str, Any]], str]


def _parameter(name: str) -> _Show:
    return lambda side: f"{side['parameters'][name]:.6g}"


_ROWS: Final[Mapping[str, _Show]] = {
    "record stored at": lambda side: side["version"][11:19],
    "generation of the model": lambda side: str(side["model"]["generation"]),
    "learning_rate": _parameter("learning_rate"),
    "n_estimators": _parameter("n_estimators"),
    "num_leaves": _parameter("num_leaves"),
    "quantile_alpha": _parameter("quantile_alpha"),
    "newest candle": lambda side: side["candle"]["opened"][11:16],
    "its close": lambda side: f"{side['candle']['close']:g}",
}
"""Row of the closing table -> how it shows one side of the swap; what is predicted comes behind."""

_NOT_PREDICTED: Final = frozenset({"opened", "close", "params_generation"})
"""Of a candle: rows of its own have them."""


def _predicted(name: str) -> _Show:
    return lambda side: _text(side["candle"][name])


def _heading(name: str) -> str:
    """Return how a table names what is predicted: the frame's column."""
    return "safe" if name == "is_safe" else name


def _text(value: float | bool | None) -> str:
    """Return what is predicted as a table has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _print_document(told: ConsoleNarrator, document: Mapping[str, Any]) -> None:
    pairs: Mapping[str, Mapping[str, Mapping[str, Any]]] = document["pairs"]
    told.title("Before -> after, from the bot's status file and REST API")
    table = _table("", *pairs)
    candle: Mapping[str, Any] = next(iter(pairs.values()))["after"]["candle"]
    predicted = [name for name in candle if name not in _NOT_PREDICTED]
    rows = {**_ROWS, **{_heading(name): _predicted(name) for name in predicted}}
    for name, show in rows.items():
        table.add_row(
            name, *(f"{show(one['before'])} -> {show(one['after'])}" for one in pairs.values())
        )
    told.print(table)
    told.say("every pair runs the store's newest record, equal to the last digit")
    told.say(
        f"the process stayed the same: pid {document['pid']}, generation "
        f"{document['generation_before']} -> {document['generation_after']}"
    )
    n_seen = min(len(opens) for opens in document["candles"].values())
    told.say(
        f"no candle was missed: {n_seen} consecutive ones of every pair, each analysed within "
        f"{document['latest_candle_s']:.1f} s of its close"
    )
    for pair, one in pairs.items():
        if not one["after"].get("beats_rule", True):
            told.say(f"{pair} is never safe now: nothing beat the ATR rule there (beats_rule 0)")
