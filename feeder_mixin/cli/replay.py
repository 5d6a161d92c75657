"""``feeder replay-exchange``: a dress rehearsal of a bot on stored candles, served as live ones."""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from feeder_mixin.cli.common import add_config_option, count, make_console
from feeder_mixin.errors import FeederError, SettingsError
from feeder_mixin.freqai.settings import load_bot_settings
from feeder_mixin.settings import BotSettings

if TYPE_CHECKING:
    from feeder_mixin.rehearsal.exchange.faults import Fault
    from feeder_mixin.rehearsal.exchange.market import ReplayMarket

_PORT_MAX = 65_535
logger = logging.getLogger(__name__)

_ABOUT = """\
A dress rehearsal of your own bot on your own candles, without internet, keys or money: answers on
loopback what freqtrade asks of Binance USDT-M futures. Stored candles are moved by whole weeks so that
now lies inside them, and new ones arrive on time. Without --datadir a market is generated. For example:

  feeder replay-exchange --feeder feeder75a --datadir user_data/data/binance \\
      --write-datadir rehearsal/user_data/data/binance --write-config replay.json --port 8800
  freqtrade trade --config config/feeder75a.json --config replay.json     (in another terminal)

A --write-datadir that ends with user_data/data/EXCHANGE puts that user_data into the written config,
so that the rehearsal's candles, state, models and store stay apart from the real bot's.

A FreqAI bot is named by --config; its correlated pairs and the timeframes of its features are served, too.
"""


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-command."""
    parser = commands.add_parser(
        "replay-exchange",
        help="serve stored candles as a live exchange, for a dress rehearsal of a bot",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_market_options(parser.add_argument_group("the market"))
    _add_server_options(parser.add_argument_group("the server"))
    parser.add_argument("--verbose", action="store_true", help="log more")
    parser.set_defaults(run=run_replay)


def _add_market_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--feeder", metavar="F", help="take pairs and timeframe from this bot")
    add_config_option(group)
    group.add_argument(
        "--userdir", type=Path, metavar="DIR", help="freqtrade's user_data folder (user_data)"
    )
    group.add_argument(
        "--pairs",
        nargs="+",
        action="extend",
        metavar="P",
        help="pairs (all in --datadir; four if generated)",
    )
    group.add_argument("--timeframe", metavar="T", help="of the stored candles (5m)")
    group.add_argument(
        "--datadir", type=Path, metavar="DIR", help="stored candles, such as user_data/data/binance"
    )
    group.add_argument(
        "--generate-days",
        type=float,
        default=30.0,
        metavar="N",
        help="without --datadir: days of history to generate (30)",
    )
    group.add_argument("--seed", type=int, default=1, help="of the generated market (1)")
    group.add_argument(
        "--as-1m",
        action="store_true",
        help="serve each stored candle as one of 1m, to see new ones sooner; hours and weekdays lose "
        "their meaning, mark prices and funding are derived",
    )
    group.add_argument(
        "--weeks",
        type=int,
        metavar="N",
        help="weeks to move the candles by (default: chosen, the log names the number)",
    )


def _add_server_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", default="127.0.0.1", help="loopback only (127.0.0.1)")
    group.add_argument("--port", type=int, default=0, help="0 picks a free one (0)")
    group.add_argument(
        "--write-datadir",
        type=Path,
        metavar="DIR",
        help="write the moved history there as freqtrade's data folder, up to the last closed candle",
    )
    group.add_argument(
        "--write-until-hours-ago",
        type=float,
        default=0.0,
        metavar="H",
        help="end that history H hours before now, to leave a gap between disk and live (0)",
    )
    group.add_argument(
        "--write-config",
        type=Path,
        metavar="FILE",
        help="write the config that points freqtrade here, as its second --config",
    )
    group.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="SPEC",
        help="inject a fault: path=/fapi/v1/klines,status=503,count=5,delay_s=1,lag_s=20 (any of "
        "these; status=0 hangs up; no count: until cleared), symbol=SOLUSDT,end_s=1795824000 (a pair "
        "whose candles end at that second since the epoch, as of one that is delisted). At run time: POST, GET, DELETE "
        "/replay/faults; GET /replay shows counts",
    )


def run_replay(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code."""
    from feeder_mixin.rehearsal.exchange.disk import write_datadir
    from feeder_mixin.rehearsal.exchange.faults import Faults, parse_fault
    from feeder_mixin.rehearsal.exchange.market import iso
    from feeder_mixin.rehearsal.exchange.overlay import freqtrade_overlay
    from feeder_mixin.rehearsal.exchange.server import check_host, serve_market

    check_host(arguments.host)
    if not 0 <= arguments.port <= _PORT_MAX:
        raise SettingsError(f"--port {arguments.port}: expected 0 to {_PORT_MAX}")
    if not 0 <= arguments.write_until_hours_ago < math.inf:
        raise SettingsError(f"--write-until-hours-ago {arguments.write_until_hours_ago}: below 0")
    faults: tuple[Fault, ...] = tuple(parse_fault(text) for text in arguments.fault)
    settings = _bot_settings(arguments)
    market = _make_market(arguments, settings)
    out = make_console()
    if arguments.write_datadir is not None:
        until_ms = market.now_ms(arguments.write_until_hours_ago * 3600)
        with _writing(arguments.write_datadir):
            timeframes = () if settings is None else settings.market_timeframes
            write_datadir(market, arguments.write_datadir, until_ms, timeframes)
        out.print(f"Candles written to {arguments.write_datadir}", markup=False)

    def ready(url: str) -> None:
        if arguments.write_config is not None:
            timeframe = market.timeframe if arguments.as_1m else None
            overlay = freqtrade_overlay(url, timeframe, *_rehearsal_folders(arguments))
            with _writing(arguments.write_config):
                arguments.write_config.parent.mkdir(parents=True, exist_ok=True)
                arguments.write_config.write_text(json.dumps(overlay, indent=2) + "\n", "utf-8")
            out.print(f"Config written to {arguments.write_config}", markup=False)
        pairs = count(len(market.series), "pair")
        out.print(f"Market: {market.origin}; {pairs}, until {iso(market.end_ms)}", markup=False)
        out.print(f"Replay exchange ready at {url}", markup=False)
        out.file.flush()

    serve_market(market, arguments.host, arguments.port, faults=Faults(faults), ready=ready)
    out.print("Replay exchange stopped", markup=False)
    return 0


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an OSError of writing into an error that names `path`."""
    try:
        yield
    except OSError as error:
        raise FeederError(f"{path} can't be written: {error.strerror or error}") from error


def _rehearsal_folders(arguments: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Return the user_data folder of the rehearsal, where it has one, and the real strategies."""
    datadir: Path | None = arguments.write_datadir
    if datadir is None or datadir.absolute().parent.name != "data":
        logger.warning(
            "The rehearsal has no user_data folder of its own: start its bot with --userdir, or use a "
            "--write-datadir such as rehearsal/user_data/data/binance"
        )
        return None, None
    strategies = (arguments.userdir or Path("user_data")) / "strategies"
    return datadir.absolute().parents[1], strategies if strategies.is_dir() else None


