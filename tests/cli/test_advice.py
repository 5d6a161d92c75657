"""Advice works as printed: for the config, user folder and store of the command that gave it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from feeder_mixin.cli.main import make_parser
from feeder_mixin.commands import feeder_command, trade_command
from feeder_mixin.settings import load_settings
from feeder_mixin.stores.outbox import Outbox
from feeder_mixin.stores.sql import SqlStore
from tests.cli.conftest import FEEDER, ROOT, record_after

PACKAGE = ROOT / "feeder_mixin"


@pytest.fixture
def elsewhere(project):
    """Give a project whose config and user folder lie in a folder with a blank in its name."""
    userdir = project / "My Trading" / "ft"
    userdir.mkdir(parents=True)
    config = project / "My Trading" / "own feeder.json"
    (project / "config" / "feeder120b.json").rename(config)
    (project / "config" / "base.json").rename(config.parent / "base.json")
    private = project / "private.json"
    private.write_text(json.dumps({"feeder": {"train_days": 90}}))
    return ("--config", config, "--config", private, "--userdir", userdir)


def advised(text: str) -> list[list[str]]:
    """Return the words of every command line about a feeder that a text advises."""
    lines = re.findall(
        r"feeder \w[\w-]* --feeder (?:'[^']*'|[^\s'`;,)])+(?: (?:'[^']*'|[^\s'`;,)])+)*", text
    )
    return [shlex.split(line) for line in lines]


def outcome(name, elsewhere, project, feeder):
    """Run a command that advises something; return what it printed."""
    store = ("--store", f"sqlite:///{project / 'a store.sqlite'}")
    if name == "show of an empty store":
        return feeder("show", *FEEDER, *elsewhere, *store)[2]
    settings = load_settings("feeder120b", [Path(p) for p in elsewhere[1:4:2]], elsewhere[-1])
    if name == "show of waiting results":
        outbox = Outbox(settings.outbox_path)
        outbox.put(record_after(1))
        outbox.close()
        return feeder("show", *FEEDER, *elsewhere, *store)[2]
    if name == "report without anything":
        return feeder("report", *FEEDER, *elsewhere, *store)[2]
    if name == "doctor of a fresh folder":
        with SqlStore(project / "a store.sqlite") as target:
            target.write([record_after(1)])
        return feeder("doctor", *FEEDER, *elsewhere, *store)[1]
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    [
        "show of an empty store",
        "show of waiting results",
        "report without anything",
        "doctor of a fresh folder",
    ],
)
def test_advised_command_is_about_the_same_feeder_config_folder_and_store(
    name, elsewhere, project, feeder
):
    """What was printed is parsed by the real command line, and means what was asked about."""
    said = outcome(name, elsewhere, project, feeder)
    found = advised(said)
    assert found, said
    for words in found:
        arguments = make_parser().parse_args(words[1:])
        assert arguments.feeder == ["feeder120b"]
        assert [str(p) for p in arguments.config][:2] == [str(p) for p in elsewhere[1:4:2]]
        assert arguments.userdir == elsewhere[-1]
        if words[1] != "reload":
            assert arguments.store == f"sqlite:///{project / 'a store.sqlite'}"
        if words[1] in {"show", "settings", "history"}:
            assert feeder(*words[1:])[0] == 0


def test_advice_of_the_usual_place_is_short(project):
    """In the project's folder the id says it all."""
    settings = load_settings("feeder120b")
    assert feeder_command(settings, "show") == "feeder show --feeder feeder120b"
    assert feeder_command(settings, "flush", store="sqlite:////a b") == (
        "feeder flush --feeder feeder120b --store 'sqlite:////a b'"
    )
    assert trade_command(settings).startswith("freqtrade trade --config config/feeder120b.json ")


def test_init_prints_paths_that_can_be_pasted(project, feeder):
    """A folder with a blank is quoted."""
    userdir = project / "My Trading" / "ft"
    _, _, err = feeder("init", "--userdir", userdir)
    assert shlex.split(err.rsplit(": ", 1)[1])[-1] == str(userdir)
    userdir.mkdir(parents=True)
    code, out, _ = feeder("init", "--userdir", userdir)
    assert code == 0
    tune, trade, *units = (shlex.split(line) for line in out.splitlines() if line.startswith("  "))
    assert make_parser().parse_args(tune[1:]).userdir == userdir
    assert trade[-1] == str(userdir)
    assert all(f"{userdir}/systemd/*" in install for install in units)  # none without systemd


@pytest.mark.parametrize("command", ["show", "history", "export"])
def test_unknown_pair_is_a_usage_error_that_names_the_pairs(command, project, feeder, store):
    """A typing error gives no advice that can't work; a pair that left the whitelist is reached."""
    code, _, err = feeder(command, *FEEDER, "--pairs", "NOPE")
    assert code == 2
    assert "pair 'NOPE' is not in feeder120b: its pairs are BNB/USDT:USDT, " in err
    store.write([record_after(1, "GONE/USDT:USDT")])
    code, out, _ = feeder(command, *FEEDER, "--pairs", "GONE/USDT:USDT")
    assert code == 0
    assert "GONE" in out


def test_pair_on_the_blacklist_is_named(project, feeder, write_config):
    """By freqtrade's own reading of patterns: settings and doctor say it, where the bot is silent."""
    config = write_config(
        "own",
        exchange={
            "pair_whitelist": ["BTC/USDT:USDT", "ETH/USDT:USDT"],
            "pair_blacklist": ["(ETH|XRP)/.*"],
        },
    )
    assert load_settings("own", config).blacklisted == ("ETH/USDT:USDT",)
    _, out, _ = feeder("doctor", "--feeder", "own", "--json")
    (found,) = [f for f in json.loads(out) if f["check"] == "config"]
    assert found["state"] == "warn"
    assert (
        "exchange.pair_blacklist covers ETH/USDT:USDT: the bot leaves them out" in found["message"]
    )


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_no_module_makes_a_feeder_command_line_by_hand(path):
    """One function makes them: by hand, options in force were left out."""
    if path.name != "commands.py":
        assert not re.search(r"feeder [\w-]+ --feeder \{", path.read_text(encoding="utf-8"))
