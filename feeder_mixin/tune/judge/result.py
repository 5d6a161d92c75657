"""What tuning a pair found, as types; their fields are the one JSON form.

A worker makes a `PairResult`, the journal keeps it (`documents.built` reads it back), the run adds its
`Decision`; the command line and the report show both. What must stay true: nothing heavy is imported
here, because every command reads these types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from feeder_mixin.documents import Numbers
from feeder_mixin.settings import MODEL_TYPE, ModelType
from feeder_mixin.tune.judge.contenders import ATR_RULE, CONFIG, DEFAULTS, TUNED, Contender
from feeder_mixin.tune.judge.decision import Decision

RESULT_VERSION: Final[Literal[6]] = 6
"""Of the JSON form of a result. One of another form is never gone on with, nor read."""


@dataclass(frozen=True, slots=True)
class Score:
    """One contender on the test window; shares in 0 to 1.

    A standard error is None with one day only, a rate or p-value with nothing to divide by, and
    whatever a stored record does not hold (`reports.documents`).
    """

    skill: float
    skill_se: float | None
    mae: float | None
    exceedance: float | None
    safety_accuracy: float | None
    predicted_safe_share: float | None
    realised_safe_share: float | None
    false_positive_rate: float | None
    false_negative_rate: float | None
    kupiec_p: float | None
    christoffersen_p: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return the form that the journal and ``--json`` carry."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DayTable:
    """Losses by day.

    Attributes
    ----------
    days
        Day numbers since the epoch, ascending.
    losses
        Contender, the ATR rule among them -> its loss on each of the days.
    """

    days: tuple[int, ...]
    losses: Mapping[str, tuple[float, ...]]

    @property
    def yardstick(self) -> tuple[float, ...]:
        """Return the losses in whose units gains are told: the ATR rule's, else the config's own."""
        return self.losses[ATR_RULE if ATR_RULE in self.losses else CONFIG]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How contenders compare at one quantile level, on the same rows.

    Attributes
    ----------
    scores
        Contender, the ATR rule among them -> its score on the test window.
    test, walk
        Losses by day of the test window, and of folds and test window together.
    tuned_gain, tuned_gain_se
        Skill of the tuned set minus that of the defaults, and its standard error, paired by day.
    """

    scores: Mapping[str, Score]
    test: DayTable
    walk: DayTable
    tuned_gain: float
    tuned_gain_se: float | None


@dataclass(frozen=True, slots=True)
class MeasuredSet:
    """A parameter set and its metrics at its own quantile level, as the schema names them."""

    parameters: Numbers
    metrics: Numbers


@dataclass(frozen=True, slots=True)
class TargetScores:
    """How contenders did on one target of a FreqAI strategy, in the test window.

    Attributes
    ----------
    level
        The quantile that is asked for; None: the mean.
    losses
        Contender -> its mean loss in units of the config's own.
    shares
        Contender -> share of candles below its forecast; nominal value: `level`.
    """

    name: str
    level: float | None
    losses: Mapping[Contender, float]
    shares: Mapping[Contender, float]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a pair is decided on (`promotion.decide`).

    Attributes
    ----------
    sets
        Contender -> its parameters; the running one only where there is a champion.
    is_feeders
        Whether the tuned set is the feeder's: then it is judged over all pairs that have it.
    n_independent
        Independent rows of the test window: rows / horizon, because labels overlap.
    targets
        Of a FreqAI strategy; empty for the built-in model.
    """

    sets: Mapping[Contender, MeasuredSet]
    comparison: Comparison
    n_independent: float
    is_feeders: bool
    targets: tuple[TargetScores, ...] = ()

    def __post_init__(self) -> None:
        """Refuse evidence without the tuned set or without what runs where there is no record."""
        for contender in (self.start, TUNED):
            if contender not in self.sets:
                raise ValueError(f"{contender} is missing among the sets")

    @property
    def start(self) -> Contender:
        """Return what runs where there is no record: the defaults, or a FreqAI config's own values."""
        return CONFIG if CONFIG in self.sets else DEFAULTS


