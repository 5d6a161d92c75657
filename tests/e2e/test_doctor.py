"""`feeder doctor` beside the real freqtrade: healthy, behind the store, healthy again, stopped."""

from __future__ import annotations

import json

import pytest

from tests.e2e.bot import PAIRS, TradingProject, running_bot
from tests.e2e.project import make_rest


def ask(trading: TradingProject) -> tuple[int, dict[str, str]]:
    """Return exit code and check -> message of everything that is no pass."""
    done = trading.feeder("doctor", "--feeder", "test1", "--json")
    findings = json.loads(done.stdout)
    return done.returncode, {
        f["check"]: f"{f['state']}: {f['message']}" for f in findings if f["state"] != "pass"
    }


@pytest.mark.slow
def test_doctor_follows_a_bot_through_a_new_record_and_its_reload(trading):
    """What the operator is told is what the bot does, the API port in its hands included."""
    rest = make_rest()
    feeder = json.loads(trading.config.read_text())["feeder"]
    trading.edit_config(api_server=rest.config, feeder={**feeder, "context_pairs": list(PAIRS)})
    with running_bot(trading) as bot:
        bot.wait_running()
        bot.wait_ready()
        bot.wait_until(lambda: rest.is_up() or None, "the REST interface")
        assert ask(trading) == (0, {})

        trading.write({PAIRS[0]: {"learning_rate": 0.03}})
        code, found = ask(trading)
        assert code == 1
        assert set(found) == {"parameters", "models"}
        assert f"older than the store's newest record: {PAIRS[0]}" in found["parameters"]

        bot.reload()
        bot.wait_ready(generation=2)
        assert ask(trading) == (0, {})
        bot.stop()
    code, found = ask(trading)
    assert code == 0
    assert found.pop("bot").startswith("warn: no bot runs")
    assert all(text.startswith("skipped") for text in found.values())
