"""``feeder studies``: a feeder's newest study; ``--export`` copies it into an Optuna storage."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feeder_mixin.cli.common import count, feeder_options, make_console, print_json
from feeder_mixin.cli.feeders import for_each_bot
from feeder_mixin.commands import feeder_command
from feeder_mixin.errors import SettingsError
from feeder_mixin.settings import BotSettings
from feeder_mixin.stores.masking import masked_store_url
from feeder_mixin.stores.url import choose_store_url

if TYPE_CHECKING:
    from feeder_mixin.tune.run.studies import FeederStudy


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    studies = commands.add_parser(
        "studies",
        parents=[feeder_options()],
        help="print or export the trials of the newest studies",
        description="Print the newest study of every feeder, as this machine's journal has it. With --export "
        "its trials go into an Optuna storage, one study a feeder, for optuna-dashboard and Optuna's plots: "
        "parameters, values (loss against the start set's, below 0 is better), intermediate values by number "
        "of cells (one fold of one pair each), pruned ones. It is a copy: no command reads it.",
    )
    studies.add_argument(
        "--export",
        metavar="URL",
        help="Optuna storage, such as sqlite:///studies.db; trials that are there are not written again",
    )
    studies.set_defaults(run=run_studies)


def run_studies(arguments: argparse.Namespace) -> int:
    """Print or export the studies of the chosen feeders."""
    told = for_each_bot(arguments, lambda settings: _tell(settings, arguments))
    if arguments.json:
        print_json(told.results)
    return told.exit_code


def _tell(settings: BotSettings, arguments: argparse.Namespace) -> dict[str, Any]:
    from feeder_mixin.tune.run.journal import Journal
    from feeder_mixin.tune.run.studies import export_study, newest_study

    study = None
    if settings.journal_path.exists():
        with Journal(settings.journal_path) as journal:
            study = newest_study(journal, settings.feeder_id)
    if study is None:
        raise SettingsError(
            f"{settings.feeder_id}: nothing was tuned on this machine, {settings.journal_path} has no study; "
            f"tune first: {feeder_command(settings, 'optimize')}"
        )
    n_added = None
    if arguments.export is not None:
        store_url, _ = choose_store_url(arguments.store, os.environ, settings)
        _check_is_no_other(settings, arguments.export, store_url)
        # SQL storages take some ten milliseconds a trial.
        with make_console(stderr=True).status("exporting"):
            n_added = export_study(study, arguments.export)
    if not arguments.json:
        _print(study, arguments.export, n_added)
    return {
        "feeder_id": settings.feeder_id,
        "study": study.name,
        "begun": study.begun,
        "state": study.run.state,
        "trials": len(study.trials),
        "pruned": study.n_pruned,
        "best": study.best,
        "exported": None
        if n_added is None
        else {"storage": masked_store_url(arguments.export), "trials": n_added},
    }


def _check_is_no_other(settings: BotSettings, url: str, store_url: str) -> None:
    """Refuse a file of ours: Optuna's tables would come to stand beside its own."""
    path = url.removeprefix("sqlite:///")
    if path == url:
        return
    for name, ours in (
        ("the tuning journal", settings.journal_path),
        ("the outbox", settings.outbox_path),
        ("the parameter store", Path(store_url.removeprefix("sqlite:///"))),
    ):
        if Path(path).resolve() == ours.resolve():
            raise SettingsError(f"--export {url}: that is {name}; name a file of its own")


def _print(study: FeederStudy, url: str | None, n_added: int | None) -> None:
    console = make_console()
    best = "-" if study.best is None else f"{100 * study.best:+.2f} %"
    console.print(
        f"{study.feeder_id}: study begun {study.begun[:16].replace('T', ' ')} UTC, {study.run.state}: "
        f"{count(len(study.trials), 'trial')}, of which {study.n_pruned} pruned; loss of the best trial "
        f"against the start set's, below 0 is better: {best}",
        markup=False,
    )
    if url is not None:
        console.print(
            f"Exported {count(n_added or 0, 'new trial')} to {masked_store_url(url)}; look at them: "
            f"optuna-dashboard {masked_store_url(url)}",
            markup=False,
        )
