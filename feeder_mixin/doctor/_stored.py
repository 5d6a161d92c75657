"""Checks of config, store, token rights and fields as stored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from typing import Final

from feeder_mixin.doctor.finding import CheckAnswer, Facts, Skipped
from feeder_mixin.errors import SettingsError, StoreCorruptError, StoreError, StoreUnavailableError
from feeder_mixin.freqai.settings import load_bot_settings
from feeder_mixin.live.reload.loader import STORE_TIMEOUT_S
from feeder_mixin.market.candles import timeframe_seconds
from feeder_mixin.schema import (
    FIELD_NAMES,
    MEASUREMENT,
    PARAMETER_NAMES,
    PROVENANCE_FIELD,
    bucket_name,
)
from feeder_mixin.settings import FeederSettings, read_config
from feeder_mixin.stores.base import MAX_AGE_DAYS, ParameterStore
from feeder_mixin.stores.masking import masked_store_url
from feeder_mixin.stores.notes import some
from feeder_mixin.stores.url import (
    TOKEN_FILE_VARIABLE,
    TOKEN_VARIABLE,
    choose_store_url,
    load_token,
    needs_token,
    open_store,
)

_DAY_S: Final = 86_400


def check_config(facts: Facts) -> CheckAnswer:
    """Read the config: feeder id, side and all the rest."""
    settings = load_bot_settings(facts.feeder_id, facts.config_paths, facts.user_data_dir)
    timeframe_s = timeframe_seconds(settings.timeframe)
    path = " + ".join(map(str, settings.config_paths))
    facts.config = read_config(settings.config_paths)
    facts.settings, facts.timeframe_s = settings, timeframe_s
    said = (
        f"{path}: {settings.feeder_id} is {settings.kind}, {len(settings.pairs)} pairs, "
        f"{settings.timeframe}, {settings.exchange}, user_data {settings.user_data_dir}"
    )
    if settings.blacklisted:
        return CheckAnswer(
            "warn",
            f"{said}; exchange.pair_blacklist covers {some(settings.blacklisted)}: the bot leaves them out",
            "take them out of pair_blacklist or of pair_whitelist",
        )
    if isinstance(settings, FeederSettings) and "context_pairs" not in facts.config["feeder"]:
        context = ", ".join(f'"{pair}"' for pair in settings.context_pairs)
        return CheckAnswer(
            "warn",
            f"{said}; feeder.context_pairs is not set, so it follows pair_whitelist: a new pair there "
            "may retrain all models",
            f'add to the feeder block: "context_pairs": [{context}]',
        )
    return CheckAnswer("pass", said)


def check_store(facts: Facts) -> CheckAnswer:
    """Say which store is used, and who chose it."""
    settings = facts.settings
    url, origin = choose_store_url(facts.store_option, facts.environ, settings)
    # With a stand-in: whether there is a token is the next check's question.
    open_store(url, root=settings.root, environ={TOKEN_VARIABLE: "stand-in"}).close()
    facts.store_url = url
    shown = f"{masked_store_url(url)} (from {origin})"
    if origin == "--store":
        return CheckAnswer(
            "warn",
            f"{shown}: a bot does not read --store",
            "run without --store to check the bots' store; the checks below are about this one",
        )
    return CheckAnswer("pass", shown)


def check_token(facts: Facts) -> CheckAnswer:
    """Look for the token of an InfluxDB store; a file that others can read is refused."""
    url = facts.store_url
    if not needs_token(url):
        facts.token = None
        return CheckAnswer("pass", "this kind of store needs no token")
    token = load_token(facts.environ)
    if token is None:
        raise SettingsError(f"neither {TOKEN_VARIABLE} nor {TOKEN_FILE_VARIABLE} is set")
    facts.token = token
    name = facts.environ.get(TOKEN_FILE_VARIABLE)
    if not name:
        return CheckAnswer("pass", f"from {TOKEN_VARIABLE}")
    return CheckAnswer("pass", f"from the file {name}, which only its owner can read")


def check_server(facts: Facts) -> CheckAnswer:
    """Ask the store for no more than a sign of life and its time."""
    from feeder_mixin.stores.sql import SqlStore

    settings = facts.settings
    token = facts.token
    store = open_store(
        facts.store_url,
        root=settings.root,
        feeder_ids=[settings.feeder_id],
        environ={} if token is None else {TOKEN_VARIABLE: token},
        timeout_s=STORE_TIMEOUT_S,
    )
    facts.opened.callback(store.close)
    if isinstance(store, SqlStore) and store.file_is_missing:
        return CheckAnswer(
            "warn",
            f"{store.description} does not exist: no record was ever written there",
            f"make it: {facts.command('optimize')}; or name the right store in "
            "FEEDER_STORE_URL or feeder.store_url",
        )
    before = time.time()
    server_s = _ask_time_s(store)
    if server_s is not None:
        facts.clock_offset_s = server_s - (before + time.time()) / 2
    facts.server = store
    return CheckAnswer("pass", f"{store.description} answers")


def _ask_time_s(store: ParameterStore) -> float | None:
    """Return the server's time; None where there is none to ask. Raises when it can't be reached."""
    from feeder_mixin.stores import sql_inspection
    from feeder_mixin.stores.influx import InfluxStore
    from feeder_mixin.stores.sql import SqlStore

    match store:
        case InfluxStore():
            return store.ask_time_s()
        case SqlStore():
            store.ping()
            return sql_inspection.ask_time_s(store)
    return None


def check_bucket(facts: Facts) -> CheckAnswer:
    """Look for the feeder's place in the store."""
    from feeder_mixin.stores import sql_inspection
    from feeder_mixin.stores.influx import InfluxStore
    from feeder_mixin.stores.sql import SqlStore

    store, feeder_id = facts.server, facts.settings.feeder_id
    match store:
        case InfluxStore():
            facts.may_write = store.may_write(feeder_id)
            return CheckAnswer("pass", f"bucket {bucket_name(feeder_id)} is there")
        case SqlStore():
            facts.may_write = sql_inspection.may_write(store)
            if not sql_inspection.has_table(store):
                return CheckAnswer(
                    "warn",
                    f"table {MEASUREMENT} is not there: no record was ever written",
                    f"make it: {facts.command('optimize')}",
                )
            return CheckAnswer("pass", f"table {MEASUREMENT} is there (no bucket needed)")
    raise Skipped(f"no such check for {store.description}")


