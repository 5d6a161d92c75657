"""The ``feeder`` command: a table of sub-commands, exit codes, nothing else."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Final

from feeder_mixin.cli import (
    bot_commands,
    completion,
    demo,
    diff,
    doctor,
    init,
    metrics,
    optimize,
    prune,
    replay,
    report,
    risk,
    rollback,
    show,
    store_admin,
    studies,
    transfer,
)
from feeder_mixin.cli.common import make_console, set_up_logging
from feeder_mixin.cli.streams import fill_closed_descriptors, safe_streams
from feeder_mixin.errors import CandleError, FeederError, SettingsError
from feeder_mixin.processes import end_like_ctrl_c

logger = logging.getLogger(__name__)

GROUPS = (
    optimize,
    report,
    risk,
    studies,
    show,
    diff,
    rollback,
    bot_commands,
    doctor,
    metrics,
    transfer,
    prune,
    store_admin,
    init,
    replay,
    demo,
)

JOBS: Final[Mapping[str, Sequence[str]]] = {
    "begin": ("init", "demo", "replay-exchange", "completion"),
    "tune": ("optimize", "report", "risk", "studies"),
    "look": ("show", "history", "diff", "settings"),
    "run": ("status", "reload", "doctor", "metrics"),
    "keep": ("rollback", "export", "import", "prune", "init-store", "flush"),
}
"""What somebody wants to do, and the commands for it, as ``feeder --help`` shows them."""

EXIT_CODES: Final[Mapping[int, str]] = {
    0: "every pair got an answer: a new record, or the running one kept",
    1: "failed: store unreachable or read-only (results are kept), disk full, another optimizer at work; "
    "or all is done, but stdout is full or closed and its result can't be read",
    2: "usage, settings, or unusable candles for every pair",
    3: "some pairs failed, others did not; of several feeders some failed, each by name, and the others "
    "had their turn",
    130: "Ctrl-C, SIGTERM or a closed terminal (SIGHUP, unless nohup); finished trials and pairs are kept",
}
"""What a script may rely on: a released code never changes its meaning."""


class _ParserByJob(argparse.ArgumentParser):
    """A parser whose help shows the commands by `JOBS`."""

    def format_help(self) -> str:
        """Return usage, commands by job, options and exit codes."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        (commands,) = (a for a in self._actions if isinstance(a, argparse._SubParsersAction))
        known = {action.dest: action for action in commands._choices_actions}
        sections = {job: [known[name] for name in names] for job, names in JOBS.items()}
        sections["options"] = [action for action in self._actions if action.option_strings]
        for title, actions in sections.items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


@cache
def make_parser() -> argparse.ArgumentParser:
    """Return the parser with every sub-command; one serves all commands of a process."""
    parser = _ParserByJob(
        prog="feeder",
        description="Tune, store and inspect the parameters of freqtrade feeders.",
        epilog="exit codes: " + "; ".join(f"{code} {said}" for code, said in EXIT_CODES.items()),
    )
    parser.add_argument("--version", action="version", version=f"feeder {version('feeder-mixin')}")
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        parser_class=argparse.ArgumentParser,
    )
    for group in GROUPS:
        group.add_parsers(commands)
    completion.add_parsers(commands, make_parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    with safe_streams() as out:
        try:
            arguments = make_parser().parse_args(argv)
        except SystemExit as stop:  # argparse: help, version, a usage error
            name, code = "feeder", int(stop.code or 0)
        else:
            name, code = f"feeder {arguments.command}", _run_command(arguments)
        out.flush()
        if out.failure is not None:
            make_console(stderr=True).print(
                f"{name}: the result can't be written to stdout: {out.failure}. All else is done; "
                "send the output elsewhere or free disk space",
                markup=False,
            )
            code = code or 1
    return code


def _run_command(arguments: argparse.Namespace) -> int:
    console = make_console(stderr=True)
    set_up_logging(console, verbose=arguments.verbose)
    try:
        code: int = arguments.run(arguments)
    except (SettingsError, CandleError) as error:
        console.print(f"feeder {arguments.command}: {error}", markup=False)
        return 2
    except FeederError as error:
        console.print(f"feeder {arguments.command}: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print(
            f"feeder {arguments.command}: stopped; finished trials and pairs are kept, run the same "
            "command to continue",
            markup=False,
        )
        return 130
    return code


def run() -> None:
    """Entry point of the ``feeder`` script; SIGTERM (systemd, timeout) and SIGHUP end it like Ctrl-C."""
    fill_closed_descriptors()
    end_like_ctrl_c()
    sys.exit(main())
