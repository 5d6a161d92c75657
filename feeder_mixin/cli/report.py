"""``feeder report``: one page per feeder, from its journal and its store; also after ``optimize``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feeder_mixin.cli.common import (
    ChosenStore,
    chosen_bots,
    feeder_options,
    feeder_store,
    make_console,
    print_json,
)
from feeder_mixin.cli.feeders import for_each_bot
from feeder_mixin.errors import FeederError, SettingsError, StoreError, TuningError
from feeder_mixin.live.state.files import write_private
from feeder_mixin.settings import BotSettings, FeederSettings

if TYPE_CHECKING:
    from feeder_mixin.reports.documents import FeederReport, StoreContent, TunedPair
    from feeder_mixin.tune.run.options import RunSummary
    from feeder_mixin.tune.search.kept import KeptTrial

logger = logging.getLogger(__name__)

_COUNTED: Final = 1000
"""Records of a pair that are counted at most: a store's whole history is not read for a number."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-command."""
    report = commands.add_parser(
        "report",
        parents=[feeder_options()],
        help="write one HTML page about a feeder's newest tuning",
        description="Write one self-contained HTML page about a feeder: what its newest tuning runs "
        "found and what its store holds.",
    )
    report.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="output file (user_data/feeder_state/F/report.html); for one feeder only",
    )
    report.add_argument(
        "--pairs",
        "--pair",
        nargs="+",
        action="extend",
        default=[],
        metavar="P",
        help="pairs whose candles are shown first (else changed sets, then by gain)",
    )
    report.set_defaults(run=run_report)


def run_report(arguments: argparse.Namespace) -> int:
    """Write the page of every chosen feeder; return the exit code."""
    feeders = chosen_bots(arguments)
    if arguments.out is not None and len(feeders) > 1:
        names = ", ".join(settings.feeder_id for settings in feeders)
        raise SettingsError(f"--out goes with one feeder, got {names}")
    for settings in feeders:
        settings.chosen_pairs(arguments.pairs)
    written = for_each_bot(arguments, lambda settings: _report_one(settings, arguments), feeders)
    if arguments.json:
        print_json(written.results)
    return written.exit_code


def _report_one(settings: BotSettings, arguments: argparse.Namespace) -> dict[str, Any]:
    with feeder_store(settings, arguments) as chosen:
        document = write_report(settings, chosen, arguments.out, arguments.pairs)
    _say(document)
    return document


def _say(document: dict[str, Any]) -> None:
    """Say where a page is, and what it could not show: to stderr, as stdout may be JSON."""
    console = make_console(stderr=True)
    for line in document["missing"]:
        console.print(f"not shown: {line}", markup=False)
    console.print(f"{document['feeder_id']}: report written to {document['file']}", markup=False)


def write_report(
    settings: BotSettings,
    chosen: ChosenStore,
    out: Path | None = None,
    pairs: Sequence[str] = (),
    *,
    summary: RunSummary | None = None,
) -> dict[str, Any]:
    """Write a feeder's page, whole or not at all, and return what it says as a document.

    Parameters
    ----------
    pairs
        Pairs whose candles are shown first.
    summary
        Of the run that just ended: its failures are told, and a store that was down is not tried again.

    Raises
    ------
    SettingsError
        When nothing is tuned: neither a run in the journal nor a record in the store.
    StoreError
        When there is no run and the store can't be read.
    StateError
        When the file can't be written.
    """
    from feeder_mixin.reports.page import render_page, report_document

    report = _collect(settings, chosen, summary)
    path = out or settings.state_dir / "report.html"
    page = render_page(report, pairs)
    write_private(path, page.html)
    return {**report_document(report, page), "file": str(path)}