@dataclass(frozen=True, slots=True)
class DecisionValue:
    """How many unsafe candles the set takes, and the ATR rule where it takes as many."""

    n_rows: int
    n_safe: int
    unsafe_model: int
    unsafe_rule: int
    tolerance: float

    def to_json(self) -> dict[str, float]:
        """Return the form that the journal and ``--json`` carry."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RiskCell:
    """What would have been called safe at a level and a tolerance (`judge.risk`).

    Attributes
    ----------
    factor
        The tolerance, in units of the pair's own.
    called, unsafe
        Candles called safe on each day of the table, and those of them that turned unsafe.
    expected
        How many of them calibrated forecasts expect to turn unsafe.
    rule_unsafe
        Unsafe ones among as many candles that the ATR rule ranks safest.
    """

    level: float
    factor: float
    called: tuple[int, ...]
    unsafe: tuple[int, ...]
    expected: float
    rule_unsafe: int


@dataclass(frozen=True, slots=True)
class RiskTable:
    """What a pair's walk-forward says of levels and tolerances.

    Attributes
    ----------
    days, rows
        Day numbers since the epoch, ascending, and candles on each.
    tolerance
        The pair's own: that of the test window.
    """

    days: tuple[int, ...]
    rows: tuple[int, ...]
    tolerance: float
    cells: tuple[RiskCell, ...]

    @property
    def at_own_tolerance(self) -> RiskTable:
        """Return the table of the pair's own tolerance alone."""
        return replace(self, cells=tuple(one for one in self.cells if one.factor == 1.0))

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal keeps."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ChosenLevel:
    """The level that ``feeder.max_unsafe_share`` chose, and what was found there.

    Attributes
    ----------
    asked
        The share that was asked for.
    level
        ``quantile_alpha`` of the feeder.
    share, upper
        Share of the candles called safe that turned unsafe on the walk-forward of all pairs together,
        and what it stays within with 95 % confidence; None where nothing is proven.
    is_kept
        Whether the share stays within what was asked; False where no level does, and the least was taken.
    """

    asked: float
    level: float
    share: float | None
    upper: float | None
    is_kept: bool

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal and ``--json`` carry."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Chart:
    """The last days of the test window: candles, served quantile, excursion; all of one length."""

    opens_s: tuple[int, ...]
    open: tuple[float, ...]
    high: tuple[float, ...]
    low: tuple[float, ...]
    close: tuple[float, ...]
    q: tuple[float, ...]
    excursion: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Redrawn:
    """How a trial of the study compared with the start set on the redraws, all pairs together.

    Attributes
    ----------
    gain, error
        Relative loss saved, and its standard error.
    parameters
        The trial's set; None in results of an earlier version.
    windows_needed
        Windows of 15 days that would tell `gain` from noise.
    """

    trial: int
    gain: float
    error: float | None
    parameters: Numbers | None = None
    windows_needed: float | None = None


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """How the feeder's study went; the same in the result of each of its pairs.

    Attributes
    ----------
    parameters
        The feeder's set.
    winner
        Number of the trial that it is of; 0 is the start set.
    n_pairs, n_raced
        Pairs that it was chosen on, and those of them that trials raced over.
    n_trials, n_pruned, n_cells
        Trials, those that ended early, and cells that were measured for them.
    importances
        Searched coordinate -> its importance; empty with too few trials.
    redrawn
        The best few trials against the start set.
    took_s
        Wall seconds of search and redraws.
    """

    parameters: Numbers
    winner: int
    n_pairs: int
    n_raced: int
    n_trials: int
    n_pruned: int
    n_cells: int
    importances: Numbers
    redrawn: tuple[Redrawn, ...]
    took_s: float

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal and ``--json`` carry."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class OwnEvidence:
    """What a pair's own redraws say against the feeder's set.

    Attributes
    ----------
    winner
        Number of the trial whose set is the pair's: the feeder's, or another.
    other
        Number of the best other trial for this pair; None where nothing else was redrawn.
    gain, error
        Relative loss that `other` saves here against the feeder's set, by the pair's own days alone,
        and its standard error.
    shrunk, shrunk_error
        The same, drawn to the other pairs as far as pairs are alike.
    windows_needed
        Windows of 15 days that would tell `gain` from noise.
    """

    winner: int
    other: int | None
    gain: float | None
    error: float | None
    shrunk: float | None
    shrunk_error: float | None
    windows_needed: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal and ``--json`` carry."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PairResult:
    """What tuning a pair found.

    Attributes
    ----------
    time_ns
        When it was made; the record that is written of it has this time, too.
    alpha
        The quantile level that contenders are compared at; None where targets have other ones.
    max_adverse_ratio, decision_value, chart
        Of the built-in model alone; None without.
    labelled_days
        Of folds and test window.
    scale_is_fallback
        Whether ATR14/close stood in for the label scale.
    risk
        What is called safe at other levels and tolerances; None in results of an earlier version, and
        of FreqAI strategies.
    chosen_level
        None without ``feeder.max_unsafe_share``; the same for all pairs of a run.
    decision
        None until the run has decided over all of its pairs.
    """

    pair: str
    time_ns: int
    evidence: Evidence
    provenance: Mapping[str, object]
    alpha: float | None
    max_adverse_ratio: float | None
    labelled_days: float
    decision_value: DecisionValue | None
    chart: Chart | None
    study: StudyFacts
    own: OwnEvidence
    scale_is_fallback: bool
    risk: RiskTable | None = None
    chosen_level: ChosenLevel | None = None
    decision: Decision | None = None
    model_type: ModelType = MODEL_TYPE
    version: Literal[6] = RESULT_VERSION

    @property
    def parameters(self) -> Mapping[str, float]:
        """Return the tuned set."""
        return self.evidence.sets[TUNED].parameters

    @property
    def metrics(self) -> Mapping[str, float]:
        """Return the tuned set's metrics."""
        return self.evidence.sets[TUNED].metrics

    @property
    def scores(self) -> Mapping[str, Score]:
        """Return contender, the ATR rule among them -> its score on the test window."""
        return self.evidence.comparison.scores

    @property
    def without_curves(self) -> PairResult:
        """Return the result without chart and other tolerances than the pair's own: 0.1 of 0.4 MB."""
        risk = None if self.risk is None else self.risk.at_own_tolerance
        return replace(self, chart=None, risk=risk)

    @property
    def decided(self) -> Decision:
        """Return the decision of a run that has ended."""
        if self.decision is None:
            raise ValueError(f"{self.pair}: nothing is decided yet")
        return self.decision

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal keeps."""
        return asdict(self)
