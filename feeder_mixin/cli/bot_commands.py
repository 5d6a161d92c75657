"""``feeder status`` and ``feeder reload``: what the running bot reports, and how to make it reload."""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from feeder_mixin.cli.common import (
    ChosenStore,
    chosen_bots,
    count,
    feeder_options,
    make_console,
    n_lines,
    print_json,
    print_wide,
)
from feeder_mixin.cli.feeders import mixed_code
from feeder_mixin.errors import SettingsError, StateError
from feeder_mixin.live.reload.client import RELOAD_TIMEOUT_S, ReloadOutcome, reload_bot
from feeder_mixin.live.state.lock import is_bot_running, running_bot_pid
from feeder_mixin.live.state.stand_in import newest_status_path
from feeder_mixin.live.state.status import (
    BlackoutStatus,
    ModelStatus,
    PairStatus,
    Status,
    read_status,
)
from feeder_mixin.reports.records import FEW_PAIRS, percent
from feeder_mixin.schema import NANOSECONDS, parse_time_ns
from feeder_mixin.settings import BotSettings
from feeder_mixin.stores.notes import group_pairs, some

_TABLE_WIDTH: Final = 200
"""Least width of the table: on a narrower terminal lines wrap instead of losing digits."""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    status = commands.add_parser(
        "status",
        parents=[feeder_options()],
        help="print what the running bot has loaded (exit code 1 when none runs, 3 when not all do)",
    )
    status.add_argument("--pairs", nargs="+", action="extend", metavar="P", help="only these pairs")
    status.set_defaults(run=run_status)
    reload = commands.add_parser(
        "reload",
        parents=[feeder_options()],
        help="make the running bot load its parameters again, and wait for its answer",
    )
    reload.add_argument(
        "--timeout",
        type=float,
        default=RELOAD_TIMEOUT_S,
        metavar="S",
        help=f"seconds to wait for each bot ({RELOAD_TIMEOUT_S:g})",
    )
    reload.set_defaults(run=run_reload)


@dataclass(frozen=True, slots=True)
class BotReport:
    """What can be said of a feeder's bot now.

    Attributes
    ----------
    is_running
        Whether a process has the bot lock.
    pid
        That process; None when none runs or it can't be seen from here.
    status
        The status file; None when it is missing or damaged.
    problem
        What keeps `pid` or `status` from being known.
    """

    is_running: bool
    pid: int | None
    status: Status | None
    problem: str | None


def load_report(settings: BotSettings) -> BotReport:
    """Return what lock, pid file and status file of a feeder say."""
    is_running, pid, status = False, None, None
    problems = []
    try:
        is_running = is_bot_running(settings)
        pid = running_bot_pid(settings)
    except StateError as error:
        problems.append(str(error))
    path = newest_status_path(settings)
    if is_running and not path.exists():
        problems.append(
            f"it has written no {path.name} yet: it is still starting, or can't write "
            f"{settings.state_dir} (see its log)"
        )
    else:
        try:
            status = read_status(path)
        except StateError as error:
            problems.append(str(error))
    if status is not None and path != settings.status_path:
        problems.append(
            f"its status is in {path}, because it can't write {settings.state_dir}: free disk space, or "
            "make that folder writable for the user who runs the bot"
        )
    return BotReport(is_running, pid, status, "; ".join(problems) or None)


def run_status(arguments: argparse.Namespace) -> int:
    """Print the state of every chosen feeder's bot; return 1 when none runs well, 3 when not all do."""
    documents, n_fine = [], 0
    for settings in chosen_bots(arguments):
        report = _only_pairs(load_report(settings), settings, arguments.pairs)
        n_fine += report.is_running and report.status is not None
        documents.append(
            {
                "feeder_id": settings.feeder_id,
                "alive": report.is_running,
                "pid": report.pid,
                "age_s": None if report.status is None else _age_s(report.status["loaded_at"]),
                "problem": report.problem,
                "status": report.status,
            }
        )
        if not arguments.json:
            _print_report(make_console(), settings, report)
    if arguments.json:
        print_json(documents)
    return mixed_code(n_fine, len(documents) - n_fine)


