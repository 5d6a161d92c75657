"""What missing candles cost: skill and served rows with candles taken out, against the whole market.

    python benchmarks/holes.py
    python benchmarks/holes.py --pairs BTC ETH --cut 2026-01-01

Candles of every pair are taken out before the cut and behind it, each pair's own: singly at random, and
in blocks. Models learn from what is left, as a bot's would, and are scored on the whole market's labels
and ATR rule, on the candles that every variant has a forecast of. ``rows`` is the share of candles with a
forecast, ``trained`` that of candles with a label, both of those of the whole market.

Measured (2026-11; BTC ETH INJ, cut 2025-12-15, both sides: the mean of six cells in %; 26 CPU-seconds):

    whole                            skill 11.06  rows 100.0 %  trained 100.0 %
    400 single candles in 75 days    skill 10.09  rows 100.0 %  trained  56.3 %
    as many in holes of 15 minutes   skill 10.45  rows  99.3 %  trained  81.5 %
    as many in holes of an hour      skill 10.17  rows  82.2 %  trained  93.7 %
    five times as many single ones   skill -0.55  rows  99.9 %  trained   5.0 %

So a candle in fifty costs a point of skill, and a candle in ten all of it: nearly no label is left. Of
the hour-long holes some lie side by side; what is longer than an hour costs the windows behind it.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import common  # first: it sets thread counts before numpy is imported
import numpy as np
import pandas as pd
import quality

from feeder_mixin.market.candles import load_candles
from feeder_mixin.market.labels import adverse_excursions

VARIANTS = {
    "400 single candles in 75 days": (400 / 21_600, 1),
    "as many in holes of 15 minutes": (400 / 21_600, 3),
    "as many in holes of an hour": (400 / 21_600, 12),
    "five times as many single ones": (2_000 / 21_600, 1),
}
"""Name -> share of candles that are missing, length of a hole."""


def take_out(candles: pd.DataFrame, share: float, length: int, seed: int) -> pd.DataFrame:
    """Return candles without some runs of `length`, never the first or the last."""
    random = np.random.default_rng(seed)
    starts = random.choice(
        np.arange(1, len(candles) - length), round(share * len(candles) / length), replace=False
    )
    missing = np.unique((starts[:, None] + np.arange(length)).ravel())
    return candles.drop(candles.index[missing])


def write(datadir: Path, candles: pd.DataFrame, pair: str) -> None:
    """Write candles as freqtrade keeps them."""
    name = pair.replace("/", "_").replace(":", "_")
    (datadir / "futures").mkdir(exist_ok=True)
    path = datadir / "futures" / f"{name}-5m-futures.feather"
    candles.reset_index().to_feather(path, compression="lz4", version=2)


def main() -> int:
    """Print a line a variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=["BTC", "ETH", "INJ"], metavar="BASE")
    parser.add_argument("--cut", default="2025-12-15")
    parser.add_argument("--datadir", type=Path, default=common.DEFAULT_DATADIR)
    arguments = parser.parse_args()
    pairs = tuple(common.full(base) for base in arguments.pairs)
    task = quality.Task(arguments.datadir, pairs, pairs, arguments.cut, 0.1)
    frames = {
        p: load_candles(arguments.datadir, p, "5m", "futures", "feather").frame for p in pairs
    }
    keys = ["date", "pair", "side"]
    whole = quality.predict_cut(task)
    forecasts, trained = {"whole": whole.set_index(keys)["q"]}, {"whole": 1.0}
    for name, (share, length) in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            known = total = 0
            for number, (pair, frame) in enumerate(frames.items()):
                left = take_out(frame, share, length, seed=number)
                write(Path(folder), left, pair)
                holed = left.reindex(frame.index)
                known += int(adverse_excursions(holed, task.horizon).notna().all(axis=1).sum())
                total += int(adverse_excursions(frame, task.horizon).notna().all(axis=1).sum())
            predicted = quality.predict_cut(replace(task, datadir=Path(folder)))
        forecasts[name] = predicted.set_index(keys)["q"]
        trained[name] = known / total
    together = pd.DataFrame(forecasts).reindex(whole.set_index(keys).index)
    shared = together.notna().all(axis=1).to_numpy()
    for name in forecasts:
        scored = whole[shared].assign(q=together[name].to_numpy()[shared])
        skill = 100 * quality.score(scored, 0.1, task.horizon)["skill"].mean()
        rows = 100 * together[name].notna().mean()
        print(
            f"    {name:<32} skill {skill:5.2f}  rows {rows:5.1f} %  trained {100 * trained[name]:5.1f} %",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
