"""The story that ``feeder demo`` tells: tune, trade, tune again, swap, see what the bot then serves.

Every step runs a command as a user would; what came of it is read back from the store, the status
file, the REST API and the log of the bot. `Story.run` raises unless all of it agrees.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from feeder_mixin.errors import StateError
from feeder_mixin.live.state.status import PairStatus, Status, read_status
from feeder_mixin.rehearsal.demo.bot import CANDLE_S, BotApi, Candle, free_port, make_config
from feeder_mixin.rehearsal.demo.subjects import PAIRS, Subject
from feeder_mixin.rehearsal.demo.workplace import Child, DemoError, Workplace, script

N_STEPS: Final = 8
_N_LOADS: Final = 2
"""At start and on the signal."""
_MARKET_SEED: Final = 3
_DATADIR: Final = "user_data/data/binance"
_OPTIMIZE: Final = ("--datadir", _DATADIR, "--jobs", "2", "--promote", "always")
_SAID: Final = re.compile(
    "Loaded Optuna params for|Using Optuna params for|Model is ready for|Trained with Optuna params"
)
_PORT_TAKEN: Final = "attempting to bind on address"

_SHORT_S, _LONG_S = 90.0, 300.0
_EVERY_S: Final = 1.0
"""How often the bot is asked for its newest candles."""

_OUTCOMES: Final = ("defaults_won", "beats_rule")

Records = Mapping[str, Mapping[str, Any]]
"""Pair -> record, as ``feeder show --json`` prints it."""


class Narrator(Protocol):
    """What the story tells while it happens; the command line draws it."""

    def step(self, name: str) -> AbstractContextManager[None]:
        """Say that a step begins; on leaving, that it is over."""

    def say(self, text: str) -> None:
        """Say what happened."""

    def command(self, text: str) -> None:
        """Say what is being run."""

    def output(self, name: str, line: str) -> None:
        """Say what a process printed."""

    def candles(self, candles: Mapping[str, Candle]) -> None:
        """Show what is predicted on every pair's newest candle."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of one side of the swap: store, status file, newest candles."""

    records: Records
    status: Status
    candles: Mapping[str, Candle]

    def of(self, pair: str) -> dict[str, Any]:
        """Return what is said of a pair."""
        facts: PairStatus = self.status["pairs"][pair]
        metrics = self.records[pair]["metrics"]
        return {
            "version": facts["version"],
            **{name: bool(metrics[name]) for name in _OUTCOMES if name in metrics},
            "parameters": facts["parameters"],
            "model": facts["model"],
            "candle": self.candles[pair].to_dict(),
        }

    def check(self) -> None:
        """Raise unless the bot runs what the store has, to the last digit."""
        for pair, record in self.records.items():
            facts = self.status["pairs"][pair]
            is_equal = facts["parameters"] == record["parameters"]
            if not (is_equal and facts["version"] == record["time"]):
                raise DemoError(f"{pair}: the bot runs {facts}, the store has {record}")


class CandleWatch:
    """Which candles the bot was seen to have analysed, and how long after their close.

    Asked once a second; a candle lasts a minute, so one that is not seen was left out by the bot.
    """

    def __init__(self) -> None:
        self._late_s: dict[str, dict[str, float]] = {pair: {} for pair in PAIRS}

    def note(self, pair: str, candle: Candle, now_s: float) -> None:
        """Note a pair's newest candle, seen at `now_s`."""
        self._late_s[pair].setdefault(candle.opened, now_s - candle.closed_s)

    @property
    def opens(self) -> dict[str, list[str]]:
        """Return pair -> opens of the candles seen, in time order."""
        return {pair: sorted(seen) for pair, seen in self._late_s.items()}

    def n_missed(self) -> int:
        """Return how many candles lie unseen between the first and the last one seen."""
        missed = 0
        for opens in self.opens.values():
            times_s = [datetime.fromisoformat(opened).timestamp() for opened in opens]
            if times_s:
                missed += round((times_s[-1] - times_s[0]) / CANDLE_S) + 1 - len(times_s)
        return missed

    def latest_s(self) -> float:
        """Return the longest time from close to sight; the first candle was there before us."""
        late_s = self._late_s
        return max((late_s[p][o] for p, opens in self.opens.items() for o in opens[1:]), default=0)


