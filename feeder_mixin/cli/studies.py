"""``feeder studies``: the newest search of every pair; ``--export`` copies them into an Optuna storage."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from feeder_mixin.cli.common import count, feeder_options, make_console, print_json, print_wide
from feeder_mixin.cli.feeders import for_each_feeder
from feeder_mixin.commands import feeder_command
from feeder_mixin.errors import SettingsError
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.masking import masked_store_url
from feeder_mixin.stores.url import choose_store_url

if TYPE_CHECKING:
    from feeder_mixin.tune.run.studies import PairStudy

_WIDTH: Final = 80


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    studies = commands.add_parser(
        "studies",
        parents=[feeder_options()],
        help="print or export the trials of the newest searches",
        description="Print the newest search of every pair, as this machine's journal has it. With --export "
        "its trials go into an Optuna storage, one study a pair, for optuna-dashboard and Optuna's plots: "
        "parameters, values (loss against the defaults', below 0 is better), intermediate values by number "
        "of trees, pruned ones. It is a copy: no command reads it.",
    )
    studies.add_argument(
        "--pairs", nargs="+", action="extend", metavar="P", help="only these pairs"
    )
    studies.add_argument(
        "--export",
        metavar="URL",
        help="Optuna storage, such as sqlite:///studies.db; trials that are there are not written again",
    )
    studies.set_defaults(run=run_studies)


def run_studies(arguments: argparse.Namespace) -> int:
    """Print or export the searches of the chosen feeders."""
    told = for_each_feeder(arguments, lambda settings: _tell(settings, arguments))
    if arguments.json:
        print_json(told.results)
    return told.exit_code


def _tell(settings: FeederSettings, arguments: argparse.Namespace) -> dict[str, Any]:
    from feeder_mixin.tune.run.journal import Journal
    from feeder_mixin.tune.run.studies import export_studies, newest_studies

    wanted = settings.chosen_pairs(arguments.pairs) if arguments.pairs else None
    if not settings.journal_path.exists():
        raise SettingsError(
            f"{settings.feeder_id}: nothing was tuned on this machine, {settings.journal_path} does not "
            f"exist; tune first: {feeder_command(settings, 'optimize')}"
        )
    with Journal(settings.journal_path) as journal:
        studies = newest_studies(journal, settings.feeder_id, wanted)
    if not studies:
        raise SettingsError(
            f"{settings.feeder_id}: no search of {', '.join(wanted or ('any pair',))} in "
            f"{settings.journal_path}"
        )
    n_added = None
    if arguments.export is not None:
        store_url, _ = choose_store_url(arguments.store, os.environ, settings)
        _check_is_no_other(settings, arguments.export, store_url)
        # SQL storages take some ten milliseconds a trial.
        with make_console(stderr=True).status("exporting") as status:
            n_added = export_studies(
                studies,
                arguments.export,
                lambda done: status.update(f"exported {done} of {len(studies)} studies"),
            )
    rows = [_row(study) for study in studies]
    if not arguments.json:
        _print(settings, rows, arguments.export, n_added)
    return {
        "feeder_id": settings.feeder_id,
        "studies": rows,
        "exported": None
        if n_added is None
        else {"storage": masked_store_url(arguments.export), "trials": n_added},
    }


def _check_is_no_other(settings: FeederSettings, url: str, store_url: str) -> None:
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


def _row(study: PairStudy) -> dict[str, Any]:
    return {
        "pair": study.run.pair,
        "study": study.name,
        "begun": study.begun,
        "state": study.run.state,
        "trials": len(study.trials),
        "pruned": study.n_pruned,
        "best": study.best,
    }


def _print(
    settings: FeederSettings, rows: list[dict[str, Any]], url: str | None, n_added: int | None
) -> None:
    console = make_console()
    n_trials = sum(row["trials"] for row in rows)
    console.print(
        f"{settings.feeder_id}: searches of {count(len(rows), 'pair')}, {count(n_trials, 'trial')}, of which "
        f"{sum(row['pruned'] for row in rows)} pruned",
        markup=False,
    )
    table = Table("pair", "begun (UTC)", "state", box=None, pad_edge=False)
    for name in ("trials", "pruned", "best"):
        table.add_column(name, justify="right")
    for row in rows:
        best = "-" if row["best"] is None else f"{100 * row['best']:+.2f} %"
        table.add_row(
            row["pair"],
            row["begun"][:16].replace("T", " "),
            row["state"],
            str(row["trials"]),
            str(row["pruned"]),
            best,
        )
    print_wide(console, table, _WIDTH)
    console.print("best: loss of the best trial against the defaults', below 0 is better")
    if url is not None:
        console.print(
            f"Exported {count(n_added or 0, 'new trial')} to {masked_store_url(url)}; look at them: "
            f"optuna-dashboard {masked_store_url(url)}",
            markup=False,
        )
