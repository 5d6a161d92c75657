"""Rollback: an old record is written again as a new one, so that nothing is ever deleted.

``feeder rollback`` calls this. What must stay true: every pair is resolved before anything is
written; the copy has the old values to the last digit and says whose they are; a set already in use is
not written again.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import ParameterRecord, format_time_ns, refusal
from feeder_mixin.settings import BotSettings
from feeder_mixin.stores.base import ParameterStore
from feeder_mixin.stores.operations.point_in_time import Moment, load_record_at


@dataclass(frozen=True, slots=True)
class RollbackStep:
    """What is to be done with one pair.

    Attributes
    ----------
    target
        The record to go back to.
    newest
        What bots read now; None when that is nothing usable.
    """

    target: ParameterRecord
    newest: ParameterRecord | None

    @property
    def is_needed(self) -> bool:
        """Return whether bots read other values now than the target's."""
        return self.newest is None or not self._has_values(self.newest)

    def is_copied_by(self, waiting: ParameterRecord | None) -> bool:
        """Return whether a record waiting in the outbox already gives bots the target's values."""
        if waiting is None or not self._has_values(waiting):
            return False
        return self.newest is None or waiting.time_ns > self.newest.time_ns

    def _has_values(self, record: ParameterRecord) -> bool:
        return (record.fields, record.tags) == (self.target.fields, self.target.tags)

    def make_copy(self, now: int) -> ParameterRecord:
        """Return the target as a record of `now`, newer than what bots read."""
        time_ns = now if self.newest is None else max(now, self.newest.time_ns + 1)
        origin = {
            "rolled_back_from": format_time_ns(self.target.time_ns),
            "rolled_back_host": platform.node(),
        }
        return replace(
            self.target, time_ns=time_ns, provenance={**self.target.provenance, **origin}
        )


def plan_rollback(
    settings: BotSettings,
    store: ParameterStore,
    pairs: Sequence[str],
    moment: Moment,
    timeframe_s: int,
) -> list[RollbackStep]:
    """Return what is to be done for every pair; nothing is written.

    Raises
    ------
    SettingsError
        When a pair has no record that it could go back to: one line for each such pair.
    """
    latest = store.latest(settings.feeder_id, pairs, model_type=settings.model_type)
    steps, problems = [], []
    for pair in pairs:
        try:
            target = load_record_at(store, settings, pair, moment)
        except SettingsError as error:
            problems.append(str(error))
            continue
        reason = refusal(target, settings, timeframe_s)
        if reason is not None:
            problems.append(f"{reason} (the record of {format_time_ns(target.time_ns)})")
        steps.append(RollbackStep(target, latest.records.get(pair)))
    if problems:
        raise SettingsError(
            f"{settings.feeder_id}: nothing is written, because not every pair can be rolled back:\n"
            + "\n".join(problems)
        )
    return steps
