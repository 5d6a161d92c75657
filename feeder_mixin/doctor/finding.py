"""What a check says, and the facts that checks hand on to each other.

A check is a function that takes `Facts` and returns a `CheckAnswer`. It fills the facts it found out;
a later check that reads one nobody filled is skipped with the fact's own reason. So no check asks a
second time what an earlier one could not find out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar, overload

from feeder_mixin.commands import feeder_command
from feeder_mixin.live.serve.candles import DataFolder
from feeder_mixin.live.state.status import Status
from feeder_mixin.schema import ParameterRecord
from feeder_mixin.settings import BotSettings, FeederSettings
from feeder_mixin.stores.base import Latest, ParameterStore

State = Literal["pass", "warn", "fail", "skipped"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one feeder: what is, and what to do.

    Attributes
    ----------
    state
        ``pass``; ``warn``: works, but look at it; ``fail``: does not do what it should;
        ``skipped``: could not be looked at, `message` says why.
    advice
        What to do; empty for a pass and a skipped check.
    """

    feeder_id: str
    check: str
    state: State
    message: str
    advice: str

    def to_dict(self) -> dict[str, str]:
        """Return the form that ``--json`` prints."""
        return asdict(self)


class CheckAnswer(NamedTuple):
    """A finding without the names of feeder and check."""

    state: State
    message: str
    advice: str = ""


class Skipped(Exception):  # noqa: N818  (no error: an answer)
    """A check can't be made; the text says why."""


class Fact(Generic[_T]):
    """Attribute of `Facts`: reading it before a check has filled it raises `Skipped`."""

    def __init__(self, why: str) -> None:
        self._why = why

    def __set_name__(self, _owner: type, name: str) -> None:
        self._key = f"_{name}"

    @overload
    def __get__(self, facts: None, owner: type) -> Fact[_T]: ...
    @overload
    def __get__(self, facts: object, owner: type) -> _T: ...
    def __get__(self, facts: object | None, owner: type) -> Fact[_T] | _T:
        """Return the fact of an instance."""
        if facts is None:
            return self
        if self._key not in vars(facts):
            raise Skipped(self._why)
        value: _T = vars(facts)[self._key]
        return value

    def __set__(self, facts: object, value: _T) -> None:
        """Fill it."""
        vars(facts)[self._key] = value


@dataclass
class Facts:
    """What was asked for, and what checks found out about one feeder.

    Attributes
    ----------
    config_paths, user_data_dir, store_option
        The options ``--config``, ``--userdir`` and ``--store``, None where not given.
    now_ns
        The time that ages are counted to.
    opened
        What checks opened, for who runs them to close.
    """

    feeder_id: str
    environ: Mapping[str, str]
    now_ns: int
    config_paths: Sequence[Path] | None = None
    user_data_dir: Path | None = None
    store_option: str | None = None
    opened: ExitStack = field(default_factory=ExitStack)

    settings = Fact[BotSettings]("the config can't be used")
    config = Fact[Mapping[str, Any]]("the config can't be used")
    timeframe_s = Fact[int]("the config can't be used")
    store_url = Fact[str]("no store can be used")
    token = Fact[str | None]("the token can't be used")
    server = Fact[ParameterStore]("the store gave no answer, or is not there yet")
    clock_offset_s = Fact[float]("no server clock is known")
    may_write = Fact[bool]("the store gave no answer, or has no place for this feeder")
    store = Fact[ParameterStore]("there are no records that can be read")
    latest = Fact[Latest]("there are no records that can be read")
    usable = Fact[Mapping[str, ParameterRecord]]("there are no records that can be read")
    newest_candle_s = Fact[int]("there is neither a server nor a candle to compare with")
    pid = Fact[int | None]("whether a bot runs is not known")
    status = Fact[Status]("there is no status of a running bot")

    def command(self, verb: str, *more: object) -> str:
        """Return a command line about this feeder, as it was asked about, to paste."""
        return feeder_command(self.settings, verb, *more, store=self.store_option)

    @property
    def feeder(self) -> FeederSettings:
        """Return the settings of a feeder with the built-in model; without, the check is not made."""
        if isinstance(self.settings, FeederSettings):
            return self.settings
        raise Skipped("of the built-in model only; FreqAI sees to its own candles and models")

    @property
    def folder(self) -> DataFolder:
        """Return the candles on disk that the feeder reads."""
        datadir = Path(self.config.get("datadir") or self.settings.default_datadir)
        return DataFolder(self.feeder, datadir, self.timeframe_s)
