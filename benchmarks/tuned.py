"""Whether tuning helps: a feeder tuned on what lies before a cut, scored on the 15 days after it.

    python benchmarks/tuned.py                                             5m, 30 candles, seven cuts
    python benchmarks/tuned.py --horizon 6 --cuts 2025-11-01 2025-12-15 2026-02-01
    python benchmarks/tuned.py --timeframe 15m --horizon 12 --cuts 2025-11-15 2026-01-01 2026-02-01

The search is the real one (`tune.search`), over all pairs together, each side a feeder of its own. It
sees no candle at or after the cut. Then the sets that it gives the pairs and the defaults are fitted
at the cut and scored on the same candles as `quality.py` scores. "gain" is tuned minus defaults, in
points of skill over the ATR rule. "written" is what bots run on: tuned where promotion, which asks
the 15 days before the cut that the search leaves untouched, writes it to an empty store, else the
defaults. A gain's standard error is over the pairs and sides of a cut, and over cuts for all of them:
pairs share their days, so the former is too small rather than too large.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import common  # first: it sets thread counts before numpy is imported
import pandas as pd
import quality

from feeder_mixin.market.context import FeatureContext
from feeder_mixin.market.features import warmup_candles
from feeder_mixin.model.folds import plan_layout
from feeder_mixin.model.quantile import fit_shared, pooled_weights, shared_context, shared_rows
from feeder_mixin.model.rows import DAY_S, open_seconds
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import SIDES, Side
from feeder_mixin.tune.judge.contenders import DEFAULTS, TUNED
from feeder_mixin.tune.judge.promotion import decide
from feeder_mixin.tune.search.space import StudySettings
from feeder_mixin.tune.search.study import SearchResult


@dataclass(frozen=True)
class Task(quality.Task):
    """A cut before which a feeder is tuned."""

    n_trials: int = 100
    seed: int = 0

    def study(self, side: Side) -> StudySettings:
        """Return the settings of a side's study."""
        return common.settings_of(self.label(side), self.seed, {"quantile_alpha": self.alpha})


def prepare(task: Task) -> list[common.Setup]:
    """Return the pairs ready to be tuned on the candles before the cut, with their shared models."""
    cut, label = pd.Timestamp(task.cut, tz="UTC"), task.label()
    frames = {pair: task.load(pair) for pair in (*task.context, *task.pairs)}
    frames = {pair: frame[frame.index < cut] for pair, frame in frames.items()}
    context = {pair: frames[pair] for pair in task.context}
    market = FeatureContext(context, label.horizon, label.timeframe_s)
    newest_s = max(int(frame.index[-1].timestamp()) for frame in context.values())
    thin = shared_context(market)
    tables = {pair: market.build(frames[pair]) for pair in task.pairs}
    layouts = {
        pair: plan_layout(
            int(open_seconds(table)[0]),
            int(frames[pair].index[-1].timestamp()),
            label,
            newest_candle_s=newest_s,
            days_back=180.0,
            needed_warmup_days=warmup_candles(label.horizon) * label.timeframe_s / DAY_S,
        )
        for pair, table in tables.items()
    }
    cuts = sorted({cut_s for layout in layouts.values() for cut_s in layout.cuts_s})
    shared = {
        cut_s: fit_shared(thin, cut_s, label, tuple(pooled_weights(task.alpha))) for cut_s in cuts
    }
    return [
        common.Setup(
            pair.partition("/")[0],
            market,
            table,
            layouts[pair],
            {s: one.with_pair(pair, table, label) for s, one in shared.items()},
            0.0,
            0.0,
        )
        for pair, table in tables.items()
    ]


def search(task: Task, setups: Sequence[common.Setup], side: Side) -> SearchResult:
    """Return what the search gives the feeder of one side, and say it."""
    found, cpu_s = common.tune(setups, task.study(side), task.n_trials)
    changed = {
        name: value
        for name, value in found.winner.parameters.items()
        if value != default_parameters()[name]
    }
    own = sorted(p for p, one in found.choices.items() if one.winner is not found.winner)
    evidence = ", ".join(f"{e.gain:+.3%} +- {e.error:.3%}" for e in found.evidence)
    best = min((t.value for t in found.trials if not t.pruned), default=0.0)
    print(
        f"  {task.cut} {side}: best trial {-best:+.3%} of loss, redraws {evidence or '-'}; "
        f"changed {_short(changed) or 'nothing'}; own sets {len(own)}; {cpu_s:.0f} CPU-s",
        file=sys.stderr,
    )
    return found


