"""``feeder init-store`` and ``feeder flush``: prepare the store, deliver the outbox."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feeder_mixin.cli.common import (
    ChosenStore,
    feeder_options,
    feeder_store,
    make_console,
    print_json,
)
from feeder_mixin.cli.feeders import for_each_bot, mixed_code
from feeder_mixin.errors import StoreError
from feeder_mixin.settings import BotSettings

if TYPE_CHECKING:
    from feeder_mixin.stores.influx_buckets import Bucket

logger = logging.getLogger(__name__)


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    init = commands.add_parser(
        "init-store",
        parents=[feeder_options()],
        help="prepare the store for the feeder (InfluxDB: create its bucket)",
    )
    init.set_defaults(run=run_init_store)
    flush = commands.add_parser(
        "flush",
        parents=[feeder_options()],
        help="deliver results that could not be written to the store",
    )
    flush.set_defaults(run=run_flush)


def run_init_store(arguments: argparse.Namespace) -> int:
    """Make what each feeder needs in its store; say what was found and what was made."""
    made = for_each_bot(arguments, lambda settings: _make_one(settings, arguments))
    _add_shared_commands(made.results)
    if arguments.json:
        print_json([place.document for place in made.results])
    else:
        _print_shared_commands(made.results)
    return made.exit_code


@dataclass(frozen=True, slots=True)
class _Place:
    """What init-store says of one feeder; `bucket` and `org` where its store is an InfluxDB."""

    document: dict[str, Any]
    bucket: Bucket | None
    org: str | None


def _make_one(settings: BotSettings, arguments: argparse.Namespace) -> _Place:
    """Find or make a feeder's place in its store, and print that."""
    from feeder_mixin.stores.influx import InfluxStore

    feeder_id, bucket, org = settings.feeder_id, None, None
    with feeder_store(settings, arguments) as chosen:
        if isinstance(chosen.store, InfluxStore):
            bucket, org = chosen.store.make_bucket(feeder_id), chosen.store.org
        chosen.store.ping()
    document = {"feeder_id": feeder_id, "store": chosen.url}
    document |= _describe(feeder_id, bucket, org)
    if not arguments.json:
        _print_place(feeder_id, chosen, document)
    return _Place(document, bucket, org)


def _describe(feeder_id: str, bucket: Bucket | None, org: str | None) -> dict[str, Any]:
    """Return what was found or made for a feeder, as init-store shows it."""
    if bucket is None or org is None:
        return {"state": "nothing to create: the first write creates the table"}
    warning = None
    if bucket.keeps_s is not None:
        warning = (
            f"bucket {bucket.name} deletes points older than {bucket.keeps_text}, records too: "
            f"influx bucket update --id {bucket.id} --retention 0"
        )
    return {
        "state": f"bucket {bucket.name} {'created' if bucket.is_new else 'exists already'}",
        "bucket_id": bucket.id,
        "made": bucket.is_new,
        "retention_s": bucket.keeps_s,
        "warning": warning,
        "token_commands": _token_commands(org, feeder_id, [bucket]),
    }


def _token_commands(org: str, whose: str, buckets: Sequence[Bucket]) -> dict[str, str]:
    """Return the commands that create tokens with the least rights for bot and optimizer."""
    command = f"influx auth create --org {shlex.quote(org)} --description"
    read = " ".join(f"--read-bucket {bucket.id}" for bucket in buckets)
    write = " ".join(f"--write-bucket {bucket.id}" for bucket in buckets)
    return {
        "bot": f"{command} {shlex.quote(f'bot {whose}')} {read}",
        "optimizer": f"{command} {shlex.quote(f'optimizer {whose}')} {read} {write}",
    }


def _add_shared_commands(places: Sequence[_Place]) -> None:
    """Give each feeder of one server the commands for a token that serves all of them there.

    One token is read from FEEDER_STORE_TOKEN whatever the feeders: that of one would not open the
    buckets of the others.
    """
    by_store: dict[str, list[_Place]] = {}
    for place in places:
        if place.bucket is not None:
            by_store.setdefault(place.document["store"], []).append(place)
    for own in by_store.values():
        ids = " ".join(place.document["feeder_id"] for place in own)
        buckets = [place.bucket for place in own if place.bucket is not None]
        commands = _token_commands(own[0].org or "", ids, buckets)
        for place in own:
            place.document["shared_token_commands"] = commands


def _print_place(feeder_id: str, chosen: ChosenStore, place: Mapping[str, Any]) -> None:
    console = make_console()
    console.print(f"{feeder_id}: {place['state']}, in {chosen}", markup=False)
    if place.get("warning"):
        logger.warning("%s", place["warning"])
    for role, command in place.get("token_commands", {}).items():
        console.print(f"  a token for its {role}: {command}", markup=False)


def _print_shared_commands(places: Sequence[_Place]) -> None:
    """Print the tokens that serve all feeders at once, and what an optimizer's may do beside."""
    console = make_console()
    documents = [place.document for place in places if place.bucket is not None]
    stores = {document["store"]: document["shared_token_commands"] for document in documents}
    for store, commands in stores.items():
        feeders = [d["feeder_id"] for d in documents if d["store"] == store]
        if len(feeders) > 1:
            console.print(
                f"one token for {', '.join(feeders)}, which all read the same FEEDER_STORE_TOKEN:",
                markup=False,
            )
            for role, command in commands.items():
                console.print(f"  for every {role}: {command}", markup=False)
    if documents:
        console.print(
            "A token that may write a bucket may also delete it: InfluxDB can't separate this. Keep the "
            "optimizer's token off the bots' hosts, and keep a copy of the records (feeder export).",
            markup=False,
        )


def run_flush(arguments: argparse.Namespace) -> int:
    """Deliver the outbox of every chosen feeder; return the exit code."""
    flushed = for_each_bot(arguments, lambda settings: _flush_one(settings, arguments))
    if arguments.json:
        print_json(flushed.results)
    n_fine = sum(document["error"] is None for document in flushed.results)
    n_failed = len(flushed.results) - n_fine + len(flushed.failures)
    # Where no error came of a delivery, those of settings keep their own code.
    return flushed.exit_code if n_fine == len(flushed.results) else mixed_code(n_fine, n_failed)


def _flush_one(settings: BotSettings, arguments: argparse.Namespace) -> dict[str, Any]:
    """Deliver a feeder's outbox; where nothing waits, ask whether the store is there at all."""
    from feeder_mixin.stores.outbox import Outbox

    feeder_id = settings.feeder_id
    with (
        closing(Outbox(settings.outbox_path)) as outbox,
        feeder_store(settings, arguments) as chosen,
    ):
        delivered = outbox.deliver(chosen.store)
        n_done, error = len(delivered.records), delivered.error
        if n_done or delivered.remaining:
            said = f"{n_done} delivered to {chosen}, {delivered.remaining} remain"
        else:
            said = f"0 delivered to {chosen}, nothing waits"
            try:
                chosen.store.ping()
            except StoreError as problem:
                said, error = f"nothing waits, but {chosen} can't be used", problem
    if not arguments.json:
        reason = "" if error is None else f": {error}"
        console = make_console(stderr=error is not None)
        console.print(f"{feeder_id}: {said}{reason}", markup=False)
    return {
        "feeder_id": feeder_id,
        "store": chosen.url,
        "delivered": n_done,
        "remaining": delivered.remaining,
        "error": None if error is None else str(error),
    }