def report_after_tuning(settings: BotSettings, chosen: ChosenStore, summary: RunSummary) -> None:
    """Write the page after ``optimize``; whatever fails is said and nothing more."""
    console = make_console(stderr=True)
    try:
        document = write_report(settings, chosen, summary=summary)
    except Exception as error:
        # The tuning stands: a page is not worth its exit code. A defect is shown whole.
        if not isinstance(error, FeederError):
            logger.exception("Report failed unexpectedly feeder=%s", settings.feeder_id)
        console.print(
            f"{settings.feeder_id}: the tuning is done, but there is no report: {error}",
            markup=False,
        )
    else:
        console.print(f"{settings.feeder_id}: report written to {document['file']}", markup=False)


def _collect(
    settings: BotSettings, chosen: ChosenStore, summary: RunSummary | None
) -> FeederReport:
    from feeder_mixin.reports.documents import FeederReport, StoreContent, merge_results

    tuned: dict[str, TunedPair] = {}
    trials: Mapping[int, KeptTrial] = {}
    journal_error = None
    try:
        tuned, trials, journal_error = _read_journal(settings)
    except TuningError as error:
        journal_error = str(error)
    try:
        if summary is not None and summary.store_error is not None:
            raise summary.store_error
        stored = _read_store(settings, chosen)
    except StoreError as error:
        if not tuned:
            raise
        stored = StoreContent(str(chosen), error=str(error))
    results = merge_results(settings.pairs, tuned, stored)
    if not results:
        why = f" ({journal_error})" if journal_error else ""
        raise SettingsError(
            f"{settings.feeder_id}: nothing is tuned yet: no finished run in "
            f"{settings.journal_path}{why} and no usable record in {chosen}; tune first: "
            f"{chosen.command(settings, 'optimize')}"
        )
    return FeederReport(
        feeder_id=settings.feeder_id,
        side=settings.side if isinstance(settings, FeederSettings) else None,
        pairs=settings.pairs,
        made_at=datetime.now(UTC),
        results=results,
        stored=stored,
        journal_error=journal_error,
        failures={} if summary is None else {p: str(e) for p, e in summary.failures.items()},
        trials=trials,
    )


def _read_journal(
    settings: BotSettings,
) -> tuple[dict[str, TunedPair], Mapping[int, KeptTrial], str | None]:
    """Return pair -> newest result, the newest study's trials, and what could not be read.

    Asking makes no file.
    """
    from feeder_mixin.reports.documents import TunedPair
    from feeder_mixin.tune.run.journal import Journal
    from feeder_mixin.tune.search.kept import TRIALS, KeptTrial

    if not settings.journal_path.exists():
        return {}, {}, None
    with Journal(settings.journal_path) as journal:
        newest = journal.newest_results()
        study = journal.newest_study()
        trials = {} if study is None else journal.trials(study.run_id, TRIALS, KeptTrial)
    tuned = {pair: TunedPair(result) for pair, (_, result) in newest.results.items()}
    if not newest.unread:
        return tuned, trials, None
    return (
        tuned,
        trials,
        (
            f"Another version of feeder-mixin made the newest result of {', '.join(newest.unread)} in "
            f"{settings.journal_path}, which this one can't read: tune again"
        ),
    )


def _read_store(settings: BotSettings, chosen: ChosenStore) -> StoreContent:
    from feeder_mixin.reports.documents import StoreContent
    from feeder_mixin.stores.notes import describe_unused
    from feeder_mixin.stores.outbox import Outbox

    store, feeder_id = chosen.store, settings.feeder_id
    model_type = settings.model_type
    latest = store.latest(feeder_id, settings.pairs, model_type=model_type)
    notes = [line[0].upper() + line[1:] for line in describe_unused(latest)]
    outbox = Outbox(settings.outbox_path)
    n_waiting = len(outbox.pending())
    outbox.close()
    counts = {
        pair: len(store.history(feeder_id, pair, _COUNTED, model_type=model_type))
        for pair in settings.pairs
    }
    return StoreContent(str(chosen), latest.records, counts, notes, n_waiting)
