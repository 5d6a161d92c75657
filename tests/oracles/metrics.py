"""Metrics by counting, row by row."""

import statistics
from collections.abc import Sequence

Row = Sequence[float]


def pinball(excursions: Row, forecasts: Row, alpha: float) -> float:
    """Return the mean pinball loss."""
    total = 0.0
    for y, q in zip(excursions, forecasts, strict=True):
        total += alpha * (y - q) if y >= q else (1 - alpha) * (q - y)
    return total / len(excursions)


def mean_absolute_error(excursions: Row, forecasts: Row) -> float:
    """Return the mean distance."""
    return sum(abs(y - q) for y, q in zip(excursions, forecasts, strict=True)) / len(excursions)


def exceedance(excursions: Row, forecasts: Row) -> float:
    """Return the share of rows below their forecast."""
    return sum(y < q for y, q in zip(excursions, forecasts, strict=True)) / len(excursions)


def safety(excursions: Row, forecasts: Row, tolerance: float) -> dict[str, float | None]:
    """Return the safety rates by name; None where nothing is there to divide by."""
    agree = predicted_safe = realised_safe = false_safe = false_unsafe = 0
    for y, q in zip(excursions, forecasts, strict=True):
        is_safe, is_called_safe = y >= -tolerance, q >= -tolerance
        agree += is_safe == is_called_safe
        predicted_safe += is_called_safe
        realised_safe += is_safe
        false_safe += is_called_safe and not is_safe
        false_unsafe += is_safe and not is_called_safe
    n = len(excursions)
    unsafe = n - realised_safe
    return {
        "accuracy": agree / n,
        "false_positive_rate": false_safe / unsafe if unsafe else None,
        "false_negative_rate": false_unsafe / realised_safe if realised_safe else None,
        "predicted_safe_share": predicted_safe / n,
        "realised_safe_share": realised_safe / n,
    }


def sums_by_day(values: Row, opens_s: Sequence[int]) -> list[float]:
    """Return the sum of each UTC day, in order."""
    days: dict[int, float] = {}
    for value, open_s in zip(values, opens_s, strict=True):
        days[open_s // 86_400] = days.get(open_s // 86_400, 0.0) + value
    return [days[day] for day in sorted(days)]


def skill_by_day(
    y: Row, q: Row, reference: Row, alpha: float, opens_s: Sequence[int], largest: float
) -> tuple[float, float]:
    """Return what was saved and what the rule lost, no day above `largest` median days."""
    ours = sums_by_day([pinball([a], [b], alpha) for a, b in zip(y, q, strict=True)], opens_s)
    rule = sums_by_day(
        [pinball([a], [b], alpha) for a, b in zip(y, reference, strict=True)], opens_s
    )
    limit = largest * statistics.median(rule)
    saved = total = 0.0
    for one, unit in zip(ours, rule, strict=True):
        share = limit / unit if unit > limit else 1.0
        saved += share * (unit - one)
        total += share * unit
    return saved, total
