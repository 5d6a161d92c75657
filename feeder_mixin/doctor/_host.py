"""Checks of what lies on this host beside the bot: candles, clock, outbox, last good copy."""

from __future__ import annotations

from typing import Final

import pandas as pd

from feeder_mixin.doctor.finding import CheckAnswer, Facts, Skipped
from feeder_mixin.errors import CandleError, MissingCandlesError, OldCandlesError
from feeder_mixin.live.state.last_good import read_last_good
from feeder_mixin.market.candles import load_candles
from feeder_mixin.market.history import download_command
from feeder_mixin.schema import NANOSECONDS, open_text
from feeder_mixin.stores.notes import some

_DAY_NS: Final = 86_400 * NANOSECONDS
_FRESH_DAYS: Final = 2.0
"""The tuner warns from this age on, too."""
_SHORT: Final = 4
"""Pairs that a command to paste still fits in a line."""
_OFF_S: Final = 5.0
"""More than a slow answer and a Date header of whole seconds explain."""
_FAR_OFF_S: Final = 60.0


def check_candles(facts: Facts) -> CheckAnswer:
    """Read the newest candles of pairs and context pairs on disk."""
    settings = facts.feeder
    datadir = facts.folder.datadir
    now = pd.Timestamp(facts.now_ns, unit="ns", tz="UTC")
    wanted = list(dict.fromkeys([*settings.pairs, *settings.context_pairs]))
    newest: dict[str, int] = {}
    missing: dict[str, str] = {}
    old, damaged = [], []
    for pair in wanted:
        try:
            candles = load_candles(
                datadir,
                pair,
                settings.timeframe,
                settings.candle_type,
                settings.data_format,
                now - pd.Timedelta(days=_FRESH_DAYS),
                facts.now_ns / NANOSECONDS,
            )
        except MissingCandlesError as error:
            missing[pair] = error.found
        except OldCandlesError as error:
            old.append(str(error))
        except CandleError as error:
            damaged.append(str(error))
        else:
            newest[pair] = candles.last_s
    if newest:
        facts.newest_candle_s = max(newest.values())
    parts = [f"damaged: {damaged[0]}"] if damaged else []
    if missing:
        found = next((text for text in missing.values() if text), "")
        parts.append(f"no file for {some(list(missing))} in {datadir}{found}")
    parts += [f"{len(old)} end over {_FRESH_DAYS:g} days ago: {old[0]}"] if old else []
    if not parts:
        oldest = min(newest, key=lambda pair: newest[pair])
        return CheckAnswer(
            "pass",
            f"{len(newest)} pairs in {datadir}, the least recent is {oldest}, up to "
            f"{open_text(newest[oldest])}",
        )
    lacking = list(missing) or wanted
    by_hand = (
        f"; by hand: {download_command(settings, lacking, settings.train_days)}"
        if len(lacking) <= _SHORT
        else ""
    )
    first = "move damaged files away; " if damaged else ""
    return CheckAnswer(
        "fail" if damaged else "warn",
        "; ".join(parts),
        f"{first}to download what is missing and see which pairs {settings.exchange} does not list: "
        f"{facts.command('optimize')}{by_hand}",
    )


def check_clock(facts: Facts) -> CheckAnswer:
    """Compare this host's clock with the store's server, else with the candles."""
    advice = "set this host's clock (NTP; timedatectl shows whether it is on)"
    try:
        offset_s = facts.clock_offset_s
    except Skipped:
        ahead_s = facts.newest_candle_s - facts.now_ns / NANOSECONDS
        if ahead_s > 0:
            return CheckAnswer(
                "fail", f"this clock is behind: the newest candle is {ahead_s:.0f} s ahead", advice
            )
        return CheckAnswer(
            "pass", "no candle opens in the future; there is no server clock to compare with"
        )
    side = "behind" if offset_s > 0 else "ahead of"
    if abs(offset_s) <= _OFF_S:
        return CheckAnswer("pass", f"within {_OFF_S:g} s of the store's server")
    state = "fail" if abs(offset_s) > _FAR_OFF_S else "warn"
    return CheckAnswer(
        "fail" if state == "fail" else "warn",
        f"{abs(offset_s):.0f} s {side} the store's server: records get wrong times",
        f"{advice}, or the server's",
    )


def check_outbox(facts: Facts) -> CheckAnswer:
    """Count the results that wait for the store."""
    from feeder_mixin.stores.outbox import Outbox

    outbox = Outbox(facts.settings.outbox_path)
    try:
        waiting = len(outbox.pending())
    finally:
        outbox.close()
    if waiting:
        return CheckAnswer(
            "warn",
            f"{waiting} result{'' if waiting == 1 else 's'} not delivered to the store yet",
            facts.command("flush"),
        )
    return CheckAnswer("pass", "no result waits")


def check_last_good(facts: Facts) -> CheckAnswer:
    """Read the copy that a bot starts on when the store is down."""
    settings = facts.settings
    copies = read_last_good(settings)
    if not copies:
        raise Skipped("no bot has loaded a record from the store here yet")
    ages = {record.pair: (facts.now_ns - saved_ns) / _DAY_NS for record, saved_ns in copies}
    oldest_days = max(ages.values())
    limit = settings.last_good_max_days
    if limit is not None and oldest_days > limit:
        refused = [pair for pair, age in ages.items() if age > limit]
        return CheckAnswer(
            "warn",
            f"over feeder.last_good_max_days={limit:g}, so a bot would refuse it: {some(refused)} "
            f"(oldest {oldest_days:.1f} days)",
            f"renew it while the store answers: {facts.command('reload')}",
        )
    return CheckAnswer(
        "pass", f"{len(copies)} records, loaded from the store {oldest_days:.1f} days ago or less"
    )
