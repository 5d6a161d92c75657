"""``feeder metrics``: what bots run on, for Prometheus to scrape, or as points in InfluxDB."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from feeder_mixin.cli.bot_commands import load_report
from feeder_mixin.cli.common import (
    chosen_bots,
    feeder_options,
    feeder_store,
    make_console,
    print_json,
)
from feeder_mixin.cli.feeders import for_each_bot
from feeder_mixin.cli.streams import print_utf8
from feeder_mixin.errors import SettingsError, StateError
from feeder_mixin.live.state.last_good import read_last_good
from feeder_mixin.live.state.stand_in import newest_status_path
from feeder_mixin.schema import NANOSECONDS
from feeder_mixin.settings import BotSettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client import Metric as Family

    from feeder_mixin.live.state.metrics import BotFacts

logger = logging.getLogger(__name__)

_HOST: Final = "127.0.0.1"


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-command."""
    metrics = commands.add_parser(
        "metrics",
        parents=[feeder_options()],
        help="print the bots' state as Prometheus metrics, serve it, or write it to InfluxDB",
    )
    goal = metrics.add_mutually_exclusive_group()
    goal.add_argument(
        "--port", type=int, metavar="N", help="serve http://HOST:N/metrics until Ctrl-C"
    )
    goal.add_argument(
        "--to-store",
        action="store_true",
        help="write one point per pair into the feeder's InfluxDB bucket (measurement feeder_metrics)",
    )
    metrics.add_argument("--host", metavar="H", help=f"address to serve on, with --port ({_HOST})")
    metrics.set_defaults(run=run_metrics)


class BotCollector:
    """Reads the bots' state at every scrape; what keeps it from reading one is logged once."""

    def __init__(self, feeders: Sequence[BotSettings]) -> None:
        self._feeders = feeders
        self._said: dict[str, str | None] = {}

    def collect(self) -> Iterator[Family]:
        """Return all metrics now, as prometheus-client asks for them."""
        from feeder_mixin.live.state.metrics import build_families

        return build_families([self._look(settings) for settings in self._feeders])

    def _look(self, settings: BotSettings) -> BotFacts:
        from feeder_mixin.live.state.metrics import BotFacts

        report = load_report(settings)
        status, last_good_s, problem = report.status, None, report.problem
        # Of a process before: the one that runs now has not said anything yet.
        is_old = status is not None and report.pid not in (None, status["pid"])
        try:
            last_good_s = _last_good_s(settings)
        except StateError as error:
            problem = problem or str(error)
        self._say_once(settings.feeder_id, problem)
        return BotFacts(
            settings.feeder_id,
            report.is_running,
            status if report.is_running and not is_old else None,
            None if status is None else newest_status_path(settings).stat().st_mtime,
            last_good_s,
        )

    def _say_once(self, feeder_id: str, problem: str | None) -> None:
        if problem is not None and self._said.get(feeder_id) != problem:
            logger.warning("Metrics are missing feeder=%s: %s", feeder_id, problem)
        self._said[feeder_id] = problem


def _last_good_s(settings: BotSettings) -> float | None:
    """Return when the store gave the oldest copy of the feeder's pairs, None without any."""
    copies = read_last_good(settings) or ()
    saved = [saved_ns for record, saved_ns in copies if record.pair in settings.pairs]
    return min(saved) / NANOSECONDS if saved else None


def run_metrics(arguments: argparse.Namespace) -> int:
    """Print, serve or store the metrics of every chosen feeder."""
    from prometheus_client import CollectorRegistry, generate_latest

    if arguments.host is not None and arguments.port is None:
        raise SettingsError(f"--host {arguments.host} needs --port")
    feeders = chosen_bots(arguments)
    if arguments.to_store:
        return _store(feeders, arguments)
    registry = CollectorRegistry()
    registry.register(BotCollector(feeders))
    if arguments.port is not None:
        return _serve(registry, arguments.host or _HOST, arguments.port)
    if arguments.json:
        samples = (sample for family in registry.collect() for sample in family.samples)
        print_json([{"name": s.name, "labels": s.labels, "value": s.value} for s in samples])
    else:
        print_utf8(generate_latest(registry).decode())
    return 0


def _serve(registry: CollectorRegistry, host: str, port: int) -> int:
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"--host {host} --port {port} can't be used: {str(error).rstrip('.')}. Choose "
            "another port, or stop the program that listens there"
        ) from error
    console = make_console()
    console.print(f"Metrics ready at http://{host}:{server.server_port}/metrics", markup=False)
    console.file.flush()
    try:
        thread.join()
    except KeyboardInterrupt:  # the way it ends
        server.shutdown()
        server.server_close()
    return 0


def _store(feeders: Sequence[BotSettings], arguments: argparse.Namespace) -> int:
    """Write each feeder's metrics into its own bucket; one that fails does not stop the others."""

    def store(settings: BotSettings) -> dict[str, object]:
        n_points, place = _store_one(settings, arguments)
        if not arguments.json:
            text = f"{settings.feeder_id}: {n_points} points written to {place}"
            make_console().print(text, markup=False)
        return {"feeder_id": settings.feeder_id, "store": place, "points": n_points}

    stored = for_each_bot(arguments, store, feeders)
    if arguments.json:
        print_json(stored.results)
    return stored.exit_code


def _store_one(settings: BotSettings, arguments: argparse.Namespace) -> tuple[int, str]:
    from feeder_mixin.stores.influx import InfluxStore

    with feeder_store(settings, arguments) as chosen:
        if not isinstance(chosen.store, InfluxStore):
            raise SettingsError(
                f"--to-store: {chosen.url} (from {chosen.origin}) is not an InfluxDB store; expected "
                "influxdb+http(s)://.... Metrics are for InfluxDB, or for Prometheus without this "
                "option"
            )
        samples = [s for family in BotCollector([settings]).collect() for s in family.samples]
        rows = [(sample.name, sample.labels, sample.value) for sample in samples]
        return chosen.store.write_metrics(settings.feeder_id, rows), chosen.url
