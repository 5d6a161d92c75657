"""The freqtrade config that points a bot at the replay exchange and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_FAPI: Final = {
    "fapiPublic": "/fapi/v1", "fapiPublicV2": "/fapi/v2", "fapiPublicV3": "/fapi/v3",
    "fapiPrivate": "/fapi/v1", "fapiPrivateV2": "/fapi/v2", "fapiPrivateV3": "/fapi/v3",
    "fapiData": "/futures/data",
}  # fmt: skip
_ELSEWHERE: Final = (
    "sapi", "sapiV2", "sapiV3", "sapiV4", "dapiPublic", "dapiPrivate", "dapiPrivateV2", "dapiData",
    "eapiPublic", "eapiPrivate", "public", "private", "v1", "papi", "papiV2",
)  # fmt: skip
"""ccxt's other Binance APIs: also sent to the replay exchange, which has none of them."""


def freqtrade_overlay(
    base_url: str,
    timeframe: str | None = None,
    user_data_dir: Path | None = None,
    strategy_path: Path | None = None,
) -> dict[str, object]:
    """Return config keys to merge over a bot's own: a second ``--config`` of ``freqtrade trade``.

    Parameters
    ----------
    base_url
        Such as ``http://127.0.0.1:8800``.
    timeframe
        Overrides the bot's, where the exchange serves candles under another name (``--as-1m``).
    user_data_dir
        Of the rehearsal: moved candles, state, models and a relative store stay in and beside it.
    strategy_path
        Where the strategies are, which a rehearsal's folder does not have.
    """
    base = base_url.rstrip("/")
    urls = {name: base + path for name, path in _FAPI.items()}
    urls |= {name: f"{base}/not-replayed/{name}" for name in _ELSEWHERE}
    pricing = {"price_side": "same", "use_order_book": True, "order_book_top": 1}
    overlay: dict[str, object] = {
        "dry_run": True,
        "db_url": "sqlite://",  # in memory: a rehearsal's trades do not join the bot's own
        "initial_state": "running",
        "trading_mode": "futures",
        "margin_mode": "isolated",
        "entry_pricing": pricing,
        "exit_pricing": pricing,
        "exchange": {
            "name": "binance",
            "key": "",
            "secret": "",
            "enable_ws": False,
            "only_from_ccxt": True,
            "ccxt_config": {
                "enableRateLimit": False,
                "urls": {"api": urls},
                "options": {"fetchMarkets": {"types": ["linear"]}},
            },
        },
    }
    if timeframe is not None:
        overlay["timeframe"] = timeframe
    if user_data_dir is not None:
        overlay["user_data_dir"] = str(user_data_dir.absolute())
    if strategy_path is not None:
        overlay["strategy_path"] = str(strategy_path.absolute())
    return overlay
