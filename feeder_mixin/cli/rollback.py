"""``feeder rollback``: make bots run again what they ran at an earlier time."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feeder_mixin.cli.bot_commands import reload_after_writing
from feeder_mixin.cli.common import (
    ChosenStore,
    chosen_bots,
    count,
    feeder_options,
    feeder_store,
    make_console,
    print_json,
)
from feeder_mixin.cli.feeders import for_each_bot, mixed_code
from feeder_mixin.errors import StoreError
from feeder_mixin.schema import ParameterRecord, format_time_ns
from feeder_mixin.settings import BotSettings
from feeder_mixin.stores.base import now_ns
from feeder_mixin.stores.operations.point_in_time import Moment, parse_moment
from feeder_mixin.stores.operations.rollback import RollbackStep, plan_rollback

if TYPE_CHECKING:
    from feeder_mixin.stores.outbox import Delivered, Outbox


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    rollback = commands.add_parser(
        "rollback",
        parents=[feeder_options()],
        help="write an earlier record of a pair again, as its newest",
        description="Append a copy of the record that each pair had at a time: nothing is deleted, "
        "and another rollback undoes it. Either every pair can go back, or nothing is "
        "written.",
    )
    which = rollback.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--pair", nargs="+", action="extend", metavar="P", dest="pairs", help="these pairs"
    )
    which.add_argument("--all", action="store_true", help="every pair of the feeder")
    rollback.add_argument(
        "--to",
        required=True,
        metavar="TIME",
        help="a record's time as shown by history, show or status, or any time: then the newest record "
        "not after it; RFC 3339 with a zone, 2026-11-24T03:43:45Z",
    )
    rollback.add_argument(
        "--reload",
        action="store_true",
        help="then make the feeder's bot on this machine, if one runs, load the records",
    )
    rollback.set_defaults(run=run_rollback)


@dataclass(frozen=True, slots=True)
class _Rollback:
    """One feeder's part: what is to be done, and where."""

    settings: BotSettings
    chosen: ChosenStore
    outbox: Outbox
    steps: Sequence[RollbackStep]
    earlier: Sequence[ParameterRecord]
    """Records that waited in the outbox and were delivered before anything was planned."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a rollback did: pair -> its copy, delivered or waiting in the outbox."""

    delivered: Mapping[str, ParameterRecord]
    waiting: Mapping[str, ParameterRecord]
    error: StoreError | None


def run_rollback(arguments: argparse.Namespace) -> int:
    """Take the chosen feeders back; return 1 when none got there, 3 when some did."""
    moment = parse_moment("--to", arguments.to, now_ns())
    feeders = chosen_bots(arguments)
    with ExitStack() as stack:
        # All are planned before anything is written.
        plans = {s.feeder_id: _plan(s, moment, arguments, stack) for s in feeders}
        outcomes = for_each_bot(
            arguments, lambda s: _carry_out(plans[s.feeder_id], arguments), feeders
        )
    if arguments.json:
        print_json([document for document, _ in outcomes.results])
    n_done = sum(is_done for _, is_done in outcomes.results)
    return mixed_code(n_done, len(feeders) - n_done)


def _plan(
    settings: BotSettings, moment: Moment, arguments: argparse.Namespace, stack: ExitStack
) -> _Rollback:
    """Return a feeder's part; its lock and its store are held until `stack` ends."""
    from feeder_mixin.market.candles import timeframe_seconds
    from feeder_mixin.stores.outbox import Outbox
    from feeder_mixin.tune.run.lock import feeder_lock

    # Locked: an optimizer at work has its champion from before, and would write on top of this.
    stack.enter_context(feeder_lock(settings))
    chosen = stack.enter_context(feeder_store(settings, arguments))
    outbox = Outbox(settings.outbox_path)
    stack.callback(outbox.close)
    # First, so that what waits from earlier is older than the copies there, too.
    earlier = outbox.deliver(chosen.store)
    _say_earlier(settings, chosen, earlier)
    pairs = settings.chosen_pairs(arguments.pairs)
    timeframe_s = timeframe_seconds(settings.timeframe)
    steps = plan_rollback(settings, chosen.store, pairs, moment, timeframe_s)
    return _Rollback(settings, chosen, outbox, steps, earlier.records)


