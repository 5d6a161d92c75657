"""Settings of one feeder: read from a freqtrade config, checked once, frozen.

A feeder is a freqtrade config with a ``feeder`` block that has a ``side``; its id is ``bot_name``.
Relative paths are anchored at the parent of freqtrade's ``user_data_dir``, not at the working
directory, so that bot, tuner and timer see the same files wherever they are started. Checked by hand
and not by `documents.checked`: every command reads its config, and pydantic's import costs it 0.17
CPU-seconds, half of what ``feeder --help`` takes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple, cast

from feeder_mixin.errors import SettingsError
from feeder_mixin.pairs import TRADING_MODES, btc_beside, check_pairlists, check_spelling
from feeder_mixin.tolerance import (
    FALLBACK,
    MaxAdverseRatio,
    Tolerance,
    is_measured,
    setting_problem,
    tolerance_of,
    unknown_pairs,
)

Side = Literal["long", "short"]
SIDES: Final[tuple[Side, Side]] = ("long", "short")

ModelType = Literal["lightgbm_quantile", "lightgbm_freqai"]
MODEL_TYPE: Final[ModelType] = "lightgbm_quantile"
"""The built-in model: features, label and model are this package's."""

FREQAI_MODEL_TYPE: Final[ModelType] = "lightgbm_freqai"
"""The features and targets of a FreqAI strategy."""

MODEL_TYPES: Final[tuple[ModelType, ...]] = (MODEL_TYPE, FREQAI_MODEL_TYPE)
"""What a record can be for."""

MAX_HORIZON_CANDLES: Final = 288
"""The seasonal features look at what followed a day ago, so the horizon must have ended by then."""

RECORDS_KEY: Final = "feeder_records"
"""Config key that a backtest sets itself: freqtrade hashes the config to find an earlier result."""

_FEEDER_ID: Final = re.compile(r"[A-Za-z0-9_-]+")

RETRAIN_HOURS: Final = 24.0

MODEL_MAX_AGE_HOURS: Final = 360.0
"""Default age at which a model calls nothing safe: 15 days cost 0.1 points of skill, 30 days 0.6."""

_LEAST_RETRAIN_HOURS: Final = 0.05  # three minutes; a typo must not train without end
_HOURS_OF_A_YEAR: Final = 8_760

_LEAST_SHARE, _LARGEST_SHARE = 0.01, 0.5  # 5 for 5 % would be half of all

_LEAST_CHECK_MINUTES: Final = 0.05  # three seconds; a typo must not ask a store without end
_MINUTES_OF_A_DAY: Final = 1_440

DEFAULT_CONTEXT_PAIRS: Final = 10
_MOST_NAMED: Final = 12
"""How many of a feeder's own pairs are context by default, beside the BTC that is priced as they are."""


@dataclass(frozen=True, slots=True)
class LabelSpec:
    """What is predicted: how far price goes against `side` within `horizon` candles.

    A feeder has one. What is learned from both sides together (label scale, pooled trees) and what
    only counts time (purge, folds) reads no more of it than horizon and timeframe.

    Attributes
    ----------
    horizon
        Candles the label looks ahead, at least 1.
    timeframe_s
        Length of a candle in seconds.
    """

    side: Side
    horizon: int
    timeframe_s: int

    @property
    def horizon_s(self) -> int:
        """Return how far the label looks ahead in seconds."""
        return self.horizon * self.timeframe_s


