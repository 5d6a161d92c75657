"""``feeder completion``: the script by which a shell completes commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

SHELLS: Final = ("bash", "zsh", "tcsh")


def add_parsers(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    make_parser: Callable[[], argparse.ArgumentParser],
) -> None:
    """Add this group's sub-command; `make_parser` gives what is completed: all commands."""
    completion = commands.add_parser(
        "completion",
        help="print the script by which bash, zsh or tcsh completes commands and options",
        description="Prints a script. For bash: "
        "feeder completion bash > ~/.local/share/bash-completion/completions/feeder; "
        "for zsh: feeder completion zsh > DIR/_feeder, where DIR is in $fpath.",
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    completion.add_argument("--verbose", action="store_true", help="log more")
    completion.set_defaults(run=lambda arguments: _print_script(make_parser(), arguments.shell))


def _print_script(parser: argparse.ArgumentParser, shell: str) -> int:
    import shtab  # no other command needs it

    print(shtab.complete(parser, shell))  # noqa: T201 - a script, as it is
    return 0
