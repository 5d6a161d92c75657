"""`feeder init`: the strategy and an example config, never over what is there; and the wheel has both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from feeder_mixin.cli import init
from feeder_mixin.settings import load_settings
from tests.hosts.environment import copy_sources
from tests.units import verify_units

ROOT = Path(__file__).parents[2]
STRATEGY = Path("strategies", "LightGBMSafetyFeederStrategy.py")
MODEL = Path("freqaimodels", "OptunaLightGBMRegressor.py")
TEMPLATES = ROOT / "feeder_mixin" / "templates"
LINKS = sorted(path for path in TEMPLATES.iterdir() if path.name != "feeder_example.json")
SOURCE = (ROOT / "user_data" / STRATEGY).read_bytes()


@pytest.fixture
def userdir(tmp_path, monkeypatch):
    """Return a user's own freqtrade folder, beside which the project is not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data").mkdir()
    return tmp_path / "my data"


def test_init_puts_the_one_strategy_and_an_example_config(userdir, feeder):
    """Word by word the strategy of the repository."""
    code, out, _ = feeder("init", "--userdir", "my data")
    assert code == 0
    assert (userdir / STRATEGY).read_bytes() == SOURCE
    assert (userdir / MODEL).read_bytes() == (ROOT / "user_data" / MODEL).read_bytes()
    assert (userdir / "feeder_example.json").is_file()
    assert "written: my data/feeder_example.json" in out
    assert "freqtrade trade --config 'my data/feeder_example.json' --userdir 'my data'" in out


def test_init_example_is_a_feeder_that_stays_in_its_folder(userdir, feeder):
    """Trades and parameters belong into that user_data."""
    feeder("init", "--userdir", "my data")
    settings = load_settings("feeder_example", userdir / "feeder_example.json", userdir)
    assert settings.side == "long"
    assert settings.store_url == "sqlite:///my data/feeder_params.sqlite"
    assert settings.root / "my data" == userdir


def test_init_example_is_a_config_that_freqtrade_takes(userdir, feeder):
    """Its schema, its consistency checks, dry run, and a database in that folder."""
    from freqtrade.configuration import Configuration, validate_config_consistency
    from freqtrade.enums import RunMode

    feeder("init", "--userdir", "my data")
    arguments = {"config": ["my data/feeder_example.json"], "user_data_dir": "my data"}
    config = Configuration(arguments, RunMode.DRY_RUN).get_config()
    of_the_strategy = {"stoploss": -0.1, "minimal_roi": {}}
    validate_config_consistency(config | of_the_strategy)
    assert config["dry_run"] is True
    assert config["strategy"] == STRATEGY.stem
    # From wherever the bot is started, its open trades are there.
    assert config["db_url"] == f"sqlite:///{userdir}/feeder_example.trades.sqlite"
    assert config["api_server"]["enabled"] is False
    assert config["pairlists"] == [{"method": "StaticPairList"}]


def test_init_again_changes_nothing_and_says_so(userdir, feeder):
    """Identical files are fine."""
    feeder("init", "--userdir", userdir)
    before = {p: p.stat().st_mtime_ns for p in userdir.rglob("*")}
    code, out, _ = feeder("init", "--userdir", userdir, "--json")
    assert code == 0
    assert set(json.loads(out)["files"].values()) == {"unchanged"}
    assert {p: p.stat().st_mtime_ns for p in userdir.rglob("*")} == before


def test_init_over_other_content_exits_2_names_it_and_writes_nothing(userdir, feeder):
    """A user's own changes are not lost, and no half is written."""
    (userdir / "feeder_example.json").write_text("{}")
    code, out, err = feeder("init", "--userdir", userdir)
    assert code == 2
    assert not out
    assert str(userdir / "feeder_example.json") in err
    assert STRATEGY.name not in err
    assert (userdir / "feeder_example.json").read_text() == "{}"
    assert not (userdir / "strategies").exists()


def test_init_force_replaces_and_says_so(userdir, feeder):
    """Only when asked."""
    (userdir / "feeder_example.json").write_text("{}")
    code, out, _ = feeder("init", "--userdir", userdir, "--force", "--json")
    assert code == 0
    files = json.loads(out)["files"]
    assert files[str(userdir / "feeder_example.json")] == "replaced"
    assert files[str(userdir / STRATEGY)] == "written"
    assert load_settings("feeder_example", userdir / "feeder_example.json", userdir)


