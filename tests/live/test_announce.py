"""What a bot says at its start about the freqtrade that it runs in."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path

import pytest

from feeder_mixin.live.announce import NEWEST_TESTED_HOST, log_loaded, warn_newer_host
from feeder_mixin.live.reload.loader import Loaded, LoadedPair
from feeder_mixin.schema import default_parameters
from tests.builders import make_settings
from tests.hosts.environment import RELEASES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("installed", ["2026.10", "2026.10-dev", "2027.1"])
def test_freqtrade_newer_than_tested_starts_with_one_warning(caplog, tmp_path, installed):
    """Nobody is held up, and whoever reads the log knows."""
    warn_newer_host(make_settings(tmp_path), installed)
    (said,) = caplog.messages
    assert installed in said
    assert NEWEST_TESTED_HOST in said


def test_tolerance_that_was_not_measured_is_said_with_its_pairs(caplog, tmp_path):
    """Under "auto" a pair without a measured tolerance runs on the fallback, never silently."""
    settings = make_settings(tmp_path, max_adverse_ratio="auto")
    first, *others = settings.pairs
    pairs = {pair: LoadedPair(pair, default_parameters(), "store", 1) for pair in others}
    pairs[first] = LoadedPair(first, default_parameters(), "store", 1, auto_tolerance=0.02)
    log_loaded(settings, Loaded(pairs, "store"), 1)
    (said,) = [line for line in caplog.messages if "Tolerance was not measured" in line]
    assert others[0] in said
    assert first not in said
    assert "max_adverse_ratio=0.01 " in said
    caplog.clear()
    log_loaded(replace(settings, max_adverse_ratio=0.02), Loaded(pairs, "store"), 1)
    assert "Tolerance" not in caplog.text


@pytest.mark.parametrize("installed", ["2026.9", "2026.9.1", "2026.6", "2025.11.2"])
def test_tested_freqtrade_starts_without_a_word(caplog, tmp_path, installed):
    """A release of a tested month is a tested one."""
    warn_newer_host(make_settings(tmp_path), installed)
    assert caplog.messages == []


def test_tested_releases_are_the_bound_the_pin_and_the_warning():
    """The oldest one tested is the package's lower bound, the newest one the pin of clones."""
    bound = next(line for line in requires("feeder-mixin") or [] if line.startswith("freqtrade"))
    assert bound == f"freqtrade>={RELEASES[0]}"
    pin = re.search(r"^freqtrade==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert pin is not None
    assert pin[1] == RELEASES[-1] == NEWEST_TESTED_HOST
