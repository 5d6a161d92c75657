"""Errors that feeder_mixin raises; every one derives from `FeederError`.

Each docstring says who should act and how. None derives from ``ValueError``: freqtrade's strategy
wrapper logs a ``ValueError`` as one warning line and goes on, which would hide ours.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

_ADVICE: Final = {
    errno.ENOSPC: "Free disk space",
    errno.EDQUOT: "Free disk space, or have the quota raised",
    errno.EROFS: "Its disk is mounted read-only: mount it writable, or name another place",
    errno.ENOTDIR: "Move the file away that is in a folder's place",
    errno.EEXIST: "Move the file away that is in a folder's place",
}


def unwritable(path: Path | str, error: OSError) -> str:
    """Return which place can't be written, why, and what to do: one wording for all of them.

    Examples
    --------
    >>> unwritable("x.json", OSError(errno.ENOSPC, "No space left on device"))
    "x.json can't be written: No space left on device. Free disk space"
    """
    advice = _ADVICE.get(error.errno or 0, "Make it writable for the user who runs this")
    return f"{path} can't be written: {error.strerror or error}. {advice}"


class FeederError(Exception):
    """Base of all errors of this package."""


class SettingsError(FeederError):
    """A setting, option or config file is wrong: the user mends it and starts again."""


class SchemaError(FeederError):
    """A parameter record is not valid: write it anew (tune again) or correct the writer."""


class StoreError(FeederError):
    """The parameter store refused or could not answer; results stay in the outbox."""


class StoreUnavailableError(StoreError):
    """The store can't be reached now: start it or wait; the operation may be retried."""


class StoreConflictError(StoreError):
    """The store holds other content under the same key: a second writer is at work."""


class StoreCorruptError(StoreError):
    """The store answered with something unreadable: the operator inspects it."""


class CandleError(FeederError):
    """Candles are missing, damaged or too few: download them again or correct ``--datadir``."""


class MissingCandlesError(CandleError):
    """No candle file is there at all: download it, or correct ``--datadir``.

    Attributes
    ----------
    found
        What is there in its place, as the end of a sentence; empty without anything.
    """

    def __init__(self, message: str, found: str = "") -> None:
        super().__init__(message)
        self.found = found


class OldCandlesError(CandleError):
    """A candle file ends before the time that was asked for: bring it up to date."""


class ModelError(FeederError):
    """A model can't be built or asked from these inputs: a defect or damaged model file."""


class TuningError(FeederError):
    """A tuning run failed: the message says why; finished trials are kept."""


class BusyError(TuningError):
    """Another process holds what this one needs: wait for it to end, or stop it."""


class StateError(FeederError):
    """A file of the state folder is damaged or can't be read or written: see the file it names."""
