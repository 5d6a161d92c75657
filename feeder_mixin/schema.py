"""Every parameter, metric, tag and bucket name, once; and the record that carries them.

Both halves import this module: the tuner writes `ParameterRecord` objects, the bot reads them. A
record is taken whole or rejected whole, and the reason names pair, field, value and range. Nothing
here does I/O.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal

from feeder_mixin.errors import SchemaError, SettingsError
from feeder_mixin.settings import (
    FREQAI_MODEL_TYPE,
    MODEL_TYPE,
    BotSettings,
    FeederSettings,
    LabelSpec,
    ModelType,
    Side,
    check_feeder_id,
)
from feeder_mixin.tolerance import ratio_problem

Measurement = Literal["optimized_parameters", "candidate_parameters"]
MEASUREMENT: Final[Measurement] = "optimized_parameters"
"""What bots read."""

CANDIDATES: Final[Measurement] = "candidate_parameters"
"""Tuned sets that were refused: the same schema, never read by a bot."""

PROVENANCE_MEASUREMENTS: Final[Mapping[Measurement, str]] = MappingProxyType(
    {MEASUREMENT: "optimization_runs", CANDIDATES: "candidate_runs"}
)
"""Where InfluxDB keeps the provenance of either: a record and a candidate may share pair and time."""

PROVENANCE_FIELD: Final = "provenance"
TAGS: Final = ("feeder_id", "pair", "optimized_for", "model_type")

NANOSECONDS: Final = 1_000_000_000
LATEST_TIME_NS: Final = 9_223_372_036_854_775_806
"""Largest time that both backends can hold (InfluxDB's limit; BIGINT's is one more)."""


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the floats, as a foreign JSON may hold
        return False


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tunable parameter: its range (both ends included), default and LightGBM name."""

    name: str
    low: float
    high: float
    default: float
    lightgbm_name: str
    description: str
    is_integer: bool = False
    is_log: bool = False

    @property
    def range_text(self) -> str:
        """Return the range as shown to users, for example ``0.001 to 0.1``."""
        return f"{self.low:g} to {self.high:g}"

    def problem(self, value: object) -> str | None:
        """Return why `value` can't be this parameter, or None when it can."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{self.name}={value!r} is not a number (expected {self.range_text})"
        if not _is_finite(value):
            return f"{self.name}={value!r} is not finite (expected {self.range_text})"
        if not self.low <= value <= self.high:
            return f"{self.name}={value!r} is outside {self.range_text}"
        if self.is_integer and value != int(value):
            return f"{self.name}={value!r} is not a whole number (expected {self.range_text})"
        return None

    def restore(self, value: float) -> float:
        """Return a stored float as the parameter's own type: ``int`` where it is whole."""
        return int(value) if self.is_integer else float(value)


@dataclass(frozen=True, slots=True)
class Metric:
    """One field of a record beside the parameters; always a float in a store."""

    name: str
    unit: str
    description: str


PARAMETERS: Final = (
    Parameter(
        "learning_rate",
        0.001,
        0.1,
        0.01,
        "learning_rate",
        "shrinkage of each tree's contribution",
        is_log=True,
    ),
    Parameter("n_estimators", 100, 1000, 100, "n_estimators", "number of trees", is_integer=True),
    Parameter("num_leaves", 15, 63, 15, "num_leaves", "leaves per tree", is_integer=True),
    Parameter("max_depth", 3, 12, 4, "max_depth", "depth limit of a tree", is_integer=True),
    Parameter(
        "min_child_samples",
        10,
        50,
        50,
        "min_child_samples",
        "training rows a leaf needs",
        is_integer=True,
    ),
    Parameter("reg_alpha", 0.0, 1.0, 0.0, "reg_alpha", "L1 penalty on split gains"),
    Parameter("reg_lambda", 0.0, 1.0, 1.0, "reg_lambda", "L2 penalty on split gains"),
    Parameter(
        "quantile_alpha",
        0.05,
        0.20,
        0.10,
        "alpha",
        "quantile level: accepted share of candles worse than predicted",
    ),
    Parameter(
        "feature_fraction", 0.6, 1.0, 0.6, "colsample_bytree", "share of features each tree sees"
    ),
    Parameter(
        "bagging_fraction", 0.6, 1.0, 0.7, "subsample", "share of rows each tree sees (every tree)"
    ),
)

