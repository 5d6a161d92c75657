"""What the pages say of files, commands, options and tables is what the code does."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

from docs import generate
from feeder_mixin import settings
from feeder_mixin.cli.main import EXIT_CODES, make_parser
from feeder_mixin.doctor.run import CHECKS
from feeder_mixin.live.state import metrics
from feeder_mixin.schema import METRICS, PARAMETERS
from tests.command_line import OPTION, command_parsers, options_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "README.md"])
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
COMMANDS = command_parsers()
OPTIONS_OF_OTHERS = {
    *("--strategy", "--logfile", "--timerange", "--disable-param-export"),  # freqtrade
    *("--freqaimodel", "--cache"),  # freqtrade
    "--user",  # systemctl
    "--no-deps",  # pip
    *("--nthreads", "--nworkers", "--worker-port", "--memory-limit"),  # dask worker
    *("--signal", "--rm", "--entrypoint"),  # docker
    *("--no-dashboard", "--protocol"),  # dask scheduler, dask worker
}
MADE_AT_WORK = (
    "user_data/",
    "models/",
    "backtest_models/",
    "rehearsal/",
    "build/",
    "dist/",
    "~/",
    "psycopg/",
)
"""How paths begin that no clone has: made by a command, or the reader's own."""
_MARK = r"(?:\n<!-- (tested|not run): (.+?) -->)?"
BLOCK = re.compile(rf"^```bash\n(.*?)^```\n{_MARK}", re.DOTALL | re.MULTILINE)
TABLE = re.compile(rf"^\|(?:.*\| command| target \|.*) \|\n((?:^\|.*\n)+){_MARK}", re.MULTILINE)


def text_of(page: Path) -> str:
    """Return a page as it is written."""
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    """Return a page's path as tests show it."""
    return str(page.relative_to(ROOT))


@cache
def known_options() -> set[str]:
    """Return every option that a page may name."""
    scripts = "".join(map(text_of, (ROOT / "benchmarks").glob("*.py")))
    of_scripts = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', scripts)
    return OPTIONS_OF_OTHERS.union(of_scripts, *map(options_of, COMMANDS.values()))


def commands_of(page: Path) -> list[tuple[str, str, str]]:
    """Return what a page gives to paste: command lines, kind of mark behind them, what it says."""
    text = text_of(page)
    tables = [
        ("\n".join(re.findall(r"`((?:feeder|make) .+?)`", rows)), mark, what)
        for rows, mark, what in TABLE.findall(text)
    ]
    return [*BLOCK.findall(text), *tables]


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@every_page
def test_page_names_only_files_that_exist(page):
    """A reader who follows a path or a link arrives, in a clone that has nothing beside it."""
    text = text_of(page)
    for name in set(re.findall(r"`((?![A-Z]+/)(?:[\w.~-]+/)+[\w.-]*)`", text)):
        exists = any((base / name).exists() for base in (ROOT, ROOT / "feeder_mixin"))
        assert (exists and not name.startswith("../")) or name.startswith(MADE_AT_WORK), name
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


@every_page
def test_every_block_of_commands_names_its_tests_or_why_there_is_none(page):
    """What a reader pastes has been run, or the page's source says why not."""
    for commands, mark, what in commands_of(page):
        assert mark, commands
        if mark == "tested":
            tests = [ROOT / name for name in what.split()]
            assert all(path.is_file() for path in tests), what
            said = "".join(map(text_of, tests))
            for verb in COMMANDS.keys() & set(re.findall(r"\bfeeder ([a-z-]+) ", commands)):
                assert verb in said, f"feeder {verb}: {what}"
            for verb in re.findall(r"\bfreqtrade ([a-z-]+) ", commands):
                assert verb in said or f"{verb}(" in said, f"freqtrade {verb}: {what}"


@every_page
def test_commands_stand_in_blocks_that_are_looked_at(page):
    """A block in another spelling would be pasted unseen by the tests here."""
    fences = re.findall(r"^( *)```(\w*)", text_of(page), re.MULTILINE)
    for indent, language in fences:
        assert language not in {"sh", "shell", "console", "zsh"}, language
        assert not (indent and language == "bash"), "indented"


@every_page
def test_command_lines_of_a_page_are_what_feeder_takes(page):
    """What a reader pastes is not refused."""
    for commands, _, _ in commands_of(page):
        for line in commands.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|[>|]", line):
                words = shlex.split(part, comments=True)
                if len(words) > 1 and words[0].split("/")[-1] == "feeder":
                    try:
                        COMMANDS[words[1]].parse_args(words[2:])
                    except SystemExit:
                        pytest.fail(f"{part} is refused")


@every_page
def test_commands_within_a_sentence_take_the_options_that_the_page_gives_them(page):
    """In running text a command is shortened, but its options are real."""
    for name, arguments in re.findall(r"\bfeeder ([a-z-]+)([^`\n&|]*)", text_of(page)):
        if name in COMMANDS:
            unknown = set(OPTION.findall(arguments)) - options_of(COMMANDS[name])
            assert not unknown, f"feeder {name}{arguments}"


@every_page
def test_options_of_a_page_exist(page):
    """No option is promised that neither a command, nor a benchmark, nor a program beside it knows."""
    shown = re.findall(r"```.*?```|`[^`\n]+`", text_of(page), re.DOTALL)
    assert set(OPTION.findall("\n".join(shown))) <= known_options()


