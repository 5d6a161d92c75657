"""``feeder init-store`` and ``feeder flush``: make the places of records, deliver what waits."""

from __future__ import annotations

import argparse

from feeder_mixin.cli.common import (
    chosen_feeders,
    feeder_options,
    feeder_store,
    make_console,
    print_json,
)
from feeder_mixin.schema import bucket_name


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    init = commands.add_parser(
        "init-store",
        parents=[feeder_options()],
        help="make the feeder's place in the store (InfluxDB: its bucket)",
    )
    init.set_defaults(run=run_init_store)
    flush = commands.add_parser(
        "flush",
        parents=[feeder_options()],
        help="deliver results that could not be written to the store",
    )
    flush.set_defaults(run=run_flush)


def run_init_store(arguments: argparse.Namespace) -> int:
    """Make what a feeder needs in its store; say what was found and what was made."""
    from feeder_mixin.stores.influx import InfluxStore

    documents = []
    for settings in chosen_feeders(arguments):
        with feeder_store(settings, arguments) as chosen:
            if isinstance(chosen.store, InfluxStore):
                made = chosen.store.create_bucket(settings.feeder_id)
                place = f"bucket {bucket_name(settings.feeder_id)}"
                state = f"{place} {'made' if made else 'was there'}"
            else:
                state = "nothing to make: the table is made by the first write"
            chosen.store.ping()
        documents.append({"feeder_id": settings.feeder_id, "store": chosen.url, "state": state})
        if not arguments.json:
            make_console().print(f"{settings.feeder_id}: {state}, in {chosen}", markup=False)
    if arguments.json:
        print_json(documents)
    return 0


def run_flush(arguments: argparse.Namespace) -> int:
    """Deliver the outbox of every chosen feeder; return the exit code."""
    from feeder_mixin.stores.outbox import Outbox

    documents, code = [], 0
    for settings in chosen_feeders(arguments):
        outbox = Outbox(settings.outbox_path)
        with feeder_store(settings, arguments) as chosen:
            delivered = outbox.deliver(chosen.store)
        outbox.close()
        code = max(code, int(delivered.error is not None))
        documents.append(
            {
                "feeder_id": settings.feeder_id,
                "store": chosen.url,
                "delivered": len(delivered.records),
                "remaining": delivered.remaining,
                "error": None if delivered.error is None else str(delivered.error),
            }
        )
        if not arguments.json:
            console = make_console(stderr=delivered.error is not None)
            reason = "" if delivered.error is None else f": {delivered.error}"
            console.print(
                f"{settings.feeder_id}: {len(delivered.records)} delivered to {chosen}, "
                f"{delivered.remaining} remain{reason}",
                markup=False,
            )
    if arguments.json:
        print_json(documents)
    return code
