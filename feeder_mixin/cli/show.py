"""``feeder show``, ``feeder history`` and ``feeder settings``: what is stored, what is set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

from rich.console import Console

from feeder_mixin.cli.common import (
    ChosenStore,
    check_known,
    count,
    feeder_options,
    feeder_store,
    make_console,
    print_json,
)
from feeder_mixin.cli.feeders import for_each_bot
from feeder_mixin.commands import feeder_command
from feeder_mixin.errors import SettingsError
from feeder_mixin.reports.records import (
    FEW_PAIRS,
    SIDE_BY_SIDE,
    describe_decision,
    record_lines,
    record_table,
    record_tolerance,
)
from feeder_mixin.schema import (
    CANDIDATES,
    MEASUREMENT,
    ParameterRecord,
    format_time_ns,
    parameter_problems,
)
from feeder_mixin.settings import FREQAI_MODEL_TYPE, BotSettings
from feeder_mixin.stores.base import Latest, ParameterStore
from feeder_mixin.stores.notes import describe_unused, group_pairs, some
from feeder_mixin.stores.other_type import load_other_type

_LIMIT: Final = 20


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    show = commands.add_parser(
        "show",
        parents=[feeder_options()],
        help="print the latest record of every pair, and why it was written",
    )
    show.add_argument("--pairs", nargs="+", action="extend", metavar="P", help="only these pairs")
    _add_candidates_option(show)
    show.set_defaults(run=run_show)
    history = commands.add_parser(
        "history", parents=[feeder_options()], help="print a pair's stored records, newest first"
    )
    history.add_argument(
        "--pairs", nargs="+", action="extend", metavar="P", help="only these pairs"
    )
    history.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help=f"records per pair ({_LIMIT}; 1 where those of over {FEW_PAIRS} pairs are printed)",
    )
    _add_candidates_option(history)
    history.set_defaults(run=run_history)
    settings = commands.add_parser(
        "settings", parents=[feeder_options()], help="print a feeder's settings"
    )
    settings.set_defaults(run=run_settings)


def _add_candidates_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--candidates",
        dest="measurement",
        action="store_const",
        const=CANDIDATES,
        default=MEASUREMENT,
        help="show the refused tuned sets, which no bot reads, instead of the records",
    )


def run_show(arguments: argparse.Namespace) -> int:
    """Print the latest records; notes on what was passed over go to stderr."""
    shown = for_each_bot(arguments, lambda settings: _show_one(settings, arguments))
    if arguments.json:
        print_json([document for documents in shown.results for document in documents])
    return shown.exit_code


def _show_one(settings: BotSettings, arguments: argparse.Namespace) -> list[dict[str, object]]:
    console, errors = make_console(), make_console(stderr=True)
    wanted = arguments.pairs or settings.pairs
    with feeder_store(settings, arguments) as chosen:
        latest = chosen.store.latest(
            settings.feeder_id,
            wanted,
            measurement=arguments.measurement,
            model_type=settings.model_type,
        )
        others = _load_others(settings, chosen.store, wanted, latest, arguments)
    known = {*latest.times, *(n.pair for n in latest.notes), *others}
    check_known(settings, wanted, known)
    records = [latest.records[pair] for pair in wanted if pair in latest.records]
    for line in describe_unused(latest):
        errors.print(f"{settings.feeder_id}: {line}", markup=False)
    for pairs, reason in group_pairs(others):
        errors.print(f"{settings.feeder_id} {some(pairs)}: {reason}", markup=False)
    missing = [p for p in wanted if p not in latest.records]
    if missing:
        errors.print(_missing_text(settings, missing, chosen, arguments), markup=False)
    _say_waiting(settings, chosen, errors)
    if records and not arguments.json:
        kind = ", candidates" if arguments.measurement == CANDIDATES else ""
        console.print(f"{settings.feeder_id} {settings.kind}{kind}, store {chosen}", markup=False)
        if len(records) > SIDE_BY_SIDE:
            _print_lines(console, settings, records, len(wanted))
        else:
            console.print(record_table(records, settings))
        _say_decisions(console, records)
    return [_document_of(settings, record) for record in records]


def _document_of(settings: BotSettings, record: ParameterRecord) -> dict[str, object]:
    """Return a record as ``--json`` has it, and what this config makes of its tolerance."""
    tolerance = record_tolerance(settings, record)
    told = tolerance and {"max_adverse_ratio": tolerance.ratio, "origin": tolerance.origin}
    return {**record.to_dict(), "tolerance": told}


def _load_others(
    settings: BotSettings,
    store: ParameterStore,
    wanted: Sequence[str],
    latest: Latest,
    arguments: argparse.Namespace,
) -> dict[str, str]:
    """Return pair -> why its only records are no bot's here; of candidates nothing is said."""
    if arguments.measurement == CANDIDATES:
        return {}
    return load_other_type(store, settings, wanted, latest)