@every_page
def test_make_targets_of_a_page_exist(page):
    """`make` knows every target that a page names."""
    known = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text_of(page), re.MULTILINE)) <= known


def test_every_generated_part_stands_on_a_page_and_no_page_asks_for_another():
    """What is made is shown, and what is asked for is there."""
    asked = [name for page in PAGES for name in generate.GENERATED.findall(text_of(page))]
    assert sorted(asked) == sorted(generate.PARTS)


def rows_of(part: str) -> list[str]:
    """Return the first cell of each row of a generated table."""
    return [line.split(" | ")[0].strip("|` ") for line in generate.PARTS[part]().splitlines()[2:]]


def test_reference_tables_have_a_row_for_each_thing_of_the_code():
    """Nothing that a user meets is left out."""
    assert rows_of("parameters") == [parameter.name for parameter in PARAMETERS]
    assert rows_of("record-fields") == [metric.name for metric in METRICS]
    assert rows_of("bot-metrics") == [metric.name for metric in metrics.METRICS]
    assert rows_of("settings") == list(settings.FEEDER_KEYS)
    assert rows_of("feeders") == [
        f"feeder{n}" for n in ("120a", "120b", "120c", "75a", "75b", "75c")
    ]


def test_commands_page_has_every_command_with_every_option():
    """The page says what `--help` says."""
    page = generate.PARTS["commands"]()
    sections = dict(
        zip(
            *[iter(re.split(r"^## feeder ([a-z-]+)$", page, flags=re.MULTILINE)[1:])] * 2,
            strict=True,
        )
    )
    assert list(sections) == list(COMMANDS)
    for name, section in sections.items():
        listed = re.findall(r"^\| `(--[a-z0-9-]+)", section, re.MULTILINE)
        options = [
            max(action.option_strings, default="", key=len) for action in COMMANDS[name]._actions
        ]
        assert ["--help", *listed] == [option for option in options if option]


def test_generated_text_shows_help_literally():
    """A name with underscores or a bar stays what it is."""
    table = generate.table(["a"], [[generate.literal("user_data <x> | *")]])
    assert table.splitlines()[2] == r"| user\_data \<x\> \| \* |"


def test_fixed_log_lines_are_written_by_the_code():
    """A script that looks for the words finds them."""
    log = text_of(DOCS / "reference" / "log.md")
    lines = [re.sub(r"%[a-z]", "%s", line) for line in rows_of("log-lines")]
    fixed = re.findall(r"^\| `(.+?)` \|", log, re.MULTILINE)
    assert len(fixed) > 5
    for words in fixed:
        pattern = re.sub(r"\b(PAIR|N)\b", "%s", words)
        assert any(line.startswith(pattern) for line in lines), words


def test_environment_page_names_every_variable_that_the_package_reads():
    """A variable without a word is one nobody finds."""
    sources = "".join(map(text_of, (ROOT / "feeder_mixin").rglob("*.py")))
    read = set(re.findall(r'"(FEEDER_[A-Z_]+)"', sources))
    page = text_of(DOCS / "reference" / "environment.md")
    assert set(re.findall(r"^\| `(FEEDER_[A-Z_]+)` \|", page, re.MULTILINE)) == read


def test_help_and_page_list_the_exit_codes():
    """A script's author finds what a code means."""
    assert rows_of("exit-codes") == [str(code) for code in EXIT_CODES]
    shown = " ".join(make_parser().format_help().split())
    for code, said in EXIT_CODES.items():
        assert f"{code} {said}" in shown


def test_predictions_page_explains_every_column_that_a_bot_adds():
    """Names in the page and in the mixin's code are the same."""
    source = text_of(ROOT / "feeder_mixin" / "mixin.py")
    added = set(re.findall(r'^ +"(\w+)": (?:columns|close)', source, re.MULTILINE))
    assert {"safety_q", "safe"} <= added
    page = text_of(DOCS / "use" / "predictions.md")
    table = "".join(line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", table)) == added


def test_doctors_page_names_every_check():
    """A check that fails at night is looked up in the morning."""
    page = text_of(DOCS / "operate" / "doctor.md")
    for name in (*(check.name for check in CHECKS), "neighbours"):
        assert re.search(rf"^\|[^|]*`{name}`[^|]*\|", page, re.MULTILINE), name


def test_strategy_of_ones_own_is_the_one_that_is_tested():
    """What a user copies ran in a freqtrade of its own (tests/hosts/test_hosts.py)."""
    from tests.hosts.test_hosts import OWN_STRATEGY

    page = text_of(DOCS / "start" / "own-freqtrade.md")
    assert f"```python\n{OWN_STRATEGY}```" in page


def test_site_has_every_page_in_its_navigation():
    """A page that nobody can reach is not there."""
    site = yaml.safe_load(text_of(ROOT / "mkdocs.yml"))
    assert sorted(pages_of(site["nav"])) == sorted(
        str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")
    )


def pages_of(entry: object) -> list[str]:
    """Return the pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in pages_of(part)]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda p: p.stem)
def test_decision_has_its_four_headings_and_a_row_in_the_index(page):
    """What was chosen, why, at what cost, and what would change it."""
    text = text_of(page)
    assert re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE) == [
        "Chosen",
        "Why",
        "Cost",
        "What would change it",
    ]
    title = text.splitlines()[0].removeprefix("# ").split(". ", 1)[1]
    index = text_of(page.parent / "README.md")
    assert f"[{title}]({page.name})" in index
