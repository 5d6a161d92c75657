"""Errors that feeder_mixin raises; every one derives from `FeederError`.

Each docstring says who should act and how. None derives from ``ValueError``: freqtrade's strategy
wrapper logs a ``ValueError`` as one warning line and goes on, which would hide ours.
"""


class FeederError(Exception):
    """Base of all errors of this package."""


class SettingsError(FeederError):
    """A setting, option or config file is wrong: the user fixes it and starts again."""


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


class WorkerError(FeederError):
    """A task could not be done where it was sent: its process died, or a cluster is not there."""


class ClusterError(WorkerError):
    """A Dask cluster can't be used or is lost: see the message; the same command goes on.

    What came back before is kept.
    """


class BusyError(TuningError):
    """Another process holds what this one needs: wait for it to end, or stop it."""


class StateError(FeederError):
    """A file of the state folder is damaged or can't be read or written: see the file it names."""
