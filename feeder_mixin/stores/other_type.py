"""Pairs whose only records are of another model type than the bot's: told, never handed on.

The loader, doctor and ``feeder show`` call this. A feeder that went over to FreqAI, or back, shares its id
with the records of before.
"""

from __future__ import annotations

from collections.abc import Sequence

from feeder_mixin.schema import other_type_reason
from feeder_mixin.settings import MODEL_TYPES, BotSettings
from feeder_mixin.stores.base import Latest, ParameterStore


def load_other_type(
    store: ParameterStore, settings: BotSettings, pairs: Sequence[str], latest: Latest
) -> dict[str, str]:
    """Return pair -> why the newest record of another model type can't serve it.

    Only of pairs without any point of the bot's own type: where there is one, others mean nothing. The store
    is asked only where there is such a pair.

    Parameters
    ----------
    latest
        What the store said of `pairs` for the bot's own type.
    """
    noted = {note.pair for note in latest.notes}
    without = [pair for pair in pairs if pair not in latest.times and pair not in noted]
    if not without:
        return {}
    return {
        pair: other_type_reason(record, settings)
        for model_type in MODEL_TYPES
        if model_type != settings.model_type
        for pair, record in store.latest(
            settings.feeder_id, without, model_type=model_type
        ).records.items()
    }
