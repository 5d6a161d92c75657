"""Checks of the running bot: is there one, does it answer, does it run on what the store holds."""

from __future__ import annotations

import errno
import os
import socket
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Final

from feeder_mixin.commands import trade_command
from feeder_mixin.doctor.finding import CheckAnswer, Facts, Skipped
from feeder_mixin.live.reload.client import catches_sigusr1
from feeder_mixin.live.state.lock import bot_started_s, running_bot_pid
from feeder_mixin.live.state.stand_in import newest_status_path
from feeder_mixin.live.state.status import ModelStatus, PairStatus, read_status
from feeder_mixin.market.blackouts import Blackouts, load_blackouts
from feeder_mixin.model.rows import SHORT_SHARE
from feeder_mixin.schema import NANOSECONDS, format_time_ns, parse_time_ns
from feeder_mixin.settings import FeederSettings
from feeder_mixin.stores.notes import group_pairs, some

_START_S: Final = 300.0
"""A bot that has not written its status after this time does not start, but hang."""
PROC: Final = Path("/proc/self/status")
_SERVED_CANDLES: Final = 10
_SERVED_LEAST_S: Final = 600.0
"""A pair about which the host has not asked for so long is not followed any more."""
_LISTENS: Final = "0A"
"""State of a listening socket in ``/proc/net/tcp``."""


def check_bot(facts: Facts) -> CheckAnswer:
    """Look for a process that has the feeder's bot lock."""
    settings = facts.settings
    facts.pid = running_bot_pid(settings)
    if facts.pid is None:
        return CheckAnswer(
            "warn",
            f"no bot runs on {settings.state_dir}",
            f"start it: {trade_command(settings)}",
        )
    return CheckAnswer("pass", f"running, pid {facts.pid}")


def check_status_file(facts: Facts) -> CheckAnswer:
    """Read the status file: it must be the bot's own, and this feeder's."""
    settings, pid = facts.settings, _running_pid(facts)
    path = newest_status_path(settings)
    if path.exists():
        status = read_status(path)
        if status["feeder_id"] != settings.feeder_id:
            return CheckAnswer(
                "fail",
                f"{path} is of feeder {status['feeder_id']!r}",
                "restart the bot; give every feeder a bot_name and state folder of its own",
            )
        if status["pid"] == pid:
            facts.status = status
            said = f"generation {status['generation']}, written by pid {pid}"
            if path == settings.status_path:
                return CheckAnswer("pass", said)
            return CheckAnswer(
                "warn",
                f"{said} to {path}: it can't write {settings.state_dir}",
                "free disk space, or make that folder writable for the user who runs the bot; without "
                "it nothing is kept for the next start",
            )
        said = f"{path} is of pid {status['pid']}, not of the bot (pid {pid})"
    else:
        said = f"the bot (pid {pid}) has not written {path} yet"
    runs_s = facts.now_ns / NANOSECONDS - bot_started_s(settings, pid)
    if runs_s > _START_S:
        return CheckAnswer(
            "fail",
            f"{said}, though it started {runs_s / 60:.0f} min ago",
            "see the bot's log: the state folder can't be written, or the start hangs",
        )
    return CheckAnswer("warn", f"{said}: it is starting", "wait, then run doctor again")


def check_handler(facts: Facts) -> CheckAnswer:
    """Look whether the bot catches SIGUSR1, which ends a process that does not."""
    pid = _running_pid(facts)
    if not PROC.exists():
        return CheckAnswer(
            "warn",
            "this system has no /proc: whether the bot catches SIGUSR1 is not known",
            f"find out with: {facts.command('reload')}",
        )
    if not catches_sigusr1(pid):
        return CheckAnswer(
            "fail",
            f"pid {pid} does not catch SIGUSR1: the signal would kill it",
            "if it has just started, run doctor again; else restart it with a strategy that has the "
            "OptunaParamsMixin",
        )
    return CheckAnswer("pass", "SIGUSR1 is caught (SigCgt)")


