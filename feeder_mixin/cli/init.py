"""``feeder init``: put strategy, FreqAI's model class, an example config and units into a user_data folder.

All come with the package, in `feeder_mixin/templates`: a wheel has no ``user_data``. All but the config
are links there to the one source in ``user_data`` or ``config/systemd``; building a wheel copies what they
lead to. Strategy and model class are not named ``.py``, because they are no modules of this package.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import sysconfig
from importlib.resources import files
from pathlib import Path
from typing import Final

from feeder_mixin.cli.common import make_console, print_json
from feeder_mixin.errors import FeederError, SettingsError

EXAMPLE_ID: Final = "feeder_example"
_TEMPLATES: Final = {
    "strategies/LightGBMSafetyFeederStrategy.py": "strategy.py.txt",
    "freqaimodels/OptunaLightGBMRegressor.py": "freqaimodel.py.txt",
    f"{EXAMPLE_ID}.json": "feeder_example.json",
}
"""File in the user_data folder -> its template."""
_UNITS: Final = ("feeder@.service", "feeder-optimize@.service", "feeder-optimize@.timer")
"""Of ``config/systemd``, as a clone has them: `_fit_unit` gives them the folder's own paths."""
_HAS_SYSTEMD: Final = sys.platform == "linux"

_INSTALL: Final = (
    "mkdir -p ~/.config/systemd/user && cp {units} ~/.config/systemd/user && "
    "systemctl --user enable --now feeder@{feeder_id} feeder-optimize@{feeder_id}.timer"
)


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this group's sub-commands."""
    init = commands.add_parser(
        "init",
        help="put the strategy, FreqAI's model class, an example config and systemd units into a freqtrade "
        "user_data folder",
    )
    init.add_argument(
        "--userdir", type=Path, required=True, metavar="DIR", help="freqtrade's user_data folder"
    )
    init.add_argument(
        "--force", action="store_true", help="replace files that are there and differ"
    )
    init.add_argument("--json", action="store_true", help="print one JSON document")
    init.add_argument("--verbose", action="store_true", help="log more")
    init.set_defaults(run=run_init)


def run_init(arguments: argparse.Namespace) -> int:
    """Write the missing files; write nothing if one would be overwritten."""
    userdir: Path = arguments.userdir
    if not userdir.is_dir():
        raise SettingsError(
            f"--userdir {userdir} is not a folder; create it with: "
            f"{shlex.join(['freqtrade', 'create-userdir', '--userdir', str(userdir)])}"
        )
    contents = _contents(userdir)
    states = {name: _state(userdir / name, text) for name, text in contents.items()}
    in_the_way = [str(userdir / name) for name, state in states.items() if state == "differs"]
    if in_the_way and not arguments.force:
        raise SettingsError(
            f"{', '.join(in_the_way)} would be overwritten; nothing was written. Move "
            "it away, or overwrite it with --force"
        )
    done = {"missing": "written", "differs": "replaced", "same": "unchanged"}
    for name, text in contents.items():
        if states[name] != "same":
            _write(userdir / name, text)
    if arguments.json:
        shown = {str(userdir / name): done[state] for name, state in states.items()}
        print_json({"userdir": str(userdir), "files": shown})
        return 0
    console = make_console()
    for name, state in states.items():
        console.print(f"{done[state]}: {userdir / name}", markup=False)
    config = userdir / f"{EXAMPLE_ID}.json"
    places = ["--config", str(config), "--userdir", str(userdir)]
    steps = [
        ["feeder", "optimize", "--feeder", EXAMPLE_ID, *places],
        ["freqtrade", "trade", *places],
    ]
    lines = [shlex.join(step) for step in steps]
    if _HAS_SYSTEMD:
        units = f"{shlex.quote(str(userdir / 'systemd'))}/*"
        lines.append(_INSTALL.format(units=units, feeder_id=EXAMPLE_ID))
    both = ", or let systemd do both" if _HAS_SYSTEMD else ""
    console.print(f"next, tune its pairs and start the bot (dry run){both}:", markup=False)
    for line in lines:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    return 0


def _contents(userdir: Path) -> dict[str, str]:
    """Return name -> text of the files as they belong into `userdir`."""
    folder = files("feeder_mixin") / "templates"
    texts = {}
    for name, template in _TEMPLATES.items():
        text = (folder / template).read_text(encoding="utf-8")
        for mark, value in (
            ("@USERDIR@", userdir.absolute().as_posix()),
            ("@FOLDER@", userdir.absolute().name),
        ):
            text = text.replace(mark, json.dumps(value)[1:-1])
        texts[name] = text
    for name in _UNITS if _HAS_SYSTEMD else ():
        unit = (folder / name).read_text(encoding="utf-8")
        texts[f"systemd/{name}"] = _fit_unit(unit, userdir.absolute())
    return texts


def _fit_unit(unit: str, userdir: Path) -> str:
    """Return a unit of a clone with the paths of `userdir` and of this environment, and who wrote it."""
    if re.search(r"[%$\"'\\\n]", str(userdir)):
        raise SettingsError(
            f"--userdir {userdir} can't stand in a systemd unit: expected a path without quotes, '%', '$' and "
            "backslashes; nothing was written. Rename the folder"
        )
    scripts = Path(sysconfig.get_path("scripts"))
    places = f"--config {_word(userdir / '%i.json')} --userdir {_word(userdir)}"
    for of_clone, here in (
        (
            r"[^\s=]+/freqtrade trade --config \S+ --strategy \w+",
            f"{scripts}/freqtrade trade {places}",
        ),
        (r"[^\s=]+/feeder optimize --feeder %i", f"{scripts}/feeder optimize --feeder %i {places}"),
        (r"WorkingDirectory=.*", f"WorkingDirectory={userdir.parent}"),
        (r"ReadWritePaths=.*", f"ReadWritePaths={_word(userdir)}"),
    ):
        unit = re.sub(of_clone, here, unit)
    _about_the_clone, _, rest = unit.partition("\n\n")
    return f"# Written by `feeder init` for {userdir}: the instance ID runs ID.json of that folder.\n\n{rest}"


def _word(path: Path) -> str:
    """Return a path as one word of a unit, within a shell's line as well."""
    return str(path) if re.fullmatch(r"[\w./%@+-]+", str(path)) else f"'{path}'"


def _state(path: Path, text: str) -> str:
    try:
        return "same" if path.read_bytes() == text.encode() else "differs"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        raise FeederError(f"{path} can't be read: {error.strerror or error}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise FeederError(f"{path} can't be written: {error.strerror or error}") from error
