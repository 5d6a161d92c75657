"""What can be wrong with a pair's result, and one sentence for all pairs that share a problem.

The report and the end of ``feeder optimize`` say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from feeder_mixin.model.folds import ADVISED_DAYS
from feeder_mixin.model.metrics import exceedance_interval
from feeder_mixin.model.rows import DAY_S
from feeder_mixin.reports.documents import KnownPair, TunedPair, served_score
from feeder_mixin.reports.records import percent
from feeder_mixin.schema import NANOSECONDS
from feeder_mixin.stores.notes import group_pairs, some
from feeder_mixin.tune.run.options import STALE_DAYS

MOST_NAMES: Final = 12
"""Pairs that a sentence names; the number of the others stands behind."""

_MOST_FAILURES: Final = 20
"""Reasons of failures that are told; pairs that share one are told together."""

NEVER_SAFE: Final = 0.005
"""Share of candles called safe below which a feeder would emit next to nothing for a pair."""


def exceedance_bounds(known: KnownPair) -> tuple[float, float] | None:
    """Return where an honest model's exceedance lies in 95 of 100 windows, None where unknown."""
    if not isinstance(known, TunedPair) or known.alpha is None:
        return None
    return exceedance_interval(known.alpha, known.result.evidence.n_independent)


def served_exceedance(known: KnownPair) -> float | None:
    """Return the exceedance of what bots read, None where a stored record lacks it."""
    score = served_score(known)
    return None if score is None else score.exceedance


def failure_lines(failures: Mapping[str, str]) -> list[str]:
    """Return each reason why pairs failed, with the pairs that share it.

    Examples
    --------
    >>> failure_lines({"A/B": "A/B: no candles", "C/D": "C/D: no candles"})
    ['failed: A/B, C/D: no candles']
    """
    groups = group_pairs(failures)
    lines = [
        f"failed: {reason if len(pairs) == 1 and pairs[0] in reason else f'{some(pairs)}: {reason}'}"
        for pairs, reason in groups[:_MOST_FAILURES]
    ]
    left = [pair for pairs, _ in groups[_MOST_FAILURES:] for pair in pairs]
    return [*lines, f"failed for other reasons: {some(left)}"] if left else lines


def describe_problems(results: Mapping[str, KnownPair], names: Mapping[str, str]) -> list[str]:
    """Return what a reader must know before trusting the results, one sentence each.

    Parameters
    ----------
    names
        Pair -> how it is named.
    """
    lines = []
    for text, problem in _PROBLEMS:
        found = {pair: problem(result) for pair, result in results.items()}
        told = [f"{names[pair]}{fact}" for pair, fact in found.items() if fact is not None]
        if told:
            lines.append(f"{text}: {some(told, MOST_NAMES)}.")
    return lines


def _few_days(known: KnownPair) -> str | None:
    if not isinstance(known, TunedPair) or known.labelled_days >= ADVISED_DAYS:
        return None
    return f" {known.labelled_days:.0f}"


def _old_candles(known: KnownPair) -> str | None:
    end_s = known.metrics.get("candles_to_s")
    if end_s is None:
        return None
    age_days = (known.time_ns / NANOSECONDS - end_s) / DAY_S
    return f" {age_days:.0f}" if age_days > STALE_DAYS else None


def _beaten(known: KnownPair) -> str | None:
    return None if known.beats_rule else ""


def _never_safe(known: KnownPair) -> str | None:
    score = served_score(known)
    share = None if score is None else score.predicted_safe_share
    if share is None or share >= NEVER_SAFE:
        return None
    at = "" if known.tolerance is None else f" at {percent(known.tolerance)} %"
    return f" {percent(share)} %{at}"


def _outside(known: KnownPair) -> str | None:
    bounds, share = exceedance_bounds(known), served_exceedance(known)
    if bounds is None or share is None or bounds[0] <= share <= bounds[1]:
        return None
    return f" {percent(share)} %"


def _fallback(known: KnownPair) -> str | None:
    return "" if isinstance(known, TunedPair) and known.result.scale_is_fallback else None


_PROBLEMS: Final = (
    (f"Few labelled days (under {ADVISED_DAYS:g} were measured to lose)", _few_days),
    ("Candles were old when tuned, so results describe an older market; age in days", _old_candles),
    ("Nothing beat the ATR rule (beats_rule 0), the bot calls no candle safe", _beaten),
    ("Hardly any entry would pass; share of candles called safe at the tolerance", _never_safe),
    ("Exceedance outside its 95 % interval", _outside),
    ("Too little history for the label scale, ATR14/close was used", _fallback),
)
"""What is wrong -> what is said of a pair that has it, None for one that has not."""
