"""``feeder doctor``: what is right with a feeder, what is not, and what to do."""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from feeder_mixin.cli.common import (
    chosen_feeder_ids,
    count,
    feeder_options,
    make_console,
    print_json,
)

if TYPE_CHECKING:
    from feeder_mixin.doctor.finding import Finding

_STYLES: Final = {"pass": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-command."""
    doctor = commands.add_parser(
        "doctor",
        parents=[feeder_options()],
        help="check config, store, records, candles and bot, and say what to do (exit code 1 on a fail)",
    )
    doctor.set_defaults(run=run_doctor)


_STATE_WIDTH: Final = 2 + len("skipped")


def run_doctor(arguments: argparse.Namespace) -> int:
    """Examine every chosen feeder, print what was found, and return 1 when a check failed."""
    from feeder_mixin.doctor.finding import Facts
    from feeder_mixin.doctor.run import examine, examine_together

    everyone = [
        Facts(
            feeder_id,
            os.environ,
            time.time_ns(),
            arguments.config,
            arguments.userdir,
            arguments.store,
        )
        for feeder_id in chosen_feeder_ids(arguments)
    ]
    findings = [finding for facts in everyone for finding in examine(facts)]
    findings += examine_together(everyone)
    if arguments.json:
        print_json([finding.to_dict() for finding in findings])
    else:
        _print_findings(make_console(), findings)
    return int(any(finding.state == "fail" for finding in findings))


def _print_findings(console: Console, findings: Sequence[Finding]) -> None:
    by_feeder: dict[str, list[Finding]] = {}
    for finding in findings:
        by_feeder.setdefault(finding.feeder_id, []).append(finding)
    for feeder_id, own in by_feeder.items():
        console.print(f"{feeder_id}: {_summary(own)}", markup=False)
        for finding in own:
            _print_finding(console, finding, max(len(finding.check) for finding in own))
    if len(by_feeder) > 1:
        console.print(f"{count(len(by_feeder), 'feeder')}: {_summary(findings)}", markup=False)


def _print_finding(console: Console, finding: Finding, name_width: int) -> None:
    """Print a finding as a row, its advice below on one line: a command that is broken can't be pasted."""
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(no_wrap=True, width=_STATE_WIDTH)
    row.add_column(no_wrap=True, width=name_width)
    row.add_column(overflow="fold")
    style = _STYLES[finding.state]
    message = Text(finding.message.removeprefix("skipped: "))
    row.add_row(Text(f"  {finding.state}", style=style), finding.check, message)
    console.print(row)
    if finding.advice:
        indent = " " * (_STATE_WIDTH + name_width + 4)
        console.print(Text(f"{indent}-> {finding.advice}", style="bold"), soft_wrap=True)


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter[str](finding.state for finding in findings)
    return ", ".join(f"{counts[state]} {state}" for state in _STYLES)
