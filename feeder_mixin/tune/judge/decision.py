"""What is decided on a pair, and against whom, as types with one JSON form."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from feeder_mixin.documents import Numbers
from feeder_mixin.tune.judge.contenders import RUNNING, Contender

Mode = Literal["auto", "always", "never"]
"""When a tuned set reaches bots."""
MODES: Final[tuple[Mode, ...]] = ("auto", "always", "never")

Outcome = Literal["promoted", "kept", "refused", "first", "expired_replaced"]


@dataclass(frozen=True, slots=True)
class Champion:
    """The record that bots took when the run began.

    Attributes
    ----------
    parameters
        None when it has expired: nobody takes it any more.
    """

    time_ns: int
    parameters: Numbers | None
    beats_rule: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal keeps."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one pair, and the numbers that decided it.

    Attributes
    ----------
    written
        Which set is written for bots to read; None: the stored record stays.
    candidate
        Whether the challenger goes to the candidates.
    gain, gain_se
        Skill that the challenger won over the incumbent on the test window, shrunk to the pair;
        None when the two are one set.
    skill, skill_se
        Skill over the ATR rule on folds and test window, shrunk to the pair; where there is no rule, what
        is served over the config's own values, on the test window.
    beats_rule
        None where there is no rule.
    exceedance_interval
        Where an honest challenger's exceedance lies; None where targets have levels of their own.
    """

    mode: Mode
    outcome: Outcome
    written: Contender | None
    candidate: bool
    reason: str
    gain: float | None
    gain_se: float | None
    pooled_gain: float | None
    pooled_gain_se: float | None
    skill: float
    skill_se: float | None
    pooled_skill: float
    pooled_skill_se: float | None
    beats_rule: bool | None
    exceedance_interval: tuple[float, float] | None
    champion_time_ns: int | None
    champion_parameters: Numbers | None

    @property
    def is_change(self) -> bool:
        """Return whether bots read another set than before."""
        return self.written not in {None, RUNNING}

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal and ``--json`` carry."""
        interval = self.exceedance_interval
        return {**asdict(self), "exceedance_interval": None if interval is None else list(interval)}
