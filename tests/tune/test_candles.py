"""The candles of a run: what is missing, late or wrong is said, and costs its own pair only."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pandas as pd
import pytest

from feeder_mixin.tune.run.candles import load_run_candles
from feeder_mixin.tune.run.options import RunOptions
from tests.builders import make_settings
from tests.candle_factory import candle_file, make_candles, write_candles

PAIR, OTHER, CONTEXT = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"
N = 300
DAY_CANDLES = 288


class Stages:
    """A run's progress: what it told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    def stage(self, text: str, done: int, total: int) -> None:
        """See `tune.run.options.Progress`."""
        self.told.append((text, done, total))


def until(ago_candles: int) -> dict[str, str]:
    """Return the start of `N` candles that end so long ago."""
    start = pd.Timestamp(time.time() // 300 * 300 - (N + ago_candles) * 300, unit="s")
    return {"start": str(start)}


@pytest.fixture
def load(tmp_path, caplog):
    """Give a function that loads a run's candles of two pairs; a third is context."""
    caplog.set_level(logging.WARNING, "feeder_mixin")
    datadir = tmp_path / "candles"
    pairs = (PAIR, OTHER)
    settings = make_settings(tmp_path / "user_data", pairs=pairs, context_pairs=[*pairs, CONTEXT])

    def run(frames, *, spoilt=None, progress=None, **options):
        write_candles(datadir, frames)
        if spoilt:
            candle_file(datadir, spoilt).write_bytes(b"nonsense")
        chosen = RunOptions(datadir=datadir, **options)
        return load_run_candles(settings, chosen, pairs, progress or Stages())

    return run


def fresh(*pairs):
    """Return candles that end now."""
    return {pair: make_candles(N, seed, **until(1)) for seed, pair in enumerate(pairs)}


def test_candles_of_pairs_and_context_are_loaded_in_silence(load, caplog):
    """Nothing is wrong, so nothing is said; progress counts every file."""
    stages = Stages()
    loaded, failures = load(fresh(PAIR, OTHER, CONTEXT), progress=stages)
    assert list(loaded) == [PAIR, OTHER, CONTEXT]
    assert failures == {}
    assert caplog.text == ""
    assert stages.told == [("loading candles", done, 3) for done in range(4)]


def test_missing_candles_fail_their_pair_and_come_with_the_command_for_all(load, caplog):
    """One command gets what pairs and context lack; a context pair only makes features poorer."""
    loaded, failures = load(fresh(PAIR))
    assert list(loaded) == [PAIR]
    assert list(failures) == [OTHER]
    assert "Context pair is missing, features are built without it" in caplog.text
    (line,) = [r.getMessage() for r in caplog.records if "get them with" in r.getMessage()]
    assert line.startswith("Candles of 2 pairs are missing")
    assert f"--pairs {OTHER} {CONTEXT}" in line


def test_candles_that_can_not_be_had_say_why_instead_of_how(load, caplog):
    """Who asked the exchange already is not told to ask it."""
    _, failures = load(fresh(PAIR, CONTEXT), lacking={OTHER: "the exchange does not list it"})
    assert str(failures[OTHER]) == f"{OTHER}: the exchange does not list it"
    assert "get them with" not in caplog.text


@pytest.mark.parametrize("pair", [OTHER, CONTEXT])
def test_damaged_candles_cost_their_own_pair(load, caplog, pair):
    """A pair of the run fails by name; a context pair is warned of. No download would mend it."""
    loaded, failures = load(fresh(PAIR, OTHER, CONTEXT), spoilt=pair)
    assert pair not in loaded
    assert list(failures) == ([OTHER] if pair == OTHER else [])
    assert candle_file(Path(), pair).name in str(failures.get(OTHER)) + caplog.text
    assert "get them with" not in caplog.text


def test_candles_of_the_future_are_no_candles(load, caplog):
    """The pair fails by name; as context it is missing, and said."""
    ahead = {pair: make_candles(N, 1, **until(-2 * N)) for pair in (OTHER, CONTEXT)}
    loaded, failures = load(fresh(PAIR) | ahead)
    assert list(loaded) == [PAIR]
    assert list(failures) == [OTHER]
    assert "open in the future" in str(failures[OTHER])
    assert any(CONTEXT in r.getMessage() and "future" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize(
    ("ago_days", "is_said"),
    [pytest.param(1.9, False, id="fresh"), pytest.param(2.1, True, id="old")],
)
def test_old_candles_of_a_pair_are_said_with_their_age(load, caplog, ago_days, is_said):
    """A record would describe that time."""
    late = {PAIR: make_candles(N, 1, **until(int(ago_days * DAY_CANDLES)))}
    load(fresh(OTHER, CONTEXT) | late)
    line = f"Candles are old, records will describe an older market pairs={PAIR} oldest_days={ago_days}"
    assert (line in caplog.text) == is_said


def test_context_that_ends_a_day_before_the_others_is_stale(load, caplog):
    """Compared with the newest candle of all, not with the clock."""
    load(fresh(PAIR, OTHER) | {CONTEXT: make_candles(N, 1, **until(2 * DAY_CANDLES))})
    assert f"later features are built without it pair={CONTEXT} lag_days=2.0" in caplog.text
