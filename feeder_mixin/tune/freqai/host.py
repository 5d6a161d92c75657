"""freqtrade as a FreqAI strategy needs it: the whole config, and the strategy loaded from it.

What must stay true: a worker has what freqtrade's own backtest would have; nothing that a config keeps secret
travels to one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feeder_mixin.errors import SettingsError
from feeder_mixin.freqai.installed import check_installed
from feeder_mixin.freqai.settings import FreqaiSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from freqtrade.strategy import IStrategy

    from feeder_mixin.freqai.dataset import FreqaiData

_SECRET: Final = frozenset({"key", "secret", "password", "uid", "walletAddress", "privateKey"})
"""Of the exchange's block."""

_NOT_NEEDED: Final = (
    *("telegram", "discord", "webhook", "api_server", "external_message_consumer", "db_url"),
    "original_config",
)


@dataclass(frozen=True, slots=True)
class Host:
    """A FreqAI strategy's config, as freqtrade's backtest has it but for the time range.

    Attributes
    ----------
    config
        Merged, with freqtrade's own defaults.
    settings
        The bot's.
    """

    config: Mapping[str, Any]
    settings: FreqaiSettings

    @classmethod
    def load(cls, settings: FreqaiSettings, strategy: str, datadir: Path) -> Host:
        """Return the config with which freqtrade would load a strategy.

        Raises
        ------
        SettingsError
            When FreqAI's packages are not installed, freqtrade refuses the config, or there is no such
            strategy.
        """
        check_installed()
        # Imported here: half a second, and `feeder optimize` of the built-in model needs none of it.
        from freqtrade.configuration import Configuration
        from freqtrade.configuration.config_validation import validate_config_consistency
        from freqtrade.enums import RunMode

        class Quiet(Configuration):  # type: ignore[misc]
            """Leaves the logging of this command as it is."""

            def _process_logging_options(self, config: dict[str, Any]) -> None:
                config["verbosity"] = 0

        arguments = {
            "config": [str(path) for path in settings.config_paths],
            "user_data_dir": str(settings.user_data_dir),
            "datadir": str(datadir),
            "strategy": strategy,
        }
        with _freqtrades_errors():
            config: dict[str, Any] = Quiet(arguments, RunMode.BACKTEST).get_config()
            config["dry_run"] = True
            # Of a range that is closed; which one is told by the candles (`at`).
            config["timerange"] = "20000101-20000102"
            validate_config_consistency(config, preliminary=True)
            config["exchange"] = {
                key: value for key, value in config["exchange"].items() if key not in _SECRET
            }
            for key in _NOT_NEEDED:
                config.pop(key, None)
            host = cls(config, settings)
            host.strategy()
            validate_config_consistency(config)  # what the strategy's timeframe adds
        return host

    def strategy(self) -> IStrategy:
        """Return the strategy, loaded anew."""
        from freqtrade.resolvers import StrategyResolver

        with _freqtrades_errors():
            return StrategyResolver.load_strategy(self.config)

    @contextmanager
    def data(self, begin_s: int, end_s: int) -> Iterator[FreqaiData]:
        """Give the datasets of the strategy on the candles of a time range, in seconds."""
        from feeder_mixin.freqai.dataset import FreqaiData

        # It warns at every cut of the outlier step that a config without DI_threshold does not have.
        logging.getLogger("datasieve").setLevel(logging.ERROR)
        config = {**self.config, "timerange": f"{begin_s}-{end_s}"}
        with FreqaiData(config, self.strategy(), self.settings.targets) as data:
            yield data

    @property
    def block(self) -> Mapping[str, Any]:
        """Return the config's ``freqai`` block."""
        block: Mapping[str, Any] = self.config["freqai"]
        return block

    @property
    def train_days(self) -> int:
        """Return ``freqai.train_period_days``."""
        return int(self.block["train_period_days"])

    @property
    def horizon(self) -> int:
        """Return how many candles labels look ahead: ``label_period_candles``."""
        return int(self.block["feature_parameters"]["label_period_candles"])


@contextmanager
def _freqtrades_errors() -> Iterator[None]:
    """Raise freqtrade's errors as ours."""
    from freqtrade.exceptions import FreqtradeException

    try:
        yield
    except FreqtradeException as error:
        raise SettingsError(" ".join(str(error).split())) from error
