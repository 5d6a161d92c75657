"""All checks in their order, and what happens when one can't be made.

Called by ``feeder doctor``. What must stay true: every check gives one finding, whatever happens in
it; no finding shows a secret or more than one line; looking changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from feeder_mixin.doctor import _bot as bot
from feeder_mixin.doctor import _host as host
from feeder_mixin.doctor import _records as records
from feeder_mixin.doctor import _stored as stored
from feeder_mixin.doctor.finding import CheckAnswer, Facts, Finding, Skipped
from feeder_mixin.errors import FeederError
from feeder_mixin.stores.url import STORE_URL_VARIABLE, TOKEN_FILE_VARIABLE, TOKEN_VARIABLE

_LONGEST: Final = 500
_LONG_ADVICE: Final = 4_000
"""A command line that is cut can't be pasted."""
_MASK: Final = "***"


class Check(NamedTuple):
    """A check's name, how it is made, and what to do when it ends in an error of ours."""

    name: str
    make: Callable[[Facts], CheckAnswer]
    advice: str


CHECKS: Final = (
    Check("config", stored.check_config, "fix what the message names in the feeder's config"),
    Check("store", stored.check_store, "name the store in FEEDER_STORE_URL or feeder.store_url"),
    Check("token", stored.check_token, "set FEEDER_STORE_TOKEN or FEEDER_STORE_TOKEN_FILE"),
    Check("server", stored.check_server, "start the store, or fix its address or the network"),
    Check(
        "bucket",
        stored.check_bucket,
        "see what the store answered; feeder init-store creates a missing bucket",
    ),
    Check("retention", stored.check_retention, "see what the store answered"),
    Check("read_right", stored.check_read_right, "see what the store answered"),
    Check("write_right", stored.check_write_right, "see what the store answered"),
    Check("fields", stored.check_fields, "see what the store answered"),
    Check("valid_records", records.check_valid, "see what the store answered"),
    Check("missing_records", records.check_missing, "tune the pairs"),
    Check("complete_records", records.check_complete, "tune the pairs again"),
    Check("future_records", records.check_future, "set the writer's clock and zone"),
    Check("record_age", records.check_age, "tune the pairs again"),
    Check("tuned_for", records.check_tuned_for, "tune the pairs again"),
    Check("tuner_hosts", records.check_hosts, "see what the store answered"),
    Check("candles", host.check_candles, "fix dataformat_ohlcv or datadir in the config"),
    Check("clock", host.check_clock, "set this host's clock"),
    Check("outbox", host.check_outbox, "restore the file from a copy, or move it away"),
    Check("last_good", host.check_last_good, "delete the file; a bot's next reload writes it anew"),
    Check("bot", bot.check_bot, "run doctor on the bot's host, as the bot's user"),
    Check("status_file", bot.check_status_file, "delete the file; the next reload writes it anew"),
    Check("handler", bot.check_handler, "restart the bot"),
    Check("reload", bot.check_reload, "reload the bot"),
    Check(
        "blackouts",
        bot.check_blackouts,
        "correct the file; until then a running bot keeps the blackouts that it has read",
    ),
    Check("parameters", bot.check_parameters, "reload the bot"),
    Check("models", bot.check_models, "see the bot's log"),
    Check("served", bot.check_served, "see the bot's log"),
    Check("api_port", bot.check_api_port, "fix api_server in the config"),
)
"""In the order in which they hand on facts, and in which an operator fixes things."""


def examine(facts: Facts) -> list[Finding]:
    """Make every check of one feeder and return what each found, in order; raises nothing."""
    with facts.opened:
        return [_find(facts, check) for check in CHECKS]


def _find(facts: Facts, check: Check) -> Finding:
    """Return what a check found; an error in it is a finding, too."""
    try:
        answer = check.make(facts)
    except Skipped as reason:
        answer = CheckAnswer("skipped", f"skipped: {reason}")
    except FeederError as error:
        answer = CheckAnswer("fail", str(error), check.advice)
    except Exception as error:  # noqa: BLE001  (the other checks are still to be made)
        answer = CheckAnswer(
            "fail",
            f"the check itself failed with {type(error).__name__}: {error}",
            "a bug in feeder doctor, or a state that it does not know: please report it",
        )
    secrets = _secrets(facts)
    message, advice = (
        _clean(answer.message, secrets),
        _clean(answer.advice, secrets, _LONG_ADVICE),
    )
    return Finding(facts.feeder_id, check.name, answer.state, message, advice)


def examine_together(everyone: Sequence[Facts]) -> list[Finding]:
    """Return whether feeders that run on one host get in each other's way; for two or more."""
    findings = []
    for facts in everyone if len(everyone) > 1 else ():
        try:
            others = [other for other in everyone if other is not facts and _is_known(other)]
            answer = _judge_shared(facts, others)
        except Skipped as reason:
            answer = CheckAnswer("skipped", f"skipped: {reason}")
        findings.append(Finding(facts.feeder_id, "neighbours", *answer))
    return findings


def _is_known(facts: Facts) -> bool:
    try:
        return bool(facts.config)
    except Skipped:
        return False


def _judge_shared(facts: Facts, others: Sequence[Facts]) -> CheckAnswer:
    port, trades = _port(facts), _trades(facts)
    same_port = [o.feeder_id for o in others if port is not None and _port(o) == port]
    same_trades = [o.feeder_id for o in others if _trades(o) == trades]
    parts = [f"API port {port} is also used by {', '.join(same_port)}"] if same_port else []
    parts += [f"db_url is also used by {', '.join(same_trades)}"] if same_trades else []
    if parts:
        return CheckAnswer(
            "fail",
            "; ".join(parts),
            "give each feeder's config its own api_server.listen_port and db_url",
        )
    return CheckAnswer(
        "pass", f"API port and db_url differ from those of {len(others)} other feeders"
    )


def _port(facts: Facts) -> object:
    api = facts.config.get("api_server") or {}
    return api.get("listen_port") if api.get("enabled") else None


def _trades(facts: Facts) -> object:
    return facts.config.get("db_url")  # absent, too: freqtrade's default is one file for all


def _secrets(facts: Facts) -> list[str]:
    """Return what must never be shown: tokens and passwords, wherever they come from."""
    found = [facts.environ.get(TOKEN_VARIABLE)]
    if name := facts.environ.get(TOKEN_FILE_VARIABLE):
        try:
            found.append(Path(name).read_text(encoding="utf-8").strip())
        except (OSError, ValueError):
            found.append(None)
    urls = [facts.store_option, facts.environ.get(STORE_URL_VARIABLE)]
    try:
        urls.append(facts.settings.store_url)
    except Skipped:
        urls.append(None)
    for url in filter(None, urls):
        try:
            found.append(urlsplit(url).password)
        except ValueError:
            found.append(url)
    return [secret for secret in found if secret]


def _clean(text: str, secrets: Sequence[str], longest: int = _LONGEST) -> str:
    """Return a text that a terminal can show: one line, no control characters, no secret."""
    for secret in secrets:
        text = text.replace(secret, _MASK)
    line = " ".join(text.split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= longest else f"{line[:longest]} ..."