METRICS: Final = (
    Metric("backtested_mae", "ratio", "MAE of all out-of-sample walk-forward predictions together"),
    Metric("validation_mae", "ratio", "mean over the walk-forward folds of each fold's MAE"),
    Metric("train_mae", "ratio", "MAE on the final training window"),
    Metric("test_mae", "ratio", "MAE on the last, untouched window"),
    Metric("safety_accuracy", "share", "test candles where predicted and realised safety agree"),
    Metric("false_positive_rate", "share", "predicted safe among realised unsafe test candles"),
    Metric("false_negative_rate", "share", "predicted unsafe among realised safe test candles"),
    Metric("training_samples", "rows", "rows the final model was trained on, after thinning"),
    Metric("optimization_trials", "trials", "trials of the feeder's study, pruned ones included"),
    Metric("best_trial", "number", "number of the trial that won, from 0"),
    Metric("optimization_time", "s", "wall time of workers on the pair in the search"),
    Metric("defaults_won", "0/1", "1 when the winner is the default set"),
    Metric(
        "feeder_won", "0/1", "1 when the winner is the feeder's set, the same for all such pairs"
    ),
    Metric("beats_rule", "0/1", "0 when nothing beat the ATR rule: the bot calls no candle safe"),
    Metric("side", "1/-1", "side it was tuned for: 1 long, -1 short"),
    Metric("horizon_candles", "candles", "how far the label looks ahead"),
    Metric("timeframe_s", "s", "length of a candle"),
    Metric("candles_from_s", "s since epoch", "open of the pair's first candle used"),
    Metric("candles_to_s", "s since epoch", "open of the pair's last candle used"),
    Metric("context_hash", "48-bit integer", "identity of the context pairs"),
    Metric("feature_hash", "48-bit integer", "identity of the feature set and model recipe"),
    Metric("market_hash", "48-bit integer", "identity of exchange and kind of candles"),
    Metric("target_hash", "48-bit integer", "identity of a FreqAI strategy's targets and levels"),
    Metric(
        "skill", "share", "1 - loss / loss of the ATR rule (FreqAI: of the config), test window"
    ),
    Metric("skill_se", "share", "standard error of skill, by blocks of a day"),
    Metric("exceedance", "share", "test candles whose excursion was below the prediction"),
    Metric("kupiec_p", "probability", "p-value: Kupiec test of exceedance, one row per horizon"),
    Metric("christoffersen_p", "probability", "p-value: Christoffersen test of misses, same rows"),
    Metric("pooled_skill", "share", "skill on folds and test, after shrinkage; decides beats_rule"),
    Metric("pooled_skill_se", "share", "standard error of pooled_skill"),
    Metric("gain", "share", "skill gained over the previous set, test window, after shrinkage"),
    Metric("gain_se", "share", "standard error of gain"),
    Metric("predicted_safe_share", "share", "test candles predicted safe"),
    Metric("realised_safe_share", "share", "test candles realised safe: the base rate"),
    Metric("max_adverse_ratio", "ratio", "tolerance used for the safety metrics"),
    Metric("auto_tolerance", "ratio", 'tolerance of the pair\'s own, in force under "auto"'),
    Metric("unsafe_share", "share", "unsafe among called safe, walk-forward, all pairs together"),
    Metric("unsafe_share_upper", "share", "what it stays within, with 95 % confidence"),
    Metric("unusual_share", "share", "test candles out of the ordinary: never called safe"),
)

PARAMETER_NAMES: Final = tuple(p.name for p in PARAMETERS)
METRIC_NAMES: Final = tuple(m.name for m in METRICS)
FIELD_NAMES: Final = (*PARAMETER_NAMES, *METRIC_NAMES)
PARAMETER_BY_NAME: Final[Mapping[str, Parameter]] = MappingProxyType(
    {p.name: p for p in PARAMETERS}
)


