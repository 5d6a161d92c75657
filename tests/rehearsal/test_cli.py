"""`feeder replay-exchange` as a command."""

from __future__ import annotations

import json
import urllib.request

import pytest

from feeder_mixin.cli.main import main
from feeder_mixin.market.candles import load_candles
from feeder_mixin.rehearsal.exchange import server
from feeder_mixin.rehearsal.exchange.market import ReplayMarket


def test_command_serves_a_generated_market_and_stops_cleanly(run_exchange, tmp_path):
    """It writes folder and config before it is ready, serves, and ends with 0 on SIGTERM."""
    folder, config = tmp_path / "data" / "binance", tmp_path / "new" / "replay.json"
    options = ("--generate-days", 2, "--seed", 5, "--as-1m", "--write-until-hours-ago", 6)
    with run_exchange(*options, "--write-datadir", folder, "--write-config", config) as url:
        with urllib.request.urlopen(url) as answer:  # noqa: S310
            status = json.load(answer)
        overlay = json.loads(config.read_text())
        assert status["generated"] is True
        assert overlay["timeframe"] == "1m"
        assert overlay["exchange"]["ccxt_config"]["urls"]["api"]["fapiPublic"] == f"{url}/fapi/v1"
        assert load_candles(folder, status["pairs"][0], "1m", "futures", "feather").n_missing == 0
    log = (tmp_path / "exchange.log").read_text()
    assert "no real prices" in log
    assert log.endswith("Replay exchange stopped\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "only loopback"),  # noqa: S104
        (["--port", "70000"], "--port 70000"),
        (["--fault", "status=200"], "fault status=200"),
        (["--fault", "status=nan"], "status='nan' is not a whole number"),
        (["--fault", "count=inf"], "count='inf' is not a whole number"),
        (["--fault", "count=1.5"], "count='1.5' is not a whole number"),
        (["--fault", "nonsense"], "unknown key 'nonsense' in a fault"),
        (["--generate-days", "0"], "days=0"),
        (["--datadir", "nowhere"], "no futures candles of 5m"),
        (["--config", "x.json"], "x.json does not exist"),
        (["--write-until-hours-ago", "-1"], "--write-until-hours-ago -1"),
    ],
    ids=[
        *("host", "port", "fault", "fault-nan", "fault-inf", "fault-fraction", "fault-key"),
        *("days", "datadir", "config", "hours"),
    ],
)
def test_wrong_options_end_with_2_and_name_the_value(options, message, capsys):
    """A mistake on the command line is a sentence, not a traceback."""
    assert main(["replay-exchange", *options]) == 2
    assert message in capsys.readouterr().err


def test_spot_feeder_ends_with_2_and_says_what_is_played(tmp_path, capsys):
    """Only futures are replayed: said before anything is served or written."""
    config = {
        "bot_name": "spot1",
        "timeframe": "5m",
        "trading_mode": "spot",
        "exchange": {"name": "binance", "pair_whitelist": ["ETH/USDT"]},
        "feeder": {"side": "long"},
    }
    (tmp_path / "spot1.json").write_text(json.dumps(config))
    options = ["--feeder", "spot1", "--config", str(tmp_path / "spot1.json")]
    assert main(["replay-exchange", *options]) == 2
    assert "spot1 has trading_mode 'spot': the replay exchange has" in capsys.readouterr().err


def test_freqai_bot_gets_its_correlated_pairs_and_timeframes(tmp_path, monkeypatch):
    """Named by its config alone; a tuning finds all candles that its features read."""
    features = {"include_timeframes": ["5m", "15m"], "include_corr_pairlist": ["BTC/USDT:USDT"]}
    config = {
        "timeframe": "5m",
        "trading_mode": "futures",
        "exchange": {"name": "binance", "pair_whitelist": ["ETH/USDT:USDT"]},
        "freqai": {"enabled": True, "identifier": "mine", "feature_parameters": features},
    }
    path, folder = tmp_path / "mine.json", tmp_path / "data" / "binance"
    path.write_text(json.dumps(config))
    served: list[ReplayMarket] = []
    monkeypatch.setattr(server, "serve_market", lambda market, *_, **__: served.append(market))
    options = ["--config", str(path), "--generate-days", "2", "--write-datadir", str(folder)]
    assert main(["replay-exchange", *options]) == 0
    assert list(served[0].series) == ["BTC/USDT:USDT", "ETH/USDT:USDT"]
    written = {path.name for path in folder.glob("futures/*-futures.feather")}
    pairs_and_timeframes = [(base, step) for base in ("BTC", "ETH") for step in ("5m", "15m")]
    assert written == {f"{b}_USDT_USDT-{t}-futures.feather" for b, t in pairs_and_timeframes}


@pytest.mark.parametrize("option", ["--write-datadir", "--write-config"])
def test_target_that_can_not_be_written_ends_with_1_and_names_it(option, tmp_path, capsys):
    """A path below a file, as a full or read-only disk, is a sentence as well."""
    (tmp_path / "file").touch()
    target = str(tmp_path / "file" / "below")
    assert main(["replay-exchange", "--generate-days", "2", option, target]) == 1
    assert f"{target} can't be written" in capsys.readouterr().err
