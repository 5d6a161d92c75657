"""Command lines that we advise: they work as printed, for the config and the folder in force.

Whoever prints advice makes it here, so that none forgets the options that the reader's own command had.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from feeder_mixin.settings import FREQAI_MODEL_TYPE, BotSettings


def feeder_command(
    settings: BotSettings, verb: str, *more: object, store: str | None = None
) -> str:
    """Return ``feeder VERB --feeder ID ...`` as a line to paste.

    Config files and user folder are named where ``--feeder`` alone would find others.

    Parameters
    ----------
    more
        Further words of the line.
    store
        URL of ``--store``, where the store comes from that option.
    """
    words = ["feeder", verb, "--feeder", settings.feeder_id, *_places(settings)]
    words += settings.strategy_options if verb == "optimize" else ()
    words += [] if store is None else ["--store", store]
    return shlex.join([*words, *map(str, more)])


def trade_command(settings: BotSettings) -> str:
    """Return the line that starts the feeder's bot."""
    own = Path("config") / f"{settings.feeder_id}.json"
    is_freqai = settings.model_type == FREQAI_MODEL_TYPE  # whose strategy is the user's own
    if not is_freqai and not _places(settings) and own.is_file() and Path("Makefile").is_file():
        return f"make trade FEEDER={settings.feeder_id}"
    configs = [word for path in settings.config_paths for word in ("--config", str(path))]
    model = ["--freqaimodel", "OptunaLightGBMRegressor"] if is_freqai else []
    places = [*configs, "--userdir", str(settings.user_data_dir)]
    words = ["freqtrade", "trade", *places, *settings.strategy_options, *model]
    return shlex.join(words)


def _places(settings: BotSettings) -> list[str]:
    words = []
    if settings.config_paths != (Path("config") / f"{settings.feeder_id}.json",):
        words += [word for path in settings.config_paths for word in ("--config", str(path))]
    if settings.user_data_dir != Path("user_data").absolute():
        words += ["--userdir", str(settings.user_data_dir)]
    return words
