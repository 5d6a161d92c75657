"""A project folder as a user has it: configs and user_data, no candles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from feeder_mixin.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return an empty project folder with the real configs, made the working directory."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "user_data").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("FEEDER_STORE_URL", "FEEDER_STORE_TOKEN", "FEEDER_STORE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def feeder(capsys):
    """Return a function that runs a command and returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def write_config(project):
    """Return a function that writes a feeder's config with changes."""

    def write(name: str, **changes: object) -> Path:
        config = {
            "add_config_files": ["base.json"],
            "bot_name": name,
            "feeder": {"side": "long"},
            "exchange": {"pair_whitelist": ["BTC/USDT:USDT", "ETH/USDT:USDT"]},
            **changes,
        }
        path = project / "config" / f"{name}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    return write
