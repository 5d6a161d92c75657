"""Pooled gains by plain loops: one number a day, no matrices, no shortcuts."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

Days = Mapping[int, tuple[float, float]]
"""Day -> loss saved, the rule's loss."""


def gain(days: Days) -> float:
    """Return the loss saved per loss of the rule."""
    return sum(saved for saved, _ in days.values()) / sum(unit for _, unit in days.values())


def noise(days: Days) -> dict[int, float]:
    """Return day -> its part in the gain's error."""
    ratio, total, n = gain(days), sum(unit for _, unit in days.values()), len(days)
    return {
        day: (saved - ratio * unit) / total * (n / (n - 1)) ** 0.5
        for day, (saved, unit) in days.items()
    }


def mix(parts: Sequence[Mapping[int, float]], weights: Sequence[float]) -> dict[int, float]:
    """Return the weighted sum of pairs' noise on every day that any has, in order."""
    every = sorted({day for part in parts for day in part})
    return {
        day: sum(w * part.get(day, 0.0) for part, w in zip(parts, weights, strict=True))
        for day in every
    }


def plain_variance(one: Mapping[int, float]) -> float:
    """Return the sum of squares."""
    return sum(value**2 for value in one.values())


def variance(one: Mapping[int, float]) -> float:
    """Return the sum of squares, and twice what neighbours agree in, where they agree."""
    values = [one[day] for day in sorted(one)]
    alike = sum(a * b for a, b in pairwise(values))
    return plain_variance(one) + 2 * max(0.0, alike)


def together(pairs: Sequence[Days]) -> tuple[float, float]:
    """Return the mean gain of all pairs and its standard error."""
    k = len(pairs)
    error = variance(mix([noise(days) for days in pairs], [1 / k] * k)) ** 0.5
    return sum(gain(days) for days in pairs) / k, error


def between(pairs: Sequence[Days]) -> float:
    """Return how much the pairs' true gains vary."""
    k = len(pairs)
    gains, noises = [gain(days) for days in pairs], [noise(days) for days in pairs]
    mean = sum(gains) / k
    seen = sum((g - mean) ** 2 for g in gains) / (k - 1)
    expected = sum(
        plain_variance(mix(noises, [(i == j) - 1 / k for j in range(k)])) for i in range(k)
    ) / (k - 1)
    return max(0.0, seen - expected)


def shrunk(pairs: Sequence[Days], at: int) -> tuple[float, float]:
    """Return one pair's gain after shrinkage and its error; the weight is found by halving."""
    own, others = pairs[at], [days for i, days in enumerate(pairs) if i != at]
    if len(others) < 2:
        return gain(own), variance(noise(own)) ** 0.5
    k = len(others)
    mean = sum(gain(days) for days in others) / k
    spread = between(others)
    if gain(own) < mean:
        spread = max(spread, between(pairs))
    mean_noise = mix([noise(days) for days in others], [1 / k] * k)
    unlike = spread * (1 + 1 / k)

    def expected_error(weight: float) -> float:
        both = mix([noise(own), mean_noise], [weight, 1 - weight])
        return plain_variance(both) + (1 - weight) ** 2 * unlike

    low, high = 0.0, 1.0
    while high - low > 1e-9:
        third = (high - low) / 3
        if expected_error(low + third) < expected_error(high - third):
            high -= third
        else:
            low += third
    weight = (low + high) / 2
    both = mix([noise(own), mean_noise], [weight, 1 - weight])
    value = weight * gain(own) + (1 - weight) * mean
    return value, (variance(both) + (1 - weight) ** 2 * unlike) ** 0.5
