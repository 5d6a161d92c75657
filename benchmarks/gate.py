"""What the safety gate does to trades: freqtrade's own backtests with no gate, the ATR rule's and ours.

    python benchmarks/gate.py --cache forecasts.parquet

Forecasts are those of `benchmarks/decide.py`: the 15 days after each of seven cuts, by models of the cut,
level 0.10, each pair's own tolerance; only ordinary candles are safe. The strategy is the one that
comes along; nothing but the gate differs, stops follow our quantile in all three. The ATR rule's gate
lets as many of a pair's signals pass as ours, those that it ranks safest with hindsight over all
windows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common  # first: it sets thread counts before numpy is imported
import decide
import pandas as pd

from feeder_mixin.settings import SIDES, Side

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
GATES = ("off", "rule", "ours")
STRATEGY = "LightGBMSafetyFeederStrategy"

GATED = f'''

import os
from pathlib import Path

import numpy as np

from feeder_mixin.live.serve.columns import SafetyColumns
from feeder_mixin.model.decision import called_safe


class Gated({STRATEGY}):
    """Enters by the rules above, on forecasts from a file, through one of three gates."""

    def _predict(self, dataframe, pair):
        opens_s = pd.DatetimeIndex(dataframe["date"]).as_unit("s").asi8
        folder = Path(self.config["user_data_dir"])
        kept = pd.read_parquet(folder / "forecasts.parquet", filters=[("pair", "==", pair)])
        at = kept.set_index("open_s").reindex(opens_s)
        self.rule = (at["rule"] / at["tolerance"]).to_numpy()
        q, tolerance = at["served"].to_numpy(), at["tolerance"].to_numpy()
        alpha = np.where(np.isfinite(q), 0.1, np.nan)
        is_ordinary = at["is_ordinary"].eq(True).to_numpy()  # NaN without forecast
        safe, generation = called_safe(q, tolerance, is_ordinary), np.isfinite(q).astype(int)
        return SafetyColumns(opens_s, q, safe, generation, alpha, tolerance, is_ordinary)

    def populate_entry_trend(self, dataframe, metadata):
        gate, ours = os.environ["GATE"], dataframe["safe"].to_numpy() == 1
        wanted = self.entry_trigger(dataframe, metadata).to_numpy() & np.isfinite(self.rule)
        if gate == "off":
            dataframe["safe"] = np.isfinite(self.rule).astype(int)
        elif gate == "rule":
            ranked = np.where(wanted, self.rule, -np.inf)
            safest = np.argsort(-ranked, kind="stable")[: int((wanted & ours).sum())]
            dataframe["safe"] = np.isin(np.arange(len(dataframe)), safest).astype(int)
        return super().populate_entry_trend(dataframe, metadata)
'''


def make_project(root: Path, forecasts: pd.DataFrame, side: Side) -> Path:
    """Return the config of a feeder of that side whose forecasts lie in its user folder."""
    folder = root / "user_data" / "strategies"
    folder.mkdir(parents=True)
    text = (ROOT / "user_data" / "strategies" / f"{STRATEGY}.py").read_text()
    (folder / "Gated.py").write_text(text + GATED)
    forecasts.to_parquet(root / "user_data" / "forecasts.parquet", index=False)
    pairs = sorted(forecasts["pair"].unique())
    config = {
        **json.loads(_without_comments((ROOT / "config" / "base.json").read_text())),
        "bot_name": "gate",
        "strategy": "Gated",
        "max_open_trades": len(pairs),
        "feeder": {"side": side, "max_adverse_ratio": "auto", "context_pairs": pairs},
        "exchange": {"name": "binance", "pair_whitelist": pairs},
    }
    path = root / "gate.json"
    path.write_text(json.dumps(config))
    return path


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))


@contextmanager
def market(root: Path, config: Path, datadir: Path) -> Iterator[Path]:
    """Run the replay exchange, of which a backtest asks markets and fees, and give its config."""
    written = root / "replay.json"
    command = [str(BIN / "feeder"), "replay-exchange", "--feeder", "gate", "--config", str(config)]
    command += ["--datadir", str(datadir), "--write-config", str(written)]
    process = subprocess.Popen(  # noqa: S603
        command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        while not written.exists():
            if process.poll() is not None:
                raise RuntimeError("the replay exchange did not start")
            time.sleep(0.5)
        yield written
    finally:
        process.terminate()
        process.wait()


def backtest(
    root: Path, configs: Sequence[Path], datadir: Path, gate: str, days: str
) -> dict[str, Any]:
    """Return freqtrade's own statistics of a backtest through a gate."""
    command = [str(BIN / "freqtrade"), "backtesting", "--strategy", "Gated", "--timerange", days]
    command += [part for path in configs for part in ("--config", str(path))]
    command += ["--userdir", str(root / "user_data"), "--datadir", str(datadir), "--cache", "none"]
    done = subprocess.run(  # noqa: S603
        command, env={**os.environ, "GATE": gate}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    path = max((root / "user_data" / "backtest_results").glob("*.zip"))
    with zipfile.ZipFile(path) as archive:
        document = json.loads(archive.read(f"{path.stem}.json"))
    path.unlink()
    (stats,) = document["strategy"].values()
    return dict(stats)


def print_stats(gate: str, stats: dict[str, Any]) -> None:
    """Print what became of the trades of one gate."""
    trades = pd.DataFrame(stats["trades"])
    if trades.empty:
        print(f"  {gate:<5} no trades")
        return
    long = trades["min_rate"] / trades["open_rate"] - 1
    short = 1 - trades["max_rate"] / trades["open_rate"]
    adverse = long.where(~trades["is_short"], short)
    stopped = trades["exit_reason"].str.contains("stop")
    print(
        f"  {gate:<5} trades {len(trades)}, adverse excursion worst {adverse.min():.2%}, 5 % worse than "
        f"{adverse.quantile(0.05):.2%}, mean {adverse.mean():.2%}; stopped {stopped.mean():.1%} ({stopped.sum()}), "
        f"won {(trades['profit_abs'] > 0).mean():.1%}, profit factor {stats['profit_factor']:.2f}, drawdown "
        f"{stats['max_drawdown_account']:.2%}, profit {trades['profit_ratio'].mean():.3%} a trade"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Backtest both sides through the three gates."""
    options = decide.parse(arguments)
    found = decide.forecasts(options)
    groups = found.groupby(["cut", "pair", "side"], sort=False)
    served = pd.concat([decide.serve(part) for _, part in groups], ignore_index=True)
    after = served[served["is_after"]]
    days = pd.to_datetime([after["open_s"].min(), after["open_s"].max() + 86_400], unit="s")
    timerange = "-".join(f"{day:%Y%m%d}" for day in days)
    datadir = options.datadir.resolve()
    for side in SIDES:
        # Windows of neighbouring cuts overlap by a day: the newer model's forecast counts.
        of_side = after[after["side"] == side].drop_duplicates(["pair", "open_s"], keep="last")
        print(f"{side}, {timerange}, level {decide.TABLE_ALPHA:g}, {len(common.LONG_PAIRS)} pairs")
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            config = make_project(root, of_side, side)
            with market(root, config, datadir) as replay:
                for gate in GATES:
                    print_stats(gate, backtest(root, [config, replay], datadir, gate, timerange))
    return 0


if __name__ == "__main__":
    sys.exit(main())