@dataclass(frozen=True, slots=True, kw_only=True)
class BotSettings:
    """What the config of every bot decides, whichever model it trains: id, pairs, store, places.

    Attributes
    ----------
    pairs
        The exchange's ``pair_whitelist``, in freqtrade's spelling.
    candle_type
        ``futures`` or ``spot``: freqtrade's trading mode, and the candles that go with it.
    last_good_max_days
        Age limit of the last good copy; None: no limit.
    check_store_minutes
        How often a running bot asks the store for newer records; None: it waits for SIGUSR1.
    blacklisted
        Pairs of `pairs` that ``exchange.pair_blacklist`` covers: freqtrade's bot leaves them out.
    blackouts
        File of the times around which nothing is safe (`market.blackouts`); None: there are none, as
        with FreqAI, which has no safety.
    config_paths
        The config files, in the order freqtrade takes them by ``--config``: later ones win.
    root
        Anchor of relative paths: parent of `user_data_dir`.
    """

    model_type: ClassVar[ModelType]

    feeder_id: str
    pairs: tuple[str, ...]
    timeframe: str
    exchange: str
    candle_type: str
    data_format: str
    user_data_dir: Path
    config_paths: tuple[Path, ...]
    store_url: str | None = None
    last_good_max_days: float | None = None
    check_store_minutes: float | None = None
    blacklisted: tuple[str, ...] = ()
    blackouts: str | None = None

    @property
    def kind(self) -> str:
        """Return what the bot is, in a word beside its id."""
        raise NotImplementedError

    @property
    def asked_unsafe_share(self) -> float | None:
        """Return the share of the candles called safe that may turn unsafe; None: not asked for."""
        return None

    def is_renewed(self, pair: str) -> bool:  # noqa: ARG002
        """Return whether a bot needs what every tuning measures anew, whatever becomes of parameters."""
        return False

    @property
    def strategy_options(self) -> tuple[str, ...]:
        """Return how a command line names the strategy, where it is the user's own."""
        return ()

    @property
    def market_pairs(self) -> tuple[str, ...]:
        """Return the pairs whose candles are read: those that trade, and those that features look at."""
        return self.pairs

    @property
    def market_timeframes(self) -> tuple[str, ...]:
        """Return the timeframes of the candles that are read, the strategy's own first."""
        return (self.timeframe,)

    def chosen_pairs(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """Return the pairs named, each once, or all without names; raise `SettingsError` for another's."""
        for name in names or ():
            if name not in self.pairs:
                known = f"its pairs are {', '.join(self.pairs)}"
                if len(self.pairs) > _MOST_NAMED:
                    near = difflib.get_close_matches(name, self.pairs, cutoff=0.0)
                    known = f"the nearest of its {len(self.pairs)} pairs are {', '.join(near)}"
                raise SettingsError(f"pair {name!r} is not in {self.feeder_id}: {known}")
        return tuple(dict.fromkeys(names or ())) or self.pairs

    @property
    def root(self) -> Path:
        """Return the folder that relative paths start from."""
        return self.user_data_dir.parent

    @property
    def state_dir(self) -> Path:
        """Return the folder of this feeder's journal, outbox, status and locks."""
        return self.user_data_dir / "feeder_state" / self.feeder_id

    @property
    def outbox_path(self) -> Path:
        """Return the file of results that wait for the store."""
        return self.state_dir / "outbox.sqlite"

    @property
    def journal_path(self) -> Path:
        """Return the file of tuning runs and their trials."""
        return self.state_dir / "journal.sqlite"

    @property
    def model_dir(self) -> Path:
        """Return the folder of trained models."""
        return self.state_dir / "models"

    @property
    def last_good_path(self) -> Path:
        """Return the file of the parameters that were last loaded from the store."""
        return self.state_dir / "last_good.json"

    @property
    def status_path(self) -> Path:
        """Return the file in which the running bot says what it runs."""
        return self.state_dir / "status.json"

    @property
    def blackouts_path(self) -> Path | None:
        """Return the file of blackouts; None without."""
        return None if self.blackouts is None else self.root / self.blackouts

    @property
    def default_datadir(self) -> Path:
        """Return freqtrade's own data folder of the exchange."""
        return self.user_data_dir / "data" / self.exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class FeederSettings(BotSettings):
    """Everything a feeder's config decides; an unknown key in its ``feeder`` block is an error.

    Attributes
    ----------
    horizon_candles
        Candles the label looks ahead.
    max_adverse_ratio
        As the config has it; what a pair gets, `tolerance` says.
    max_unsafe_share
        Of the candles called safe, how many may turn unsafe; None: the level is 0.10, or ``--fix``.
    context_pairs
        Pairs that features and scale look across, sorted.
    train_days, retrain_hours, model_max_age_hours
        Training window of a pair's trees; how often models are due; age at which a model calls
        nothing safe any more.
    """

    model_type: ClassVar[ModelType] = MODEL_TYPE

    side: Side
    horizon_candles: int = 30
    max_adverse_ratio: MaxAdverseRatio = FALLBACK
    max_unsafe_share: float | None = None
    context_pairs: tuple[str, ...] = ()
    train_days: float = 150.0
    retrain_hours: float = RETRAIN_HOURS
    model_max_age_hours: float = MODEL_MAX_AGE_HOURS

    @property
    def kind(self) -> str:
        """Return the side, in a word beside its id."""
        return self.side

    @property
    def market_pairs(self) -> tuple[str, ...]:
        """Return the pairs that trade, and the context pairs."""
        return tuple(dict.fromkeys((*self.pairs, *self.context_pairs)))

    def tolerance(self, pair: str, measured: float | None) -> Tolerance:
        """Return a pair's tolerance; `measured` is ``auto_tolerance`` of the record in force."""
        return tolerance_of(self.max_adverse_ratio, pair, measured)

    def is_renewed(self, pair: str) -> bool:
        """Return whether the pair's tolerance is the one that its record has, or its level is chosen."""
        return self.max_unsafe_share is not None or is_measured(self.max_adverse_ratio, pair)

    @property
    def asked_unsafe_share(self) -> float | None:
        """Return ``max_unsafe_share``."""
        return self.max_unsafe_share

    def with_context(self, is_there: Callable[[str], bool]) -> FeederSettings:
        """Return the settings with the context pairs that are there alone; as they are without any.

        What the exchange does not list is context for nobody: neither tuner nor bot nor backtest.
        """
        there = tuple(filter(is_there, self.context_pairs))
        return replace(self, context_pairs=there) if there else self

    def label(self, timeframe_s: int) -> LabelSpec:
        """Return what this feeder predicts; `timeframe_s` is its timeframe in seconds."""
        return LabelSpec(self.side, self.horizon_candles, timeframe_s)


def _whole(low: int, high: int) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            return f"a whole number from {low} to {high}"
        return None

    return check


def _above_zero(high: float) -> Callable[[object], str | None]:
    def check(value: object) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high:
            return f"a number above 0, at most {high:g}"
        return None

    return check


def _share(value: object) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not _LEAST_SHARE <= cast("float", value) <= _LARGEST_SHARE:
        return f"a share from {_LEAST_SHARE:g} to {_LARGEST_SHARE:g}"
    return None


def _hours(value: object) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not _LEAST_RETRAIN_HOURS <= cast("float", value) <= _HOURS_OF_A_YEAR:
        return f"hours from {_LEAST_RETRAIN_HOURS:g} to {_HOURS_OF_A_YEAR}"
    return None


def _minutes(value: object) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not _LEAST_CHECK_MINUTES <= cast("float", value) <= _MINUTES_OF_A_DAY:
        return f"minutes from {_LEAST_CHECK_MINUTES:g} to {_MINUTES_OF_A_DAY}; leave it out for no checks"
    return None


def _side(value: object) -> str | None:
    return None if value in SIDES else "'long' or 'short'"


def _pairs(value: object) -> str | None:
    if isinstance(value, list) and value and all(isinstance(pair, str) for pair in value):
        return None
    return "a list of pairs such as 'BTC/USDT:USDT'"


def _targets(value: object) -> str | None:
    """Return what was expected of ``freqai_targets``; a target without a quantile is judged by squares."""
    expected = 'an object of target -> {"quantile": 0.1} (above 0, below 1), or -> {} for the squared error'
    if not isinstance(value, dict) or not value:
        return expected
    for name, spec in value.items():
        if not name.startswith("&"):
            return f"{expected}; the name of a target begins with '&', got {name!r}"
        if not isinstance(spec, dict) or set(spec) - {"quantile"}:
            return expected
        level = spec.get("quantile", 0.5)
        if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
            return expected
    return None


def _text(value: object) -> str | None:
    return None if isinstance(value, str) and value else "a text"


class FeederKey(NamedTuple):
    """A key of the ``feeder`` block: what its value must be, its default as shown, what it means."""

    expected: Callable[[object], str | None]
    default: str
    meaning: str


FEEDER_KEYS: Final[Mapping[str, FeederKey]] = {
    "side": FeederKey(_side, "required", "side that the feeder trades: long or short"),
    "horizon_candles": FeederKey(
        _whole(1, MAX_HORIZON_CANDLES),
        "30",
        f"candles the label looks ahead (at most {MAX_HORIZON_CANDLES})",
    ),
    "max_adverse_ratio": FeederKey(
        setting_problem,
        f"{FALLBACK:g}",
        "tolerance: a candle is safe when the excursion is not below minus this. A number for all pairs; "
        'or "auto": the excursion that 80 % of the pair\'s candles stayed within, measured by every '
        'tuning and kept in the record; or an object of pair -> one of these, with "default" for '
        "the other pairs",
    ),
    "max_unsafe_share": FeederKey(
        _share,
        "off: the level is 0.10",
        "risk: of the candles called safe, how many may turn unsafe (0.01 to 0.5). Every tuning then sets "
        "`quantile_alpha` to the largest level, 0.05 to 0.20, at which its walk-forward stays within",
    ),
    "context_pairs": FeederKey(
        _pairs,
        "first ten pairs plus BTC in their currency",
        "pairs that features and scale look across",
    ),
    "store_url": FeederKey(_text, "a file in user_data", "the parameter store"),
    "train_days": FeederKey(_above_zero(3650.0), "150", "training window of a pair's trees"),
    "retrain_hours": FeederKey(
        _hours,
        f"{RETRAIN_HOURS:g}",
        f"how often models are due ({_LEAST_RETRAIN_HOURS:g} to {_HOURS_OF_A_YEAR})",
    ),
    "model_max_age_hours": FeederKey(
        _hours,
        f"{MODEL_MAX_AGE_HOURS:g}, or twice retrain_hours",
        "age of a model from which no candle is safe (15 days old, a model loses 0.1 points of "
        "skill, 30 days 0.6); more than retrain_hours",
    ),
    "blackouts": FeederKey(
        _text,
        "off",
        "CSV file of UTC times (time,minutes_before,minutes_after,name) around which no candle is safe",
    ),
    "last_good_max_days": FeederKey(
        _above_zero(3650.0), "no limit", "age limit of the last good copy"
    ),
    "check_store_minutes": FeederKey(
        _minutes,
        "off",
        "how often a running bot asks the store for newer records and reloads when there are some, "
        f"for a bot on another host than the optimizer ({_LEAST_CHECK_MINUTES:g} to {_MINUTES_OF_A_DAY})",
    ),
    "freqai_targets": FeederKey(
        _targets,
        "squared error for every target",
        "of a FreqAI bot alone (no side): the quantile that each target's model learns",
    ),
}
"""The fixed keys of the ``feeder`` block."""


FREQAI_ONLY_KEYS: Final = ("freqai_targets",)

FREQAI_KEYS: Final = (
    "store_url",
    "last_good_max_days",
    "check_store_minutes",
    *FREQAI_ONLY_KEYS,
)
"""Those that a FreqAI bot can have; the others are of the built-in model."""


_MADE: Final = {"side", "context_pairs", "model_max_age_hours"}
"""Keys whose setting is not the value as it was written."""


def check_feeder_id(feeder_id: str) -> str:
    """Return `feeder_id`, or raise `SettingsError` when it has other than letters, digits, _, -."""
    if not _FEEDER_ID.fullmatch(feeder_id):
        raise SettingsError(
            f"feeder id {feeder_id!r} is not valid: use letters, digits, '_' and '-' only"
        )
    return feeder_id


def feeder_ids() -> list[str]:
    """Return the ids of the feeders that have a config in ``config/``.

    A config that can't be read counts: whoever loads it says what is wrong.
    """
    ids = []
    for path in sorted(Path("config").glob("*.json")):
        try:
            is_feeder = "feeder" in read_config([path])
        except SettingsError:
            is_feeder = True
        if is_feeder:
            ids.append(path.stem)
    return ids


def load_settings(
    feeder_id: str,
    config: Path | Sequence[Path] | None = None,
    user_data_dir: Path | None = None,
) -> FeederSettings:
    """Return the settings of a feeder from its config files, else from ``config/<feeder_id>.json``.

    Parameters
    ----------
    config
        One file or several, merged as freqtrade merges its ``--config`` files: later ones win.

    Raises
    ------
    SettingsError
        When there is no such config, it can't be read, or a value is missing or wrong.
    """
    found = find_config(feeder_id, config)
    name = found.merged.get("bot_name")
    if name != feeder_id:
        raise SettingsError(
            f"{found.shown}: bot_name is {name!r}, expected {feeder_id!r}: the id of a feeder is its bot_name"
        )
    return build_settings(
        found.merged, found.shown, found.user_data_dir(user_data_dir), found.paths
    )


class FoundConfig(NamedTuple):
    """A merged config, its files, and how messages name it."""

    merged: dict[str, Any]
    paths: tuple[Path, ...]
    shown: str

    def user_data_dir(self, chosen: Path | None) -> Path:
        """Return the folder in force: the one that was chosen, the config's, or the usual one."""
        return (chosen or Path(self.merged.get("user_data_dir") or "user_data")).absolute()


def as_written(config: Mapping[str, Any]) -> FoundConfig:
    """Return the config that a running freqtrade has, with the pairs that its files name."""
    original = config.get("original_config", config)
    files = tuple(Path(name) for name in reversed(config.get("config_files", [])))
    merged = {**config, "exchange": {**config["exchange"]}}
    written = original.get("exchange", {}).get("pair_whitelist")
    if written:
        merged["exchange"]["pair_whitelist"] = written
    return FoundConfig(merged, files, " + ".join(str(file) for file in files) or "the config")


def find_config(feeder_id: str | None, config: Path | Sequence[Path] | None) -> FoundConfig:
    """Return the config of a feeder, or that of the files alone where no id is given.

    Raises
    ------
    SettingsError
        When there is none, or it can't be read.
    """
    if feeder_id is not None:
        check_feeder_id(feeder_id)
    paths = _config_paths(feeder_id, config)
    for path in paths:
        _check_is_file(feeder_id, path)
    return FoundConfig(read_config(paths), paths, " + ".join(map(str, paths)))


def _config_paths(feeder_id: str | None, config: Path | Sequence[Path] | None) -> tuple[Path, ...]:
    if isinstance(config, Path):
        return (config,)
    if config:
        return tuple(config)
    if feeder_id is None:
        raise SettingsError("no feeder is named: expected --feeder F, or --config FILE of one bot")
    return (Path("config") / f"{feeder_id}.json",)


def _check_is_file(feeder_id: str | None, path: Path) -> None:
    if path.is_file():
        return
    if path.exists():
        raise SettingsError(f"config {path} can't be read: it is not a file")
    known = [name for name in feeder_ids() if _is_usable(name)]
    hint = f" Feeders with a config here: {', '.join(known)}." if known else ""
    raise SettingsError(
        f"{'the bot' if feeder_id is None else f'feeder {feeder_id!r}'} has no config: {path} does not exist in {Path.cwd()}.{hint} "
        "Name another file with --config, or go to the project's folder"
    )


def _is_usable(feeder_id: str) -> bool:
    """Return whether a feeder's own config makes settings."""
    if not (Path("config") / f"{feeder_id}.json").is_file():
        return False
    try:
        load_settings(feeder_id)
    except SettingsError:
        return False
    return True


def read_config(paths: Sequence[Path]) -> dict[str, Any]:
    """Return a freqtrade config as freqtrade merges it: files, those they name, the environment.

    The environment wins over all files, later files over earlier ones, a file over those it names.

    Raises
    ------
    SettingsError
        When a file can't be read; the message names it.
    """
    # Imported here: freqtrade's configuration costs over a second, and only this module needs it.
    from freqtrade.configuration.environment_vars import environment_vars_to_dict
    from freqtrade.misc import deep_merge_dicts

    if len(paths) > 1:
        for path in paths:
            _load_files([path])  # so that an error names the one file that it is about
    config = _load_files(paths)
    merged: dict[str, Any] = deep_merge_dicts(environment_vars_to_dict(), config)
    return merged


def _load_files(paths: Sequence[Path]) -> dict[str, Any]:
    """Return config files merged by freqtrade's loader, its errors as ours."""
    from freqtrade.configuration.load_config import load_from_files
    from freqtrade.exceptions import FreqtradeException

    name = " + ".join(map(str, paths))
    try:
        config: dict[str, Any] = load_from_files([str(path) for path in paths])
    except (FreqtradeException, OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"config {name} can't be read: {error}") from error
    except (AttributeError, TypeError, RecursionError) as error:
        # freqtrade merges files without asking whether they can be
        raise SettingsError(f"config {name} is not a JSON object") from error
    return config


def build_settings(
    config: Mapping[str, Any],
    path: Path | str,
    user_data_dir: Path,
    config_paths: tuple[Path, ...] = (),
) -> FeederSettings:
    """Return the settings that a merged freqtrade config makes.

    Parameters
    ----------
    path
        How messages name the config.
    config_paths
        The files it was merged from, where `path` alone does not make it again.

    Raises
    ------
    SettingsError
        Naming the key, the value and what was expected.
    """
    block = config.get("feeder")
    if not isinstance(block, dict) or "side" not in block:
        freqai = "; with a freqai block and without a side it is a FreqAI bot's config"
        raise SettingsError(
            f'{path}: no feeder block with a side; expected "feeder": {{"side": "long"}} or short'
            f"{freqai if isinstance(config.get('freqai'), dict) else ''}"
        )
    check_block(path, block, [key for key in FEEDER_KEYS if key not in FREQAI_ONLY_KEYS])
    common = read_common(config, path, user_data_dir, config_paths)
    chosen: list[str] = block.get("context_pairs") or []
    check_spelling(f"{path}: feeder.context_pairs", chosen, common["candle_type"])
    if common["candle_type"] == "spot" and block["side"] == "short":
        raise SettingsError(
            f"{path}: feeder.side='short' with trading_mode='spot': nothing can be sold short on a spot "
            "market. Set trading_mode to 'futures' (with futures pairs), or the side to 'long'"
        )
    max_age_hours = _model_max_age_hours(path, block)
    pairs = config["exchange"]["pair_whitelist"]
    if strangers := unknown_pairs(block.get("max_adverse_ratio", FALLBACK), pairs):
        raise SettingsError(
            f"{path}: feeder.max_adverse_ratio names {', '.join(strangers)}, expected pairs of "
            'exchange.pair_whitelist, and "default"'
        )
    context = chosen or [*pairs[:DEFAULT_CONTEXT_PAIRS], btc_beside(pairs[0])]
    return FeederSettings(
        feeder_id=_bot_name(config, path),
        side=cast("Side", block["side"]),
        context_pairs=tuple(sorted(set(context))),
        model_max_age_hours=max_age_hours,
        **common,
        **{key: value for key, value in block.items() if key not in _MADE},
    )


def check_block(path: Path | str, block: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise `SettingsError` for a key of the ``feeder`` block that is unknown or has a wrong value."""
    for key, value in block.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise SettingsError(
                f"{path}: unknown key feeder.{key}{hint} (known: {', '.join(known)})"
            )
        if expected := FEEDER_KEYS[key].expected(value):
            raise SettingsError(f"{path}: feeder.{key}={value!r}, expected {expected}")


def read_common(
    config: Mapping[str, Any],
    path: Path | str,
    user_data_dir: Path,
    config_paths: tuple[Path, ...],
) -> dict[str, Any]:
    """Return what `BotSettings` takes from outside of the ``feeder`` block, its id aside.

    Raises
    ------
    SettingsError
        Naming the key, the value and what was expected.
    """
    exchange = config.get("exchange")
    pairs = exchange.get("pair_whitelist") if isinstance(exchange, dict) else None
    if not isinstance(exchange, dict) or not exchange.get("name"):
        raise SettingsError(f"{path}: exchange.name is missing")
    if problem := _pairs(pairs):
        raise SettingsError(f"{path}: exchange.pair_whitelist={pairs!r}, expected {problem}")
    own_pairs = tuple(cast("list[str]", pairs))
    mode = _trading_mode(config, path)
    check_spelling(f"{path}: exchange.pair_whitelist", own_pairs, mode)
    check_pairlists(str(path), config.get("pairlists"))
    timeframe = config.get("timeframe")
    if not isinstance(timeframe, str):
        raise SettingsError(f"{path}: timeframe={timeframe!r}, expected a text such as '5m'")
    return {
        "pairs": tuple(dict.fromkeys(own_pairs)),
        "timeframe": timeframe,
        "exchange": str(exchange["name"]),
        "candle_type": mode,
        "data_format": str(config.get("dataformat_ohlcv", "feather")),
        "user_data_dir": user_data_dir,
        "config_paths": config_paths or (Path(path),),
        "blacklisted": _blacklisted(path, exchange.get("pair_blacklist") or [], own_pairs),
    }


def _blacklisted(
    path: Path | str, patterns: Sequence[str], pairs: Sequence[str]
) -> tuple[str, ...]:
    """Return the pairs that the host's blacklist covers, by its own reading of the patterns."""
    if not patterns:
        return ()
    from freqtrade.plugins.pairlist.pairlist_helpers import expand_pairlist

    try:
        covered = set(expand_pairlist(list(patterns), list(pairs)))
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"{path}: exchange.pair_blacklist={patterns!r}, expected pairs or regular expressions: {error}"
        ) from error
    return tuple(pair for pair in pairs if pair in covered)


def _model_max_age_hours(path: Path | str, block: Mapping[str, Any]) -> float:
    """Return the age; by default long enough for one retraining to fail, however seldom they are.

    Raises
    ------
    SettingsError
        Where models would be too old before the next ones are due.
    """
    retrain: float = block.get("retrain_hours", RETRAIN_HOURS)
    oldest: float = block.get("model_max_age_hours", max(MODEL_MAX_AGE_HOURS, 2 * retrain))
    if oldest <= retrain:
        raise SettingsError(
            f"{path}: feeder.model_max_age_hours={oldest:g}, expected more than feeder.retrain_hours="
            f"{retrain:g}: a model would be too old before the next one is due"
        )
    return oldest


def _bot_name(config: Mapping[str, Any], path: Path | str) -> str:
    name = config.get("bot_name")
    if not isinstance(name, str):
        raise SettingsError(
            f"{path}: bot_name is {name!r}, expected a text: the id of a feeder is its bot_name"
        )
    return check_feeder_id(name)


def _trading_mode(config: Mapping[str, Any], path: Path | str) -> str:
    """Return the trading mode, which is the candle type as well."""
    mode = config.get("trading_mode", "spot")
    mode = getattr(mode, "value", mode)  # in a bot it is freqtrade's enum: shown as it was written
    if mode not in TRADING_MODES:
        known = " or ".join(repr(name) for name in TRADING_MODES)
        raise SettingsError(f"{path}: trading_mode={mode!r}, expected {known}")
    return str(mode)
