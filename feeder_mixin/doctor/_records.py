"""Checks of the records that the store holds for a feeder's pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby, islice
from typing import Final

from feeder_mixin.doctor.finding import CheckAnswer, Facts
from feeder_mixin.errors import SchemaError
from feeder_mixin.live.reload.feeder_reader import TUNED_ON, other_features
from feeder_mixin.schema import NANOSECONDS, ParameterRecord, format_time_ns, refusal
from feeder_mixin.settings import FREQAI_MODEL_TYPE
from feeder_mixin.stores.base import MAX_AGE_DAYS, Note
from feeder_mixin.stores.notes import group_notes, group_pairs, some
from feeder_mixin.stores.other_type import load_other_type

STALE_DAYS: Final = MAX_AGE_DAYS / 2
"""Age from which a record is called stale: half of what it may have."""

_HOSTS_DAYS: Final = 30.0
"""Within this time a feeder may have been tuned on one host, or have moved to another once."""
_HOSTS_PAIRS: Final = 4
_HOSTS_POINTS: Final = 20
"""How many pairs are asked for how many earlier records: a question to the store each."""

_DAY_NS: Final = 86_400 * NANOSECONDS
_SKEW_S: Final = 300.0
"""Further in the future than this is no clock that is a little off."""
_HALF_HOUR_S: Final = 1_800
_LARGEST_ZONE_S: Final = 14 * 3_600
_ZONE_SLACK_S: Final = 600.0
"""How old a point with a naive time may be and still be told by its whole half hours."""
_CLOCK_SLACK_S: Final = 60.0


def check_valid(facts: Facts) -> CheckAnswer:
    """Look whether the newest complete record of every pair can serve this feeder."""
    settings = facts.settings
    latest = facts.store.latest(
        settings.feeder_id, settings.pairs, now=facts.now_ns, model_type=settings.model_type
    )
    refused = {pair: note.reason for pair, note in latest.rejected.items()}
    usable = {}
    for pair, record in latest.records.items():
        reason = refusal(record, settings, facts.timeframe_s)
        if reason is None:
            usable[pair] = record
        else:
            refused[pair] = reason
    facts.latest, facts.usable = latest, usable
    refused |= load_other_type(facts.store, settings, settings.pairs, latest)
    if refused:
        reasons = "; ".join(reason for _, reason in group_pairs(refused)[:2])
        return CheckAnswer(
            "fail",
            f"a bot rejects the newest record of {some(refused)}: {reasons}",
            f"stop its writer, and tune again: {facts.command('optimize', '--pairs', *refused)}",
        )
    return CheckAnswer("pass", f"{len(usable)} of {len(settings.pairs)} pairs have a valid record")


def check_missing(facts: Facts) -> CheckAnswer:
    """Look for pairs that the store knows nothing of."""
    settings, latest = facts.settings, facts.latest
    known = latest.records.keys() | latest.rejected.keys() | latest.expired.keys()
    missing = [pair for pair in settings.pairs if pair not in known]
    if not missing:
        return CheckAnswer("pass", "every pair has a record")
    where = "in this store for" if len(missing) == len(settings.pairs) else ""
    is_freqai = settings.model_type == FREQAI_MODEL_TYPE
    instead = "the config's own values" if is_freqai else "the defaults"
    make_one = facts.command("optimize")
    return CheckAnswer(
        "warn",
        f"no record {where or 'for'} {some(missing)}: a bot would start on {instead}",
        f"{make_one}; if that was done, this is another store (FEEDER_STORE_URL, feeder.store_url)",
    )


def check_complete(facts: Facts) -> CheckAnswer:
    """Look for half-written records that are newer than what serves."""
    notes = [note for note in facts.latest.notes if note.field != "time"]
    if not notes:
        return CheckAnswer("pass", "no pair's newest point lacks a parameter")
    unserved = facts.latest.incomplete
    after = f"; {some(unserved)} has no complete record" if unserved else ""
    return CheckAnswer(
        "fail" if unserved else "warn",
        f"passed over: {'; '.join(group_notes(notes)[:2])}{after}",
        "a writer died half-way, or writes other field names: tune the pair again, see check `fields`",
    )


def check_future(facts: Facts) -> CheckAnswer:
    """Look for points dated in the future, by a wrong clock or a time without zone."""
    notes = [note for note in facts.latest.notes if note.field == "time"]
    if not notes:
        return CheckAnswer("pass", "no point is dated in the future")
    first = max(notes, key=lambda note: note.time_ns)
    ahead_s = (first.time_ns - facts.now_ns) / NANOSECONDS
    message = (
        f"{_of(notes)} dated in the future, which no bot reads: {first.pair} at "
        f"{format_time_ns(first.time_ns)}, {_ahead_text(ahead_s)}"
    )
    if ahead_s <= _SKEW_S:
        return CheckAnswer("warn", message, "set the clocks of this host and the writer (NTP)")
    return CheckAnswer(
        "fail", message, "make the writer use UTC, set its clock, and write the record again"
    )


def _ahead_text(ahead_s: float) -> str:
    """Return how far ahead, and whether that is how a local time without zone looks.

    Examples
    --------
    >>> _ahead_text(7 * 3600 - 20)
    '6.99 h ahead: looks like a local time without zone, from 7 h east of UTC'
    >>> _ahead_text(6.7 * 3600)
    '6.70 h ahead: may be a local time without zone that was written a while ago'
    >>> _ahead_text(30 * 3600)
    '30.00 h ahead: a wrong clock'
    """
    text = f"{ahead_s / 3600:.2f} h ahead" if ahead_s >= _SKEW_S else f"{ahead_s:.0f} s ahead"
    zone_s = round(ahead_s / _HALF_HOUR_S) * _HALF_HOUR_S
    if 0 < zone_s <= _LARGEST_ZONE_S and -_CLOCK_SLACK_S <= zone_s - ahead_s <= _ZONE_SLACK_S:
        return f"{text}: looks like a local time without zone, from {zone_s / 3600:g} h east of UTC"
    if _SKEW_S < ahead_s <= _LARGEST_ZONE_S:
        return f"{text}: may be a local time without zone that was written a while ago"
    return f"{text}: a wrong clock"


def check_age(facts: Facts) -> CheckAnswer:
    """Look for records that expire, or have."""
    latest, advice = facts.latest, facts.command("optimize", "--reload")
    if latest.expired:
        return CheckAnswer(
            "fail",
            f"expired (over {MAX_AGE_DAYS:g} days old): {some(latest.expired)}; a bot that starts uses "
            "the defaults for them",
            advice,
        )
    ages = {p: (facts.now_ns - r.time_ns) / _DAY_NS for p, r in latest.records.items()}
    if not ages:
        return CheckAnswer("pass", "there is no record that could be too old")
    stale = [pair for pair, days in ages.items() if days > STALE_DAYS]
    if stale:
        return CheckAnswer(
            "warn",
            f"over {STALE_DAYS:g} days old: {some(stale)} (oldest {max(ages.values()):.0f}; expired "
            f"at {MAX_AGE_DAYS:g})",
            advice,
        )
    return CheckAnswer("pass", f"the oldest record is {max(ages.values()):.1f} days old")


def check_tuned_for(facts: Facts) -> CheckAnswer:
    """Look for records tuned on other features or context pairs than this version and config have."""
    settings = facts.feeder
    # A context pair without candles here is said where candles are looked at: no tuning mends it.
    present = settings.with_context(facts.folder.has)
    other = {
        pair: names
        for pair, record in facts.usable.items()
        if (names := other_features(record, settings).keys() & other_features(record, present))
    }
    if not other:
        sideless = [pair for pair, record in facts.usable.items() if "side" not in record.metrics]
        if sideless:
            return CheckAnswer(
                "warn",
                f"no side in the record of {some(sideless)}: taken as {settings.side}",
                facts.command("optimize", "--reload"),
            )
        return CheckAnswer(
            "pass", "tuned on this feeder's side, market, features and context pairs"
        )
    kinds = [t for name, t in TUNED_ON.items() if any(name in found for found in other.values())]
    return CheckAnswer(
        "warn",
        f"tuned on other {' and '.join(kinds)}: {some(other)}; bots still use them",
        facts.command("optimize", "--reload"),
    )


def check_hosts(facts: Facts) -> CheckAnswer:
    """Look for two hosts that tune one feeder: each replaces what the other found."""
    since_ns = facts.now_ns - int(_HOSTS_DAYS * _DAY_NS)
    # A rollback gives an old record a new time, on whichever host the command was given.
    tuned = {
        (record.time_ns, str(record.provenance["host"]))
        for record in _newest_and_earlier(facts)
        if record.time_ns >= since_ns
        and "host" in record.provenance
        and "rolled_back_from" not in record.provenance
    }
    turns = [host for host, _ in groupby(host for _, host in sorted(tuned))]
    if not turns:
        return CheckAnswer(
            "pass", f"no record of the last {_HOSTS_DAYS:g} days names the host that tuned it"
        )
    hosts = list(dict.fromkeys(turns))
    if len(turns) > len(hosts):
        last = {host: format_time_ns(time_ns)[:16] + "Z" for time_ns, host in sorted(tuned)}
        by = some(f"{host} (last {last[host]})" for host in hosts)
        return CheckAnswer(
            "warn",
            f"tuned in turns on {len(hosts)} hosts: {by}; bots use whichever record is newer",
            f"tune {facts.feeder_id} on one host only, or give each host's feeder a bot_name of its own",
        )
    return CheckAnswer("pass", f"tuned on {', then on '.join(hosts)}")


def _newest_and_earlier(facts: Facts) -> Iterator[ParameterRecord]:
    """Give the newest record of every pair, and a few pairs' records before it."""
    settings, records = facts.settings, facts.latest.records
    yield from records.values()
    for pair in islice(records, _HOSTS_PAIRS):
        for point in facts.store.history(
            settings.feeder_id, pair, _HOSTS_POINTS, model_type=settings.model_type
        ):
            with suppress(SchemaError):  # said by other checks
                yield point.build_record(settings.feeder_id)


def _of(notes: list[Note]) -> str:
    pairs = dict.fromkeys(note.pair for note in notes)
    return f"{len(notes)} point{'' if len(notes) == 1 else 's'} of {some(pairs)}"
