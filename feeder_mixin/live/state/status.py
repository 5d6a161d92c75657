"""The status file: what the running bot says of itself, for operators and scripts.

The bot writes it whole after start, after every reload and whenever a model changes; its keys are
fixed. It says what was true when it was written: whether a bot runs now, only the bot lock tells.
Times are RFC 3339 in UTC (`schema.format_time_ns`), null where there is none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NotRequired, TypedDict, cast, get_args

from feeder_mixin.errors import SettingsError, StateError
from feeder_mixin.live.state.files import write_private
from feeder_mixin.live.state.stand_in import find_stand_in, make_stand_in
from feeder_mixin.schema import parameter_problems, parse_time_ns
from feeder_mixin.settings import FeederSettings

Source = Literal["store", "last_good", "default"]
ModelState = Literal["none", "training", "ready", "stale"]

_Check = Callable[[Any], bool]


class LoadStatus(TypedDict):
    """How often this process asked the store, the first time at start.

    `succeeded` and `failed` count. `last_success_at` and `last_duration_s` (seconds from taking the
    request up to the swap) are those of the last success, null without one.
    """

    succeeded: int
    failed: int
    last_success_at: str | None
    last_duration_s: float | None


class ReloadStatus(TypedDict):
    """Reload requests of this process.

    `requested` and `completed` count; a request is completed when its reload succeeded or failed.
    `last_error` is that of the last attempt, null when it succeeded.
    """

    requested: int
    completed: int
    last_attempt_at: str | None
    last_success_at: str | None
    last_error: str | None
    loads: NotRequired[LoadStatus]  # a bot of an earlier version may still run


class ModelStatus(TypedDict):
    """The model that serves a pair; where there is none yet, only `state` and `calibration` have a value.

    `version` and `generation` are those of the record it was trained from. `rows` is what it was
    trained on, `expected_rows` how many there are where no candle is missing since the pair's listing,
    `context_share` the share of candles that the context pairs had. `error` says why the last fit failed, null when it did not. `calibration` is the factor
    that forecasts are served with: the pair's, not the model's, and 1 at the beginning.
    """

    state: ModelState
    version: str | None
    generation: int | None
    trained_until: str | None
    rows: int | None
    error: str | None
    calibration: NotRequired[float]  # a bot of before the calibration may still run
    expected_rows: NotRequired[int | None]  # likewise
    context_share: NotRequired[float | None]  # likewise


class ExceedanceStatus(TypedDict):
    """Candles of the last day that went worse than served: `share` of `candles`, `nominal` beside."""

    share: float
    nominal: float
    candles: int


class PairStatus(TypedDict):
    """The parameters loaded for a pair, and its model.

    `version` is the record's time, null for defaults. `rejected` is the reason why the store's
    record was refused, null when it was not. `exceedance` is null until a horizon has ended.
    `last_good_at` is when the store gave the last good copy that serves: its age counts from there;
    null for other sources. `passed_over` is the store's newest point that was passed over for an older
    one (half-written or dated in the future), with the reason; null without any. `last_candle` is the
    open of the newest candle that the host has asked about, `last_served` that of the newest one that
    got a prediction: a pair that the host dropped stands still there.
    """

    source: Source
    version: str | None
    parameters: dict[str, float]
    rejected: str | None
    model: ModelStatus
    exceedance: NotRequired[ExceedanceStatus | None]  # a bot of an earlier version may still run
    last_good_at: NotRequired[str | None]  # likewise
    passed_over: NotRequired[str | None]  # likewise
    last_candle: NotRequired[str | None]  # likewise
    last_served: NotRequired[str | None]  # likewise


class Status(TypedDict):
    """The whole status file; `pairs` by the host's spelling."""

    feeder_id: str
    pid: int
    generation: int
    loaded_at: str
    reload: ReloadStatus
    pairs: dict[str, PairStatus]


def write_status(path: Path, status: Status) -> None:
    """Write `status` to `path`, whole or not at all, mode 0600.

    Raises
    ------
    StateError
        When it can't be written, or holds a number that is not finite.
    """
    try:
        text = json.dumps(status, allow_nan=False)  # indented, it would take ten times as long
    except (TypeError, ValueError) as error:
        raise StateError(f"{path} is not written: its content is not JSON: {error}") from error
    write_private(path, text + "\n", durable=False)  # written twice in every reload


def keep_status(settings: FeederSettings, status: Status) -> str | None:
    """Write `status` where it belongs, else into the stand-in; return what kept it from its place.

    Raises
    ------
    StateError
        When it can be written nowhere.
    """
    try:
        write_status(settings.status_path, status)
    except StateError as error:
        try:
            folder = make_stand_in(settings.state_dir)
            write_status(folder / settings.status_path.name, status)
        except StateError as problem:
            raise StateError(f"{error}; {problem}") from error
        return f"{error}; it is kept in {folder} until then"
    stand_in = find_stand_in(settings.state_dir)
    if stand_in is not None:
        with suppress(OSError):
            (stand_in / settings.status_path.name).unlink(missing_ok=True)
    return None


