"""Which stored records a feeder's bot still uses: retention must keep them."""

from __future__ import annotations

from feeder_mixin.live.state.last_good import read_last_good
from feeder_mixin.live.state.stand_in import newest_status_path
from feeder_mixin.live.state.status import read_status
from feeder_mixin.schema import parse_time_ns
from feeder_mixin.settings import BotSettings


def load_versions_in_use(settings: BotSettings) -> dict[str, set[int]]:
    """Return pair -> times of the records that are loaded, serve, or are the last good copy.

    Of the bot on this machine, or the last one that ran here; empty where none ever did.

    Raises
    ------
    StateError
        When the status file or the last good copy is damaged: then nobody can tell.
    """
    in_use: dict[str, set[int]] = {}
    path = newest_status_path(settings)
    if path.exists():
        for pair, facts in read_status(path)["pairs"].items():
            versions = (facts["version"], facts["model"]["version"])
            in_use[pair] = {parse_time_ns(v) for v in versions if v is not None}
    for record, _saved_ns in read_last_good(settings) or ():
        in_use.setdefault(record.pair, set()).add(record.time_ns)
    return in_use