def check_reload(facts: Facts) -> CheckAnswer:
    """Look at what came of the last reload."""
    reload = facts.status["reload"]
    if reload["last_error"] is not None:
        return CheckAnswer(
            "fail",
            f"the last load failed, the bot keeps its parameters: {reload['last_error']}",
            f"fix what the error names, then {facts.command('reload')}",
        )
    counts = f"{reload['requested']} requested, {reload['completed']} completed"
    if _is_pending(facts):
        return CheckAnswer("warn", f"{counts}: one is under way", "wait, then run doctor again")
    return CheckAnswer("pass", counts)


def check_blackouts(facts: Facts) -> CheckAnswer:
    """Read the file of ``feeder.blackouts``, and compare it with what the bot has read."""
    settings = facts.feeder
    if settings.blackouts is None:
        return CheckAnswer("pass", "feeder.blackouts is not set")
    blackouts = load_blackouts(settings)
    n_windows = len(blackouts.windows)
    said = f"{n_windows} window{'' if n_windows == 1 else 's'} in {settings.blackouts_path}"
    upcoming = blackouts.next_at(facts.now_ns / NANOSECONDS)
    if upcoming is None:
        return CheckAnswer(
            "warn",
            f"{said}, none of them to come",
            "add the next times to the file, or take feeder.blackouts out of the config",
        )
    said += f", next {upcoming}"
    if _has_other_blackouts(facts, blackouts):
        return CheckAnswer(
            "warn", f"{said}; the bot runs on others", f"have it read: {facts.command('reload')}"
        )
    return CheckAnswer("pass", said)


def _has_other_blackouts(facts: Facts, blackouts: Blackouts) -> bool:
    """Return whether a running bot has read other windows, as far as its status tells."""
    try:
        known = facts.status.get("blackouts")
    except Skipped:
        return False
    return known is None or known["windows"] != len(blackouts.windows)


def check_parameters(facts: Facts) -> CheckAnswer:
    """Compare what every pair has loaded with the store's newest record."""
    feeder_id, pairs = facts.settings.feeder_id, facts.status["pairs"]
    unknown = [pair for pair in facts.settings.pairs if pair not in pairs]
    older, newer = [], []
    for pair, record in facts.usable.items():
        if pair in pairs:
            loaded_ns = _time_ns(pairs[pair]["version"])
            text = f"{pair} (loaded {_shown(loaded_ns)}, stored {_shown(record.time_ns)})"
            if loaded_ns is None or loaded_ns < record.time_ns:
                older.append(text)
            elif loaded_ns > record.time_ns:
                newer.append(text)
    if unknown:
        return CheckAnswer(
            "fail",
            f"the bot does not know {some(unknown)}: its config was different when it started",
            "restart the bot, or /reload_config; if the bot has several config files, give doctor all of "
            f"them: {facts.command('doctor', '--config', 'FILE')}",
        )
    if older:
        return _older(facts, f"older than the store's newest record: {some(older)}")
    if newer:
        return CheckAnswer(
            "fail",
            f"newer than what this store holds: {some(newer)}",
            "the bot reads another store: run doctor with the bot's FEEDER_STORE_URL",
        )
    if not facts.usable:
        return CheckAnswer("pass", "the store has no record that the bot could have loaded")
    return CheckAnswer(
        "pass", f"{len(facts.usable)} pairs have loaded the store's newest record ({feeder_id})"
    )


def check_models(facts: Facts) -> CheckAnswer:
    """Compare what every pair's serving model was trained from with the store's newest record."""
    pairs = {p: f for p, f in facts.status["pairs"].items() if p in facts.settings.pairs}
    found: dict[str, list[str]] = defaultdict(list)
    errors: dict[str, str] = {}
    for pair, known in pairs.items():
        state, detail = _model_state(facts, pair, known)
        found[state].append(pair + detail)
        if state == "failed":
            errors[pair] = known["model"]["error"] or ""
    if old := found["old"]:
        hours = facts.feeder.model_max_age_hours
        return CheckAnswer(
            "fail",
            f"model older than feeder.model_max_age_hours={hours:g}, so never safe: {some(old)}",
            f"{facts.command('status')} says why no newer one is trained",
        )
    if errors:
        # Reasons are long and mostly the same: all names come before them.
        failed = "; ".join(f"{some(names)} ({why})" for names, why in group_pairs(errors))
        return CheckAnswer("fail", f"training failed: {failed}", "see the bot's log and candles")
    if none := found["none"]:
        return CheckAnswer(
            "fail",
            f"no model, so never safe, and none is being trained: {some(none)}",
            "see the bot's log: candles are missing, or its training has ended",
        )
    if short := found["short"]:
        return CheckAnswer(
            "fail",
            f"model on under half of the expected rows, or of the context's candles: {some(short)}",
            "download older candles (freqtrade download-data --prepend); the bot retrains when "
            "they are there",
        )
    if older := found["older"]:
        return _older(facts, f"served by a model of an older record: {some(older)}")
    if training := found["training"]:
        return CheckAnswer(
            "warn", f"being trained: {some(training)}", "wait, then run doctor again"
        )
    if stale := found["stale"]:
        return CheckAnswer(
            "warn", f"due for training: {some(stale)}", "wait, then run doctor again"
        )
    return CheckAnswer("pass", f"{len(pairs)} pairs are served by a model of their newest record")


