"""The unit files: systemd takes them, and they name commands, options and files that exist."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from feeder_mixin.cli.main import make_parser
from tests.units import verify_units

ROOT = Path(__file__).parents[1]
UNITS = sorted((ROOT / "config" / "systemd").iterdir())
PLACE = "/opt/feeder_mixin"


class _Unit(configparser.ConfigParser):
    """A unit file; of repeated keys the last stands, `all` gives each."""

    def __init__(self, path: Path) -> None:
        super().__init__(interpolation=None, strict=False, comment_prefixes=("#",), delimiters="=")
        self.optionxform = str  # type: ignore[assignment, method-assign]
        self.text = path.read_text(encoding="utf-8")
        self.read_string(self.text)

    def all(self, key: str) -> list[str]:
        return re.findall(rf"^{key}=(.*)$", self.text, re.MULTILINE)


BOT = _Unit(ROOT / "config" / "systemd" / "feeder@.service")
OPTIMIZE = _Unit(ROOT / "config" / "systemd" / "feeder-optimize@.service")
METRICS = _Unit(ROOT / "config" / "systemd" / "feeder-metrics.service")
TIMER = _Unit(ROOT / "config" / "systemd" / "feeder-optimize@.timer")


@pytest.mark.parametrize("manager", ["--system", "--user"])
@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_unit_is_taken_by_systemd_without_a_word(path, manager, tmp_path):
    """Every key, value and specifier is known to both managers."""
    place = tmp_path / "place"
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "feeder").symlink_to("/bin/true")
    (tmp_path / "run").mkdir(mode=0o700)
    for unit in UNITS:
        instance = tmp_path / unit.name.replace("@.", "@feeder120b.")
        instance.write_text(unit.read_text(encoding="utf-8").replace(PLACE, str(place)))
    unit = tmp_path / path.name.replace("@.", "@feeder120b.")
    assert verify_units([unit], manager, tmp_path / "run") == ""


def test_bot_unit_runs_freqtrade_on_the_instances_config():
    """The same command as `make trade`, which ignores SIGUSR1 until the bot's handler stands."""
    shell, option, script = shlex.split(BOT["Service"]["ExecStart"])
    assert (shell, option) == ("/bin/sh", "-c")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"@(trap '' USR1; exec .*)", makefile)
    made = recipe.replace("$(BIN)", ".venv/bin").replace("$(FEEDER)", "%i").replace(" $(ARGS)", "")
    assert script == made
    assert (ROOT / "config" / "feeder120b.json").is_file()
    strategy = script.split("--strategy ")[1]
    assert (ROOT / "user_data" / "strategies" / f"{strategy}.py").is_file()


def test_bot_units_trade_options_are_freqtrades():
    """The host's own parser takes the command."""
    from freqtrade.commands import Arguments

    script = shlex.split(BOT["Service"]["ExecStart"])[2]
    words = shlex.split(script.split("freqtrade ")[1].replace("%i", "feeder120b"))
    parsed = Arguments(words).get_parsed_arg()
    assert parsed["command"] == "trade"
    assert parsed["config"] == ["config/feeder120b.json"]


def test_bot_unit_survives_a_reload_during_its_start():
    """A process started by this shell line ignores SIGUSR1; without it, it would end."""
    script = shlex.split(BOT["Service"]["ExecStart"])[2]
    start = script[: script.index("exec ")]
    shown = subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", f"{start}exec grep SigIgn /proc/self/status"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert int(shown.split()[1], 16) & 1 << (10 - 1)


def test_bot_unit_reloads_by_sigusr1_and_stops_by_sigterm():
    """What the bot listens to."""
    assert shlex.split(BOT["Service"]["ExecReload"]) == ["/bin/kill", "-USR1", "$MAINPID"]
    assert BOT["Service"]["KillSignal"] == "SIGTERM"
    assert BOT["Service"]["Restart"] == "on-failure"


def test_optimize_unit_runs_an_existing_command():
    """Our own parser takes it, and it reloads the bot."""
    program, *words = shlex.split(OPTIMIZE["Service"]["ExecStart"].replace("%i", "feeder120b"))
    assert program == f"{PLACE}/.venv/bin/feeder"
    parsed = make_parser().parse_args(words)
    assert parsed.command == "optimize"
    assert parsed.feeder == ["feeder120b"]
    assert parsed.reload
    assert OPTIMIZE["Service"]["Type"] == "oneshot"
    assert int(OPTIMIZE["Service"]["Nice"]) > 0


def test_metrics_unit_serves_all_feeders_and_is_given_no_secret():
    """Our own parser takes it; it reads state folders only, and writes nowhere."""
    program, *words = shlex.split(METRICS["Service"]["ExecStart"])
    assert program == f"{PLACE}/.venv/bin/feeder"
    parsed = make_parser().parse_args(words)
    assert (parsed.command, parsed.feeder, parsed.to_store) == ("metrics", ["all"], False)
    assert parsed.host is None  # the loopback
    assert not METRICS.all("EnvironmentFile")
    assert not METRICS.all("ReadWritePaths")
    assert METRICS["Service"]["ProtectSystem"] == "strict"


def test_timer_starts_nightly_and_makes_up_for_a_missed_night():
    """Its unit is the one of its own name."""
    assert TIMER["Timer"]["OnCalendar"] == "*-*-* 02:10:00 UTC"
    assert TIMER["Timer"]["Persistent"] == "yes"
    assert "Unit" not in TIMER["Timer"]


@pytest.mark.parametrize("unit", [BOT, OPTIMIZE], ids=["bot", "optimize"])
def test_services_write_in_user_data_only_and_read_store_and_token_from_files(unit):
    """No secret stands in a unit; the state folder and the store are in user_data."""
    service = unit["Service"]
    assert service["ProtectSystem"] == "strict"
    assert service["ReadWritePaths"] == f"{PLACE}/user_data"
    assert service["WorkingDirectory"] == PLACE
    assert unit.all("EnvironmentFile") == ["-%E/feeder/feeder.env", "-%E/feeder/%i.env"]
    assert "FEEDER_STORE_TOKEN=" not in unit.text
