"""What a store held at a moment: the record of a pair that an operator means by a time.

``feeder rollback`` and ``feeder diff`` call this. What must stay true: only records are found, never
candidates; a record that a bot would have refused is never handed on, and no older one in its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import (
    CANDIDATES,
    NANOSECONDS,
    ParameterRecord,
    format_time_ns,
    parse_time_ns,
)
from feeder_mixin.settings import BotSettings
from feeder_mixin.stores.base import ParameterStore, StoredPoint, select_latest

_EVER_DAYS: Final = 1e6
_FRACTION: Final = re.compile(r"\.(\d+)")


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as an operator gives it: every nanosecond that is shown as that text.

    Tables show times to the second, ``feeder history`` to the nanosecond; either can be copied.
    """

    text: str
    first_ns: int
    last_ns: int


def parse_moment(option: str, text: str, now: int) -> Moment:
    """Return the moment that `text` names, or raise `SettingsError` naming the option.

    Examples
    --------
    >>> moment = parse_moment("--to", "2026-01-01T00:00:00.5Z", 2 * 10**18)
    >>> moment.last_ns - moment.first_ns
    99999999
    """
    try:
        first_ns = parse_time_ns(text)
    except SettingsError as error:
        raise SettingsError(f"{option}: {error}") from error
    if first_ns > now:
        raise SettingsError(
            f"{option} {text}: {(first_ns - now) / NANOSECONDS:.0f} s in the future, expected a past "
            f"time (now it is {format_time_ns(now)[:19]}Z)"
        )
    fraction = _FRACTION.search(text)
    digits = len(fraction[1]) if fraction else 0
    return Moment(text, first_ns, first_ns + 10 ** (9 - digits) - 1)


def load_record_at(
    store: ParameterStore, settings: BotSettings, pair: str, moment: Moment
) -> ParameterRecord:
    """Return the record of the bot's model type shown as `moment`, else the newest one not after it.

    Of several shown alike it is the newest. Half-written points count only where `moment` names
    them.

    Raises
    ------
    SettingsError
        When there is none, the one found is invalid, or the time is a candidate's.
    """
    feeder_id, model_type = settings.feeder_id, settings.model_type
    history = store.history(feeder_id, pair, model_type=model_type)
    points = [point for point in history if point.time_ns <= moment.last_ns]
    found = select_latest(
        feeder_id, points, now=moment.last_ns, max_age_days=_EVER_DAYS, model_type=model_type
    )
    if note := found.rejected.get(pair):
        raise SettingsError(
            f"{pair}: the record of {format_time_ns(note.time_ns)} is invalid: {note.reason}"
        )
    record = found.records.get(pair)
    if record is not None and record.time_ns >= moment.first_ns:
        return record
    for note in found.notes:
        if note.time_ns >= moment.first_ns:
            raise SettingsError(f"{note}")
    candidates = store.history(feeder_id, pair, measurement=CANDIDATES, model_type=model_type)
    if any(moment.first_ns <= point.time_ns <= moment.last_ns for point in candidates):
        raise SettingsError(
            f"{pair}: {moment.text} is the time of a candidate, a set that was refused; expected the "
            f"time of a record, or a time between two records (see feeder history)"
        )
    if record is None:
        raise SettingsError(f"{pair}: no record at or before {moment.text}{_oldest(history)}")
    return record


def _oldest(history: list[StoredPoint]) -> str:
    return f"; the oldest is of {format_time_ns(history[-1].time_ns)}" if history else ""
