"""How points that were passed over or refused are told: one reason once, however many share it.

The loader, doctor and the command line call this. What must stay true: a reason that one pair alone
has is told word for word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from feeder_mixin.schema import format_time_ns
from feeder_mixin.stores.base import Latest, Note

_NAMED: Final = 4


def some(names: Iterable[str], most: int = _NAMED) -> str:
    """Return names in one line, the first `most` when there are more.

    Examples
    --------
    >>> some(["a", "b"]), some("abcdefg")
    ('a, b', 'a, b, c, d and 3 more')
    """
    listed = list(names)
    shown = ", ".join(listed[:most])
    return shown if len(listed) <= most else f"{shown} and {len(listed) - most} more"


def group_notes(notes: Iterable[Note]) -> list[str]:
    """Return one line for each reason: the note, or how many points of which pairs share it.

    Points of the future share one, by however many seconds they are ahead.

    Examples
    --------
    >>> group_notes([Note("A", 0, "skill", "bad"), Note("B", 10**9, "skill", "bad")])
    ['2 points of A, B, the newest at 1970-01-01T00:00:01.000000000Z: bad']
    """
    by_reason: dict[str, list[Note]] = {}
    for note in notes:
        reason = "future" if note.field == "time" else bare_reason(note.pair, note.reason)
        by_reason.setdefault(reason, []).append(note)
    return [_tell_notes(same) for same in by_reason.values()]


def describe_unused(latest: Latest) -> list[str]:
    """Return which stored points are not used, each reason once: its kind, then the points."""
    lines = [f"passed over: {line}" for line in group_notes(latest.notes)]
    lines += [f"rejected: {line}" for line in group_notes(latest.rejected.values())]
    if latest.expired:
        oldest = min(latest.expired.values())
        since = "" if len(latest.expired) == 1 else "the oldest "
        lines.append(f"expired: {some(latest.expired)}, {since}at {format_time_ns(oldest)}")
    return lines


def _tell_notes(same: Sequence[Note]) -> str:
    if len(same) == 1:
        return str(same[0])
    newest = max(same, key=lambda note: note.time_ns)
    return (
        f"{len(same)} points of {some(dict.fromkeys(note.pair for note in same))}, the newest at "
        f"{format_time_ns(newest.time_ns)}: {bare_reason(newest.pair, newest.reason)}"
    )


def group_pairs(reasons: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """Return the pairs that share a reason, and the reason, for each in turn.

    Examples
    --------
    >>> group_pairs({"A": "A: bad", "B": "B: bad", "C": "C: worse"})
    [(['A', 'B'], 'bad'), (['C'], 'C: worse')]
    """
    by_reason: dict[str, list[str]] = {}
    for pair, reason in reasons.items():
        by_reason.setdefault(bare_reason(pair, reason), []).append(pair)
    return [
        (pairs, reasons[pairs[0]] if len(pairs) == 1 else reason)
        for reason, pairs in by_reason.items()
    ]


def bare_reason(pair: str, reason: str) -> str:
    """Return a reason without the pair that it begins with, feeder and all.

    Examples
    --------
    >>> bare_reason("A/B", "feeder1 A/B: num_leaves=99.0 is outside 15 to 63")
    'num_leaves=99.0 is outside 15 to 63'
    """
    _, found, rest = reason.partition(f"{pair}: ")
    return rest if found else reason
