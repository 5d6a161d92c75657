"""Random schedules of faults, and the table of what a user sees of each."""

from __future__ import annotations

import random
from pathlib import Path

from feeder_mixin.errors import StoreError, StoreUnavailableError
from feeder_mixin.stores.outbox import Delivered
from tests.faults.site import BOT_MOMENTS, FAULTS, HOUR_NS, PAIRS, TUNER_MOMENTS, Seen, Site

SCHEDULES_PER_SITE = 10


def run_schedules(folder: Path, seed: int, count: int, most_faults: int) -> int:
    """Run `count` random schedules of up to `most_faults`, and return how many faults there were.

    A site lives through `SCHEDULES_PER_SITE` of them, so that files grow old. What fails names the
    site's seed and its schedules so far: the same seed makes them again.
    """
    n_faults = 0
    for number in range(count // SCHEDULES_PER_SITE):
        site_seed = seed + number
        n_faults += run_site(folder / str(number), site_seed, most_faults)
    return n_faults


def run_site(folder: Path, seed: int, most_faults: int) -> int:
    """Run the schedules of one site; return how many faults they had."""
    chosen = random.Random(seed)  # noqa: S311  (a schedule, no secret)
    folder.mkdir(parents=True)
    site = Site(folder, chosen.choice(("influxdb", "sql")), seed)
    lived: list[tuple[str, str]] = []
    try:
        for _ in range(SCHEDULES_PER_SITE):
            for _ in range(chosen.randint(1, most_faults)):
                fault, moment = chosen.choice(FAULTS), chosen.choice(TUNER_MOMENTS + BOT_MOMENTS)
                lived.append((fault, moment))
                (site.tune if moment in TUNER_MOMENTS else site.run_bot)(fault, moment)
                if chosen.random() < 0.5:
                    site.server.mend()
            site.settle()
            lived.append(("settled", ""))
    except BaseException as error:
        error.add_note(f"seed {seed}, {site.server.kind}, lived through {lived}")
        raise
    finally:
        site.end_bot()
    return len(lived) - SCHEDULES_PER_SITE


COLUMNS = {
    "a result is put away": ("put",),
    "it is delivered": ("between", "write", "commit", "mark"),
    "the bot starts": ("start",),
    "the bot reloads": ("reload",),
}
ROWS = {
    "down": "store down",
    "slow": "store slow (timeout)",
    "refusing": "store refuses a type",
    "wrong token": "wrong token",
    "half answer": "half an answer",
    "disk full": "disk full",
    "process killed": "process killed",
    "clock wrong": "clock an hour back",
    "two writers": "two writers",
}
"""Fault -> how the table calls it."""


def make_header() -> list[str]:
    """Return the two first lines of the table."""
    return [
        f"| fault, while | {' | '.join(COLUMNS)} | lost |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]


def make_row(folder: Path, fault: str) -> str:
    """Return a fault's line of the table, from one run of each moment on InfluxDB's model.

    Every cell is what was seen; the last one is checked: it is reached only when all is there.
    """
    folder.mkdir(parents=True)
    site = Site(folder, "influxdb", 1, drifts_ns=(-HOUR_NS,))
    try:
        cells = [
            "; ".join(dict.fromkeys(_see(site, fault, moment) for moment in moments))
            for moments in COLUMNS.values()
        ]
    finally:
        site.end_bot()
    return f"| {ROWS[fault]} | {' | '.join(cells)} | nothing |"


def _see(site: Site, fault: str, moment: str) -> str:
    """Return what a user sees of one fault, after a quiet day that left a last good copy."""
    for pair in PAIRS:
        site.tune("none", "between", pair)
    site.end_bot()
    site.settle()
    if moment in TUNER_MOMENTS:
        text = _tuner_text(site.tune(fault, moment))
    else:
        text = _bot_text(site.run_bot(fault, moment), moment)
    site.settle()
    return text


def _tuner_text(seen: Delivered | StoreError | None) -> str:
    if seen is None:
        return "the same command again delivers"
    if isinstance(seen, StoreError):
        return "exit code 1, the outbox is named: the same command again"
    if seen.error is None:
        return "delivered"
    is_away = isinstance(seen.error, StoreUnavailableError)
    return "waits in the outbox: " + ("can't be reached" if is_away else "refused")


def _bot_text(seen: Seen, moment: str) -> str:
    if seen.is_killed:
        return "starts anew"
    said = []
    if seen.error is not None:
        said.append("`Store gave no answer`" if moment == "start" else "`Reload failed`")
    lines = " ".join(seen.lines)
    said += ["`... can't be written`"] if "can't be written" in lines else []
    said += ["`... in the future`"] if "in the future" in lines else []
    if "last_good" in seen.sources:
        runs = "runs on the last good copy"
    else:
        runs = "current values stay" if seen.error is not None else "loads"
    return ", ".join([*said, runs])
