"""``feeder init-store`` and ``feeder flush``: make the places of records, deliver what waits."""

from __future__ import annotations

import argparse
import logging
import shlex
from typing import Any

from feeder_mixin.cli.common import (
    ChosenStore,
    chosen_feeders,
    feeder_options,
    feeder_store,
    make_console,
    print_json,
)
from feeder_mixin.stores.base import ParameterStore

logger = logging.getLogger(__name__)


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
    documents = []
    for settings in chosen_feeders(arguments):
        with feeder_store(settings, arguments) as chosen:
            place = _make_place(chosen.store, settings.feeder_id)
            chosen.store.ping()
        documents.append({"feeder_id": settings.feeder_id, "store": chosen.url, **place})
        if not arguments.json:
            _print_place(settings.feeder_id, chosen, place)
    if arguments.json:
        print_json(documents)
    return 0


def _make_place(store: ParameterStore, feeder_id: str) -> dict[str, Any]:
    """Return what was found or made for a feeder, as init-store shows it."""
    from feeder_mixin.stores.influx import InfluxStore

    if not isinstance(store, InfluxStore):
        return {"state": "nothing to make: the table is made by the first write"}
    bucket = store.make_bucket(feeder_id)
    command = f"influx auth create --org {shlex.quote(store.org)} --description"
    read, write = f"--read-bucket {bucket.id}", f"--write-bucket {bucket.id}"
    warning = None
    if bucket.keeps_s is not None:
        warning = (
            f"bucket {bucket.name} drops points older than {bucket.keeps_text}, records "
            f"with them: influx bucket update --id {bucket.id} --retention 0"
        )
    return {
        "state": f"bucket {bucket.name} {'made' if bucket.is_new else 'was there'}",
        "bucket_id": bucket.id,
        "made": bucket.is_new,
        "retention_s": bucket.keeps_s,
        "warning": warning,
        "token_commands": {
            "bot": f"{command} 'bot {feeder_id}' {read}",
            "optimizer": f"{command} 'optimizer {feeder_id}' {read} {write}",
        },
    }


def _print_place(feeder_id: str, chosen: ChosenStore, place: dict[str, Any]) -> None:
    console = make_console()
    console.print(f"{feeder_id}: {place['state']}, in {chosen}", markup=False)
    if place.get("warning"):
        logger.warning("%s", place["warning"])
    for role, command in place.get("token_commands", {}).items():
        console.print(f"  a token for its {role}: {command}", markup=False)


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
