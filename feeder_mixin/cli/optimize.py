"""``feeder optimize``: tune pairs, print what came of it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from feeder_mixin.cli.bot_commands import reload_after_writing
from feeder_mixin.cli.common import (
    ChosenStore,
    chosen_bots,
    count,
    feeder_options,
    feeder_store,
    make_console,
    n_lines,
    print_json,
    print_wide,
)
from feeder_mixin.cli.feeders import failures_code, for_each_bot
from feeder_mixin.cli.report import report_after_tuning
from feeder_mixin.errors import SettingsError
from feeder_mixin.freqai.settings import FreqaiSettings
from feeder_mixin.reports.records import FEW_PAIRS
from feeder_mixin.schema import describe_fields
from feeder_mixin.settings import BotSettings, FeederSettings
from feeder_mixin.tune.judge.decision import MODES

if TYPE_CHECKING:
    from feeder_mixin.stores.base import ParameterStore
    from feeder_mixin.tune.judge.result import PairResult
    from feeder_mixin.tune.run.options import Progress, RunOptions, RunSummary

_TABLE_WIDTH = 92
"""The closing table's least width: on a narrower terminal lines wrap instead of losing digits."""

SCHEDULER_VARIABLE: Final = "FEEDER_SCHEDULER"


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    fields = describe_fields()
    names = "\n".join(f"  {name:<22}{text}" for name, text in fields.items())
    optimize = commands.add_parser(
        "optimize",
        parents=[feeder_options()],
        help="tune every pair of a feeder and store the sets that beat the running ones",
        description="Search one parameter set for all pairs of a feeder together, let pairs deviate from "
        "it where their own evidence says so, decide from all pairs together which sets beat the running "
        "ones, and store those. If interrupted, the same command continues where it stopped.",
        epilog=f"fields of a record:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_optimize_options(optimize)
    optimize.set_defaults(run=run_optimize)


def add_optimize_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``optimize`` beside those that all commands share."""
    parser.add_argument(
        "--pairs",
        nargs="+",
        action="extend",
        default=[],
        metavar="P",
        help="only these pairs, on their evidence alone",
    )
    parser.add_argument(
        "--n-trials", type=int, default=100, metavar="N", help="trials of the feeder's study (100)"
    )
    parser.add_argument(
        "--days-back",
        type=float,
        default=180.0,
        metavar="D",
        help="labelled days for folds and test window, back from the pair's last candle (180)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="seconds for the study; what it has by then is compared and judged",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="J", help="worker processes on this machine (free cores)"
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="let the workers of a Dask cluster do the work, tcp://HOST:PORT or tls://HOST:PORT "
        "(FEEDER_SCHEDULER; docs/operate/cluster.md)",
    )
    parser.add_argument(
        "--datadir",
        type=Path,
        metavar="DIR",
        help="freqtrade data folder; without it user_data/data/EXCHANGE, downloaded where missing",
    )
    parser.add_argument(
        "--fix",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="keep a parameter at a value; may be repeated",
    )
    parser.add_argument(
        "--strategy",
        "-s",
        metavar="S",
        help="class of the FreqAI strategy whose model is tuned, where the config has a freqai block "
        "(the config's strategy)",
    )
    parser.add_argument(
        "--windows",
        nargs="+",
        type=int,
        default=[],
        metavar="D",
        help="of a FreqAI bot: say what these train_period_days would be worth with the feeder's set; "
        "no config is changed",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the search (0)")
    parser.add_argument(
        "--promote",
        choices=MODES,
        default="auto",
        help="when bots get a tuned set: auto (default), if it beats the running record (if there is "
        "none, the defaults) beyond noise, else it is stored as a candidate; always, whatever "
        "the evidence; never, all are stored as candidates and bots keep their records",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="discard an unfinished run instead of resuming it"
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help="then make the feeder's bot on this machine, if one runs, load what was stored",
    )


def parse_fixes(texts: list[str]) -> dict[str, float]:
    """Return name -> value of ``--fix`` options, or raise `SettingsError`."""
    fixes = {}
    for text in texts:
        name, separator, value = text.partition("=")
        try:
            fixes[name] = float(value)
        except ValueError:
            separator = ""
        if not separator:
            raise SettingsError(f"--fix {text}: expected NAME=VALUE with a number")
    return fixes


def chosen_scheduler(arguments: argparse.Namespace, environment: Mapping[str, str]) -> str | None:
    """Return the Dask scheduler that option or environment name, or raise `SettingsError`."""
    option: str | None = arguments.scheduler
    address = option if option is not None else environment.get(SCHEDULER_VARIABLE) or None
    if address is not None and arguments.jobs is not None:
        named = (
            f"--scheduler {address}" if option is not None else f"{SCHEDULER_VARIABLE}={address}"
        )
        raise SettingsError(
            f"--jobs {arguments.jobs} asks for processes on this machine, {named} for a cluster: "
            "leave one of them out"
        )
    return address


def run_optimize(arguments: argparse.Namespace) -> int:
    """Tune the chosen feeders one after the other; return the exit code."""
    # Imported here, so that `feeder show` does not wait for LightGBM and Optuna.
    from feeder_mixin.executors.processes import available_cores
    from feeder_mixin.tune.run.options import RunOptions, check_options

    options = RunOptions(
        pairs=tuple(arguments.pairs),
        n_trials=arguments.n_trials,
        days_back=arguments.days_back,
        timeout_s=arguments.timeout,
        jobs=available_cores() if arguments.jobs is None else arguments.jobs,
        scheduler=chosen_scheduler(arguments, os.environ),
        datadir=arguments.datadir,
        fixes=parse_fixes(arguments.fix),
        seed=arguments.seed,
        fresh=arguments.fresh,
        promote=arguments.promote,
    )
    bots = chosen_bots(arguments)
    for settings in bots:
        check_options(settings, options)
        _check_freqai_options(settings, arguments)
    tuned = for_each_bot(
        arguments, lambda settings: _optimize_one(settings, options, arguments), bots
    )
    if arguments.json:
        print_json([document for document, _ in tuned.results])
    codes = [code for _, code in tuned.results]
    codes += [failures_code(0, [error]) for error in tuned.failures.values()]
    return codes[0] if len(set(codes)) == 1 else (1 if 1 in codes else 3)


def _check_freqai_options(settings: BotSettings, arguments: argparse.Namespace) -> None:
    """Raise where a strategy or windows are named for a bot that has none, or no strategy for one that has."""
    named, windows = arguments.strategy, arguments.windows
    if windows and not isinstance(settings, FreqaiSettings):
        raise SettingsError(
            f"--windows {' '.join(map(str, windows))}: {settings.feeder_id} is a feeder, its window is "
            "feeder.train_days; windows are measured for a FreqAI bot's train_period_days"
        )
    if any(days < 1 for days in windows):
        raise SettingsError(f"--windows {min(windows)}: expected whole days, 1 or more")
    if named is not None and not isinstance(settings, FreqaiSettings):
        raise SettingsError(
            f"--strategy {named}: {settings.feeder_id} is a feeder with the built-in model (feeder.side); a "
            "strategy is tuned where the config has a freqai block and no feeder.side"
        )
    if isinstance(settings, FreqaiSettings) and not (named or settings.strategy):
        raise SettingsError(
            f"{settings.feeder_id}: no strategy is named: expected --strategy with the class of the FreqAI "
            "strategy that is tuned, or strategy in the config"
        )


def _run(
    settings: BotSettings,
    options: RunOptions,
    arguments: argparse.Namespace,
    store: ParameterStore,
    progress: Progress,
) -> RunSummary:
    """Tune what the config describes: a FreqAI strategy's own model, or the built-in one."""
    from feeder_mixin.tune.run import run

    if isinstance(settings, FreqaiSettings):
        from feeder_mixin.tune.freqai.windows import advise_windows
        from feeder_mixin.tune.freqai.work import FreqaiWork

        work = FreqaiWork(settings, options, str(arguments.strategy or settings.strategy))
        summary = run.run_work(work, options, store, progress)
        if arguments.windows:
            advise_windows(work, options, summary, arguments.windows, progress)
        return summary
    assert isinstance(settings, FeederSettings)  # noqa: S101  (there are two kinds)
    return run.run_feeder(settings, options, store, progress)


def _optimize_one(
    settings: BotSettings, options: RunOptions, arguments: argparse.Namespace
) -> tuple[dict[str, Any], int]:
    from feeder_mixin.cli.progress import make_progress
    from feeder_mixin.market.history import download_missing
    from feeder_mixin.reports.closing import summary_document
    from feeder_mixin.tune.run.options import check_options

    errors = make_console(stderr=True)
    pairs = check_options(settings, options)
    if options.datadir is None and isinstance(settings, FeederSettings):
        days = options.days_back + settings.train_days
        lacking = download_missing(settings, pairs, days=days)
        options = replace(options, lacking=lacking)
    with feeder_store(settings, arguments) as chosen:
        workers = options.scheduler or count(options.jobs, "job")
        with make_progress(errors, settings.feeder_id, len(pairs)) as progress:
            errors.print(
                f"{settings.feeder_id} {settings.kind}: {count(len(pairs), 'pair')}, "
                f"{count(options.n_trials, 'trial')}, {workers}, "
                f"seed {options.seed}, store {chosen}",
                markup=False,
            )
            if banned := [pair for pair in pairs if pair in settings.blacklisted]:
                errors.print(
                    f"{settings.feeder_id}: exchange.pair_blacklist covers {', '.join(banned)}: tuned "
                    "anyway, though a bot does not trade them",
                    markup=False,
                )
            summary = _run(settings, options, arguments, chosen.store, progress)
        if summary.results:
            report_after_tuning(settings, chosen, summary)
    if not arguments.json:
        _print_summary(make_console(), settings, chosen, summary)
    if summary.store_error is not None:
        outbox = settings.outbox_path
        errors.print(
            f"{summary.store_error}\nThe outbox is {outbox}\nTo deliver them: "
            f"{chosen.command(settings, 'flush')}",
            markup=False,
        )
    document = {
        "feeder_id": settings.feeder_id,
        "store": chosen.url,
        "summary": summary_document(summary, pairs),
        "delivered": summary.store_error is None,
        "undelivered": sorted(summary.undelivered),
        "pairs": {pair: _pair_document(summary, pair) for pair in summary.results},
        "failures": {pair: str(error) for pair, error in summary.failures.items()},
    }
    if arguments.reload and summary.records and summary.store_error is None:
        document["reload"], is_reloaded = reload_after_writing(settings, chosen, arguments)
        return document, summary.exit_code if is_reloaded else 1
    return document, summary.exit_code


def _pair_document(summary: RunSummary, pair: str) -> dict[str, Any]:
    """Return a pair's part of ``--json``: the tuned set, what was decided, what was written."""
    result = summary.results[pair]
    record, candidate = summary.records.get(pair), summary.candidates.get(pair)
    return {
        "parameters": result.parameters,
        "metrics": result.metrics,
        "provenance": result.provenance,
        "test_window": {name: score.to_json() for name, score in result.scores.items()},
        "own_evidence": result.own.to_json(),
        "decision": result.decided.to_json(),
        "record": None if record is None else record.to_dict(),
        "candidate": None if candidate is None else candidate.to_dict(),
    }


def _tell_few(console: Console, ordered: Mapping[str, PairResult], summary: RunSummary) -> None:
    """Print every contender of every pair, and a sentence on each decision."""
    from feeder_mixin.reports.tables import closing_table, verdicts

    print_wide(console, closing_table(ordered), _TABLE_WIDTH)
    for line in verdicts(ordered, summary.undelivered):
        console.print(line, markup=False)


def _tell_many(console: Console, ordered: Mapping[str, PairResult], _summary: RunSummary) -> None:
    """Print what is wrong, and a line a pair: on a terminal of the first pairs only."""
    from feeder_mixin.reports.closing import pair_table, problem_lines, rest_lines

    for line in problem_lines(ordered):
        console.print(line, markup=False)
    n_shown = n_lines(console, len(ordered))
    console.print(pair_table(dict(islice(ordered.items(), n_shown))))
    for line in rest_lines(dict(islice(ordered.items(), n_shown, None))):
        console.print(line, markup=False)


def _print_summary(
    console: Console, settings: BotSettings, chosen: ChosenStore, summary: RunSummary
) -> None:
    from feeder_mixin.reports.closing import summary_lines
    from feeder_mixin.reports.documents import by_weight
    from feeder_mixin.reports.tables import feeder_notes

    ordered = by_weight({p: summary.results[p] for p in settings.pairs if p in summary.results})
    for line in summary_lines(summary):
        console.print(line, markup=False)
    if not ordered:
        return
    tell = _tell_few if len(ordered) <= FEW_PAIRS else _tell_many
    tell(console, ordered, summary)
    for line in feeder_notes(ordered):
        console.print(line, markup=False)
    if len(ordered) > FEW_PAIRS:
        one = chosen.command(settings, "show", "--pairs", next(iter(ordered)))
        console.print(
            f"All pairs are in the report and in --json; one of them: {one}", markup=False
        )
    n_written = len(summary.records) - len(summary.undelivered)
    if summary.store_error is None or n_written:
        show = chosen.command(settings, "show")
        n_candidates = len(summary.candidates) if summary.store_error is None else 0
        refused = f", {count(n_candidates, 'candidate')} (--candidates)" if n_candidates else ""
        console.print(
            f"{count(n_written, 'record')} written to {chosen}{refused}; show with: {show}",
            markup=False,
        )
