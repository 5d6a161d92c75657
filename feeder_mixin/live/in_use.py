"""Which stored records a feeder's bot still stands on: what retention must leave alone."""

from __future__ import annotations

from feeder_mixin.errors import StateError
from feeder_mixin.live.files import read_checked
from feeder_mixin.live.status import read_status
from feeder_mixin.schema import parse_time_ns
from feeder_mixin.settings import FeederSettings


def load_versions_in_use(settings: FeederSettings) -> dict[str, set[int]]:
    """Return pair -> times of the records that are loaded, serve, or are the last good copy.

    Of the bot on this machine, or the last one that ran here; empty where none ever did.

    Raises
    ------
    StateError
        When the status file or the last good copy is damaged: then nobody can tell.
    """
    in_use: dict[str, set[int]] = {}
    if settings.status_path.exists():
        for pair, facts in read_status(settings.status_path)["pairs"].items():
            versions = (facts["version"], facts["model"]["version"])
            in_use[pair] = {parse_time_ns(v) for v in versions if v is not None}
    copies = read_checked(settings.last_good_path)
    try:
        for pair, entry in (copies or {"records": {}})["records"].items():
            in_use.setdefault(pair, set()).add(int(entry["time_ns"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StateError(
            f"{settings.last_good_path} is no last good copy: {error!r}. Delete it, the bot writes it "
            "anew"
        ) from error
    return in_use
