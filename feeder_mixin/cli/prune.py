"""``feeder prune``: the one command that deletes, and only what is old and not in use."""

from __future__ import annotations

import argparse
import math
from typing import Any, Final

from feeder_mixin.cli.common import (
    count,
    feeder_options,
    feeder_store,
    make_console,
    print_json,
)
from feeder_mixin.cli.feeders import for_each_bot
from feeder_mixin.commands import feeder_command
from feeder_mixin.errors import SettingsError, StoreError
from feeder_mixin.live.state.in_use import load_versions_in_use
from feeder_mixin.schema import CANDIDATES, NANOSECONDS, format_time_ns
from feeder_mixin.settings import BotSettings
from feeder_mixin.stores.base import ParameterStore, now_ns
from feeder_mixin.stores.operations.retention import PrunablePoints, find_prunable

_LEAST_DAYS: Final = 1.0
"""A key younger than this might be taken again by a writer whose clock is a little behind."""
_MOST_DAYS: Final = 36_500.0
_DAY_S: Final = 86_400


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    prune = commands.add_parser(
        "prune",
        parents=[feeder_options()],
        help="delete old records that no bot uses",
        description="Delete stored records and candidates older than so many days, delivered entries of "
        "the outbox and closed runs of the journal. Kept: each pair's newest record, what the bot on "
        "this machine has loaded, serves or keeps as last good copy, and what is not delivered yet.",
    )
    prune.add_argument(
        "--older-than",
        type=float,
        required=True,
        metavar="DAYS",
        help=f"age in days from which to delete, at least {_LEAST_DAYS:g}",
    )
    prune.add_argument(
        "--dry-run", action="store_true", help="say what would be deleted, delete nothing"
    )
    prune.set_defaults(run=run_prune)


def run_prune(arguments: argparse.Namespace) -> int:
    """Prune the chosen feeders one after the other."""
    days = arguments.older_than
    if not (math.isfinite(days) and _LEAST_DAYS <= days <= _MOST_DAYS):
        raise SettingsError(
            f"--older-than {days:g}: expected days from {_LEAST_DAYS:g} to {_MOST_DAYS:g}"
        )
    pruned = for_each_bot(arguments, lambda settings: _prune(settings, arguments))
    if arguments.json:
        print_json(pruned.results)
    return pruned.exit_code


def _prune(settings: BotSettings, arguments: argparse.Namespace) -> dict[str, Any]:
    """Delete what may go of one feeder, and return what that was."""
    now = now_ns()
    before_ns = max(0, now - int(arguments.older_than * _DAY_S * NANOSECONDS))
    in_use = load_versions_in_use(settings)
    console, deleted = make_console(), []
    verb = "would be deleted" if arguments.dry_run else "deleted"
    with feeder_store(settings, arguments) as chosen:
        for doomed in find_prunable(chosen.store, settings.feeder_id, before_ns, in_use, now):
            if not arguments.dry_run:
                _delete(chosen.store, settings.feeder_id, doomed)
            deleted += _documents(doomed)
            if not arguments.json:
                kind = "candidate" if doomed.measurement == CANDIDATES else "record"
                for time_ns in doomed.times_ns:
                    console.print(
                        f"{settings.feeder_id} {doomed.pair}: {kind} of {format_time_ns(time_ns)} "
                        f"{verb}",
                        markup=False,
                    )
    n_entries, n_runs = _prune_state(settings, before_ns, dry_run=arguments.dry_run)
    if not arguments.json:
        console.print(
            f"{settings.feeder_id}: {count(len(deleted), 'point')} {verb}, older than "
            f"{format_time_ns(before_ns)[:19]}Z, in {chosen}; here {n_entries} delivered outbox entries, "
            f"{count(n_runs, 'closed run')} of the journal",
            markup=False,
        )
    return {
        "feeder_id": settings.feeder_id,
        "store": chosen.url,
        "before": format_time_ns(before_ns),
        "dry_run": arguments.dry_run,
        "points": deleted,
        "outbox_entries": n_entries,
        "journal_runs": n_runs,
    }


def _delete(store: ParameterStore, feeder_id: str, doomed: PrunablePoints) -> None:
    try:
        store.delete(
            feeder_id,
            doomed.pair,
            doomed.times_ns,
            doomed.measurement,
            model_type=doomed.model_type,
        )
    except StoreError as error:
        raise type(error)(
            f"{error}; of {count(len(doomed.times_ns), 'point')} of {doomed.pair} some may be deleted; "
            "run the same command again"
        ) from error


def _documents(doomed: PrunablePoints) -> list[dict[str, str]]:
    return [
        {"measurement": doomed.measurement, "pair": doomed.pair, "time": format_time_ns(time_ns)}
        for time_ns in doomed.times_ns
    ]


def _prune_state(settings: BotSettings, before_ns: int, *, dry_run: bool) -> tuple[int, int]:
    """Prune outbox and journal on this machine; return how many entries and runs went."""
    from feeder_mixin.stores.outbox import Outbox
    from feeder_mixin.tune.run.journal import Journal

    n_runs, free_ns = 0, before_ns
    if settings.journal_path.exists():
        with Journal(settings.journal_path) as journal:
            n_runs = journal.prune(before_ns / NANOSECONDS, dry_run=dry_run)
            oldest_s = journal.oldest_unclosed_s()
        if oldest_s is not None and oldest_s < before_ns / NANOSECONDS:
            free_ns = int(oldest_s * NANOSECONDS)
            make_console(stderr=True).print(
                f"{settings.feeder_id}: outbox entries since {format_time_ns(free_ns)[:19]}Z "
                "are kept: a tuning begun then was interrupted and can be resumed; to discard it: "
                f"{feeder_command(settings, 'optimize', '--fresh')}",
                markup=False,
            )
    outbox = Outbox(settings.outbox_path)
    n_entries = outbox.prune(settings.feeder_id, free_ns, dry_run=dry_run)
    outbox.close()
    return n_entries, n_runs
