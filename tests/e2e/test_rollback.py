"""Back and forth with the real bot: tuned twice, taken back to the first, tuned on from there."""

from __future__ import annotations

import json

import pytest

from tests.e2e.bot import PAIRS, make_trading_project, running_bot, running_exchange

pytestmark = pytest.mark.slow

PAIR = PAIRS[0]
DAYS = 14
"""The least that can be tuned are ten labelled days beside the features' warm-up."""


@pytest.fixture
def trading(tmp_path):
    """Give a project on a market that is long enough to be tuned on."""
    with running_exchange(tmp_path / "market", "--generate-days", DAYS) as exchange:
        project = make_trading_project(tmp_path / "project", exchange)
        feeder = json.loads(project.config.read_text())["feeder"]
        project.edit_config(feeder={**feeder, "context_pairs": [PAIR]})  # a quarter of the fits
        yield project


def test_rollback_makes_the_running_bot_run_the_first_tuning_again(trading):
    """To the last digit, one generation on; the copy is then what the next tuning must beat."""
    feeder = ("--feeder", "test1", "--json")

    def run(command: str, *arguments: object) -> list[dict]:
        done = trading.feeder(command, *feeder, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def tune(seed: int, *arguments: object) -> dict:
        datadir = trading.exchange.datadir
        options = ("--datadir", datadir, "--days-back", 10, "--n-trials", 2, "--jobs", 1)
        document = run("optimize", *options, "--pairs", PAIR, "--seed", seed, *arguments)
        return document[0]["pairs"][PAIR]

    first = tune(1, "--promote", "always", "--fix", "learning_rate=0.033333333333333335")["record"]
    second = tune(2, "--promote", "always", "--fix", "num_leaves=40")["record"]
    assert first["parameters"] != second["parameters"]
    with running_bot(trading) as bot:
        before = bot.wait_ready()
        assert before["pairs"][PAIR]["version"] == second["time"]
        (done,) = run("rollback", "--pair", PAIR, "--to", first["time"], "--reload")
        after = trading.status()
        assert after["generation"] == before["generation"] + 1
        assert after["pairs"][PAIR]["parameters"] == first["parameters"]
        written = done["pairs"][PAIR]["record"]
        assert after["pairs"][PAIR]["version"] == written["time"]
        other = PAIRS[1]
        assert after["pairs"][other]["version"] == before["pairs"][other]["version"]
        (compared,) = run("diff", "--pairs", PAIR)
        assert compared["differences"] == []
        served = bot.wait_ready(generation=after["generation"])
        assert served["pairs"][PAIR]["model"]["version"] == written["time"]
    decision = tune(3)["decision"]
    assert decision["champion_parameters"] == first["parameters"]
    points = run("history", "--pairs", PAIR)
    (copy,) = (p for p in points if p["time"] == written["time"])
    assert copy["provenance"]["rolled_back_from"] == first["time"]