def _model_state(facts: Facts, pair: str, known: PairStatus) -> tuple[str, str]:
    """Return where a pair's serving model stands, and a detail to show behind the pair."""
    model = known["model"]
    # First: a failed training alone leaves a model that serves.
    if model["trained_until"] is not None and _is_too_old(facts, model["trained_until"]):
        return "old", f" (trained until {model['trained_until'][:16]}Z)"
    if model["error"] is not None:
        return "failed", ""
    if _is_short(model):
        share = 100 * (model["context_share"] or 0.0)
        return "short", (
            f" (rows {model['rows']} of {model.get('expected_rows')}, context {share:.0f} %)"
        )
    if _serves(facts, pair, known):
        # A model of the right record that is trained anew by the clock is nothing to wait for.
        return ("stale" if model["state"] == "stale" else "ready"), ""
    if model["state"] in {"training", "none"}:
        return model["state"], ""
    return "older", f" (serves {_shown(_time_ns(model['version']))})"


def _is_too_old(facts: Facts, trained_until: str) -> bool:
    if not isinstance(facts.settings, FeederSettings):
        return False  # FreqAI has its own `expiration_hours`, and says so to the strategy
    age_ns = facts.now_ns - parse_time_ns(trained_until)
    return age_ns >= facts.settings.model_max_age_hours * 3600 * NANOSECONDS


def _is_short(model: ModelStatus) -> bool:
    """Return whether a model learned from under half of what there should be, as far as is known."""
    rows, expected, share = model["rows"], model["expected_rows"], model["context_share"]
    if rows is None or expected is None or share is None:
        return False  # no model, or a bot of an earlier version
    return rows < SHORT_SHARE * expected or share < SHORT_SHARE


def check_served(facts: Facts) -> CheckAnswer:
    """Look when the host last asked about every pair: one that it dropped keeps its model."""
    pairs = {p: f for p, f in facts.status["pairs"].items() if p in facts.settings.pairs}
    patience_s = max(_SERVED_CANDLES * facts.timeframe_s, _SERVED_LEAST_S)
    written_s = newest_status_path(facts.settings).stat().st_mtime
    started_s = bot_started_s(facts.settings, _running_pid(facts))
    late = []
    for pair, known in pairs.items():
        last = known["last_candle"]
        age_s = written_s - (parse_time_ns(last) / NANOSECONDS if last else started_s)
        if age_s > patience_s + facts.timeframe_s:
            late.append(f"{pair} ({f'last candle {last[:16]}Z' if last else 'never analysed'})")
    if not late:
        return CheckAnswer("pass", f"freqtrade analyses all {len(pairs)} pairs")
    if len(late) == len(pairs):
        return CheckAnswer(
            "fail",
            f"freqtrade analyses no pair: {some(late)}",
            "start trading (/start), or see the bot's log: the exchange may send no candles",
        )
    return CheckAnswer(
        "fail",
        f"freqtrade no longer analyses these pairs, so they get no prediction: {some(late)}",
        "delisted, or removed by exchange.pair_blacklist or a pairlist filter: see the bot's log, and "
        "remove them from pair_whitelist",
    )


