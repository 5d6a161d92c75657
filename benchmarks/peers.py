"""Ours beside its peers on the same candles, folds and budget: what a tuner buys out of sample.

    python benchmarks/peers.py --json user_data/peers.json
    python benchmarks/peers.py --json user_data/peers6.json --horizon 6

The whole grid; killed, the same command goes on.

Ten pairs, both sides, three cuts: 60 cells. In each, the naive loop, Optuna's LightGBMTunerCV,
FLAML's AutoML and our tuner get the same budget on one thread, beside our defaults and the ATR
rule, which need no search. All are fitted on labels that ended before the cut and judged on every
candle of the 15 days after it. What each tunes on is told in `peer_tuners.py`, the naive loop in
`naive.py`, the figures in `peer_cells.py`.

A budget is CPU seconds, whatever else the machine does. A search ends with the trial in which it is
spent, which for the naive loop can be its first. Ours then redraws its best two trials: the table
counts that, too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

from common import (  # isort: skip - sets thread counts before numpy is imported
    DEFAULT_DATADIR,
    HORIZON,
    LONG_PAIRS,
    TIMEFRAME_S,
    Setup,
    full,
    load_all,
)
from naive import ALPHA, fold_rows  # isort: skip
from peer_cells import (  # isort: skip
    DEFAULTS,
    FLAML,
    NAIVE,
    OURS,
    RULE,
    TUNER_CV,
    Cell,
    CellFile,
    cell_key,
    skill_of,
    table,
    verdicts,
)
from peer_tuners import cpu_seconds, measure  # isort: skip

import numpy as np
import pandas as pd

from feeder_mixin.errors import CandleError, FeederError, TuningError
from feeder_mixin.executors.base import Executor, run_tasks
from feeder_mixin.executors.processes import ProcessExecutor
from feeder_mixin.market.context import FeatureContext
from feeder_mixin.model.folds import TEST_DAYS, Layout, plan_layout
from feeder_mixin.model.quantile import SharedModels, fit_shared
from feeder_mixin.model.rows import DAY_S, open_seconds
from feeder_mixin.schema import hash48
from feeder_mixin.settings import SIDES, LabelSpec, Side

ROOT = Path(__file__).parents[1]
CUTS = ("2025-10-01", "2025-12-15", "2026-02-01")
BUDGET_S = 20.0
DAYS_BACK = 180.0
PEERS = {"naive": NAIVE, "tunercv": TUNER_CV, "flaml": FLAML}
_T = TypeVar("_T")
MODULES = {"tunercv": ("optuna_integration",), "flaml": ("flaml", "xgboost")}
"""What a peer needs that `make setup` does not install. FLAML imports xgboost to tune LightGBM."""


class Task(NamedTuple):
    """A cell to measure."""

    base: str
    side: Side
    cut: str

    @property
    def key(self) -> str:
        """Return the cell's name."""
        return cell_key(full(self.base), self.side, self.cut)

    @property
    def cut_s(self) -> int:
        """Return the cut in seconds since the epoch."""
        return cut_seconds(self.cut)


def cut_seconds(cut: str) -> int:
    """Return midnight UTC of a date in seconds since the epoch."""
    return int(datetime.fromisoformat(cut).replace(tzinfo=UTC).timestamp())


