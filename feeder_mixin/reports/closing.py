"""What ``feeder optimize`` says at its end: the summary first, then pairs in the order of what matters.

What must stay true: failures are never left out, and what is told on a terminal does not grow with
the number of pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from feeder_mixin.reports._problems import describe_problems, failure_lines
from feeder_mixin.reports._verdict import outcome_counts_text
from feeder_mixin.reports.documents import TunedPair
from feeder_mixin.reports.records import percent
from feeder_mixin.reports.tables import (
    level_lines,
    present_risk,
    study_lines,
    together,
    yardstick,
)
from feeder_mixin.tune.judge.contenders import TUNED
from feeder_mixin.tune.judge.result import PairResult
from feeder_mixin.tune.run.options import RunSummary


def summary_lines(summary: RunSummary) -> list[str]:
    """Return how many pairs ended how, every failure's reason, and what all pairs show together."""
    outcomes = _count_outcomes(summary.results)
    n_pairs = len(summary.results) + len(summary.failures)
    parts = [outcome_counts_text(outcomes)] if outcomes else []
    parts += [f"{len(summary.failures)} failed"] if summary.failures else []
    waiting = f"; {len(summary.undelivered)} of the records wait" if summary.undelivered else ""
    noun = "pair" if n_pairs == 1 else "pairs"
    return [
        f"{summary.feeder_id}: {n_pairs} {noun}: {', '.join(parts)}{waiting}",
        *failure_lines({pair: str(error) for pair, error in summary.failures.items()}),
        *study_lines(summary.results),
        *level_lines(summary.results),
        *together(summary.results),
        *_window_lines(summary),
    ]


def _window_lines(summary: RunSummary) -> list[str]:
    """Return what other ``train_period_days`` would be worth; empty where nobody asked."""
    if not summary.windows:
        return []
    own = next(iter(summary.results.values())).provenance.get("train_period_days")
    told = ", ".join(
        f"{one.train_period_days} days {percent(one.gain, 2)} % (SE {percent(one.gain_se, 2)})"
        for one in summary.windows
    )
    line = f"Loss saved by another freqai.train_period_days than {own}, with the feeder's set, over all pairs"
    return [f"{line}: {told}. The config is yours to change"]


def _count_outcomes(results: Mapping[str, PairResult]) -> dict[str, int]:
    return dict(Counter[str](result.decided.outcome for result in results.values()))


def rest_lines(left: Mapping[str, PairResult]) -> list[str]:
    """Return how the pairs ended that are not told one by one; empty without any."""
    return [f"and {len(left)} more: {outcome_counts_text(_count_outcomes(left))}"] if left else []


def problem_lines(results: Mapping[str, PairResult]) -> list[str]:
    """Return what is wrong with results, one sentence for all pairs that share a problem."""
    known = {pair: TunedPair(result) for pair, result in results.items()}
    return describe_problems(known, {pair: pair for pair in results})


def pair_table(results: Mapping[str, PairResult]) -> Table:
    """Return one line a pair: what was decided, what it won, how it stands."""
    table = Table(
        title=f"Gain over the previous set, skill over {yardstick(results)}, candles called safe; percent",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in ("pair", "decision", "written"):
        table.add_column(name, no_wrap=True)
    for name in ("gain", "± SE", "skill", "± SE", "safe"):
        table.add_column(name, justify="right")
    for pair, result in results.items():
        decision, tuned = result.decided, result.scores[TUNED]
        table.add_row(
            pair,
            decision.outcome.partition("_")[0],  # "expired_replaced" has no room at 80 columns
            decision.written or "-",
            percent(decision.gain, 2),
            percent(decision.gain_se, 2),
            percent(decision.skill),
            percent(decision.skill_se),
            percent(tuned.predicted_safe_share),
        )
    return table


def summary_document(summary: RunSummary, pairs: Sequence[str]) -> dict[str, Any]:
    """Return the summary as ``--json`` carries it; shares in 0 to 1.

    Parameters
    ----------
    pairs
        Pairs that were asked for.
    """
    study = next((result.study for result in summary.results.values()), None)
    level = next((result.chosen_level for result in summary.results.values()), None)
    risk = present_risk(summary.results)
    decided = next((result.decided for result in summary.results.values()), None)
    return {
        "pairs": len(pairs),
        "failed": len(summary.failures),
        "outcomes": _count_outcomes(summary.results),
        "written": len(summary.records) - len(summary.undelivered),
        "waiting": len(summary.undelivered),
        "candidates": len(summary.candidates),
        "study": None if study is None else study.to_json(),
        "windows": [one.to_json() for one in summary.windows],
        "level": level and level.to_json(),
        "called_safe": risk and risk.to_json(),
        "pooled_skill": decided and decided.pooled_skill,
        "pooled_skill_se": decided and decided.pooled_skill_se,
        "pooled_gain": decided and decided.pooled_gain,
        "pooled_gain_se": decided and decided.pooled_gain_se,
    }