def default_parameters() -> dict[str, float]:
    """Return the ten defaults by name, integers as ``int``."""
    return {p.name: p.restore(p.default) for p in PARAMETERS}


def is_default_set(values: Mapping[str, float]) -> bool:
    """Return whether a set is that of the defaults; its level is the feeder's risk and no tuning."""
    defaults = default_parameters()
    return {**values, "quantile_alpha": defaults["quantile_alpha"]} == defaults


def parameter_problems(values: Mapping[str, object]) -> list[str]:
    """Return what keeps `values` from being a valid parameter set; empty when nothing does.

    A missing name gives ``NAME is missing``. Names that are no parameter are left alone: a record
    carries metrics, and may carry fields of a later version.
    """
    problems = []
    for parameter in PARAMETERS:
        if values.get(parameter.name) is None:
            problems.append(f"{parameter.name} is missing (expected {parameter.range_text})")
        elif problem := parameter.problem(values[parameter.name]):
            problems.append(problem)
    return problems


def is_of_type(stored: str, wanted: ModelType) -> bool:
    """Return whether a reader of one model type takes a point of a stored one.

    The built-in model's reader takes any type but FreqAI's: writers of its records were never asked for
    one name.
    """
    return (stored == FREQAI_MODEL_TYPE) == (wanted == FREQAI_MODEL_TYPE)


def bucket_name(feeder_id: str) -> str:
    """Return the InfluxDB bucket of a feeder, for example ``OPTUNA_FEEDER75A``."""
    return f"OPTUNA_{check_feeder_id(feeder_id).upper()}"