def _print_lines(
    console: Console, settings: BotSettings, records: Sequence[ParameterRecord], n_wanted: int
) -> None:
    """Print the summary, then a line a record."""
    times = sorted(record.time_ns for record in records)
    n_defaults = sum(bool(record.metrics.get("defaults_won")) for record in records)
    n_beaten = sum(record.metrics.get("beats_rule") == 0.0 for record in records)
    line = (
        f"{len(records)} of {n_wanted} pairs have a record, from {format_time_ns(times[0])[:16]}Z to "
        f"{format_time_ns(times[-1])[:16]}Z"
    )
    is_freqai = settings.model_type == FREQAI_MODEL_TYPE
    over = "the config's own values" if is_freqai else "the ATR rule"
    if not is_freqai:
        line += f"; {n_defaults} hold the defaults, nothing beat {over} for {n_beaten}"
    meaning = f"Skill over {over}, candles worse than predicted and called safe, all in percent"
    console.print(line, meaning, sep="\n", markup=False)
    console.print(record_lines(records, settings))
    one = feeder_command(settings, "show", "--pairs", records[0].pair)
    console.print(f"All fields of one: {one}", markup=False)


def _say_decisions(console: Console, records: Sequence[ParameterRecord]) -> None:
    """Print why the records were written, once for those that share it, the most common first."""
    told = {record.pair: why for record in records if (why := describe_decision(record))}
    groups = sorted(group_pairs(told), key=lambda one: -len(one[0]))
    for pairs, why in groups[:SIDE_BY_SIDE]:
        console.print(f"{some(pairs)}: {why}", markup=False)
    left = [pair for pairs, _ in groups[SIDE_BY_SIDE:] for pair in pairs]
    if left:
        console.print(f"{some(left)}: for other reasons each; --pairs P has one", markup=False)


def run_history(arguments: argparse.Namespace) -> int:
    """Print stored records newest first, invalid ones with the reason."""
    if arguments.limit is not None and arguments.limit < 1:
        raise SettingsError(f"--limit {arguments.limit}: expected 1 or more records a pair")
    told = for_each_bot(arguments, lambda settings: _tell_history(settings, arguments))
    documents = [document for own in told.results for document in own]
    if arguments.json:
        print_json(documents)
    elif told.results and not documents:
        noun = "candidate" if arguments.measurement == CANDIDATES else "record"
        make_console(stderr=True).print(f"no {noun} is stored there", markup=False)
    return told.exit_code