@dataclass(frozen=True)
class TenPairs:
    """The context of ten pairs; what is built of it stays with the worker that built it."""

    datadir: Path
    horizon: int = HORIZON

    @property
    def label(self) -> LabelSpec:
        """Return what is predicted; folds and shared models are the same for both sides."""
        return LabelSpec("long", self.horizon, TIMEFRAME_S)

    @cached_property
    def market(self) -> FeatureContext:
        """Return their candles as features see them."""
        loaded = load_all(self.datadir, LONG_PAIRS)
        frames = {pair: candles.frame for pair, candles in loaded.items()}
        return FeatureContext(frames, self.horizon, TIMEFRAME_S)

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Return pair -> features and labels."""
        return dict(self.market.build_context())


def plan(ten: TenPairs, base: str, cut_s: int) -> Layout:
    """Return the folds before a cut, and the 15 days after it."""
    opens_s = open_seconds(ten.tables[full(base)])
    last_candle_s = int(cut_s + TEST_DAYS * DAY_S) + (ten.horizon - 1) * TIMEFRAME_S
    if opens_s[-1] < last_candle_s:
        raise CandleError(
            f"{full(base)}: candles end {datetime.fromtimestamp(int(opens_s[-1]), UTC):%F %H:%M}, "
            f"needed are {TEST_DAYS:g} days and a horizon after the cut"
        )
    layout = plan_layout(
        int(opens_s[0]),
        last_candle_s,
        ten.label,
        newest_candle_s=last_candle_s,
        days_back=DAYS_BACK,
        needed_warmup_days=15,
    )
    if layout.test.cut_s != cut_s:
        raise CandleError(
            f"{full(base)}: {layout.labelled_days:.0f} labelled days up to the end of the test "
            "window are too few for one of 15 days: choose later cuts"
        )
    return layout


def fit_cut(ten: TenPairs, cut_s: int) -> tuple[SharedModels, float]:
    """Return scale and pooled trees of a cut, and their CPU seconds."""
    started = cpu_seconds()
    return fit_shared(ten.tables, cut_s, ten.label), cpu_seconds() - started


def measure_cell(
    ten: TenPairs,
    task: Task,
    layout: Layout,
    shared: dict[int, SharedModels],
    contenders: Sequence[str],
    budget_s: float,
) -> Cell:
    """Return a cell with the results of some contenders."""
    pair = full(task.base)
    setup = Setup(task.base, ten.market, ten.tables[pair], layout, shared, 0.0, 0.0)
    _, rows, _ = fold_rows(setup, task.side, layout.test)
    return Cell(
        pair,
        task.side,
        task.cut,
        np.unique(open_seconds(setup.table)[rows] // DAY_S).tolist(),
        {name: measure(setup, task.side, name, budget_s) for name in contenders},
    )


def run_settings(datadir: Path, budget_s: float, horizon: int) -> dict[str, str]:
    """Return what cells must share to be pooled: budget, candles, code and libraries."""
    package = ROOT / "feeder_mixin"
    code = [path for part in ("market", "model", "tune") for path in package.glob(f"{part}/*.py")]
    code += [package / "schema.py"]
    code += [ROOT / "benchmarks" / f"{name}.py" for name in ("common", "naive", "peer_tuners")]
    candles = [c.content_hash() for c in load_all(datadir, LONG_PAIRS).values()]
    return {
        "budget in CPU seconds": f"{budget_s:g}",
        "horizon": str(horizon),
        "candles": f"{hash48(*candles):012x}",
        "code": f"{hash48(*(path.read_text(encoding='utf-8') for path in sorted(code))):012x}",
        "libraries": ", ".join(
            map(_library, ("lightgbm", "optuna", "optuna-integration", "flaml"))
        ),
    }


def _library(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def _all(
    executor: Executor, function: Callable[..., _T], tasks: Mapping[str, tuple[object, ...]]
) -> dict[str, _T]:
    """Return key -> result of every task."""
    results = dict(run_tasks(executor, function, tasks))
    for key, result in results.items():
        if isinstance(result, BaseException):
            raise TuningError(f"{key}: {result}") from result
    return results


def run_grid(
    kept: CellFile,
    tasks: Sequence[Task],
    contenders: Sequence[str],
    arguments: argparse.Namespace,
) -> None:
    """Measure what is missing, cell by cell, `--jobs` at a time."""
    missing = {task: kept.missing(task.key, contenders) for task in tasks}
    todo = [task for task in tasks if missing[task]]
    if len(todo) < len(tasks):
        _say(f"{len(tasks) - len(todo)} of {len(tasks)} cells are kept in {arguments.json}")
    if not todo:
        return
    jobs = min(arguments.jobs, len(todo))
    with ProcessExecutor(jobs) as executor:
        ten = executor.share(TenPairs(arguments.datadir, arguments.horizon))
        pairs = {f"{task.base} {task.cut}": (ten, task.base, task.cut_s) for task in todo}
        layouts = _all(executor, plan, pairs)
        cuts = sorted({cut_s for layout in layouts.values() for cut_s in layout.cuts_s})
        fitted = _all(executor, fit_cut, {str(cut_s): (ten, cut_s) for cut_s in cuts})
        shared = {int(key): models for key, (models, _) in fitted.items()}
        cpu_s = sum(seconds for _, seconds in fitted.values())
        _say(f"shared models of {len(cuts)} cuts: {cpu_s:.1f} CPU-s, in no contender's figure")
        work: dict[str, tuple[object, ...]] = {}
        for task in todo:
            layout = layouts[f"{task.base} {task.cut}"]
            models = {cut_s: shared[cut_s] for cut_s in layout.cuts_s}
            work[task.key] = (ten, task, layout, models, missing[task], arguments.budget_s)
        _measure_all(executor, work, kept)


def _measure_all(
    executor: Executor, work: Mapping[str, tuple[object, ...]], kept: CellFile
) -> None:
    failed, started = [], time.monotonic()
    for number, (key, cell) in enumerate(run_tasks(executor, measure_cell, work), 1):
        if isinstance(cell, BaseException):
            failed.append(f"{key}: {cell}")
            continue
        kept.add(cell)
        skills = _skills(kept.cells[key])
        _say(f"{number}/{len(work)} {key}: {skills} %, {time.monotonic() - started:.0f} s so far")
    if failed:
        raise TuningError("\n".join(failed))


def _skills(cell: Cell) -> str:
    names = [name for name in cell.results if name != RULE]
    return "  ".join(f"{name} {100 * skill_of(cell, name):+.1f}" for name in names)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def print_result(cells: Sequence[Cell], contenders: Sequence[str], budget_s: float) -> None:
    """Print the table and whether the promises hold."""
    print(
        f"cells {len(cells)}, cuts {len({cell.cut for cell in cells})}, {TEST_DAYS:g} untouched days, "
        f"level {ALPHA:g}, {budget_s:g} CPU-s a search"
    )
    print(table(cells, contenders, ALPHA))
    for line in verdicts(cells, contenders):
        print(line)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datadir", type=Path, default=DEFAULT_DATADIR)
    parser.add_argument(
        "--pairs",
        nargs="+",
        choices=LONG_PAIRS,
        default=list(LONG_PAIRS),
        metavar="BASE",
        help=f"base currencies out of {' '.join(LONG_PAIRS)} (all); the context is all ten anyway",
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--cuts", nargs="+", type=_cut, default=list(CUTS), metavar="DATE")
    parser.add_argument(
        "--horizon", type=int, default=HORIZON, metavar="H", help="candles ahead (30)"
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--budget-s", type=_budget, default=BUDGET_S, help="CPU seconds of a search (20)"
    )
    parser.add_argument("--jobs", type=int, choices=range(1, 65), default=2, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep finished cells here")
    return parser


def _cut(text: str) -> str:
    return date.fromisoformat(text).isoformat()


def _budget(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(text)
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the grid and print the table."""
    arguments = make_parser().parse_args(argv)
    needed = {name for peer in arguments.peers for name in MODULES.get(peer, ())}
    absent = sorted(name for name in needed if find_spec(name) is None)
    if absent:
        print(f'{" and ".join(absent)} missing: .venv/bin/python -m pip install -e ".[peers]"')
        return 2
    contenders = [RULE, DEFAULTS, *(PEERS[name] for name in PEERS if name in arguments.peers), OURS]
    axes = (arguments.cuts, arguments.pairs, arguments.sides)
    tasks = [Task(b, s, c) for c, b, s in product(*map(dict.fromkeys, axes))]
    try:
        kept = CellFile(
            arguments.json, run_settings(arguments.datadir, arguments.budget_s, arguments.horizon)
        )
        run_grid(kept, tasks, contenders, arguments)
    except TuningError as error:
        print(error)
        return 1
    except FeederError as error:
        print(error)
        return 2
    except KeyboardInterrupt:
        return 130
    cells = [kept.cells[task.key] for task in tasks]
    print_result(cells, contenders, arguments.budget_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