def _make_market(arguments: argparse.Namespace, settings: BotSettings | None) -> ReplayMarket:
    from feeder_mixin.rehearsal.exchange.market import DEFAULT_PAIRS, ReplayMarket

    pairs: list[str] = arguments.pairs or []
    timeframe = arguments.timeframe or "5m"
    data_format = "feather"
    if settings is not None:
        pairs = pairs or sorted(settings.market_pairs)
        timeframe = arguments.timeframe or settings.timeframe
        data_format = settings.data_format
    as_1m, weeks = arguments.as_1m, arguments.weeks
    if arguments.datadir is None:
        return ReplayMarket.generated(
            pairs or DEFAULT_PAIRS,
            timeframe,
            days=arguments.generate_days,
            seed=arguments.seed,
            as_1m=as_1m,
            weeks=weeks,
        )
    return ReplayMarket.from_datadir(
        arguments.datadir, pairs, timeframe, as_1m=as_1m, weeks=weeks, data_format=data_format
    )


def _bot_settings(arguments: argparse.Namespace) -> BotSettings | None:
    if arguments.feeder is None and arguments.config is None:
        return None
    settings = load_bot_settings(arguments.feeder, arguments.config, arguments.userdir)
    if settings.candle_type != "futures":
        raise SettingsError(
            f"{settings.feeder_id} has trading_mode {settings.candle_type!r}: the replay exchange has "
            "Binance's USDT-M futures only. Rehearse a spot feeder with freqtrade backtesting"
        )
    return settings
