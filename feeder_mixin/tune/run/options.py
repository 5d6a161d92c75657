"""A run's options, its progress reports and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Protocol

from feeder_mixin.errors import CandleError, SettingsError, StoreError
from feeder_mixin.executors.cluster import check_address
from feeder_mixin.schema import PARAMETER_BY_NAME, ParameterRecord
from feeder_mixin.settings import BotSettings
from feeder_mixin.tune.judge.decision import Mode
from feeder_mixin.tune.judge.result import PairResult

STALE_DAYS: Final = 2.0
"""Candles that end longer ago than this get a warning."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line decides about a run.

    Attributes
    ----------
    pairs
        Pairs to tune, all of the feeder's when empty.
    n_trials
        Trials of the feeder's study in total, those of an interrupted one included.
    days_back
        Labelled days that folds and test window may use.
    timeout_s
        Wall seconds for the search; what it has by then is compared and judged. None: no limit.
    jobs
        Worker processes on this machine, where there is no `scheduler`.
    scheduler
        Address of a Dask scheduler whose workers do the work.
    fixes
        Parameter -> value that is not searched.
    fresh
        Drop unfinished runs of these pairs and start anew.
    promote
        When a tuned set reaches bots (`tune.judge.promotion`).
    lacking
        Pair or context pair -> why its candles could not be had, where that is known already.
    """

    pairs: tuple[str, ...] = ()
    n_trials: int = 100
    days_back: float = 180.0
    timeout_s: float | None = None
    jobs: int = 1
    scheduler: str | None = None
    datadir: Path | None = None
    fixes: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    fresh: bool = False
    promote: Mode = "auto"
    lacking: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WindowGain:
    """What another ``train_period_days`` would be worth to a FreqAI bot.

    Attributes
    ----------
    gain, gain_se
        Share of the loss that it saves against the config's window, over all pairs together, and its
        standard error by days.
    """

    train_period_days: int
    gain: float
    gain_se: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return the form that ``--json`` carries."""
        return asdict(self)


@dataclass(slots=True)
class RunSummary:
    """What a run did.

    Attributes
    ----------
    results
        Pair -> what tuning it found, with its decision; `PairResult.without_curves`.
    records, candidates
        Pair -> what was written for bots to read, and what was refused, as it entered the outbox.
    failures
        Pair -> why it has no result.
    store_error
        Why records are still in the outbox; None when all were delivered.
    undelivered
        Pairs of which `records` is not in the store yet.
    windows
        Of a FreqAI bot, where they were asked for.
    """

    feeder_id: str
    results: dict[str, PairResult] = field(default_factory=dict)
    records: dict[str, ParameterRecord] = field(default_factory=dict)
    candidates: dict[str, ParameterRecord] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    store_error: StoreError | None = None
    undelivered: frozenset[str] = frozenset()
    windows: list[WindowGain] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """Return the command's exit code (`cli.main.EXIT_CODES`)."""
        if self.store_error is not None:
            return 1
        if not self.failures:
            return 0
        if self.results:
            return 3
        return 2 if all(isinstance(e, CandleError) for e in self.failures.values()) else 1


class Progress(Protocol):
    """What a run tells while it works; the command line draws it."""

    def stage(self, text: str, done: int, total: int, note: str = "") -> None:
        """Say how far a stage of the run is; called about twice a second in the long ones."""

    def finished(self, pair: str, result: PairResult | None, error: Exception | None) -> None:
        """Say that a pair ended, well or not."""


def check_options(settings: BotSettings, options: RunOptions) -> tuple[str, ...]:
    """Return the pairs to tune, or raise `SettingsError` for an option that can't be used."""
    pairs = settings.chosen_pairs(options.pairs)
    if options.n_trials < 1:
        raise SettingsError(f"--n-trials {options.n_trials}: expected 1 or more")
    if not options.days_back > 0:
        raise SettingsError(f"--days-back {options.days_back:g}: expected a number of days above 0")
    if options.timeout_s is not None and not options.timeout_s > 0:
        raise SettingsError(f"--timeout {options.timeout_s:g}: expected seconds above 0")
    if options.jobs < 1:
        raise SettingsError(f"--jobs {options.jobs}: expected 1 or more")
    if options.scheduler is not None:
        check_address(options.scheduler)
    for name, value in options.fixes.items():
        if name not in PARAMETER_BY_NAME:
            raise SettingsError(
                f"--fix {name}={value:g}: no such parameter (known: {', '.join(PARAMETER_BY_NAME)})"
            )
        if problem := PARAMETER_BY_NAME[name].problem(value):
            raise SettingsError(f"--fix {problem}")
    _check_level(settings, options)
    if options.datadir is not None and not options.datadir.is_dir():
        raise SettingsError(
            f"--datadir {options.datadir}: no such folder; expected a freqtrade data folder such as "
            "user_data/data/binance"
        )
    return pairs


def _check_level(settings: BotSettings, options: RunOptions) -> None:
    """Refuse two words on one level."""
    asked = settings.asked_unsafe_share
    level = options.fixes.get("quantile_alpha")
    if asked is not None and level is not None:
        raise SettingsError(
            f"--fix quantile_alpha={level:g} and feeder.max_unsafe_share={asked:g}: each says the "
            "level; leave one of them out"
        )
