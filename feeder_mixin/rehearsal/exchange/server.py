"""The replay exchange's HTTP side: routes, faults, counts, start and stop.

The command line runs `serve_market` in a process of its own; tests may use `serving`, a thread. The
control endpoints begin with ``/replay`` and are never faulted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final

from aiohttp import web

from feeder_mixin.errors import FeederError, SettingsError
from feeder_mixin.processes import ending_signals
from feeder_mixin.rehearsal.exchange._answers import ANSWERS, RefusedError
from feeder_mixin.rehearsal.exchange.faults import HANG_UP, Faults, make_fault
from feeder_mixin.rehearsal.exchange.market import ReplayMarket, iso

logger = logging.getLogger(__name__)

_READY_TIMEOUT_S: Final = 30
_SHUTDOWN_S: Final = 1.0


class ReplayServerError(FeederError):
    """The replay exchange can't listen: choose another port, or end what holds it."""


class ReplayApp:
    """Answers requests for one market. Lives on one event loop."""

    def __init__(self, market: ReplayMarket, faults: Faults | None = None) -> None:
        self.market = market
        self.faults = faults or Faults()
        self.requests: Counter[str] = Counter()
        self.faulted: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def make_web_app(self) -> web.Application:
        """Return the routes."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self._status),
                web.get("/replay", self._status),
                web.get("/replay/faults", self._list_faults),
                web.post("/replay/faults", self._add_fault),
                web.delete("/replay/faults", self._clear_faults),
                web.route("*", "/{path:.*}", self._answer),
            ]
        )
        return app

    async def _status(self, _request: web.Request) -> web.Response:
        market = self.market
        document = {
            "replay": market.origin,
            "generated": market.is_generated,
            "pairs": list(market.series),
            "timeframe": market.timeframe,
            "shift_s": market.shift_ms // 1000,
            "now": iso(market.now_ms()),
            "end": iso(market.end_ms),
            "requests": self.requests,
            "faulted": self.faulted,
            "unknown": self.unknown,
            "faults": self.faults.as_list(),
        }
        return web.json_response(document)

    async def _list_faults(self, _request: web.Request) -> web.Response:
        return web.json_response(self.faults.as_list())

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = make_fault(await request.json())
        except json.JSONDecodeError as error:
            return web.json_response({"error": f"not JSON: {error}"}, status=400)
        except SettingsError as error:
            return web.json_response({"error": str(error)}, status=400)
        self.faults.add(fault)
        logger.info("Fault in force %s", fault)
        return web.json_response(self.faults.as_list(), status=201)

    async def _clear_faults(self, _request: web.Request) -> web.Response:
        self.faults.clear()
        logger.info("Faults cleared")
        return web.json_response([])

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.path
        self.requests[path] += 1
        effect = self.faults.take(path, request.query.get("symbol"))
        if effect.delay_s:
            await asyncio.sleep(effect.delay_s)
        if effect.status is not None:
            self.faulted[path] += 1
            return _faulty(request, effect.status)
        answer = ANSWERS.get(path)
        if answer is None or request.method != "GET":
            return self._say_unknown(request)
        now_ms = int(min(self.market.now_ms(effect.lag_s), effect.end_s * 1000))
        self.market.say_if_run_out(now_ms)
        try:
            return web.json_response(answer(self.market, request.query, now_ms))
        except RefusedError as error:
            return web.json_response({"code": error.code, "msg": str(error)}, status=400)

    def _say_unknown(self, request: web.Request) -> web.Response:
        name = f"{request.method} {request.path}"
        self.unknown[name] += 1
        if self.unknown[name] == 1:
            logger.warning("Unsupported request to the replay exchange request=%s", name)
        return web.json_response({"code": -5000, "msg": f"{name} is not supported"}, status=404)


def _faulty(request: web.Request, status: int) -> web.Response:
    if status == HANG_UP and request.transport is not None:
        request.transport.abort()
        status = 500  # never arrives
    # Plain text, as from a proxy: with one of Binance's codes ccxt would not look at the status.
    return web.Response(text="A fault on purpose.", status=status)


def check_host(host: str) -> str:
    """Return a loopback address, or raise `SettingsError`: the server has no password."""
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise SettingsError(f"--host {host}: only loopback (127.0.0.1, ::1, localhost) is allowed")
    return host


async def _run(
    app: ReplayApp, host: str, port: int, ready: Callable[[str], None], stop: asyncio.Event
) -> None:
    runner = web.AppRunner(app.make_web_app(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ReplayServerError(f"can't listen on {host} port {port}: {error}") from error
        bound_host, bound_port = runner.addresses[0][:2]
        name = f"[{bound_host}]" if ":" in bound_host else bound_host
        ready(f"http://{name}:{bound_port}")
        await stop.wait()
    finally:
        await runner.cleanup()


def serve_market(
    market: ReplayMarket,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    faults: Faults | None = None,
    ready: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; `ready` is called with the base URL. Main thread only.

    Raises
    ------
    ReplayServerError
        When the port is taken.
    SettingsError
        When the host is not loopback.
    """

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in ending_signals():
            loop.add_signal_handler(number, stop.set)
        await _run(ReplayApp(market, faults), check_host(host), port, ready, stop)

    asyncio.run(main())


@contextmanager
def serving(
    market: ReplayMarket, host: str = "127.0.0.1", port: int = 0, *, faults: Faults | None = None
) -> Iterator[str]:
    """Serve in a thread of this process and give the base URL; for tests and notebooks."""
    outcome: SimpleQueue[str | Exception] = SimpleQueue()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        try:
            loop.run_until_complete(
                _run(ReplayApp(market, faults), check_host(host), port, outcome.put, stop)
            )
        except FeederError as error:
            outcome.put(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="replay-exchange", daemon=True)
    thread.start()
    first = outcome.get(timeout=_READY_TIMEOUT_S)
    if isinstance(first, Exception):
        thread.join()
        raise first
    try:
        yield first
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