def check_retention(facts: Facts) -> CheckAnswer:
    """Look whether the feeder's place drops records before they expire anyway."""
    from feeder_mixin.stores.influx import InfluxStore

    store, feeder_id = facts.server, facts.settings.feeder_id
    if not isinstance(store, InfluxStore):
        return CheckAnswer("pass", "this kind of store deletes nothing by itself")
    bucket = store.find_bucket(feeder_id)
    if bucket is None:
        raise Skipped(f"the token has no right to see bucket {bucket_name(feeder_id)}")
    if bucket.keeps_s is not None and bucket.keeps_s < MAX_AGE_DAYS * _DAY_S:
        return CheckAnswer(
            "warn",
            f"bucket {bucket.name} deletes points older than {bucket.keeps_text}, records too: "
            f"bots use a record for {MAX_AGE_DAYS:g} days",
            f"influx bucket update --id {bucket.id} --retention 0",
        )
    return CheckAnswer("pass", f"bucket {bucket.name} keeps points {bucket.keeps_text}")


def check_read_right(facts: Facts) -> CheckAnswer:
    """Read, which is all that a bot needs of its token."""
    store, feeder_id, pairs = facts.server, facts.settings.feeder_id, facts.settings.pairs
    may_write = facts.may_write  # asked first: it tells a missing bucket from a missing right
    try:
        store.history(feeder_id, pairs[0], 1)  # PostgreSQL's ping needs no right to read
    except (StoreUnavailableError, StoreCorruptError):
        raise
    except StoreError as error:
        also = "write, but not read" if may_write else "neither read nor write"
        return CheckAnswer(
            "fail",
            f"records of {feeder_id} can't be read (the token or user may {also} there): {error}",
            "give it the right to read the feeder's bucket or table; a bot needs no more",
        )
    facts.store = store
    return CheckAnswer("pass", "records can be read")


def check_write_right(facts: Facts) -> CheckAnswer:
    """Say whether records may be written; nothing is written to find out."""
    if facts.may_write:
        return CheckAnswer("pass", "records can be written, too")
    return CheckAnswer(
        "warn",
        "this token or user can't write records: enough for a bot, not for the optimizer",
        "where the optimizer runs, use a token or user that may read and write; else ignore this",
    )


def check_fields(facts: Facts) -> CheckAnswer:
    """Compare field names and types as stored with the schema's."""
    from feeder_mixin.stores import sql_inspection
    from feeder_mixin.stores.influx import InfluxStore
    from feeder_mixin.stores.sql import SqlStore

    store, feeder_id = facts.store, facts.settings.feeder_id
    match store:
        case InfluxStore():
            types = store.field_types(feeder_id)
        case SqlStore():
            types = sql_inspection.field_types(store, feeder_id)
        case _:
            raise Skipped(f"no such check for {store.description}")
    return judge_fields(types)


_FLOAT: Final = "float"


def judge_fields(types: Mapping[str, Set[str]]) -> CheckAnswer:
    """Return what to say of field name -> types of its values as stored."""
    stored = {name: kinds for name, kinds in types.items() if kinds and name != PROVENANCE_FIELD}
    if not stored:
        raise Skipped("nothing is stored yet")
    absent = [name for name in PARAMETER_NAMES if name not in stored]
    ours = {name: kinds for name, kinds in stored.items() if name in FIELD_NAMES}
    wrong = [f"{name} is {_kinds(kinds)}" for name, kinds in ours.items() if _FLOAT not in kinds]
    mixed = [
        f"{name} is {_kinds(kinds)}"
        for name, kinds in ours.items()
        if _FLOAT in kinds and len(kinds) > 1
    ]
    foreign = [name for name in stored if name not in FIELD_NAMES]
    parts = [f"no point has {some(absent)}"] if absent else []
    parts += [f"not float: {some(wrong)}"] if wrong else []
    parts += [f"more than one type: {some(mixed)}"] if mixed else []
    parts += [f"foreign names: {some(foreign)}"] if foreign else []
    if not parts:
        return CheckAnswer("pass", f"{len(ours)} fields, named as in the schema, all float")
    return CheckAnswer(
        "fail" if absent or wrong else "warn",
        "; ".join(parts),
        "another program or version writes here: stop it (a field's type is fixed by the first write "
        "into a shard, so integers and text keep ours out), or give it a bucket of its own",
    )


def _kinds(kinds: Set[str]) -> str:
    return " and ".join(sorted(kinds))