def _short(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in values.items())


def choose_written(
    task: Task, setups: Sequence[common.Setup], side: Side, found: SearchResult
) -> dict[str, str]:
    """Return pair -> which set promotion writes to an empty store, and say why."""
    settings = task.study(side)
    evidence = {common.full(one.base): common.evidence_of(one, settings, found) for one in setups}
    decisions = decide(evidence, {}, "auto")
    for reason in sorted({one.reason for one in decisions.values()}):
        print(f"  {task.cut} {side}: {reason}", file=sys.stderr)
    return {pair: decision.written or DEFAULTS for pair, decision in decisions.items()}


def predict_cut(task: Task) -> pd.DataFrame:
    """Return what the sets predict after the cut, as `quality.serve` does, with their names."""
    setups = prepare(task)
    found = {side: search(task, setups, side) for side in SIDES}
    written = {side: choose_written(task, setups, side, found[side]) for side in SIDES}
    del setups
    tables, context = quality.build_tables(task)
    label, cut_s = task.label(), int(pd.Timestamp(task.cut, tz="UTC").timestamp())
    thin = {pair: shared_rows(tables[pair], label.horizon, label.timeframe_s) for pair in context}
    shared = fit_shared(thin, cut_s, label, tuple(pooled_weights(task.alpha)))
    end_s = cut_s + quality.WINDOW_DAYS * DAY_S
    parts = []
    for pair in task.pairs:
        table, models = tables[pair], shared.with_pair(pair, tables[pair], label)
        for side in SIDES:
            sets = {
                DEFAULTS: task.defaults,
                TUNED: found[side].choices[pair].winner.parameters,
            }
            for name, parameters in sets.items():
                raw = quality.predict_days(task, table, pair, side, models, end_s, parameters)
                part = None if raw is None else quality.serve(task, table, pair, side, raw, cut_s)
                if part is not None:
                    parts.append(part.assign(set=name))
                    if name == written[side][pair]:
                        parts.append(part.assign(set="written"))
    return pd.concat(parts, ignore_index=True)


def score(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return one row a cell (window, pair, side) with the skill of each set, in percent."""
    columns = {
        str(name): quality.score(part, task.alpha, task.horizon).set_index(
            ["window", "pair", "side"]
        )["skill"]
        for name, part in predictions.groupby("set")
    }
    return 100 * pd.DataFrame(columns)


def print_scores(cells: pd.DataFrame) -> None:
    """Print what tuning gained cut by cut, and over all cuts."""
    gain = cells["tuned"] - cells["defaults"]
    for window, part in cells.groupby("window"):
        g = gain[part.index]
        print(
            f"  {window:%Y-%m-%d}: defaults {part['defaults'].mean():.2f} %, tuned "
            f"{part['tuned'].mean():.2f} %, gain {g.mean():+.3f} +- {g.std() / len(g) ** 0.5:.3f} points, "
            f"above 0 in {int((g > 0).sum())} of {len(g)} cells"
        )
    by_cut = gain.groupby("window").mean()
    error = by_cut.std() / len(by_cut) ** 0.5  # NaN of one cut: nothing to tell it from
    print(
        f"  all: defaults {cells['defaults'].mean():.2f} %, gain {gain.mean():+.3f} +- {error:.3f} points "
        f"over {len(by_cut)} cuts, lowest cut {by_cut.min():+.3f}"
    )
    written = (cells["written"] - cells["defaults"]).groupby("window").mean()
    print(
        f"  written by promotion to an empty store: gain {written.mean():+.3f} points, "
        f"by cut {', '.join(f'{one:+.3f}' for one in written)}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune before each cut, and print what it gained after."""
    parser = quality.make_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100, metavar="N", help="of each study (100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    options = parser.parse_args(arguments)
    tasks = [
        Task(cut=cut, n_trials=options.trials, seed=options.seed, **quality.what(options))
        for cut in options.cuts
    ]
    started = time.monotonic()
    found = list(quality.run(predict_cut, tasks, options.jobs))
    print(
        f"{options.timeframe}, {options.horizon} candles ahead, level {options.alpha:g}, "
        f"{len(tasks[0].pairs)} pairs, {options.trials} trials before each cut"
    )
    print_scores(score(pd.concat(found, ignore_index=True), tasks[0]))
    print(f"  {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
