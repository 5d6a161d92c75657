"""The last good copy: the records that the store gave last, kept for a start without it.

`live.state.keeper` writes it after a load and `live.reload.loader` takes it; doctor, metrics and
retention look at it. What must stay true: one reader for all, so that an unusable copy counts as a copy
nowhere; one bad entry is dropped by the next write, and costs no other.
"""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from contextlib import suppress
from typing import Any

from typing_extensions import TypedDict

from feeder_mixin.documents import Count, checked
from feeder_mixin.errors import SchemaError, StateError
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.schema import ParameterRecord, build_record
from feeder_mixin.settings import BotSettings


class _Entry(TypedDict):
    """A kept record: when the store gave it, and what a stored point is made of."""

    saved_ns: Count
    time_ns: Count
    fields: dict[str, float]
    provenance: str
    model_type: str


class _Copy(TypedDict):
    records: dict[str, dict[str, object]]


def save_last_good(settings: BotSettings, records: Sequence[ParameterRecord]) -> None:
    """Keep the records that the store gave, for a start without it.

    Records of pairs that the store did not give this time stay as they are.

    Raises
    ------
    StateError
        When the file can't be written.
    """
    given = {
        record.pair: {
            "saved_ns": time.time_ns(),
            "time_ns": record.time_ns,
            "fields": record.fields,
            "provenance": record.provenance_json,
            "model_type": record.model_type,
        }
        for record in records
    }
    write_checked(settings.last_good_path, {"records": _usable_entries(settings, given) | given})


def _usable_entries(settings: BotSettings, replaced: Container[str]) -> dict[str, Any]:
    """Return the copy's readable entries of other pairs; whoever loads the copy reports the others."""
    try:
        copy = _read(settings)
    except StateError:
        return {}
    usable: dict[str, Any] = {}
    for pair, entry in (copy or {}).items():
        if pair in replaced:
            continue
        with suppress(StateError):
            _read_entry(settings, pair, entry)
            usable[pair] = entry
    return usable


def read_last_good(settings: BotSettings) -> list[tuple[ParameterRecord, int]] | None:
    """Return every kept record and when the store gave it (ns since the epoch); None without a copy.

    Raises
    ------
    StateError
        When the file is damaged, or one of its records is not valid.
    """
    copy = _read(settings)
    if copy is None:
        return None
    return [_read_entry(settings, pair, entry) for pair, entry in copy.items()]


def _read(settings: BotSettings) -> dict[str, dict[str, object]] | None:
    """Return pair -> kept entry, not looked at yet; None without a copy."""
    document = read_checked(settings.last_good_path)
    if document is None:
        return None
    return checked(_Copy, document, lambda problem: _unusable(settings, problem))["records"]


def _read_entry(settings: BotSettings, pair: str, entry: object) -> tuple[ParameterRecord, int]:
    """Return a kept record and when the store gave it, in nanoseconds since the epoch."""
    kept = checked(_Entry, entry, lambda problem: _unusable(settings, f"{pair}.{problem}"))
    try:
        record = build_record(
            settings.feeder_id,
            pair,
            kept["time_ns"],
            kept["fields"],
            kept["provenance"],
            kept["model_type"],
        )
    except SchemaError as error:
        raise _unusable(settings, str(error)) from error
    return record, kept["saved_ns"]


def _unusable(settings: BotSettings, problem: str) -> StateError:
    return StateError(f"{settings.last_good_path} holds no records that can be used: {problem}")
