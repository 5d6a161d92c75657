"""``feeder export`` and ``feeder import``: a store's content as JSON lines, and back."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from feeder_mixin.cli.common import (
    check_known,
    chosen_bots,
    count,
    feeder_options,
    feeder_store,
    make_console,
    print_json,
)
from feeder_mixin.cli.feeders import for_each_bot
from feeder_mixin.cli.streams import print_utf8
from feeder_mixin.errors import SettingsError, StoreError
from feeder_mixin.live.state.files import write_private
from feeder_mixin.schema import MEASUREMENT, refusal
from feeder_mixin.settings import BotSettings
from feeder_mixin.stores.base import now_ns
from feeder_mixin.stores.notes import group_notes, group_pairs
from feeder_mixin.stores.operations.transfer import (
    MEASUREMENTS,
    Entry,
    StoreDump,
    format_line,
    load_dump,
    read_lines,
)


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    export = commands.add_parser(
        "export",
        parents=[feeder_options()],
        help="print every stored record and candidate as one line of JSON, oldest first",
    )
    export.add_argument(
        "--pairs",
        nargs="+",
        action="extend",
        metavar="P",
        help="only these pairs (all that the store has, also those that left the config)",
    )
    export.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write there instead of to stdout, whole or not at all",
    )
    export.set_defaults(run=run_export)
    import_ = commands.add_parser(
        "import",
        parents=[feeder_options()],
        help="import an export into the store, with the records' original times",
        description="Import an export into the store, with the records' original times; a second import "
        "changes nothing. Every line is checked before the first is written; lines of other feeders are "
        "left out and counted.",
    )
    import_.add_argument("file", metavar="FILE", help="file that export wrote; - reads stdin")
    import_.set_defaults(run=run_import)


def run_export(arguments: argparse.Namespace) -> int:
    """Print or write the copies of all chosen feeders; what can't be exported is said on stderr."""
    if arguments.json and arguments.out is None:
        raise SettingsError("--json needs --out: without it, stdout already has JSON lines")
    exported = for_each_bot(arguments, lambda settings: _export_one(settings, arguments))
    documents = [document for document, _ in exported.results]
    text = "".join(f"{line}\n" for _, lines in exported.results for line in lines)
    if arguments.out is None:
        print_utf8(text)
    elif exported.results:
        write_private(arguments.out, text)
        if exported.failures:
            make_console(stderr=True).print(
                f"{arguments.out} lacks {', '.join(exported.failures)}", markup=False
            )
    if arguments.json:
        print_json(documents)
    return exported.exit_code


def _export_one(
    settings: BotSettings, arguments: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    """Return what is said of a feeder's copy, and its lines."""
    errors = make_console(stderr=True)
    with feeder_store(settings, arguments) as chosen:
        copy = load_dump(chosen.store, settings.feeder_id, arguments.pairs)
    known = {entry.record.pair for entry in copy.entries} | {note.pair for note in copy.invalid}
    check_known(settings, arguments.pairs or (), known)
    for line in group_notes(copy.invalid):
        errors.print(f"{settings.feeder_id}: not exported, no valid record: {line}", markup=False)
    errors.print(
        f"{settings.feeder_id}: {_counts_text(copy.entries)} exported from {chosen}", markup=False
    )
    document = {
        "feeder_id": settings.feeder_id,
        "store": chosen.url,
        **_counts(copy.entries),
        "invalid": [str(note) for note in copy.invalid],
    }
    return document, [format_line(entry) for entry in copy.entries]


def run_import(arguments: argparse.Namespace) -> int:
    """Check the whole file, then write what belongs to the chosen feeders."""
    feeders = chosen_bots(arguments)
    copy = _read_file(arguments.file, [settings.feeder_id for settings in feeders])
    imported = for_each_bot(
        arguments, lambda settings: _import_one(settings, copy, arguments), feeders
    )
    if arguments.json:
        print_json(imported.results)
    return imported.exit_code


def _import_one(
    settings: BotSettings, copy: StoreDump, arguments: argparse.Namespace
) -> dict[str, Any]:
    own = [one for one in copy.entries if one.record.feeder_id == settings.feeder_id]
    with feeder_store(settings, arguments) as chosen:
        for measurement in MEASUREMENTS:
            records = [one.record for one in own if one.measurement == measurement]
            try:
                chosen.store.write(records, measurement)
            except StoreError as error:
                raise type(error)(
                    f"{error}; what was written before is kept, run the same command again"
                ) from error
    _say_misfits(settings, own)
    if not arguments.json:
        make_console().print(f"{settings.feeder_id}: {_counts_text(own)} in {chosen}", markup=False)
    return {"feeder_id": settings.feeder_id, "store": chosen.url, **_counts(own)}


def _say_misfits(settings: BotSettings, entries: Sequence[Entry]) -> None:
    """Say which records are kept here, but would be rejected by a bot: one reason once."""
    from feeder_mixin.market.candles import timeframe_seconds  # pandas, freqtrade

    timeframe_s = timeframe_seconds(settings.timeframe)
    reasons = {}
    for one in entries:
        reason = refusal(one.record, settings, timeframe_s)
        if one.measurement == MEASUREMENT and reason is not None:
            reasons[one.record.pair] = reason
    for pairs, reason in group_pairs(reasons):
        make_console(stderr=True).print(
            f"{settings.feeder_id}: bots reject imported records of {', '.join(pairs)}: {reason}",
            markup=False,
        )


def _read_file(name: str, feeder_ids: Sequence[str]) -> StoreDump:
    """Return what the file holds for the feeders; say what it holds for others."""
    try:
        content = _read_stdin() if name == "-" else Path(name).read_bytes()
        # At "\n" only: a text of the provenance may hold other ends of line.
        copy = read_lines(content.decode("utf-8").split("\n"), feeder_ids)
    except OSError as error:
        raise SettingsError(f"{name} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name} is not UTF-8 text: {error}") from error
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error
    foreign = ", ".join(f"{feeder} {n}" for feeder, n in sorted(copy.n_foreign.items()))
    if foreign and not copy.entries:
        raise SettingsError(f"{name} has no record of {', '.join(feeder_ids)}, only of {foreign}")
    errors = make_console(stderr=True)
    if foreign:
        errors.print(f"lines of other feeders left out: {foreign}", markup=False)
    now = now_ns()
    n_future = sum(one.record.time_ns > now for one in copy.entries)
    if n_future:
        errors.print(
            f"{count(n_future, 'record')} dated in the future: no bot reads it before that time",
            markup=False,
        )
    return copy


def _read_stdin() -> bytes:
    stdin: TextIO | None = sys.stdin  # None where the process was started with it closed
    if stdin is None:
        raise OSError(errno.EBADF, "stdin is closed")
    return stdin.buffer.read()


def _counts(entries: Sequence[Entry]) -> dict[str, int]:
    records, candidates = (sum(e.measurement == m for e in entries) for m in MEASUREMENTS)
    return {"records": records, "candidates": candidates}


def _counts_text(entries: Sequence[Entry]) -> str:
    counts = _counts(entries)
    return f"{count(counts['records'], 'record')}, {count(counts['candidates'], 'candidate')}"