def _only_pairs(
    report: BotReport, settings: BotSettings, wanted: Sequence[str] | None
) -> BotReport:
    """Return a report of these pairs; a pair that the bot runs is known, whatever the config says."""
    status = report.status
    known = {} if status is None else status["pairs"]
    settings.chosen_pairs([pair for pair in wanted or () if pair not in known])
    if not wanted or status is None:
        return report
    pairs = {pair: facts for pair, facts in known.items() if pair in wanted}
    return replace(report, status={**status, "pairs": pairs})


def _print_report(console: Console, settings: BotSettings, report: BotReport) -> None:
    status = report.status
    pid = "" if report.pid is None else f", pid {report.pid}"
    state = f"running{pid}" if report.is_running else "NOT RUNNING"
    console.print(f"{settings.feeder_id}: {state}", markup=False)
    if report.problem is not None:
        console.print(f"  {report.problem}", markup=False)
    if status is None:
        return
    if report.pid != status["pid"]:
        starting = " (the running one is still starting)" if report.pid is not None else ""
        console.print(f"  last status, from pid {status['pid']}{starting}:", markup=False)
    reload = status["reload"]
    console.print(
        f"  generation {status['generation']}, loaded at {_short(status['loaded_at'])}, "
        f"{age_text(_age_s(status['loaded_at']))} ago",
        f"  reloads: {reload['requested']} requested, {reload['completed']} completed, last attempt "
        f"{_short(reload['last_attempt_at'])}, last success {_short(reload['last_success_at'])}",
        f"  last error: {reload['last_error'] or 'none'}",
        sep="\n",
        markup=False,
    )
    if (blackouts := status.get("blackouts")) is not None:
        console.print(f"  blackouts: {_blackouts_text(blackouts)}", markup=False)
    pairs = status["pairs"]
    if len(pairs) > FEW_PAIRS:
        console.print(f"  {_counts_text(pairs)}", markup=False)
        pairs = dict(sorted(pairs.items(), key=lambda item: not _is_notable(item[1])))
    n_shown = n_lines(console, len(pairs))
    shown = dict(islice(pairs.items(), n_shown))
    if len(pairs) > FEW_PAIRS:
        console.print(_short_table(shown))
    else:
        print_wide(console, _pair_table(shown), _TABLE_WIDTH)
    if left := dict(islice(pairs.items(), n_shown, None)):
        console.print(
            f"  and {len(left)} more: {_counts_text(left)}; see --pairs, --json", markup=False
        )
    _print_last_good(console, pairs)
    _print_unusual(console, pairs)
    _print_reasons(console, "rejected", {p: f["rejected"] for p, f in pairs.items()})
    _print_reasons(console, "passed over", {p: f["passed_over"] for p, f in pairs.items()})
    _print_reasons(console, "tolerance of", {p: _unmeasured(f) for p, f in pairs.items()})
    _print_reasons(console, "training failed", {p: f["model"]["error"] for p, f in pairs.items()})


def _blackouts_text(blackouts: BlackoutStatus) -> str:
    upcoming = blackouts["next"]
    said = "none to come"
    if upcoming is not None:
        name = f" ({upcoming['name']})" if upcoming["name"] else ""
        said = f"next {_short(upcoming['start'])} to {_short(upcoming['end'])}{name}"
    return f"{blackouts['windows']} in {blackouts['file']}, {said}"


def _is_notable(facts: PairStatus) -> bool:
    """Return whether there is something to look at: no good record or no model ready."""
    model = facts["model"]
    told = (facts["rejected"], facts["passed_over"], model["error"])
    return facts["source"] != "store" or model["state"] != "ready" or any(told)


def _counts_text(pairs: Mapping[str, PairStatus]) -> str:
    """Return how many pairs there are, by source and by state of the model."""
    sources = Counter[str](facts["source"] for facts in pairs.values())
    models = Counter[str](facts["model"]["state"] for facts in pairs.values())
    told = [
        ", ".join(f"{n} {name}" for name, n in counts.most_common()) for counts in (sources, models)
    ]
    return f"{count(len(pairs), 'pair')}; source: {told[0]}; model: {told[1]}"


