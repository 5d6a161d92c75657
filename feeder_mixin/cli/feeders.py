"""One command over several feeders: it goes on after one that fails, names it, and says so at the end.

What must stay true: a command about one feeder ends in that feeder's own error; with several, no
failure stops the others, and the exit code tells how many succeeded (0 all, 3 some, 1 or 2 none).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from feeder_mixin.cli.common import chosen_bots, make_console
from feeder_mixin.errors import CandleError, FeederError, SettingsError
from feeder_mixin.settings import BotSettings

_T = TypeVar("_T")


@dataclass(slots=True)
class Outcomes(Generic[_T]):
    """What came of each feeder: its result, or why there is none."""

    results: list[_T] = field(default_factory=list)
    failures: dict[str, FeederError] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """Return the command's exit code."""
        return failures_code(len(self.results), self.failures.values())


def for_each_bot(
    arguments: argparse.Namespace,
    work: Callable[[BotSettings], _T],
    bots: Sequence[BotSettings] | None = None,
) -> Outcomes[_T]:
    """Do `work` for every chosen feeder and FreqAI bot, and return what came of each.

    Parameters
    ----------
    bots
        Where they are known already; by default those that the command line names.

    Raises
    ------
    FeederError
        What `work` raises, when there is one only.
    """
    chosen = chosen_bots(arguments) if bots is None else bots
    outcomes: Outcomes[_T] = Outcomes()
    for settings in chosen:
        try:
            outcomes.results.append(work(settings))
        except FeederError as error:
            if len(chosen) == 1:
                raise
            make_console(stderr=True).print(
                f"feeder {arguments.command}: {settings.feeder_id} failed: {error}", markup=False
            )
            outcomes.failures[settings.feeder_id] = error
    return outcomes


def failures_code(n_fine: int, errors: Iterable[FeederError]) -> int:
    """Return 0 when nothing failed, 3 when something else did not, 2 or 1 when all did.

    Examples
    --------
    >>> from feeder_mixin.errors import StoreError
    >>> failures_code(2, []), failures_code(1, [StoreError()]), failures_code(0, [StoreError()])
    (0, 3, 1)
    """
    failed = list(errors)
    if not n_fine and failed and all(isinstance(e, SettingsError | CandleError) for e in failed):
        return 2
    return mixed_code(n_fine, len(failed))


def mixed_code(n_fine: int, n_failed: int) -> int:
    """Return 0 when nothing failed, 3 when something else did not, 1 when all did."""
    if not n_failed:
        return 0
    return 3 if n_fine else 1