def read_status(path: Path) -> Status:
    """Return what the bot wrote last; unknown keys (of a later version) are kept.

    Raises
    ------
    StateError
        When there is no such file, it can't be read, or it is not what a bot writes.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StateError(
            f"{path} does not exist: the bot never ran here. Start it (make trade FEEDER=...), or name "
            "its folder with --userdir"
        ) from error
    except OSError as error:
        raise StateError(
            f"{path} can't be read: {error.strerror or error}. Ask as the user who runs the bot"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"is not JSON: {error}") from error
    if problem := _shape_problem(document):
        raise _damaged(path, f"is no status file: {problem}")
    return cast("Status", document)


def _damaged(path: Path, problem: str) -> StateError:
    return StateError(
        f"{path} {problem}. Delete it; a running bot writes it anew at its next reload"
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    """Return whether `value` is a finite number, not below 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= cast("float", value) <= sys.float_info.max


def _is_factor(value: object) -> bool:
    return _is_number(value) and value != 0


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and parse_time_ns(value) >= 0
    except SettingsError:
        return False


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _or_null(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


_STATUS: Final[Mapping[str, _Check]] = {
    "feeder_id": _is_text,
    "pid": lambda value: _is_count(value) and value != 0,
    "generation": _is_count,
    "loaded_at": _is_time,
    "reload": _is_object,
    "pairs": _is_object,
}
_RELOAD: Final[Mapping[str, _Check]] = {
    "requested": _is_count,
    "completed": _is_count,
    "last_attempt_at": _or_null(_is_time),
    "last_success_at": _or_null(_is_time),
    "last_error": _or_null(_is_text),
}
_PAIR: Final[Mapping[str, _Check]] = {
    "source": lambda value: value in get_args(Source),
    "version": _or_null(_is_time),
    "parameters": lambda value: isinstance(value, dict) and not parameter_problems(value),
    "rejected": _or_null(_is_text),
    "model": _is_object,
}
_MODEL: Final[Mapping[str, _Check]] = {
    "state": lambda value: value in get_args(ModelState),
    "version": _or_null(_is_time),
    "generation": _or_null(_is_count),
    "trained_until": _or_null(_is_time),
    "rows": _or_null(_is_count),
    "error": _or_null(_is_text),
}
_LOADS: Final[Mapping[str, _Check]] = {
    "succeeded": _is_count,
    "failed": _is_count,
    "last_success_at": _or_null(_is_time),
    "last_duration_s": _or_null(_is_number),
}
_EXCEEDANCE: Final[Mapping[str, _Check]] = {
    "share": _is_number,
    "nominal": _is_number,
    "candles": _is_count,
}
_RELOAD_LATER: Final[Mapping[str, _Check]] = {"loads": _is_object}
_PAIR_LATER: Final[Mapping[str, _Check]] = {
    "exceedance": _or_null(_is_object),
    "last_good_at": _or_null(_is_time),
    "passed_over": _or_null(_is_text),
    "last_candle": _or_null(_is_time),
    "last_served": _or_null(_is_time),
}
_MODEL_LATER: Final[Mapping[str, _Check]] = {
    "calibration": _is_factor,
    "expected_rows": _or_null(_is_count),
    "context_share": _or_null(_is_number),
}
"""`_LATER`: keys that a running bot of an earlier version does not write."""


def _shape_problem(document: object) -> str | None:
    """Return the first thing that keeps `document` from being a `Status`, None when nothing does."""
    if problem := _part_problem("", document, _STATUS):
        return problem
    status = cast("Status", document)
    if problem := _part_problem("reload.", status["reload"], _RELOAD, _RELOAD_LATER):
        return problem
    if "loads" in status["reload"]:
        problem = _part_problem("reload.loads.", status["reload"]["loads"], _LOADS)
    for pair, facts in status["pairs"].items():
        problem = problem or _pair_problem(pair, facts)
    return problem


def _pair_problem(pair: str, facts: PairStatus) -> str | None:
    problem = _part_problem(f"{pair}.", facts, _PAIR, _PAIR_LATER)
    problem = problem or _part_problem(f"{pair}.model.", facts["model"], _MODEL, _MODEL_LATER)
    if problem is None and facts.get("exceedance") is not None:
        problem = _part_problem(f"{pair}.exceedance.", facts["exceedance"], _EXCEEDANCE)
    return problem


def _part_problem(
    where: str,
    part: object,
    checks: Mapping[str, _Check],
    later: Mapping[str, _Check] = MappingProxyType({}),
) -> str | None:
    """Return what is wrong with a part; of the keys in `later` only those that are there count."""
    if not isinstance(part, dict):
        return f"{where.rstrip('.') or 'the document'} is no JSON object"
    for key, is_right in (*checks.items(), *((k, c) for k, c in later.items() if k in part)):
        if key not in part:
            return f"{where}{key} is missing"
        if not is_right(part[key]):
            return f"{where}{key}={part[key]!r} is not what a bot writes"
    return None
