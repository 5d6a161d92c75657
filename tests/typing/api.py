"""The public surface as users type it: checked by mypy, never run."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from feeder_mixin import OptunaParamsMixin, ParameterRecord, load_settings, open_store
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.base import Latest, ParameterStore


class MyFeeder(OptunaParamsMixin):
    """A strategy of a user's own."""

    def entry_trigger(self, dataframe: pd.DataFrame, metadata: dict[str, str]) -> pd.Series:
        """Return that every candle of a pair with a name is wanted."""
        return pd.Series(data=bool(metadata["pair"]), index=dataframe.index)


def show_latest(feeder_id: str, root: Path) -> Mapping[str, ParameterRecord]:
    """Read a feeder's records as a user's script would."""
    settings: FeederSettings = load_settings(feeder_id)
    store: ParameterStore
    with open_store(settings.store_url or "sqlite:///x.sqlite", root=root) as store:
        latest: Latest = store.latest(settings.feeder_id, settings.pairs)
    return latest.records


def make_record() -> ParameterRecord:
    """Make a record by hand."""
    parameters: dict[str, float] = default_parameters()
    return ParameterRecord("feeder75a", "BTC/USDT:USDT", 1, parameters, {"skill": 0.1})