def _tell_history(settings: BotSettings, arguments: argparse.Namespace) -> list[dict[str, object]]:
    console, documents = make_console(), list[dict[str, object]]()
    wanted = arguments.pairs or settings.pairs
    is_long = len(wanted) > FEW_PAIRS and arguments.limit is None and not arguments.json
    limit = arguments.limit or (1 if is_long else _LIMIT)
    with feeder_store(settings, arguments) as chosen:
        for pair in wanted:
            points = chosen.store.history(
                settings.feeder_id,
                pair,
                limit,
                measurement=arguments.measurement,
                model_type=settings.model_type,
            )
            check_known(settings, [pair], [pair] if points else [])
            for point in points:
                problems = parameter_problems(point.fields)
                documents.append(
                    {
                        "feeder_id": settings.feeder_id,
                        "pair": pair,
                        "time": format_time_ns(point.time_ns),
                        "valid": not problems,
                        "problems": problems,
                        "fields": dict(point.fields),
                        "provenance": _document(point.provenance),
                    }
                )
                if not arguments.json:
                    console.print(
                        f"{settings.feeder_id} {pair} {format_time_ns(point.time_ns)} "
                        f"{'; '.join(problems) or _summary(point.fields)}",
                        markup=False,
                    )
    if is_long and documents:
        more = feeder_command(settings, "history", "--pairs", wanted[0])
        console.print(
            f"The newest of each of {len(wanted)} pairs; all of one: {more}", markup=False
        )
    return documents


def _summary(fields: Mapping[str, float | None]) -> str:
    """Return what tells a valid record from its neighbours."""
    trials, skill = fields.get("optimization_trials"), fields.get("skill")
    own = fields.get("auto_tolerance")
    parts = ["defaults" if fields.get("defaults_won") else "tuned"]
    parts += [] if trials is None else [f"{trials:.0f} trials"]
    parts += [] if skill is None else [f"test skill {100 * skill:.1f} %"]
    parts += [] if own is None else [f"own tolerance {100 * own:.2f} %"]
    return ", ".join(parts)


def _missing_text(
    settings: BotSettings,
    missing: Sequence[str],
    chosen: ChosenStore,
    arguments: argparse.Namespace,
) -> str:
    """Return which pairs have none, and how to make one."""
    if arguments.measurement == CANDIDATES:
        return f"{settings.feeder_id}: no candidate for {some(missing)} in {chosen}"
    return (
        f"{settings.feeder_id}: no record for {some(missing)} in {chosen}"
        f"{_missing_file(chosen.store)}; make one with: {chosen.command(settings, 'optimize')}"
    )


def _missing_file(store: ParameterStore) -> str:
    """Return a hint when an SQLite store's file does not exist: its path may be mistyped."""
    from feeder_mixin.stores.sql import SqlStore

    is_missing = isinstance(store, SqlStore) and store.file_is_missing
    return " (that file does not exist)" if is_missing else ""


def _say_waiting(settings: BotSettings, chosen: ChosenStore, errors: Console) -> None:
    """Say how many results of a feeder wait in its outbox."""
    from feeder_mixin.stores.outbox import Outbox

    outbox = Outbox(settings.outbox_path)
    waiting = len(outbox.pending())
    outbox.close()
    if waiting:
        errors.print(
            f"{settings.feeder_id}: {count(waiting, 'result')} not delivered yet; deliver with: "
            f"{chosen.command(settings, 'flush')}",
            markup=False,
        )


def _document(text: str | None) -> object:
    try:
        return json.loads(text) if text else None
    except json.JSONDecodeError:  # a foreign writer's: shown as it is
        return text


def run_settings(arguments: argparse.Namespace) -> int:
    """Print every setting of the chosen feeders, and the store with where it was named."""
    told = for_each_bot(arguments, lambda settings: _tell_settings(settings, arguments))
    if arguments.json:
        print_json(told.results)
    return told.exit_code


def _tell_settings(settings: BotSettings, arguments: argparse.Namespace) -> dict[str, object]:
    with feeder_store(settings, arguments) as chosen:
        shown = {name: _plain(value) for name, value in asdict(settings).items()}
        shown |= {"store_url": chosen.url, "store_url_from": chosen.origin}
    if not arguments.json:
        for name, value in shown.items():
            make_console().print(f"{name}: {value}", markup=False)
    return shown


def _plain(value: object) -> object:
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple) else str(value)