def _print_last_good(console: Console, pairs: Mapping[str, PairStatus]) -> None:
    """Print which pairs run on the last good copy, and how old the oldest one is."""
    ages = {p: _age_s(since) for p, facts in pairs.items() if (since := facts["last_good_at"])}
    if ages:
        verb, oldest = ("runs", "") if len(ages) == 1 else ("run", "the oldest ")
        age = age_text(max(ages.values()))
        console.print(
            f"  {some(ages)} {verb} on the last good copy, {oldest}{age} old", markup=False
        )


def _print_unusual(console: Console, pairs: Mapping[str, PairStatus]) -> None:
    """Print which pairs had candles out of the ordinary in the last day, the most of them first."""
    shares = {pair: share for pair, facts in pairs.items() if (share := facts.get("unusual_share"))}
    if shares:
        most = sorted(shares, key=lambda pair: -shares[pair])
        told = some(f"{pair} {100 * shares[pair]:.1f} %" for pair in most)
        console.print(f"  out of the ordinary in the last day, and not safe: {told}", markup=False)


def _print_reasons(console: Console, what: str, reasons: Mapping[str, str | None]) -> None:
    """Print each reason once, with the pairs that have it."""
    known = {pair: reason for pair, reason in reasons.items() if reason is not None}
    for pairs, reason in group_pairs(known):
        console.print(f"  {what} {some(pairs)}: {reason}", markup=False)


def _short_table(pairs: Mapping[str, PairStatus]) -> Table:
    """Return what fits 80 columns: where each pair stands; `--pairs` has the rest."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("pair", "source", "model", "last served"):
        table.add_column(name, no_wrap=True)
    table.add_column("q", justify="right", no_wrap=True)
    table.add_column("safe", no_wrap=True)
    for pair, facts in pairs.items():
        table.add_row(pair, facts["source"], facts["model"]["state"], *_newest_texts(facts))
    return table


def _pair_table(pairs: Mapping[str, PairStatus]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("pair", "source", "version", "rejected", "model", "model version"):
        table.add_column(name, no_wrap=True)
    table.add_column("generation", justify="right", no_wrap=True)
    table.add_column("trained until", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("factor", justify="right", no_wrap=True)
    table.add_column("tolerance", justify="right", no_wrap=True)
    table.add_column("last served", no_wrap=True)
    table.add_column("q", justify="right", no_wrap=True)
    table.add_column("safe", no_wrap=True)
    for pair, facts in pairs.items():
        model = facts["model"]
        table.add_row(
            pair,
            facts["source"],
            _short(facts["version"]),
            "no" if facts["rejected"] is None else "yes, see below",
            model["state"],
            _short(model["version"]),
            "-" if model["generation"] is None else str(model["generation"]),
            _short(model["trained_until"]),
            _rows_text(model),
            f"{model['calibration']:.3f}",
            _tolerance_text(facts),
            *_newest_texts(facts),
        )
    return table


def _newest_texts(facts: PairStatus) -> tuple[str, str, str]:
    """Return open, q and safe of the newest predicted candle; a FreqAI bot has neither q nor safe."""
    q, is_safe = facts.get("last_q"), facts.get("last_safe")
    return (
        _minute(facts["last_served"]),
        "-" if q is None else f"{percent(q, 2)} %",
        "-" if is_safe is None else ("yes" if is_safe else "no"),
    )


def _tolerance_text(facts: PairStatus) -> str:
    """Return the tolerance in percent; ``-`` where there is none, or a bot of an earlier version runs."""
    tolerance = facts.get("tolerance")
    return "-" if tolerance is None else f"{percent(tolerance['max_adverse_ratio'], 2)} %"


def _unmeasured(facts: PairStatus) -> str | None:
    """Return what to say of a tolerance that stands in for one of the pair's own."""
    tolerance = facts.get("tolerance")
    if tolerance is None or tolerance["origin"] != "fallback":
        return None
    return f"not measured, {percent(tolerance['max_adverse_ratio'], 2)} % stands in until the pair is tuned"


