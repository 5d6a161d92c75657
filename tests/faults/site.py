"""One feeder with all that can fail: a tuner on each of two hosts, a store, a bot; and what must hold.

Everything is real but the server, the candles and the threads: outboxes and state folder on disk,
both stores' clients, the loader, the cache, the bot's start and reload. A killed process is one whose
objects are dropped where they stand.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Final
from unittest import mock

from feeder_mixin.errors import StoreError
from feeder_mixin.live import memory
from feeder_mixin.live.bot import LiveFeeder
from feeder_mixin.live.reload import loader
from feeder_mixin.live.serve.candles import DataFolder
from feeder_mixin.live.serve.snapshot import ParameterSnapshot
from feeder_mixin.live.state.files import read_checked
from feeder_mixin.live.state.lock import bot_lock
from feeder_mixin.live.state.status import read_status
from feeder_mixin.schema import (
    CANDIDATES,
    MEASUREMENT,
    Measurement,
    ParameterRecord,
    build_record,
    default_parameters,
)
from feeder_mixin.stores.outbox import Delivered, Outbox
from tests.builders import make_record, make_settings
from tests.faults.server import Killed, Kind, Server, no_space

FEEDER, PAIRS = "feeder75a", ("BTC/USDT:USDT", "ETH/USDT:USDT")
FAULTS: Final = (
    "down",
    "slow",
    "refusing",
    "wrong token",
    "half answer",
    "disk full",
    "process killed",
    "clock wrong",
    "two writers",
)
TUNER_MOMENTS: Final = ("put", "between", "write", "commit", "mark")
BOT_MOMENTS: Final = ("start", "reload", "keep")
HOUR_NS: Final = 3_600 * 10**9
DRIFTS_NS: Final = (-24 * HOUR_NS, -HOUR_NS, 7 * HOUR_NS, 24 * 200 * HOUR_NS)


@dataclass(frozen=True)
class Seen:
    """What the bot's user sees: lines of WARNING and above, and the status's last error."""

    lines: list[str]
    error: str | None = None
    is_killed: bool = False
    sources: frozenset[str] = frozenset()


class Site:
    """A feeder's world; `tune` and `run_bot` live through one fault each, `settle` ends all faults."""

    def __init__(
        self, folder: Path, kind: Kind, seed: int, drifts_ns: Sequence[int] = DRIFTS_NS
    ) -> None:
        self._drifts_ns = drifts_ns
        self.settings = make_settings(folder / "user_data", FEEDER, side="long", pairs=PAIRS)
        self.server = Server(kind, folder)
        self._random = random.Random(seed)  # noqa: S311  (a schedule, no secret)
        self._outboxes = [self.settings.outbox_path, folder / "other host" / "outbox.sqlite"]
        self._entered: dict[tuple[Measurement, str, int], ParameterRecord] = {}
        self._unfinished: list[tuple[Path, ParameterRecord, Measurement]] = []
        self._touched: set[tuple[Measurement, str]] = set()
        self._count = 0
        self._bot: LiveFeeder | None = None
        self.server.meanwhile = self._meanwhile

    # ------------------------------------------------------------------ the tuner

    def tune(
        self, fault: str, moment: str, pair: str | None = None
    ) -> Delivered | StoreError | None:
        """Finish one result and deliver, with a fault; None when the process was killed.

        Returns what its user sees: the delivery, or the outbox's error.
        """
        box = self._random.choice(self._outboxes) if fault != "two writers" else self._outboxes[0]
        record, kind = self._next_record(fault, pair), MEASUREMENT
        if pair is None and self._random.random() < 0.2:
            kind = CANDIDATES
        self._unfinished.append((box, record, kind))
        try:
            outbox = Outbox(box)
            with self._failing_put(outbox, fault if moment == "put" else ""):
                self._put(outbox, self._unfinished.pop())
            with ExitStack() as stack:
                if moment == "between":
                    stack.enter_context(self._failing(fault))
                elif moment == "mark":
                    stack.enter_context(self._failing_mark(outbox, fault))
                elif moment in ("write", "commit"):
                    self.server.break_at(moment, fault)
                with self.server.open() as store:
                    return outbox.deliver(store)
        except Killed:
            return None
        except StoreError as error:
            return error

    def _next_record(self, fault: str = "", pair: str | None = None) -> ParameterRecord:
        """Return a result that differs from every other in several fields at once."""
        self._count += 1
        n = self._count
        drift = self._random.choice(self._drifts_ns) if fault == "clock wrong" else 0
        return make_record(
            pair or self._random.choice(PAIRS),
            time.time_ns() + drift,
            feeder_id=FEEDER,
            metrics={"skill": float(n)},
            provenance={"number": n},
            num_leaves=15 + n % 49,
            n_estimators=100 + n % 900,
            learning_rate=0.001 + n % 97 / 1000,
        )

    def _put(self, outbox: Outbox, result: tuple[Path, ParameterRecord, Measurement]) -> None:
        """Enter a result; one that fails is unfinished: the same command enters it again."""
        _, record, kind = result
        self._unfinished.append(result)
        entered = outbox.put(record, kind)
        self._unfinished.pop()
        self._entered[kind, entered.pair, entered.time_ns] = entered
        self._touched.add((kind, entered.pair))

    def _meanwhile(self) -> None:
        """Be the second writer: another host's results, and a flush of this host's."""
        self.server.mend()
        self._put(Outbox(self._outboxes[1]), (self._outboxes[1], self._next_record(), MEASUREMENT))
        with self.server.open() as store:
            for box in self._outboxes:
                Outbox(box).deliver(store)

    @contextmanager
    def _failing(self, fault: str) -> Iterator[None]:
        """Have a fault from the delivery's first step on."""
        if fault == "process killed":
            raise Killed
        if fault == "disk full":
            with no_space():
                yield
            return
        self.server.break_at("request", fault)
        yield

    @contextmanager
    def _failing_put(self, outbox: Outbox, fault: str) -> Iterator[None]:
        check = outbox.file._check_stored
        if fault == "process killed":  # committed, and nobody knows
            with mock.patch.object(outbox.file, "_check_stored", side_effect=Killed):
                yield
        elif fault == "disk full":
            with no_space():
                yield
        elif fault == "two writers":

            def at_once(*arguments: object) -> None:
                with mock.patch.object(outbox.file, "_check_stored", check):
                    self._put(Outbox(outbox.file.path), (*self._unfinished[-1][:1], *self._twin()))
                check(*arguments)

            with mock.patch.object(outbox.file, "_check_stored", at_once):
                yield
        else:
            yield

    def _twin(self) -> tuple[ParameterRecord, Measurement]:
        """Return another result of the pair and time that is being put."""
        _, record, kind = self._unfinished[-1]
        other = self._next_record()
        twin = build_record(
            FEEDER, record.pair, record.time_ns, dict(other.fields), other.provenance_json
        )
        return twin, kind

    @contextmanager
    def _failing_mark(self, outbox: Outbox, fault: str) -> Iterator[None]:
        mark = outbox._mark_delivered

        def failing(*arguments: object) -> None:
            if fault == "process killed":
                raise Killed
            with ExitStack() as stack:
                if fault == "disk full":
                    stack.enter_context(no_space())
                elif fault == "two writers":
                    self._meanwhile()
                else:
                    self.server.break_at("request", fault)
                mark(*arguments)

        with mock.patch.object(outbox, "_mark_delivered", failing):
            yield

    # ------------------------------------------------------------------ the bot

    def run_bot(self, fault: str, moment: str) -> Seen:
        """Start or reload the bot with a fault; return what its user sees."""
        if moment == "start":
            self.end_bot()
        lines: list[str] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("feeder_mixin")
        logger.addHandler(handler)
        before = self._bot.snapshot if self._bot is not None else None
        try:
            with self._failing_bot(fault, moment):
                self._load()
        except Killed:
            self.end_bot()
        finally:
            logger.removeHandler(handler)
        self._check_files()
        if self._bot is None:
            return Seen(lines, is_killed=True)
        self._check_bot(before)
        sources = {pair.loaded.source for pair in self._bot.snapshot.pairs.values()}
        return Seen(
            lines, self._bot.memory.reloads.status["last_error"], sources=frozenset(sources)
        )

    def _load(self) -> None:
        with mock.patch.object(
            loader, "open_store", side_effect=lambda *_, **__: self.server.open()
        ):
            if self._bot is not None:
                self._bot.reload()
                return
            memory.memories.clear()
            folder = DataFolder(self.settings, self.settings.root, 300)
            self._bot = LiveFeeder(folder, lambda _pair: None)
            nothing = SimpleNamespace(install=lambda: None, start=lambda: None, wake=lambda: None)
            self._bot.watcher.stop()
            self._bot.watcher = self._bot.training = nothing
            self._bot.keeper.start = lambda: None  # type: ignore[method-assign]
            self._bot.start()

    def end_bot(self) -> None:
        """Kill the bot: the kernel frees its lock, nothing else is done."""
        if self._bot is not None:
            self._bot.state_folder.release()
            while bot_lock(self.settings).is_held:
                bot_lock(self.settings).release()
        self._bot = None

    @contextmanager
    def _failing_bot(self, fault: str, moment: str) -> Iterator[None]:
        if fault == "clock wrong":
            drift, clock = self._random.choice(self._drifts_ns), time.time_ns
            with mock.patch.object(time, "time_ns", side_effect=lambda: clock() + drift):
                yield
        elif fault == "disk full":
            with no_space():
                yield
        elif moment == "keep" and fault == "process killed":
            with mock.patch("os.fsync", side_effect=Killed):
                yield
        else:
            self.server.break_at("request", fault)
            yield

    # ------------------------------------------------------------------ what must hold

    def _check_bot(self, before: ParameterSnapshot | None) -> None:
        assert self._bot is not None
        now = self._bot.snapshot
        for pair, known in now.pairs.items():
            loaded = known.loaded
            if loaded.source == "default":
                assert loaded.parameters == default_parameters()
            else:
                record = self._known(pair, loaded.version)
                assert loaded.parameters == record.parameters, "a mixture is running"
        if before is None:
            return
        is_failed = self._bot.memory.reloads.status["last_error"] is not None
        assert now.generation == before.generation + (not is_failed)
        for pair, known in before.pairs.items():
            after = now.pairs[pair].loaded
            assert after.source != "default" or known.loaded.source == "default", "a pair lost all"
            assert not is_failed or after.version == known.loaded.version

    def _known(self, pair: str, time_ns: int) -> ParameterRecord:
        """Return the result of a key; one whose put was killed may be on its way as well."""
        results = [r for _, r, k in self._unfinished if k == MEASUREMENT]
        unfinished = {(r.pair, r.time_ns): r for r in results}
        entered = self._entered.get((MEASUREMENT, pair, time_ns))
        return entered or unfinished[pair, time_ns]

    def _check_files(self) -> None:
        """Raise unless the last good copy and the status are whole or absent."""
        copy = read_checked(self.settings.last_good_path) or {"records": {}}
        for pair, entry in copy["records"].items():
            record = self._known(pair, entry["time_ns"])
            assert entry["fields"] == record.fields, "the copy is a mixture"
        if self.settings.status_path.exists():
            read_status(self.settings.status_path)

    def settle(self) -> None:
        """End all faults, run ``flush``; raise unless each result is stored once, and runs."""
        self.server.mend()
        unfinished, self._unfinished = self._unfinished, []
        for result in unfinished:
            self._put(Outbox(result[0]), result)
        with self.server.open() as store:
            for box in self._outboxes:
                delivered = Outbox(box).deliver(store)
                delivered.check()
                assert delivered.remaining == 0
            for kind, pair in sorted(self._touched):
                points = store.history(FEEDER, pair, measurement=kind)
                entered = {t: r for (k, p, t), r in self._entered.items() if (k, p) == (kind, pair)}
                assert [p.time_ns for p in points] == sorted(entered, reverse=True)
                assert all(p.holds(entered[p.time_ns]) for p in points)
        self._touched.clear()
        asked = time.time_ns()
        self._load()
        self._check_bot(None)
        assert self._bot is not None
        assert self._bot.memory.reloads.status["last_error"] is None
        answered = time.time_ns()
        for pair in PAIRS:
            entered = [t for k, p, t in self._entered if (k, p) == (MEASUREMENT, pair)]
            # A record dated between the two was in the future, or was not.
            due = {
                max((t for t in entered if t <= now), default=None)
                for now in (asked, *(t for t in entered if asked < t <= answered))
            }
            if None in due:  # what a bot with a wrong clock took runs on while nothing is due
                due |= set(entered)
            running = self._bot.snapshot.pairs[pair].loaded.version
            assert running in due, "not what was meant"