@lru_cache(maxsize=64)
def hash48(*parts: str) -> int:
    """Return a 48-bit integer that identifies `parts`; exact in a float, unlike 64 bits."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big")


@lru_cache(maxsize=1024)  # the same few times, of every pair and in every status
def format_time_ns(time_ns: int) -> str:
    """Return nanoseconds since the epoch as RFC 3339 in UTC with nine decimals.

    Examples
    --------
    >>> format_time_ns(1_767_225_600_000_000_001)
    '2026-01-01T00:00:00.000000001Z'
    """
    seconds, nanoseconds = divmod(time_ns, NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def open_text(open_s: float) -> str:
    """Return a candle's open, or a cut, as shown to users: UTC, to the minute.

    Examples
    --------
    >>> open_text(1_767_225_600)
    '2026-01-01T00:00Z'
    """
    return format_time_ns(int(open_s) * NANOSECONDS)[:16] + "Z"


# Spelled out: `fromisoformat` reads "2026-01-01+07:00" as seven o'clock without a zone.
_RFC_3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII
)


def parse_time_ns(text: str) -> int:
    """Return an RFC 3339 time as nanoseconds since the epoch; a time without zone is an error.

    Examples
    --------
    >>> parse_time_ns("2026-01-01T00:00:00.000000001Z")
    1767225600000000001
    """
    match = _RFC_3339.fullmatch(text.strip())
    if match is None:
        raise SettingsError(
            f"time {text!r} is not RFC 3339 with a zone (expected for example 2026-01-01T00:00:00Z)"
        )
    whole, fraction, zone = match.groups()
    if zone is None:
        raise SettingsError(
            f"time {text!r} is not RFC 3339 with a zone: it has no zone; add Z for UTC, or an offset "
            "such as +07:00"
        )
    try:
        moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone))
    except ValueError as error:
        raise SettingsError(f"time {text!r} is not RFC 3339: {error}") from error
    return int(moment.timestamp()) * NANOSECONDS + int((fraction or "0").ljust(9, "0"))


@dataclass(frozen=True, slots=True)
class ParameterRecord:
    """One tuned parameter set of one pair, with its metrics; immutable and always valid.

    Attributes
    ----------
    feeder_id, pair
        Whose parameters these are; the pair in freqtrade's spelling.
    time_ns
        When the record was made: nanoseconds since the epoch, UTC. Unique per feeder, pair and model
        type.
    parameters
        The ten parameters by name, in range; integers as ``int``.
    metrics
        Finite floats by name. A metric that could not be computed is absent.
    provenance
        Free textual facts (context pairs, versions, seed, host), stored beside the floats.

    Raises
    ------
    SchemaError
        On construction from anything incomplete, out of range or not finite.
    """

    feeder_id: str
    pair: str
    time_ns: int
    parameters: Mapping[str, float]
    metrics: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
    model_type: str = MODEL_TYPE

    def __post_init__(self) -> None:
        problems = parameter_problems(self.parameters)
        problems += [
            f"{name} is not a parameter"
            for name in self.parameters
            if name not in PARAMETER_BY_NAME
        ]
        for name, value in self.metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                problems.append(f"{name}={value!r} is not a number")
            elif not _is_finite(value):
                problems.append(f"{name}={value!r} is not finite")
        if type(self.time_ns) is not int or not 0 <= self.time_ns <= LATEST_TIME_NS:
            problems.append(
                f"time_ns={self.time_ns!r} is not a whole number from 0 to {LATEST_TIME_NS}"
            )
        if problems:
            raise SchemaError(f"{self.feeder_id} {self.pair}: {'; '.join(problems)}")
        restored = {p.name: p.restore(self.parameters[p.name]) for p in PARAMETERS}
        floats = {name: float(value) for name, value in sorted(self.metrics.items())}
        object.__setattr__(self, "parameters", MappingProxyType(restored))
        object.__setattr__(self, "metrics", MappingProxyType(floats))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by plain dicts: a ``MappingProxyType`` can't be pickled."""
        return (
            ParameterRecord,
            (
                self.feeder_id,
                self.pair,
                self.time_ns,
                dict(self.parameters),
                dict(self.metrics),
                dict(self.provenance),
                self.model_type,
            ),
        )

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags by name, as every backend stores them."""
        return {
            "feeder_id": self.feeder_id,
            "pair": self.pair,
            "optimized_for": self.feeder_id,
            "model_type": self.model_type,
        }

    @property
    def fields(self) -> dict[str, float]:
        """Return parameters and metrics as floats: what a store holds."""
        return {
            name: float(value) for name, value in (*self.parameters.items(), *self.metrics.items())
        }

    @property
    def provenance_json(self) -> str:
        """Return the provenance as one JSON document with sorted keys."""
        return json.dumps(dict(self.provenance), sort_keys=True)

    def same_content(self, other: ParameterRecord) -> bool:
        """Return whether both carry the same values at whatever time."""
        return (
            self.tags == other.tags
            and self.fields == other.fields
            and self.provenance_json == other.provenance_json
        )

    def to_dict(self) -> dict[str, object]:
        """Return the form that ``show --json`` prints."""
        return {
            "feeder_id": self.feeder_id,
            "pair": self.pair,
            "time": format_time_ns(self.time_ns),
            "model_type": self.model_type,
            "parameters": dict(self.parameters),
            "metrics": dict(self.metrics),
        }


def build_record(
    feeder_id: str,
    pair: str,
    time_ns: int,
    fields: Mapping[str, float | None],
    provenance: str | None = None,
    model_type: str = MODEL_TYPE,
) -> ParameterRecord:
    """Return the record that stored `fields` make; absent and unknown fields are told apart.

    Unknown names are dropped (a later version may write more); None means absent.

    Raises
    ------
    SchemaError
        When a parameter is missing, not finite, out of range or not whole.
    """
    present = {name: value for name, value in fields.items() if value is not None}
    try:
        document = json.loads(provenance) if provenance else {}
    except (ValueError, RecursionError) as error:  # also digits or depth beyond Python's limits
        raise SchemaError(f"{feeder_id} {pair}: provenance is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise SchemaError(f"{feeder_id} {pair}: provenance is not a JSON object")
    return ParameterRecord(
        feeder_id,
        pair,
        time_ns,
        {name: present[name] for name in PARAMETER_NAMES if name in present},
        {name: present[name] for name in METRIC_NAMES if name in present},
        document,
        model_type,
    )


def missing_parameters(fields: Mapping[str, float | None]) -> list[str]:
    """Return the names of the parameters that stored `fields` lack: empty for a complete record."""
    return [name for name in PARAMETER_NAMES if fields.get(name) is None]


SIDE_NUMBERS: Final[Mapping[Side, float]] = MappingProxyType({"long": 1.0, "short": -1.0})
"""A side as a record holds it: every field is a float."""

_SIDE_OF: Final = {number: side for side, number in SIDE_NUMBERS.items()}


def other_type_reason(record: ParameterRecord, settings: BotSettings) -> str:
    """Return why a record of another model type can't serve the bot of a config."""
    return (
        f"{record.pair}: the record of {format_time_ns(record.time_ns)} is of model type "
        f"{record.model_type}, but {settings.feeder_id} trains {settings.model_type}"
    )


