"""``feeder diff``: what differs between the running bot and the store, or between two records."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from feeder_mixin.cli.common import (
    count,
    feeder_options,
    feeder_store,
    make_console,
    n_lines,
    print_json,
)
from feeder_mixin.cli.feeders import for_each_bot
from feeder_mixin.commands import feeder_command
from feeder_mixin.errors import SchemaError, SettingsError
from feeder_mixin.live.state.lock import is_bot_running
from feeder_mixin.live.state.stand_in import newest_status_path
from feeder_mixin.live.state.status import read_status
from feeder_mixin.reports.records import FEW_PAIRS
from feeder_mixin.schema import ParameterRecord, format_time_ns, parse_time_ns
from feeder_mixin.settings import BotSettings
from feeder_mixin.stores.base import ParameterStore, now_ns
from feeder_mixin.stores.notes import group_notes, group_pairs, some
from feeder_mixin.stores.operations.diff import Difference, DiffSource, find_differences
from feeder_mixin.stores.operations.point_in_time import Moment, load_record_at, parse_moment

_Sources = dict[str, DiffSource | str]
"""Pair -> parameter set, or why there is none."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    diff = commands.add_parser(
        "diff",
        parents=[feeder_options()],
        help="print what differs between the running bot and the store's newest records",
        description="Print per pair what differs: old -> new, parameters first. Old is what the bot on "
        "this machine has loaded, new the store's newest record, unless a time names a stored one.",
    )
    diff.add_argument("--pairs", nargs="+", action="extend", metavar="P", help="only these pairs")
    diff.add_argument(
        "--from",
        dest="old",
        metavar="TIME",
        help="record to compare from, by its time (else the newest before it), instead of the bot",
    )
    diff.add_argument(
        "--to", dest="new", metavar="TIME", help="record to compare to, instead of the newest"
    )
    diff.set_defaults(run=run_diff)


def run_diff(arguments: argparse.Namespace) -> int:
    """Print the differences of every chosen pair; none is an answer, too."""
    now = now_ns()
    old = None if arguments.old is None else parse_moment("--from", arguments.old, now)
    new = None if arguments.new is None else parse_moment("--to", arguments.new, now)
    compared = for_each_bot(arguments, lambda settings: _diff_one(settings, old, new, arguments))
    if arguments.json:
        print_json([document for own in compared.results for document in own])
    return compared.exit_code