def check_api_port(facts: Facts) -> CheckAnswer:
    """Look whether the config's API port is free, or held by the feeder's own bot."""
    api = facts.config.get("api_server") or {}
    if not api.get("enabled"):
        return CheckAnswer("pass", "api_server is not enabled: no port is needed")
    host, port = str(api.get("listen_ip_address") or "127.0.0.1"), api.get("listen_port")
    if not isinstance(port, int) or not 0 < port < 65_536:
        return CheckAnswer(
            "fail", f"api_server.listen_port={port!r}, expected 1 to 65535", "fix the config"
        )
    where, pid = f"port {port} on {host}", facts.pid
    problem = _bind_problem(host, port)
    if problem is None and pid is None:
        return CheckAnswer("pass", f"{where} is free")
    if problem is None:
        return CheckAnswer(
            "fail",
            f"the bot (pid {pid}) runs, but nothing listens on {where}",
            "the config is newer than the bot (restart it), or the bot is still starting",
        )
    if problem != errno.EADDRINUSE:
        return CheckAnswer(
            "fail",
            f"{where} can't be used: {os.strerror(problem)}",
            "use an address of this host and a port above 1023 in api_server",
        )
    return _held_by(where, port, pid)


def _held_by(where: str, port: int, pid: int | None) -> CheckAnswer:
    if pid is not None:
        inodes = _socket_inodes(pid)
        if inodes is None:
            return CheckAnswer(
                "warn",
                f"{where} is in use; whether by the bot (pid {pid}) can't be seen from here",
                "run doctor as the user who runs the bot, on a system with /proc",
            )
        if inodes & _listening_inodes(port):
            return CheckAnswer("pass", f"{where} is in use by the bot itself")
    return CheckAnswer(
        "fail",
        f"{where} is in use by another process: freqtrade would hang at start without an error",
        "stop that process, or set another api_server.listen_port",
    )


def _bind_problem(host: str, port: int) -> int | None:
    """Return the error number of taking the port as freqtrade would, None when it is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            return errno.EADDRNOTAVAIL
        except OSError as error:
            return error.errno or errno.EIO
    return None


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text(encoding="utf-8").splitlines()[1:]:
                parts = line.split()
                if parts[3] == _LISTENS and int(parts[1].rpartition(":")[2], 16) == port:
                    found.add(parts[9])
    return found


def _socket_inodes(pid: int) -> set[str] | None:
    """Return the inodes of a process's sockets, None where they can't be seen."""
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    found = set()
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile
            kind, _, inode = str(descriptor.readlink()).partition(":")
            found |= {inode.strip("[]")} if kind == "socket" else set()
    return found


def _running_pid(facts: Facts) -> int:
    if facts.pid is None:
        raise Skipped("no bot runs")
    return facts.pid


def _is_pending(facts: Facts) -> bool:
    reload = facts.status["reload"]
    return reload["requested"] > reload["completed"]


def _older(facts: Facts, what: str) -> CheckAnswer:
    """Return the verdict on a bot that lags behind the store."""
    if _is_pending(facts):
        return CheckAnswer("warn", f"{what}; a reload is under way", "wait, then run doctor again")
    minutes = facts.settings.check_store_minutes
    if minutes is not None:
        return CheckAnswer(
            "warn",
            f"{what}; the bot asks the store every {minutes:g} minutes",
            f"wait, then run doctor again, or {facts.command('reload')}; if that does not help, the bot "
            "reads another store (FEEDER_STORE_URL of its own environment)",
        )
    return CheckAnswer(
        "fail",
        f"{what}; no reload is pending",
        f"{facts.command('reload')}, or set feeder.check_store_minutes where the optimizer is on another "
        "host; if that does not help, the bot reads another "
        "store (FEEDER_STORE_URL of its own environment)",
    )


def _serves(facts: Facts, pair: str, known: PairStatus) -> bool:
    """Return whether the serving model is that of the newest usable record, else of what is loaded."""
    model, record = known["model"], facts.usable.get(pair)
    if model["trained_until"] is None:
        return False
    wanted_ns = _time_ns(known["version"]) if record is None else record.time_ns
    return _time_ns(model["version"]) == wanted_ns


def _time_ns(version: str | None) -> int | None:
    return None if version is None else parse_time_ns(version)


def _shown(time_ns: int | None) -> str:
    return "defaults" if time_ns is None else format_time_ns(time_ns)