class Story:
    """One run: the steps in order, and what they showed."""

    def __init__(
        self, subject: Subject, place: Workplace, narrator: Narrator, *, is_verbose: bool
    ) -> None:
        self._subject = subject
        self._place, self._tell, self._is_verbose = place, narrator, is_verbose
        self._steps: list[dict[str, object]] = []
        self._watch = CandleWatch()
        self._asked_s = 0.0
        self._api: BotApi | None = None
        self._ready_s = 0.0
        place.while_waiting = self._look_around

    def run(self) -> dict[str, Any]:
        """Run all steps and return what happened; raises when the swap was not seen."""
        with self._step(f"Write {self._subject.what}, start the replay exchange"):
            api = self._write_bot()
            market = self._start_exchange()
        with self._step("Tune: nothing fixed, seed 1"):
            first = self._tune("optimize-1", "--seed", "1")
        with self._step("Start the bot"):
            bot = self._start_bot(api)
        with self._step("The bot trains its models"):
            status = self._await_models(bot, 1)
            self._tell_log(0)
        fixes = [f"--fix={fix}" for fix in self._subject.fixes]
        n_fixed = {2: "two", 3: "three"}[len(fixes)]
        with self._step(f"Tune again while the bot trades: seed 2, {n_fixed} parameters fixed"):
            second = self._tune("optimize-2", "--seed", "2", *fixes)
        with self._step("The bot predicts with the models of generation 1"):
            before = Scene(first, status, self._await_predictions(bot, api, 1))
        with self._step("SIGUSR1: the running bot swaps its parameters, trains new models"):
            n_lines = len(self._bot_log())
            self._tell.command(f"kill -USR1 {bot.pid}")
            os.kill(bot.pid, signal.SIGUSR1)
            status = self._await_models(bot, 2)
            self._tell_log(n_lines)
        with self._step("The bot predicts with the models of generation 2"):
            after = Scene(second, status, self._await_predictions(bot, api, 2))
        return self._conclude(market, bot, before, after)

    # ------------------------------------------------------------------ the steps

    def _write_bot(self) -> BotApi:
        port, password = free_port(), secrets.token_hex(16)
        root = self._place.root
        (root / "config").mkdir()
        (root / "user_data").mkdir()
        config = json.dumps(make_config(self._subject, port, password), indent=2)
        (root / "config" / "demo.json").write_text(config, encoding="utf-8")
        self._place.finish(self._feeder("init", "init", "--userdir", "user_data"), _SHORT_S)
        if copied := self._subject.write_strategy(root / "user_data" / "strategies"):
            self._tell.say(copied)
        return BotApi(self._subject, port, password)

    def _start_exchange(self) -> str:
        exchange = self._feeder(
            "exchange",
            "replay-exchange", *self._subject.named, "--seed", str(_MARKET_SEED),
            "--generate-days", str(self._subject.history_days),
            "--write-datadir", _DATADIR, "--write-config", "replay.json",
        )  # fmt: skip

        def said() -> str | None:
            lines = exchange.log_lines()
            is_ready = any("ready at" in line for line in lines)
            return next((x for x in lines if x.startswith("Market: ")), None) if is_ready else None

        market = self._place.wait("replay exchange", exchange, said, _SHORT_S)
        self._tell.say(market)
        return market.removeprefix("Market: ")

    def _tune(self, name: str, *options: str) -> Records:
        """Tune all pairs; return the newest records in the store."""
        subject = self._subject
        words = ("optimize", *subject.named, *subject.optimize, *_OPTIMIZE, *options)
        self._place.finish(self._feeder(name, *words), _LONG_S)
        answer = self._place.log_dir / f"{name}.json"
        show = self._feeder(f"show-{name}", "show", *subject.named, "--json", output=answer)
        self._place.finish(show, _SHORT_S)
        records = {record["pair"]: record for record in json.loads(answer.read_text("utf-8"))}
        for pair in PAIRS:
            if pair not in records:
                raise DemoError(f"the store has no record of {pair}\n{show.tail()}")
            note = " (the defaults won)" if records[pair]["metrics"]["defaults_won"] else ""
            self._tell.say(f"stored: {pair} at {records[pair]['time']}{note}")
        return records

    def _start_bot(self, api: BotApi) -> Child:
        command = [
            "trade", "--config", "config/demo.json", "--config", "replay.json",
            *self._subject.trade, "--logfile", "logs/freqtrade.log",
        ]  # fmt: skip
        # A SIGUSR1 that comes before the bot has its handler would end it, and imports take ten
        # seconds. Ignored in the shell, it stays ignored in what the shell becomes, until the
        # handler takes over. `make trade` does the same.
        self._tell.command(f"trap '' USR1; exec freqtrade {' '.join(command)}")
        shell = ["/bin/sh", "-c", "trap '' USR1; exec \"$@\"", "sh", script("freqtrade"), *command]
        bot = self._place.start("bot", shell)

        def is_running() -> bool | None:
            if any(_PORT_TAKEN in line for line in bot.log_lines()):
                raise DemoError(
                    f"another program took the bot's API port meanwhile: start again\n{bot.tail()}"
                )
            return api.is_running() or None

        self._place.wait("RUNNING bot", bot, is_running, _LONG_S)
        self._api = api
        self._tell.say(f"the bot is RUNNING, pid {bot.pid}")
        return bot

    def _await_models(self, bot: Child, generation: int) -> Status:
        """Return the status in which every pair's model is of that generation."""
        path = self._place.root / "user_data" / "feeder_state" / "demo" / "status.json"

        def ready() -> Status | None:
            try:
                status = read_status(path)
            except StateError:  # not written yet
                return None
            models = [facts["model"] for facts in status["pairs"].values()]
            is_ready = all(m["state"] == "ready" and m["generation"] == generation for m in models)
            return status if status["generation"] == generation and is_ready else None

        status = self._place.wait(f"models of generation {generation}", bot, ready, _LONG_S)
        self._ready_s = time.time()
        return status

    def _await_predictions(self, bot: Child, api: BotApi, generation: int) -> dict[str, Candle]:
        """Return every pair's newest candle, once models of that generation predict all of them."""

        def predicted() -> dict[str, Candle] | None:
            candles = self._ask_candles(api)
            is_there = len(candles) == len(PAIRS) and all(
                c.closed_s > self._ready_s and self._subject.is_predicted(c.shown, generation)
                for c in candles.values()
            )
            return candles if is_there else None

        candles = predicted()
        if candles is None:
            left_s = CANDLE_S - time.time() % CANDLE_S
            self._tell.say(f"the next candle closes in {left_s:.0f} s")
            candles = self._place.wait("prediction", bot, predicted, 3 * CANDLE_S)
        self._tell.candles(candles)
        return candles

    def _conclude(self, market: str, bot: Child, before: Scene, after: Scene) -> dict[str, Any]:
        """Return what happened; raises unless everything the demo promises was seen."""
        for scene, generation in ((before, 1), (after, 2)):
            scene.check()
            if (scene.status["generation"], scene.status["pid"]) != (generation, bot.pid):
                raise DemoError(f"not generation {generation} of pid {bot.pid}: {scene.status}")
        log = [line for line in self._bot_log() if _SAID.search(line)]
        if sum(f"Loaded Optuna params for {len(PAIRS)} pairs" in line for line in log) != _N_LOADS:
            raise DemoError(f"the bot's log does not say that it loaded twice\n{bot.tail()}")
        if n_missed := self._watch.n_missed():
            raise DemoError(f"the bot missed {n_missed} candles; seen: {self._watch.opens}")
        return {
            "ok": True,
            "market": market,
            "pid": bot.pid,
            "generation_before": before.status["generation"],
            "generation_after": after.status["generation"],
            "equals_store": True,
            "missed_candles": 0,
            "latest_candle_s": round(self._watch.latest_s(), 2),
            "candles": self._watch.opens,
            "pairs": {p: {"before": before.of(p), "after": after.of(p)} for p in PAIRS},
            "log": log,
            "steps": self._steps,
        }

    # ------------------------------------------------------------------ what all steps share

    def _look_around(self) -> None:
        """Note the newest candles, so that a missed one shows; pass on output where wanted."""
        now = time.monotonic()
        if now - self._asked_s < _EVERY_S:
            return
        self._asked_s = now
        if self._is_verbose:
            for child in self._place.children:
                for line in child.new_lines():
                    self._tell.output(child.name, line)
        if self._api is None:
            return
        self._ask_candles(self._api)

    def _ask_candles(self, api: BotApi) -> dict[str, Candle]:
        """Return the newest candle of every pair that has one, and note that it was seen."""
        candles = {pair: c for pair in PAIRS if (c := api.newest_candle(pair)) is not None}
        for pair, candle in candles.items():
            self._watch.note(pair, candle, time.time())
        return candles

    def _step(self, name: str) -> _Step:
        return _Step(self._tell, self._steps, name)

    def _feeder(self, name: str, *arguments: str, output: Path | None = None) -> Child:
        self._tell.command(f"feeder {' '.join(arguments)}")
        return self._place.start(name, [script("feeder"), *arguments], output=output)

    def _bot_log(self) -> list[str]:
        path = self._place.log_dir / "freqtrade.log"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _tell_log(self, since: int) -> None:
        """Tell what the bot logged about parameters and models from line `since` on."""
        self._tell.say("the bot's log:")
        for line in self._bot_log()[since:]:
            if _SAID.search(line):
                self._tell.say(line)


class _Step:
    """Names the step in an error of it, and keeps how long it took."""

    def __init__(self, tell: Narrator, steps: list[dict[str, object]], name: str) -> None:
        self._number, self._name, self._steps = len(steps) + 1, name, steps
        self._shown = tell.step(f"{self._number}/{N_STEPS} {name}")
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.monotonic()
        self._shown.__enter__()

    def __exit__(self, *error: Any) -> None:  # noqa: ANN401 - what a with statement hands over
        self._shown.__exit__(*error)
        if isinstance(error[1], DemoError):
            raise DemoError(f"step {self._number}, {self._name!r}: {error[1]}") from error[1]
        took_s = round(time.monotonic() - self._started, 2)
        self._steps.append({"number": self._number, "name": self._name, "took_s": took_s})
