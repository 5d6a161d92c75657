"""The README says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from feeder_mixin import settings
from feeder_mixin.doctor.run import CHECKS
from feeder_mixin.live.state import metrics
from feeder_mixin.schema import METRICS, PARAMETERS
from tests.command_line import OPTION, command_parsers, options_of

ROOT = Path(__file__).parents[1]
COMMANDS = command_parsers()
README = (ROOT / "README.md").read_text(encoding="utf-8")
FREQTRADE_OPTIONS = (
    "--strategy",
    "--strategy-path",
    "--logfile",
    "--timerange",
    "--disable-param-export",
)


def test_readme_opens_with_the_two_commands():
    """The first block is what a newcomer pastes."""
    first = README.split("```bash\n")[1].split("```")[0].splitlines()
    assert first == ["make demo", "make test"]


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.name)
def test_readme_parameter_row_is_the_schemas(parameter):
    """Range, default and description are not written twice without a check."""
    log = " (log)" if parameter.is_log else ""
    row = (
        f"| `{parameter.name}` | {parameter.low:g} - {parameter.high:g}{log} "
        f"| {parameter.default:g} | {parameter.description} |"
    )
    assert row in README


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_readme_metric_row_is_the_schemas(metric):
    """Every metric is described where users look."""
    assert f"| `{metric.name}` | {metric.unit} | {metric.description} |" in README


@pytest.mark.parametrize("metric", metrics.METRICS, ids=lambda m: m.name)
def test_readme_row_of_a_bots_metric_is_the_codes(metric):
    """Name, labels and meaning as Prometheus gets them."""
    assert f"| `{metric.name}` | {', '.join(metric.labels) or '-'} | {metric.meaning} |" in README


@pytest.mark.parametrize("key", settings._FEEDER_KEYS)
def test_readme_names_every_key_of_the_feeder_block(key):
    """A key without a word in the README is a key nobody finds."""
    assert f"| `{key}` |" in README


def test_readme_table_names_every_check_of_the_doctor():
    """A check that fails at night is looked up in the morning."""
    table = README.split("\n## Doctor\n")[1].split("\n## ")[0]
    for name in (*(check.name for check in CHECKS), "neighbours"):
        assert re.search(rf"^\|[^|]*`{name}`[^|]*\|", table, re.MULTILINE), name


def test_readme_strategy_of_ones_own_is_the_one_that_is_tested():
    """What a user copies ran in a freqtrade of its own (tests/e2e/test_wheel.py)."""
    from tests.e2e.test_wheel import OWN_STRATEGY

    assert f"```python\n{OWN_STRATEGY}```" in README


def test_readme_commands_take_the_options_that_it_gives_them():
    """What a reader pastes is not refused."""
    for name, arguments in re.findall(r"\bfeeder ([a-z-]+)([^`\n&|]*)", README):
        if name in COMMANDS:
            unknown = set(OPTION.findall(arguments)) - options_of(COMMANDS[name])
            assert not unknown, f"feeder {name}{arguments}"


def test_readme_options_exist():
    """No option is promised that neither a command, nor a benchmark, nor freqtrade knows."""
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")]
    known = {*FREQTRADE_OPTIONS, *re.findall(r'add_argument\(\s*"(--[a-z-]+)"', "".join(scripts))}
    known.update(*map(options_of, COMMANDS.values()))
    assert set(OPTION.findall(README)) <= known


def test_six_feeders_have_the_pairs_and_sides_that_the_readme_names():
    """The configs are the README's table."""
    pairs = dict(re.findall(r"([abc]) = ([A-Z ]+?)(?:,|\.| `)", README))
    for number, side in ((75, "long"), (120, "short")):
        for letter, names in pairs.items():
            feeder = settings.load_settings(
                f"feeder{number}{letter}", ROOT / "config" / f"feeder{number}{letter}.json"
            )
            assert feeder.side == side
            assert list(feeder.pairs) == [f"{name}/USDT:USDT" for name in names.split()]
    assert set(pairs) == set("abc")


def test_ports_and_databases_of_the_six_feeders_differ():
    """Six bots on one host do not meet."""
    from freqtrade.configuration.load_config import load_from_files

    configs = [load_from_files([str(path)]) for path in (ROOT / "config").glob("feeder*.json")]
    assert len({c["api_server"]["listen_port"] for c in configs}) == 6
    assert len({c["db_url"] for c in configs}) == 6