def refusal(record: ParameterRecord, settings: BotSettings, timeframe_s: int) -> str | None:
    """Return why a record can't serve the bot of a config, or None.

    What a FreqAI bot's record was tuned on is compared by the bot: its features and targets are known
    when the strategy has built them.
    """
    if not is_of_type(record.model_type, settings.model_type):
        return other_type_reason(record, settings)
    if isinstance(settings, FeederSettings):
        return mismatch_reason(record, settings.label(timeframe_s))
    return None


def mismatch_reason(record: ParameterRecord, label: LabelSpec) -> str | None:
    """Return why a record can't serve a feeder that predicts this label, or None.

    A record without the fact (written by an older or foreign writer) is not refused for it; one
    without a side gets a warning where a bot loads it. What decides a model, and what becomes of a
    record in which it is another:

    ================== ================= ==========================================================
    fact               field             another value
    ================== ================= ==========================================================
    side, horizon,     `side`,           checked here, rejected: the label is another one, and what
    timeframe          `horizon_candles` was won on it says nothing of this one
                       `timeframe_s`
    exchange, futures  `market_hash`     warned: the same parameters serve, not as well; names of
    or spot                              both are in the provenance
    context pairs      `context_hash`    warned, as above
    features, recipe   `feature_hash`    warned, as above; `RECIPE_VERSION` is part of it
    pair, model type   tags              another record: never looked up for this pair (`refusal`)
    ``train_days``     none              harmless: trees and leaves hold for any window (150 days
                                         and 120 score alike), and the config says how long it is
    max_adverse_ratio  the same          harmless: it decides what is called safe, and the config's
                                         is used; the record's belongs to its own safety metrics
    ``"auto"``         `auto_tolerance`  checked here, rejected outside of 0 to 1: it decides what is
                                         called safe where the config says "auto"
    calibration        none              harmless: state of the bot, which starts at 0 and learns
    retraining grid    none              harmless: a model is cut and fitted by the bot alone
    ================== ================= ==========================================================
    """
    stored_side = record.metrics.get("side")
    if stored_side is not None and stored_side != SIDE_NUMBERS[label.side]:
        shown = _SIDE_OF.get(stored_side, f"{stored_side:g}")
        return f"{record.pair}: side={shown}, but this feeder is {label.side}"
    for name, expected in (("horizon_candles", label.horizon), ("timeframe_s", label.timeframe_s)):
        stored = record.metrics.get(name)
        if stored is not None and stored != expected:
            return f"{record.pair}: {name}={stored:g}, but this feeder has {expected}"
    measured = record.metrics.get("auto_tolerance")
    if measured is not None and (expected_ratio := ratio_problem(measured)):
        return f"{record.pair}: auto_tolerance={measured:g}, expected {expected_ratio}"
    return None


def describe_fields(names: Iterable[str] = FIELD_NAMES) -> dict[str, str]:
    """Return name -> one-line description, for help texts and tables."""
    texts = {p.name: f"{p.description} ({p.range_text}, default {p.default:g})" for p in PARAMETERS}
    texts |= {m.name: f"{m.description} [{m.unit}]" for m in METRICS}
    return {name: texts[name] for name in names}