def _carry_out(rollback: _Rollback, arguments: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Write a feeder's copies and reload its bot; return the document, and whether all went well."""
    settings, chosen = rollback.settings, rollback.chosen
    outcome = _write_copies(rollback)
    if not arguments.json:
        _print_steps(rollback, outcome)
    document = {
        "feeder_id": settings.feeder_id,
        "store": chosen.url,
        "to": arguments.to,
        "delivered": outcome.error is None,
        "delivered_from_outbox": len(rollback.earlier),
        "pairs": {step.target.pair: _step_document(step, outcome) for step in rollback.steps},
    }
    if outcome.error is not None or not arguments.reload:
        _say(settings, chosen, outcome.error)
        return document, outcome.error is None
    document["reload"], is_done = reload_after_writing(settings, chosen, arguments)
    return document, is_done


def _write_copies(rollback: _Rollback) -> _Outcome:
    """Enter the copies that are needed into the outbox, deliver it, and return what came of each.

    A copy that an earlier rollback left in the outbox is not entered again.
    """
    outbox, feeder_id = rollback.outbox, rollback.settings.feeder_id
    needed = [step for step in rollback.steps if step.is_needed]
    if not needed:
        return _Outcome({}, {}, None)
    _set_aside_tuning(rollback.settings, [step.target.pair for step in needed])
    now, copies, waiting = (
        now_ns(),
        {},
        outbox.newest_waiting(feeder_id, rollback.settings.model_type),
    )
    for step in needed:
        pair = step.target.pair
        is_there = step.is_copied_by(waiting.get(pair))
        copies[pair] = waiting[pair] if is_there else outbox.put(step.make_copy(now))
    result = outbox.deliver(rollback.chosen.store)
    done = {pair: copy for pair, copy in copies.items() if copy in result.records}
    left = {pair: copy for pair, copy in copies.items() if pair not in done}
    return _Outcome(done, left, result.error)


def _say_earlier(settings: BotSettings, chosen: ChosenStore, earlier: Delivered) -> None:
    """Say at once what came of earlier results: the rollback itself may still end in an error."""
    for record in earlier.records:
        make_console(stderr=True).print(
            f"{settings.feeder_id} {record.pair}: {format_time_ns(record.time_ns)} waited in the "
            "outbox and is written now",
            markup=False,
        )
    _say(settings, chosen, earlier.error)


def _say(settings: BotSettings, chosen: ChosenStore, error: StoreError | None) -> None:
    if error is not None:
        deliver = chosen.command(settings, "flush")
        make_console(stderr=True).print(
            f"{settings.feeder_id}: {error}\nTo deliver: {deliver}", markup=False
        )


def _set_aside_tuning(settings: BotSettings, pairs: Sequence[str]) -> None:
    """Cancel interrupted tunings of these pairs: they compared against the replaced record."""
    from feeder_mixin.tune.run.journal import Journal

    if not pairs or not settings.journal_path.exists():
        return
    with Journal(settings.journal_path) as journal:
        n_runs = journal.set_aside(pairs)
    if n_runs:
        make_console(stderr=True).print(
            f"{settings.feeder_id}: {count(n_runs, 'interrupted tuning')} cancelled: compared "
            "against the record that was replaced; feeder optimize starts anew",
            markup=False,
        )


def _step_document(step: RollbackStep, outcome: _Outcome) -> dict[str, object]:
    pair = step.target.pair
    record = outcome.delivered.get(pair) or outcome.waiting.get(pair)
    return {
        "from": None if step.newest is None else format_time_ns(step.newest.time_ns),
        "to": format_time_ns(step.target.time_ns),
        "record": None if record is None else record.to_dict(),
        "delivered": None if record is None else pair in outcome.delivered,
    }


def _print_steps(rollback: _Rollback, outcome: _Outcome) -> None:
    console, feeder_id = make_console(), rollback.settings.feeder_id
    for step in rollback.steps:
        target = step.target
        if copy := outcome.delivered.get(target.pair):
            said = f"is written again as {format_time_ns(copy.time_ns)}"
        elif copy := outcome.waiting.get(target.pair):
            said = (
                f"is not written yet: its copy, {format_time_ns(copy.time_ns)}, waits in the outbox"
            )
        else:
            said = "has the values of the newest record, nothing is written"
        console.print(
            f"{feeder_id} {target.pair}: {format_time_ns(target.time_ns)} {said}", markup=False
        )
    n_earlier = len(rollback.earlier)
    if n_written := len(outcome.delivered) + n_earlier:
        waited = f", {n_earlier} of which waited in the outbox" if n_earlier else ""
        console.print(
            f"{count(n_written, 'record')} written to {rollback.chosen}{waited}; compare with the running "
            f"bot: {rollback.chosen.command(rollback.settings, 'diff')}",
            markup=False,
        )