def _diff_one(
    settings: BotSettings,
    old: Moment | None,
    new: Moment | None,
    arguments: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Print and return the differences of a feeder's pairs."""
    pairs = settings.chosen_pairs(arguments.pairs)
    with feeder_store(settings, arguments) as chosen:
        store = chosen.store
        old_sides = (
            _load_bot_sides(settings, store, pairs)
            if old is None
            else _load_stored_sides(settings, store, pairs, old)
        )
        new_sides = (
            _load_newest_sides(settings, store, pairs)
            if new is None
            else _load_stored_sides(settings, store, pairs, new)
        )
    compared = [_Comparison(settings.feeder_id, p, old_sides[p], new_sides[p]) for p in pairs]
    if not arguments.json:
        tell = _tell_few if len(pairs) <= FEW_PAIRS else _tell_many
        tell(make_console(), settings, compared)
    return [comparison.to_dict() for comparison in compared]


def _tell_few(console: Console, _settings: BotSettings, compared: Sequence[_Comparison]) -> None:
    """Print every pair, and each field that differs."""
    for comparison in compared:
        comparison.print(console)


def _tell_many(console: Console, settings: BotSettings, compared: Sequence[_Comparison]) -> None:
    """Print how many differ, then a line for each that does: on a terminal of the first ones only."""
    found = [(one, differences) for one in compared if (differences := one.differences)]
    lacking = {one.pair: one.problem for one in compared if one.differences is None}
    n_same = len(compared) - len(found) - len(lacking)
    console.print(
        f"{settings.feeder_id}: {count(len(compared), 'pair')}: {len(found)} differ, {n_same} do not, "
        f"{len(lacking)} can't be compared",
        markup=False,
    )
    for pairs, reason in group_pairs(lacking):
        console.print(f"  {some(pairs)}: {reason}", markup=False)
    n_shown = n_lines(console, len(found))
    for one, differences in found[:n_shown]:
        console.print(f"  {one.pair}: {some(d.name for d in differences)}", markup=False)
    if left := found[n_shown:]:
        console.print(f"  and {len(left)} more", markup=False)
    if found:
        command = feeder_command(settings, "diff", "--pairs", found[0][0].pair)
        console.print(f"Values of one: {command}", markup=False)


def _load_bot_sides(settings: BotSettings, store: ParameterStore, pairs: Sequence[str]) -> _Sources:
    """Return what the bot has loaded; what its records say beside the ten values is in the store."""
    status, errors = read_status(newest_status_path(settings)), make_console(stderr=True)
    if not is_bot_running(settings):
        errors.print(
            f"{settings.feeder_id}: no bot runs; old is what the last bot had loaded", markup=False
        )
    sides: _Sources = {}
    late: dict[str, str] = {}
    for pair in pairs:
        facts = status["pairs"].get(pair)
        if facts is None:
            sides[pair] = "the bot does not run this pair (restart it after a change of its config)"
            continue
        where, version = f"bot, {facts['source']}", facts["version"]
        time_ns = None if version is None else parse_time_ns(version)
        record = None if time_ns is None else _find_record(store, settings, pair, time_ns)
        if record is None:
            told = "" if time_ns is None else "not in this store"
            sides[pair] = DiffSource(where, time_ns, facts["parameters"], None, told)
        else:
            side = DiffSource.of_record(record, where)
            sides[pair] = replace(side, parameters=facts["parameters"])
        serving = facts["model"]["version"]
        if facts["model"]["state"] != "none" and serving != version:
            # Of many pairs without the record's time, so that they share a line.
            of = serving or "defaults" if len(pairs) <= FEW_PAIRS else "another record"
            late[pair] = f"the model of {of} still serves (model {facts['model']['state']})"
    for some_pairs, what in group_pairs(late):
        errors.print(f"{settings.feeder_id} {some(some_pairs)}: {what}", markup=False)
    return sides


def _find_record(
    store: ParameterStore, settings: BotSettings, pair: str, time_ns: int
) -> ParameterRecord | None:
    """Return the valid record of exactly that time, None when there is none."""
    feeder_id = settings.feeder_id
    for point in store.history(feeder_id, pair, model_type=settings.model_type):
        if point.time_ns == time_ns:
            with suppress(SchemaError):
                return point.build_record(feeder_id)
    return None


def _load_newest_sides(
    settings: BotSettings, store: ParameterStore, pairs: Sequence[str]
) -> _Sources:
    """Return what a reload now would find."""
    latest = store.latest(settings.feeder_id, pairs, model_type=settings.model_type)
    errors = make_console(stderr=True)
    for line in group_notes(latest.notes):
        errors.print(f"passed over: {line}", markup=False)
    sides: _Sources = dict.fromkeys(pairs, "no record in the store")
    for pair, time_ns in latest.expired.items():
        sides[pair] = f"the newest record, of {format_time_ns(time_ns)}, has expired"
    sides |= {
        pair: f"the newest record is invalid: {n.reason}" for pair, n in latest.rejected.items()
    }
    return sides | {pair: DiffSource.of_record(r, "store") for pair, r in latest.records.items()}


def _load_stored_sides(
    settings: BotSettings, store: ParameterStore, pairs: Sequence[str], moment: Moment
) -> _Sources:
    """Return what each pair had at a moment."""
    sides: _Sources = {}
    for pair in pairs:
        try:
            record = load_record_at(store, settings, pair, moment)
        except SettingsError as error:
            sides[pair] = str(error)
        else:
            sides[pair] = DiffSource.of_record(record, "store")
    return sides


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Both sides of one pair, each a set or the reason why there is none."""

    feeder_id: str
    pair: str
    old: DiffSource | str
    new: DiffSource | str

    @property
    def differences(self) -> list[Difference] | None:
        """Return what differs; None where a side is missing."""
        if isinstance(self.old, str) or isinstance(self.new, str):
            return None
        return find_differences(self.old, self.new)

    @property
    def problem(self) -> str:
        """Return why a side is missing; empty where both are there."""
        return next((side for side in (self.old, self.new) if isinstance(side, str)), "")

    def to_dict(self) -> dict[str, Any]:
        """Return the form that ``--json`` prints."""
        found = self.differences
        return {
            "feeder_id": self.feeder_id,
            "pair": self.pair,
            "old": _side_document(self.old),
            "new": _side_document(self.new),
            "differences": None if found is None else [asdict(one) for one in found],
        }

    def print(self, console: Console) -> None:
        """Print the sides, and one line for each field that differs."""
        found = self.differences
        lines = [f"{self.feeder_id} {self.pair}", f"  old: {self.old}", f"  new: {self.new}"]
        if found is not None:
            width = max((len(one.name) for one in found), default=0)
            lines += [f"  {one.name:<{width}}  {_change_text(one)}" for one in found]
            lines += [] if found else ["  no difference"]
        console.print("\n".join(lines), markup=False)


def _side_document(side: DiffSource | str) -> dict[str, object]:
    if isinstance(side, str):
        return {"problem": side}
    return {"where": side.where, "time": side.time_text, "origin": side.facts}


def _change_text(one: Difference) -> str:
    """Return old -> new with as few digits as tell them apart.

    Examples
    --------
    >>> _change_text(Difference("skill", None, 1 / 3)), _change_text(Difference("skill", 0.1, 0.1 + 1e-9))
    ('- -> 0.333333', '0.1 -> 0.100000001')
    """
    shown = ["-" if value is None else f"{value:.6g}" for value in (one.old, one.new)]
    if shown[0] == shown[1]:
        shown = [repr(value) for value in (one.old, one.new)]
    return " -> ".join(shown)
