"""The status file: what the running bot says of itself, for operators and scripts.

The bot writes it whole after start, after every reload, whenever a model changes and once a candle;
its keys are fixed. It says what was true when it was written: whether a bot runs now, only the bot lock tells.
Times are RFC 3339 in UTC (`schema.format_time_ns`), null where there is none.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import (
    Annotated,
    Final,
    Literal,
    NotRequired,  # pydantic takes no other before Python 3.12
)

from annotated_types import Gt
from typing_extensions import TypedDict

from feeder_mixin.documents import (
    Amount,
    Count,
    Factor,
    Finite,
    TenNumbers,
    Time,
    checked,
    is_parameter_set,
)
from feeder_mixin.errors import StateError
from feeder_mixin.live.state.files import write_private
from feeder_mixin.live.state.stand_in import find_stand_in, make_stand_in
from feeder_mixin.settings import BotSettings
from feeder_mixin.tolerance import Origin

Source = Literal["store", "last_good", "default", "config"]
"""`default`: the schema's; `config`: a FreqAI config's own ``model_training_parameters``."""

FALLBACKS: Final[tuple[Source, ...]] = ("default", "config")
"""What serves without a record."""

ModelState = Literal["none", "training", "ready", "stale"]


class LoadStatus(TypedDict):
    """How often this process asked the store, the first time at start.

    `succeeded` and `failed` count. `last_success_at` and `last_duration_s` (seconds from taking the
    request up to the swap) are those of the last success, null without one.
    """

    succeeded: Count
    failed: Count
    last_success_at: Time | None
    last_duration_s: Amount | None


class ReloadStatus(TypedDict):
    """Reload requests of this process.

    `requested` and `completed` count; a request is completed when its reload succeeded or failed.
    `last_error` is that of the last attempt, null when it succeeded.
    """

    requested: Count
    completed: Count
    last_attempt_at: Time | None
    last_success_at: Time | None
    last_error: str | None
    loads: LoadStatus


class ModelStatus(TypedDict):
    """The model that serves a pair; where there is none yet, only `state` and `calibration` have a value.

    `version` and `generation` are those of the record it was trained from. `rows` is what it was
    trained on, `expected_rows` how many there are where no candle is missing since the pair's listing,
    `context_share` the share of candles that the context pairs had. `error` says why the last fit
    failed, null when it did not. `calibration` is the factor that forecasts are served with: the
    pair's, not the model's, and 1 at the beginning.
    """

    state: ModelState
    version: Time | None
    generation: Count | None
    trained_until: Time | None
    rows: Count | None
    expected_rows: Count | None
    context_share: Amount | None
    error: str | None
    calibration: Factor


class ExceedanceStatus(TypedDict):
    """Candles of the last day that went worse than served: `share` of `candles`, `nominal` beside."""

    share: Amount
    nominal: Amount
    candles: Count


class ToleranceStatus(TypedDict):
    """How far price may go against a position on a safe candle, and where that comes from."""

    max_adverse_ratio: Factor
    origin: Origin


class PairStatus(TypedDict):
    """The parameters loaded for a pair, and its model.

    `version` is the record's time, null for defaults. `rejected` is the reason why the store's
    record was refused, null when it was not. `exceedance` is null until a horizon has ended.
    `last_good_at` is when the store gave the last good copy that serves: its age counts from there;
    null for other sources. `passed_over` is the store's newest point that was passed over for an older
    one (half-written or dated in the future), with the reason; null without any. `last_candle` is the
    open of the newest candle that the host has asked about, `last_served` that of the newest one that
    got a prediction: a pair that the host dropped stands still there. `tolerance` is that of the record
    whose model serves, without a model that of the record loaded; null for a FreqAI bot. `unusual_share`
    is the share of the last day's predicted candles that were out of the ordinary, null without any.
    `last_q` is the prediction of `last_served`, calibrated (a ratio, negative = against the position),
    `last_safe` whether that candle is safe; null without any, and for a FreqAI bot. These four are absent
    in what an earlier version wrote.
    """

    source: Source
    version: Time | None
    parameters: TenNumbers
    rejected: str | None
    model: ModelStatus
    exceedance: ExceedanceStatus | None
    last_good_at: Time | None
    passed_over: str | None
    last_candle: Time | None
    last_served: Time | None
    last_q: NotRequired[Finite | None]
    last_safe: NotRequired[bool | None]
    tolerance: NotRequired[ToleranceStatus | None]
    unusual_share: NotRequired[Amount | None]


class BlackoutWindow(TypedDict):
    """A stretch of time in which nothing is safe."""

    start: Time
    end: Time
    name: str


class BlackoutStatus(TypedDict):
    """The blackouts of ``feeder.blackouts``: how many windows, and the one in force or else next.

    `next` is null when all are past; its name is empty where the file gives none.
    """

    file: str
    windows: Count
    next: BlackoutWindow | None


class Status(TypedDict):
    """The whole status file; `pairs` by the host's spelling.

    `blackouts` is null without ``feeder.blackouts``, and absent in what an earlier version wrote.
    """

    feeder_id: str
    pid: Annotated[int, Gt(0)]
    generation: Count
    loaded_at: Time
    reload: ReloadStatus
    pairs: dict[str, PairStatus]
    blackouts: NotRequired[BlackoutStatus | None]


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


def keep_status(settings: BotSettings, status: Status) -> str | None:
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
        return f"{error}; until then it is written to {folder}"
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
            f"{path} can't be read: {error.strerror or error}. Run this as the user who runs the bot"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"is not JSON: {error}") from error
    status = checked(
        Status, document, lambda problem: _damaged(path, f"is not a status file: {problem}")
    )
    for pair, facts in status["pairs"].items():
        # A FreqAI config's own values are shown as they are, in range or not.
        if facts["source"] != "config" and not is_parameter_set(facts["parameters"]):
            problem = f"pairs.{pair}.parameters: expected the ten parameters, each inside its range"
            raise _damaged(path, f"is not a status file: {problem}")
    return status


def _damaged(path: Path, problem: str) -> StateError:
    return StateError(
        f"{path} {problem}. Delete it; a running bot writes it anew at its next reload"
    )
