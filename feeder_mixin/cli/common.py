"""What every sub-command shares: options, logging, consoles, settings and store of a feeder."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from feeder_mixin.cli.streams import print_utf8
from feeder_mixin.commands import feeder_command
from feeder_mixin.errors import SettingsError
from feeder_mixin.freqai.settings import load_bot_settings
from feeder_mixin.reports.records import FEW_PAIRS
from feeder_mixin.settings import BotSettings, feeder_ids
from feeder_mixin.stores.base import ParameterStore
from feeder_mixin.stores.masking import masked_store_url
from feeder_mixin.stores.url import choose_store_url, open_store

logger = logging.getLogger(__name__)

PLAIN_WIDTH: Final = 150
"""Width of tables where there is no terminal to ask."""


@cache
def make_console(*, stderr: bool = False) -> Console:
    """Return the console on stdout or stderr; wide where it is no terminal, so nothing is cut.

    One each: logs and progress bars must know of each other.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty())


def set_up_logging(console: Console, *, verbose: bool) -> None:
    """Send logs to stderr, above a progress display if there is one."""
    if console.is_terminal:
        handler: logging.Handler = RichHandler(console=console, show_path=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("feeder_mixin").setLevel(level)


def feeder_options() -> argparse.ArgumentParser:
    """Return the parent parser of every sub-command about feeders."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--feeder",
        nargs="+",
        action="extend",
        metavar="F",
        help="feeder ids, or 'all' for every feeder with a config in config/; may be left out with --config",
    )
    add_config_option(parser)
    parser.add_argument(
        "--userdir", type=Path, metavar="DIR", help="freqtrade's user_data folder (user_data)"
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        help="parameter store: sqlite:///FILE, postgresql+psycopg://..., influxdb+http(s)://...?org=NAME "
        "(FEEDER_STORE_URL, then feeder.store_url, then the file feeder_params.sqlite in the user_data folder in force)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--verbose", action="store_true", help="log more")
    return parser


def add_config_option(parser: argparse._ActionsContainer) -> None:
    """Add ``--config`` as freqtrade has it: once for every file."""
    parser.add_argument(
        "--config",
        "-c",
        type=Path,
        action="append",
        metavar="FILE",
        help="the feeder's config (config/F.json); may be repeated, files are merged as freqtrade "
        "merges them, later ones win",
    )


def chosen_feeder_ids(arguments: argparse.Namespace) -> list[str]:
    """Return the ids of the feeders named on the command line, each once; `all` spelled out."""
    ids: Sequence[str] | None = arguments.feeder
    if ids is None:
        return [load_bot_settings(None, arguments.config, arguments.userdir).feeder_id]
    if "all" in ids:
        ids = feeder_ids()
        if not ids:
            raise SettingsError("--feeder all: no feeder has a config in config/")
    if arguments.config is not None and len(ids) > 1:
        raise SettingsError(f"--config goes with one feeder, got {', '.join(ids)}")
    return list(dict.fromkeys(ids))


def chosen_bots(arguments: argparse.Namespace) -> list[BotSettings]:
    """Return the settings of the feeders and FreqAI bots named on the command line, each checked."""
    ids = [None] if arguments.feeder is None else chosen_feeder_ids(arguments)
    chosen = []
    for feeder_id in ids:
        try:
            chosen.append(load_bot_settings(feeder_id, arguments.config, arguments.userdir))
        except SettingsError as error:
            if "all" not in (arguments.feeder or ()) or len(ids) == 1:
                raise
            logger.error("Left out: %s", error)  # noqa: TRY400  (one broken copy hides no bot)
    if not chosen:
        raise SettingsError("--feeder all: no feeder's config can be used")
    return chosen


@dataclass(frozen=True, slots=True)
class ChosenStore:
    """An open store, and how it was chosen."""

    store: ParameterStore
    url: str
    origin: str

    def __str__(self) -> str:
        return f"{self.store.description} (from {self.origin})"

    def command(self, settings: BotSettings, verb: str, *more: object) -> str:
        """Return a command line about this store, to paste; a masked password is to be filled in."""
        is_option = self.origin == "--store"
        return feeder_command(settings, verb, *more, store=self.url if is_option else None)


@contextmanager
def feeder_store(settings: BotSettings, arguments: argparse.Namespace) -> Iterator[ChosenStore]:
    """Open the store that option, environment, config or default name, and close it again."""
    url, origin = choose_store_url(arguments.store, os.environ, settings)
    with open_store(url, root=settings.root, feeder_ids=[settings.feeder_id]) as store:
        yield ChosenStore(store, masked_store_url(url), origin)


def check_known(settings: BotSettings, pairs: Sequence[str], known: Collection[str]) -> None:
    """Raise `SettingsError` for a pair that is neither the feeder's nor known to its store.

    A pair that has left the whitelist keeps its records, and stays within reach.
    """
    settings.chosen_pairs([pair for pair in pairs if pair not in known])


def n_lines(console: Console, n_pairs: int) -> int:
    """Return of how many pairs a line each is printed: on a terminal of the first ones only."""
    return min(n_pairs, FEW_PAIRS) if console.is_terminal else n_pairs


def print_wide(console: Console, table: Table, least_width: int) -> None:
    """Print a table that loses no digit: on a narrower terminal its lines wrap.

    rich takes no `width` in `Console.print` that is above the console's.
    """
    width = console.width
    console.width = max(width, least_width)
    try:
        console.print(table)
    finally:
        console.width = width


def count(number: int, noun: str) -> str:
    """Return for example ``1 pair`` or ``2 pairs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_json(document: object) -> None:
    """Print one JSON document to stdout."""
    print_utf8(json.dumps(document, indent=2, allow_nan=False) + "\n")
