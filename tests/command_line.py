"""The sub-commands of ``feeder`` and their options, as argparse knows them."""

from __future__ import annotations

import argparse
import re

from feeder_mixin.cli.main import make_parser

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return sub-command -> its parser."""
    (commands,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(commands.choices)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return every long option in a parser's help."""
    return set(OPTION.findall(parser.format_help()))