def _rows_text(model: ModelStatus) -> str:
    """Return rows, and the expected ones behind them where they are not about as many."""
    rows, expected = model["rows"], model["expected_rows"]
    if rows is None:
        return "-"
    return str(rows) if expected is None or rows > 0.95 * expected else f"{rows} of {expected}"


def _minute(time_text: str | None) -> str:
    return "-" if time_text is None else f"{time_text[:16]}Z"


def _short(time_text: str | None) -> str:
    """Return a time to the second: what people read; ``--json`` has all digits."""
    return "-" if time_text is None else f"{time_text[:19]}Z"


def _age_s(time_text: str) -> float:
    return max(0.0, (time.time_ns() - parse_time_ns(time_text)) / NANOSECONDS)


def age_text(seconds: float) -> str:
    """Return a duration in its two largest units.

    Examples
    --------
    >>> age_text(42.4), age_text(200), age_text(11_520), age_text(200_000)
    ('42 s', '3 min 20 s', '3 h 12 min', '2 d 7 h')
    """
    whole = int(seconds)
    for size, unit, smaller_size, smaller in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller_size} {smaller}"
    return f"{whole} s"


def run_reload(arguments: argparse.Namespace) -> int:
    """Reload every chosen feeder's bot, one after the other; return 1 when all failed, 3 when some."""
    if not (math.isfinite(arguments.timeout) and arguments.timeout > 0):
        raise SettingsError(f"--timeout {arguments.timeout:g}: expected seconds above 0")
    outcomes = []
    for settings in chosen_bots(arguments):
        outcomes.append(reload_bot(settings, arguments.timeout))
        if not arguments.json:
            print_outcome(outcomes[-1])
    if arguments.json:
        print_json([outcome.to_dict() for outcome in outcomes])
    n_fine = sum(outcome.error is None for outcome in outcomes)
    return mixed_code(n_fine, len(outcomes) - n_fine)


def reload_after_writing(
    settings: BotSettings, chosen: ChosenStore, arguments: argparse.Namespace
) -> tuple[dict[str, object] | None, bool]:
    """Make a running bot load what was stored; return what came of it, and whether that is fine."""
    errors = make_console(stderr=True)
    outcome = reload_bot(settings)
    if not outcome.is_running:
        errors.print(f"{settings.feeder_id}: {outcome.error}", markup=False)
        return None, True
    if chosen.origin == "--store":
        errors.print(
            f"--reload: the bot reads its own store, which may not be {chosen}", markup=False
        )
    if outcome.error is not None or not arguments.json:
        print_outcome(outcome)
    return outcome.to_dict(), outcome.error is None


def print_outcome(outcome: ReloadOutcome) -> None:
    """Print what a reload did: a success to stdout, a failure to stderr."""
    console = make_console(stderr=outcome.error is not None)
    if outcome.error is not None:
        console.print(f"{outcome.feeder_id}: {outcome.error}", markup=False)
    if outcome.before is None or outcome.after is None or outcome.error is not None:
        return
    parts = [f"{len(outcome.accepted)} accepted", f"{len(outcome.rejected)} rejected"]
    parts += [f"{len(outcome.unanswered)} without a record"] if outcome.unanswered else []
    console.print(
        f"{outcome.feeder_id}: generation {outcome.before['generation']} -> "
        f"{outcome.after['generation']}, {', '.join(parts)}, "
        f"{count(len(outcome.changed), 'pair')} with a new record",
        markup=False,
    )
    _print_reasons(console, "rejected", outcome.rejected)
    _print_reasons(console, "passed over", outcome.passed_over)
    by_source: dict[str, list[str]] = {}
    for pair, source in outcome.unanswered.items():
        by_source.setdefault(source, []).append(pair)
    for source, pairs in by_source.items():
        runs = "it runs" if len(pairs) == 1 else "they run"
        console.print(f"  no record for {some(pairs)}, {runs} on {source}", markup=False)
