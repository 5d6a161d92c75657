"""``feeder risk``: what each level and tolerance calls safe, and how much of that goes wrong."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from feeder_mixin.cli.common import feeder_options, make_console, print_json
from feeder_mixin.cli.feeders import for_each_bot
from feeder_mixin.commands import feeder_command
from feeder_mixin.errors import SettingsError
from feeder_mixin.settings import BotSettings, FeederSettings
from feeder_mixin.stores.notes import some

if TYPE_CHECKING:
    from feeder_mixin.reports.risk import BacktestEntries, RiskCurve
    from feeder_mixin.tune.judge.result import PairResult


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-command."""
    risk = commands.add_parser(
        "risk",
        parents=[feeder_options()],
        help="print what each level and tolerance calls safe, and how much of it goes wrong",
        description="Print the curve from which a risk is chosen: for levels and tolerances, the share of "
        "candles called safe, how many that is a day, the share of them that turned unsafe, and what it "
        "stays within with 95 % confidence; beside it the ATR rule where it takes as many. Counted on the "
        "walk-forward of the newest tuning on this machine, all pairs together; nothing is fitted. Where "
        "freqtrade's newest backtest result is one of the feeder's, entries by the strategy's own trigger "
        "are counted in its proportion.",
    )
    risk.add_argument("--pairs", nargs="+", action="extend", metavar="P", help="only these pairs")
    risk.set_defaults(run=run_risk)


def run_risk(arguments: argparse.Namespace) -> int:
    """Print the curve of the chosen feeders."""
    told = for_each_bot(arguments, lambda settings: _tell(settings, arguments))
    if arguments.json:
        print_json(told.results)
    return told.exit_code


def _tell(settings: BotSettings, arguments: argparse.Namespace) -> dict[str, Any]:
    if not isinstance(settings, FeederSettings):
        raise SettingsError(
            f"{settings.feeder_id}: a FreqAI bot calls no candle safe; expected a feeder with a side"
        )
    from feeder_mixin.reports.risk import curve_document, make_curve

    wanted = settings.chosen_pairs(arguments.pairs)
    results = _newest_results(settings)
    chosen = {pair: results[pair] for pair in wanted if pair in results}
    curve = make_curve(chosen, find_backtest(settings, wanted))
    if curve is None:
        raise SettingsError(
            f"{settings.feeder_id}: no tuning on this machine counted what {some(wanted)} would call safe; "
            f"tune first: {feeder_command(settings, 'optimize')}"
        )
    if not arguments.json:
        _print(settings, curve)
    if missing := [pair for pair in wanted if pair not in curve.tolerances]:
        make_console(stderr=True).print(
            f"{settings.feeder_id}: left out, not tuned here or at another level: {some(missing)}",
            markup=False,
        )
    return {"feeder_id": settings.feeder_id, **curve_document(curve)}


def _newest_results(settings: FeederSettings) -> Mapping[str, PairResult]:
    from feeder_mixin.tune.run.journal import Journal

    if not settings.journal_path.exists():
        return {}
    with Journal(settings.journal_path) as journal:
        return {pair: found for pair, (_, found) in journal.newest_results().results.items()}


def find_backtest(settings: FeederSettings, pairs: tuple[str, ...]) -> BacktestEntries | None:
    """Return what the newest backtest entered on some pairs, by this feeder's gate; None without one."""
    from freqtrade.data.btanalysis import get_latest_backtest_filename, load_backtest_stats
    from freqtrade.exceptions import OperationalException

    from feeder_mixin.reports.risk import BacktestEntries

    folder = settings.user_data_dir / "backtest_results"
    try:
        name = get_latest_backtest_filename(folder)
        (stats,) = load_backtest_stats(folder)["strategy"].values()
    except (
        ValueError,
        KeyError,
        OSError,
        OperationalException,
    ):  # none there, or of several strategies
        return None
    trades = [
        trade
        for trade in stats["trades"]
        if trade["pair"] in pairs
        and trade["is_short"] == (settings.side == "short")
        and str(trade["enter_tag"]).startswith("safe q=")
    ]
    seconds = (stats["backtest_end_ts"] - stats["backtest_start_ts"]) / 1000
    return BacktestEntries(name, len(trades), seconds / 86_400) if trades and seconds > 0 else None


def _print(settings: FeederSettings, curve: RiskCurve) -> None:
    from feeder_mixin.reports.risk import curve_lines, curve_table

    console = make_console()
    for number, line in enumerate(curve_lines(curve)):
        console.print(
            line if number else f"{settings.feeder_id} {settings.side}: {line}", markup=False
        )
    for factor in curve.factors:
        console.print(curve_table(curve, factor))
