"""Settings of a FreqAI bot, and of any bot: which of the two a config describes.

A FreqAI bot is a freqtrade config with ``freqai`` switched on and no ``feeder.side``: features and targets
are the strategy's. Its id is ``bot_name``, else ``freqai.identifier``. The ``feeder`` block may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from feeder_mixin.errors import SettingsError
from feeder_mixin.freqai.parameters import config_parameters
from feeder_mixin.freqai.targets import Target
from feeder_mixin.settings import (
    FREQAI_KEYS,
    FREQAI_MODEL_TYPE,
    BotSettings,
    ModelType,
    build_settings,
    check_block,
    check_feeder_id,
    find_config,
    read_common,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreqaiSettings(BotSettings):
    """What a FreqAI bot's config decides about its parameters.

    Attributes
    ----------
    identifier
        ``freqai.identifier``: the folder of its models.
    strategy
        The config's, where it names one: what is run, and tuned, is mostly named on the command line.
    targets
        Those of ``feeder.freqai_targets``; empty: every target by its squared error.
    model_training_parameters
        The config's own block: what runs where there is no record.
    correlated
        ``include_corr_pairlist``: pairs whose candles are features of every pair.
    timeframes
        ``include_timeframes``.
    """

    model_type: ClassVar[ModelType] = FREQAI_MODEL_TYPE

    identifier: str
    strategy: str | None = None
    targets: tuple[Target, ...] = ()
    model_training_parameters: Mapping[str, object] = field(default_factory=dict)
    correlated: tuple[str, ...] = ()
    timeframes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Return what the bot is, in a word beside its id."""
        return "freqai"

    @property
    def strategy_options(self) -> tuple[str, ...]:
        """Return how a command line names the strategy: its features and targets are what is tuned."""
        return ("--strategy", self.strategy or "STRATEGY")

    @property
    def market_pairs(self) -> tuple[str, ...]:
        """Return the pairs that trade, and the correlated ones."""
        return tuple(dict.fromkeys((*self.pairs, *self.correlated)))

    @property
    def market_timeframes(self) -> tuple[str, ...]:
        """Return the strategy's timeframe, and those that its features are built on."""
        return tuple(dict.fromkeys((self.timeframe, *self.timeframes)))

    @property
    def config_parameters(self) -> dict[str, float]:
        """Return the ten values that run without a record."""
        return config_parameters(self.model_training_parameters)


def is_freqai(config: Mapping[str, Any]) -> bool:
    """Return whether a config describes a FreqAI bot: a ``freqai`` block, and no side of a feeder's."""
    block = config.get("feeder")
    has_side = isinstance(block, dict) and "side" in block
    return isinstance(config.get("freqai"), dict) and not has_side


def build_freqai_settings(
    config: Mapping[str, Any],
    path: Path | str,
    user_data_dir: Path,
    config_paths: tuple[Path, ...] = (),
) -> FreqaiSettings:
    """Return the settings that a merged freqtrade config of a FreqAI bot makes.

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
    freqai = config.get("freqai")
    if not isinstance(freqai, dict):
        raise SettingsError(
            f"{path}: no freqai block; a FreqAI bot needs one, see freqtrade's docs"
        )
    if freqai.get("enabled") is not True:
        raise SettingsError(
            f"{path}: freqai.enabled={freqai.get('enabled')!r}, expected true: FreqAI is off otherwise"
        )
    block = config.get("feeder", {})
    if not isinstance(block, dict):
        raise SettingsError(f"{path}: feeder={block!r}, expected an object")
    if "side" in block:
        raise SettingsError(
            f"{path}: feeder.side={block['side']!r} makes this a feeder with the built-in model; leave it "
            "out, a FreqAI strategy trades the sides that it wants"
        )
    check_block(path, block, FREQAI_KEYS)
    identifier = freqai.get("identifier")
    if not isinstance(identifier, str) or not identifier:
        raise SettingsError(f"{path}: freqai.identifier={identifier!r}, expected a text")
    targets = block.get("freqai_targets") or {}
    features = _object(freqai, "feature_parameters", path)
    settings = FreqaiSettings(
        feeder_id=_freqai_id(config, identifier, path),
        identifier=identifier,
        targets=tuple(Target(name, spec.get("quantile")) for name, spec in targets.items()),
        model_training_parameters=_object(freqai, "model_training_parameters", path),
        correlated=_texts(features, "include_corr_pairlist", path),
        timeframes=_texts(features, "include_timeframes", path),
        strategy=str(config["strategy"]) if config.get("strategy") else None,
        **read_common(config, path, user_data_dir, config_paths),
        **{key: value for key, value in block.items() if key != "freqai_targets"},
    )
    settings.config_parameters  # noqa: B018  (its error at start, not in the first training)
    return settings


def _object(freqai: Mapping[str, Any], key: str, path: Path | str) -> Mapping[str, Any]:
    """Return an object of the ``freqai`` block, an empty one where it is missing."""
    value = freqai.get(key) or {}
    if not isinstance(value, dict):
        raise SettingsError(f"{path}: freqai.{key}={value!r}, expected an object")
    return value


def _texts(features: Mapping[str, Any], key: str, path: Path | str) -> tuple[str, ...]:
    """Return a list of ``freqai.feature_parameters``, an empty one where it is missing."""
    value = features.get(key) or []
    if not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise SettingsError(
            f"{path}: freqai.feature_parameters.{key}={value!r}, expected a list of texts"
        )
    return tuple(value)


def build_bot_settings(
    config: Mapping[str, Any],
    path: Path | str,
    user_data_dir: Path,
    config_paths: tuple[Path, ...] = (),
) -> BotSettings:
    """Return the settings of the bot that a merged freqtrade config describes, of either kind."""
    build = build_freqai_settings if is_freqai(config) else build_settings
    return build(config, path, user_data_dir, config_paths)


def load_bot_settings(
    feeder_id: str | None,
    config: Path | Sequence[Path] | None = None,
    user_data_dir: Path | None = None,
) -> BotSettings:
    """Return the settings of a feeder or a FreqAI bot; see `feeder_mixin.settings.load_settings`.

    Parameters
    ----------
    feeder_id
        None: whichever the config describes.

    Raises
    ------
    SettingsError
        As by `load_settings`, and when neither an id nor a config is named.
    """
    found = find_config(feeder_id, config)
    place = found.user_data_dir(user_data_dir)
    name = found.merged.get("bot_name")
    if not is_freqai(found.merged):
        if feeder_id not in (None, name):
            raise SettingsError(
                f"{found.shown}: bot_name is {name!r}, expected {feeder_id!r}: the id of a feeder is its "
                "bot_name"
            )
        return build_settings(found.merged, found.shown, place, found.paths)
    settings = build_freqai_settings(found.merged, found.shown, place, found.paths)
    if feeder_id not in (None, settings.feeder_id):
        raise SettingsError(
            f"{found.shown}: its id is {settings.feeder_id!r}, expected {feeder_id!r}: the id of a FreqAI bot "
            "is its bot_name, else its freqai.identifier"
        )
    return settings


def _freqai_id(config: Mapping[str, Any], identifier: str, path: Path | str) -> str:
    name = config.get("bot_name")
    source, feeder_id = ("bot_name", name) if name else ("freqai.identifier", identifier)
    try:
        return check_feeder_id(str(feeder_id))
    except SettingsError as error:
        raise SettingsError(
            f"{path}: {source}={feeder_id!r} is the id of its records, expected letters, digits, '_' and '-' "
            "only; name the bot by bot_name, which goes before freqai.identifier"
        ) from error
