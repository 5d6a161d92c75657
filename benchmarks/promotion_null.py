"""How often a feeder's challenger is promoted that can't be better: labels without anything to learn.

The label's ratio to the ATR, excursion / (ATR14/close), is permuted in blocks of 30 candles over
training and test window together, and multiplied back: what is left is the ATR rule's world, where no
parameter set is truly better than another. Every re-tuning is the real one: shared models, search,
redraws, calibrated walk, decision, with the defaults as the champion. At most 5 % plus two standard
errors may be promoted.

    python benchmarks/promotion_null.py --runs 200 --trials 20

With ``--runs 4`` it says how long 200 would take. What has ended is counted as it goes: a run that was cut
goes on with ``--seed`` at the next permutation, half of the re-tunings counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

from common import (  # isort: skip - sets thread counts before numpy is imported
    DEFAULT_DATADIR,
    HORIZON,
    TIMEFRAME_S,
    Setup,
    evidence_of,
    full,
    permuted,
    prepare,
    settings_of,
    tune,
)

import numpy as np
from common import label_of

from feeder_mixin.model.quantile import fit_shared, shared_rows
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import SIDES, Side
from feeder_mixin.tune.judge.contenders import DEFAULTS
from feeder_mixin.tune.judge.decision import Champion
from feeder_mixin.tune.judge.promotion import decide
from feeder_mixin.tune.search.space import derive_seed

ALPHA = default_parameters()["quantile_alpha"]
ORDER = ("promoted", "refused", "kept", "first", "expired_replaced")


@cache
def _prepared(datadir: Path, bases: tuple[str, ...]) -> list[Setup]:
    """Return pairs ready to be tuned, their context's tables with them; once per process."""
    context = list(bases)
    return [prepare(datadir, base, context=context, with_shared=False) for base in bases]


def retune_both(
    datadir: Path, bases: tuple[str, ...], n_trials: int, seed: int
) -> list[dict[str, float | str]]:
    """Return what the re-tunings of both sides on one permutation of the labels came to.

    The shared models hold both sides and are half of the work.
    """
    started = time.process_time()
    originals = _prepared(datadir, bases)
    tables = dict(originals[0].market.build_context())
    # Each pair by a permutation of its own: the pooled trees and the scale must find nothing either.
    tables = {p: permuted(t, derive_seed("null", seed, p)) for p, t in sorted(tables.items())}
    thinned = {p: shared_rows(t, HORIZON, TIMEFRAME_S) for p, t in tables.items()}
    cuts = sorted({cut_s for one in originals for cut_s in one.layout.cuts_s})
    shared = {cut_s: fit_shared(thinned, cut_s, label_of("long"), [ALPHA]) for cut_s in cuts}
    setups = [replace(one, table=tables[full(one.base)], shared=shared) for one in originals]
    outcomes = [retune(setups, side, n_trials, seed) for side in SIDES]
    cpu_s = (time.process_time() - started) / len(outcomes)
    return [{**one, "cpu_s": cpu_s} for one in outcomes]


def retune(setups: list[Setup], side: Side, n_trials: int, seed: int) -> dict[str, float | str]:
    """Return what one re-tuning of a feeder came to: promoted when any of its pairs was."""
    settings = settings_of(side, seed)
    found, _ = tune(setups, settings, n_trials)
    evidence = {full(setup.base): evidence_of(setup, settings, found) for setup in setups}
    champion = Champion(0, default_parameters())
    decisions = decide(evidence, dict.fromkeys(evidence, champion), "auto")
    outcomes = [one.outcome for one in decisions.values() if one.gain is not None]
    skills = [one.sets[DEFAULTS].metrics["skill"] for one in evidence.values()]
    return {
        "outcome": "no challenger" if not outcomes else min(outcomes, key=ORDER.index),
        "kind": "feeder" if found.winner.number else "pairs" if outcomes else "-",
        "skill": float(np.mean(skills)),
        "beats_rule": str(any(one.beats_rule for one in decisions.values())),
    }


def main() -> None:
    """Print the share of re-tunings that were promoted, with its standard error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--datadir", type=Path, default=DEFAULT_DATADIR)
    parser.add_argument(
        "--pairs", nargs="+", default=["BTC", "ETH", "SOL", "XRP"], help="the feeder's, bases"
    )
    parser.add_argument(
        "--runs", type=int, default=200, help="re-tunings (200), both sides of each permutation"
    )
    parser.add_argument("--trials", type=int, default=20, help="trials of each (20)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the first permutation")
    options = parser.parse_args()
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        options.jobs, mp_context=context, initializer=os.nice, initargs=(5,)
    ) as pool:
        futures = [
            pool.submit(retune_both, options.datadir, tuple(options.pairs), options.trials, seed)
            for seed in range(options.seed, options.seed + (options.runs + 1) // 2)
        ]
        outcomes = []
        for future in futures:
            outcomes += future.result()
            promoted = sum(one["outcome"] == "promoted" for one in outcomes)
            left_s = (time.monotonic() - started) * (len(futures) * 2 / len(outcomes) - 1)
            print(
                f"  {len(outcomes)} of {2 * len(futures)}, promoted {promoted}, ETA {left_s / 60:.0f} minutes",
                file=sys.stderr,
            )
    n, took_s = len(outcomes), time.monotonic() - started
    counts = Counter(str(one["outcome"]) for one in outcomes)
    share = counts["promoted"] / n
    error = (share * (1 - share) / n) ** 0.5
    allowed = 0.05 + 2 * (0.05 * 0.95 / n) ** 0.5
    cpu_s = float(np.mean([one["cpu_s"] for one in outcomes]))
    beats = Counter(str(one["beats_rule"]) for one in outcomes)
    skill = float(np.mean([one["skill"] for one in outcomes]))
    print(
        f"{' '.join(options.pairs)}, {n} re-tunings of {options.trials} trials on permuted labels: {dict(counts)}"
    )
    print(f"promoted {100 * share:.1f} % (SE {100 * error:.1f}), allowed {100 * allowed:.1f} %")
    print(f"skill of the defaults over the ATR rule {100 * skill:+.2f} %, beats_rule {dict(beats)}")
    print(
        f"{cpu_s:.1f} CPU-s each, {took_s:.0f} s in all; 200 take {200 * took_s / n / 60:.0f} minutes"
    )


if __name__ == "__main__":
    main()
