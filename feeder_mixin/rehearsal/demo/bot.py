"""The demo's bot as it is configured, and what it says from outside: its REST API, on loopback."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from feeder_mixin.rehearsal.demo.subjects import PAIRS, Shown, Subject

CANDLE_S: Final = 60.0
_USER: Final = "demo"
_API_TIMEOUT_S: Final = 3.0

_CONFIG: Final[Mapping[str, Any]] = {
    "trading_mode": "futures",
    "margin_mode": "isolated",
    "dry_run": True,
    "dry_run_wallet": 1000,
    "stake_currency": "USDT",
    "stake_amount": 50,
    "max_open_trades": 3,
    "initial_state": "running",
    "entry_pricing": {"price_side": "same", "use_order_book": True, "order_book_top": 1},
    "exit_pricing": {"price_side": "same", "use_order_book": True, "order_book_top": 1},
    "pairlists": [{"method": "StaticPairList"}],
}


def make_config(subject: Subject, port: int, password: str) -> dict[str, Any]:
    """Return the config of a small bot ``demo`` whose API has that port and password."""
    return {
        **_CONFIG,
        **subject.config,
        "bot_name": "demo",
        "timeframe": "1m",  # windows are in candles: a new one a minute shows more, sooner
        "exchange": {"name": "binance", "pair_whitelist": list(PAIRS)},
        "api_server": {
            "enabled": True,
            "listen_ip_address": "127.0.0.1",
            "listen_port": port,
            "username": _USER,
            "password": password,
            "jwt_secret_key": secrets.token_hex(32),
        },
    }


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class Candle:
    """A pair's newest candle as the bot has analysed it.

    Attributes
    ----------
    opened
        Its open, RFC 3339.
    shown
        What was predicted on it.
    """

    opened: str
    close: float
    shown: Shown

    @property
    def closed_s(self) -> float:
        """Return when it closed, in seconds since the epoch."""
        return datetime.fromisoformat(self.opened).timestamp() + CANDLE_S

    def to_dict(self) -> dict[str, object]:
        """Return the form that ``--json`` prints."""
        return {"opened": self.opened, "close": self.close, **self.shown}


class BotApi:
    """The running bot's REST API, on loopback; None is "no answer yet"."""

    def __init__(self, subject: Subject, port: int, password: str) -> None:
        self._read = subject.read
        self._base = f"http://127.0.0.1:{port}/api/v1"
        login = base64.b64encode(f"{_USER}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}
        # Without the environment's proxies.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **query: object) -> dict[str, Any] | None:
        """Return an answer, or None where there is none."""
        request = urllib.request.Request(  # noqa: S310 - always http
            f"{self._base}/{path}?{urlencode(query)}", headers=self._headers
        )
        try:
            with self._opener.open(request, timeout=_API_TIMEOUT_S) as answer:
                document: dict[str, Any] = json.load(answer)
        except (OSError, ValueError):
            return None
        return document

    def is_running(self) -> bool:
        """Return whether the bot says that it is RUNNING."""
        config = self.get("show_config")
        return config is not None and config.get("state") == "running"

    def newest_candle(self, pair: str) -> Candle | None:
        """Return the newest candle with what was predicted on it."""
        answer = self.get("pair_candles", pair=pair, timeframe="1m", limit=1)
        if not answer or not answer.get("data"):
            return None
        row = dict(zip(answer["columns"], answer["data"][-1], strict=True))
        return Candle(row["date"], row["close"], self._read(row))
