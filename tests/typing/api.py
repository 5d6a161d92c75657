"""The public surface as users type it: checked by mypy, never run."""

from collections.abc import Mapping
from pathlib import Path

from feeder_mixin.schema import ParameterRecord, default_parameters
from feeder_mixin.settings import FeederSettings, load_settings
from feeder_mixin.stores.base import Latest, ParameterStore
from feeder_mixin.stores.url import open_store


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
