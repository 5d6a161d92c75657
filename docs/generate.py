"""Tables of the documentation that are made from the code when the site is built.

MkDocs calls `on_page_markdown` for each page (``hooks`` in ``mkdocs.yml``). A page holds a line such as
``<!-- generated: settings -->``; the text of that name takes its place. So an option, a field or a
metric is described once, where the program itself says it. ``<!-- included: README.md -->`` stands for a
file of the repository's root.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from feeder_mixin import settings
from feeder_mixin.cli.main import EXIT_CODES, make_parser
from feeder_mixin.live.state import metrics
from feeder_mixin.schema import METRICS, PARAMETERS

ROOT: Final = Path(__file__).parents[1]
_PACKAGE: Final = ROOT / "feeder_mixin"
GENERATED: Final = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)
_INCLUDED: Final = re.compile(r"^<!-- included: ([A-Z]+\.md) -->$", re.MULTILINE)
LINKS_FROM_ROOT: Final = {
    "docs/": "",
    "CONTRIBUTING.md": "develop/contributing.md",
    "CHANGELOG.md": "develop/changelog.md",
}
"""How a link of the root begins -> how it begins below docs/."""
_LEVELS: Final = ("info", "warning", "error", "exception")


class PageFile(Protocol):
    """What is asked of MkDocs' file of a page."""

    src_uri: str


class Page(Protocol):
    """What is asked of MkDocs' page."""

    file: PageFile


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Return a page with its generated and included parts; an unknown name ends the build."""
    up = "../" * page.file.src_uri.count("/")
    with_files = _INCLUDED.sub(lambda found: included(found[1], up), markdown)
    return GENERATED.sub(lambda found: PARTS[found[1]](), with_files)


def included(name: str, up: str) -> str:
    """Return a file of the root; links that hold there hold on a page that is `up` below docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for there, here in LINKS_FROM_ROOT.items():
        text = text.replace(f"]({there}", f"]({up}{here}")
    return text


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    r"""Return a Markdown table.

    Examples
    --------
    >>> print(table(["a", "b"], [["1", "x | y"]]))
    | a | b |
    |---|---|
    | 1 | x \| y |
    """
    heads = list(heads)
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def command_parsers() -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return sub-command -> what ``feeder --help`` says of it, and its parser."""
    (commands,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    said = {action.dest: action.help or "" for action in commands._choices_actions}
    return {name: (said[name], parser) for name, parser in commands.choices.items()}


def commands() -> str:
    """Return a section for every sub-command: what it does, its usage and its options."""
    return "\n\n".join(_command(name, *rest) for name, rest in command_parsers().items())


def _command(name: str, said: str, parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=78)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    usage = formatter.format_help().rstrip()
    rows = [
        (_spelling(formatter, action), literal(formatter._expand_help(action)))
        for action in parser._actions
        if action.help not in (None, argparse.SUPPRESS) and action.dest != "help"
    ]
    about = literal(parser.description or f"{said[:1].upper()}{said[1:]}.")
    return f"## feeder {name}\n\n{about}\n\n```text\n{usage}\n```\n\n{table(['option', 'meaning'], rows)}"


def _spelling(formatter: argparse.HelpFormatter, action: argparse.Action) -> str:
    return f"`{formatter._format_action_invocation(action).split(', ')[0]}`"


def literal(text: str) -> str:
    """Return help text as Markdown shows it literally."""
    return re.sub(r"([\\`*_<>{}#])", r"\\\1", text)


def parameters() -> str:
    """Return the ten parameters with range, default and meaning."""
    return table(
        ("parameter", "range", "default", "meaning"),
        (
            (
                f"`{p.name}`",
                f"{p.low:g} - {p.high:g}{' (log)' if p.is_log else ''}",
                f"{p.default:g}",
                p.description,
            )
            for p in PARAMETERS
        ),
    )


def record_fields() -> str:
    """Return the fields of a record beside the parameters."""
    return table(
        ("field", "unit", "meaning"), ((f"`{m.name}`", m.unit, m.description) for m in METRICS)
    )


def bot_metrics() -> str:
    """Return what ``feeder metrics`` gives."""
    return table(
        ("metric", "kind", "labels", "meaning"),
        ((f"`{m.name}`", m.kind, ", ".join(m.labels) or "-", m.meaning) for m in metrics.METRICS),
    )


def feeder_keys() -> str:
    """Return the keys of the ``feeder`` block."""
    return table(
        ("key in `feeder`", "default", "meaning"),
        (
            (f"`{name}`", literal(key.default), literal(key.meaning))
            for name, key in settings.FEEDER_KEYS.items()
        ),
    )


def exit_codes() -> str:
    """Return what the exit codes of ``feeder`` mean."""
    return table(("code", "meaning"), ((str(c), said) for c, said in EXIT_CODES.items()))


def feeders() -> str:
    """Return the feeders that come along, with their pairs."""
    rows = []
    for path in sorted((ROOT / "config").glob("feeder*.json")):
        feeder = settings.load_settings(path.stem, path)
        rows.append((feeder.feeder_id, feeder.side, ", ".join(feeder.pairs)))
    return table(("feeder", "side", "pairs"), rows)


def log_lines() -> str:
    """Return every line that a bot logs, by module."""
    rows = []
    for path in [_PACKAGE / "mixin.py", *sorted((_PACKAGE / "live").rglob("*.py"))]:
        for level, text in logged_by(path):
            rows.append((f"`{text}`", level, f"`{path.relative_to(_PACKAGE)}`"))
    return table(("line", "level", "from"), rows)


def logged_by(path: Path) -> Iterator[tuple[str, str]]:
    """Return level and text of each log call of a module whose text says more than a value."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name("logger"), attr=level),
                args=[ast.Constant(str(text)), *_],
            ) if level in _LEVELS and text != "%s":
                yield level.replace("exception", "error").upper(), text


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "bot-metrics": bot_metrics,
    "commands": commands,
    "exit-codes": exit_codes,
    "feeders": feeders,
    "log-lines": log_lines,
    "parameters": parameters,
    "record-fields": record_fields,
    "settings": feeder_keys,
}
"""Name in a page -> what makes the text."""