def test_init_missing_folder_exits_2_and_says_how_to_make_it(tmp_path, feeder):
    """A typing error must not make folders."""
    code, _, err = feeder("init", "--userdir", tmp_path / "nowhere")
    assert code == 2
    assert "freqtrade create-userdir --userdir" in err
    assert not (tmp_path / "nowhere").exists()


def test_init_unwritable_folder_exits_1_by_name(userdir, feeder):
    """A file where the folder should be."""
    (userdir / "strategies").write_text("")
    code, _, err = feeder("init", "--userdir", userdir)
    assert code == 1
    assert str(userdir / STRATEGY) in err


def test_init_writes_units_that_run_the_folders_own_feeders(userdir, feeder):
    """The bot and a nightly tuning, from this environment, in this folder and nowhere else."""
    _, out, _ = feeder("init", "--userdir", "my data")
    scripts = Path(sys.executable).parent
    places = f"--config '{userdir}/%i.json' --userdir '{userdir}'"
    bot = (userdir / "systemd" / "feeder@.service").read_text(encoding="utf-8")
    tuner = (userdir / "systemd" / "feeder-optimize@.service").read_text(encoding="utf-8")
    assert f"trap '' USR1; exec {scripts}/freqtrade trade {places}\"\n" in bot
    assert f"ExecStart={scripts}/feeder optimize --feeder %i {places} --reload\n" in tuner
    for unit in (bot, tuner):
        assert f"\nWorkingDirectory={userdir.parent}\n" in unit
        assert f"\nReadWritePaths='{userdir}'\n" in unit
        assert "/opt/" not in unit
    assert len(out.partition("\nnext, ")[2].splitlines()) == 1 + 3
    assert "cp 'my data/systemd'/* ~/.config/systemd/user && " in out
    assert " feeder@feeder_example feeder-optimize@feeder_example.timer" in out


@pytest.mark.parametrize("manager", ["--system", "--user"])
def test_init_writes_units_that_systemd_takes_without_a_word(userdir, feeder, manager, tmp_path):
    """A folder with a space in its name is one word to systemd and to the shell within."""
    feeder("init", "--userdir", userdir)
    (tmp_path / "run").mkdir(mode=0o700)
    units = []
    for unit in (userdir / "systemd").iterdir():
        units.append(tmp_path / unit.name.replace("@.", "@feeder_example."))
        units[-1].write_text(unit.read_text(encoding="utf-8"), encoding="utf-8")
    assert verify_units(units, manager, tmp_path / "run") == ""


def test_init_refuses_a_folder_that_no_unit_can_name(tmp_path, feeder):
    """A half of a path would run something else."""
    userdir = tmp_path / "50%"
    userdir.mkdir()
    code, _, err = feeder("init", "--userdir", userdir)
    assert code == 2
    assert "can't stand in a systemd unit" in err
    assert list(userdir.iterdir()) == []


def test_init_without_systemd_writes_the_rest(userdir, feeder, monkeypatch):
    """Units are for Linux alone."""
    monkeypatch.setattr(init, "_HAS_SYSTEMD", False)
    code, out, _ = feeder("init", "--userdir", userdir)
    assert code == 0
    assert "systemctl" not in out
    assert (userdir / STRATEGY).is_file()
    assert not (userdir / "systemd").exists()


@pytest.mark.parametrize("template", LINKS, ids=lambda path: path.name)
def test_template_is_a_link_to_its_one_source(template):
    """Written once; a clone keeps the link."""
    assert template.is_symlink()
    assert not template.readlink().is_absolute()
    assert template.resolve().is_relative_to(ROOT)
    assert template.is_file()


def test_wheel_carries_both_files_and_init_works_from_it(tmp_path):
    """Whoever installs the package has no repository."""
    source = tmp_path / "source"
    copy_sources(source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True, capture_output=True)  # noqa: S603
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("feeder_mixin/templates/strategy.py.txt") == SOURCE
        archive.extractall(tmp_path / "installed")
    (tmp_path / "user_data").mkdir()
    code = "import sys; from feeder_mixin.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, "init", "--userdir", "user_data"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "user_data" / STRATEGY).read_bytes() == SOURCE
