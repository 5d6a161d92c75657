"""The last good copy: the records that the store gave last, kept for a start without it.

The loader writes and takes it; doctor, metrics and retention look at it. What must stay true: one reader for
all, so that a copy that would not serve counts as one nowhere; one bad entry is dropped by the next
write, and costs no other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from feeder_mixin.errors import SchemaError, StateError
from feeder_mixin.live.state.files import read_checked, write_checked
from feeder_mixin.schema import ParameterRecord, build_record
from feeder_mixin.settings import FeederSettings

_NOT_A_COPY: Final = (
    StateError,
    SchemaError,
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    OverflowError,
)
"""What reading a file raises that is damaged, or whole and of another shape."""


def save_last_good(settings: FeederSettings, records: Sequence[ParameterRecord]) -> None:
    """Keep the records that the store gave, for a start without it.

    Records of pairs that the store did not give this time stay as they are.

    Raises
    ------
    StateError
        When the file can't be written.
    """
    kept = _usable_entries(settings)
    for record in records:
        kept[record.pair] = {
            "saved_ns": time.time_ns(),
            "time_ns": record.time_ns,
            "fields": record.fields,
            "provenance": record.provenance_json,
            "model_type": record.model_type,
        }
    write_checked(settings.last_good_path, {"records": kept})


def _usable_entries(settings: FeederSettings) -> dict[str, Any]:
    """Return what the copy holds and can be read: whoever needed the rest has said so."""
    usable = {}
    with suppress(*_NOT_A_COPY):
        document = read_checked(settings.last_good_path) or {"records": {}}
        for pair, entry in document["records"].items():
            with suppress(*_NOT_A_COPY):
                _read_copy(settings, pair, entry)
                usable[pair] = entry
    return usable


def read_last_good(settings: FeederSettings) -> list[tuple[ParameterRecord, int]] | None:
    """Return every kept record and when the store gave it (ns since the epoch); None without a copy.

    Raises
    ------
    StateError
        When the file is damaged, or one of its records is not valid.
    """
    path = settings.last_good_path
    document = read_checked(path)
    if document is None:
        return None
    try:
        return [_read_copy(settings, *item) for item in document["records"].items()]
    except _NOT_A_COPY as error:
        raise StateError(f"{path} holds no records that can be used: {error!r}") from error


def _read_copy(
    settings: FeederSettings, pair: str, entry: Mapping[str, Any]
) -> tuple[ParameterRecord, int]:
    """Return a kept record and when the store gave it, in nanoseconds since the epoch."""
    record = build_record(
        settings.feeder_id,
        pair,
        entry["time_ns"],
        entry["fields"],
        entry["provenance"],
        entry["model_type"],
    )
    return record, int(entry["saved_ns"])
