"""Configs as people have them: several files, broken neighbours, two user folders in one project."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feeder_mixin.settings import load_settings, read_config
from feeder_mixin.stores.sql import SqlStore
from tests.cli.conftest import FEEDER, PAIR, record_after

BROKEN = {
    "null": b"null",
    "latin-1": '{"bot_name": "fe\xe9der"}'.encode("latin-1"),
    "latin-1 and no JSON": '{"bot_name": "fe\xe9der", }} '.encode("latin-1"),
    "no JSON": b"{",
    "empty": b"",
    "list": b"[1, 2]",
    "number": b"7",
    "text": b'"feeder"',
    "add_config_files of nothing": b'{"feeder": {}, "add_config_files": ["gone.json"]}',
    "add_config_files that is a number": b'{"feeder": {}, "add_config_files": 7}',
    "feeder that is null": b'{"bot_name": "bad", "feeder": null}',
    "folder": None,
    "dangling link": Path("gone.json"),
}


@pytest.fixture(params=BROKEN.values(), ids=BROKEN.keys())
def bad(request, project):
    """Give a config that nobody can use, beside the good ones."""
    path = project / "config" / "bad.json"
    if request.param is None:
        path.mkdir()
    elif isinstance(request.param, Path):
        path.symlink_to(request.param)
    else:
        path.write_bytes(request.param)
    return path


def test_bad_config_costs_itself_alone_by_name(bad, feeder, project):
    """The six go on, the broken one is named; a hint does not offer it, and no traceback comes."""
    code, out, err = feeder("settings", "--feeder", "all", "--json")
    assert [document["feeder_id"] for document in json.loads(out)] == [
        f"feeder{n}" for n in ("120a", "120b", "120c", "75a", "75b", "75c")
    ]
    assert code == 0
    assert "config/bad.json" in err
    assert "Traceback" not in err
    code, _, err = feeder("settings", "--feeder", "feeder75x")
    assert code == 2
    assert "Feeders with a config here: feeder120a, feeder120b, " in err
    assert "bad" not in err.split("Feeders with a config here:")[1]


def test_bad_config_asked_for_by_name_is_one_error(bad, feeder):
    """One clear error, the file in it, exit 2."""
    code, _, err = feeder("settings", "--feeder", "bad")
    assert code == 2
    assert "config/bad.json" in err
    assert "Traceback" not in err


def test_several_configs_are_merged_as_freqtrade_merges_them(project, feeder):
    """A later file wins, what only an earlier one has stays: the very config that a bot gets."""
    from freqtrade.configuration import Configuration

    files = [project / "private.json", project / "own.json", project / "config" / "feeder120b.json"]
    files[0].write_text(
        json.dumps({"feeder": {"store_url": "sqlite:///private.sqlite"}, "timeframe": "1m"})
    )
    files[1].write_text(json.dumps({"feeder": {"train_days": 90}, "exchange": {"key": "k"}}))
    for order in (files, files[::-1]):
        ours = read_config(order)
        theirs = Configuration.from_files([str(path) for path in order])
        for key in ours.keys() - {"config_files"}:
            assert ours[key] == theirs[key], key
    options = [part for path in files for part in ("--config", path)]
    code, out, _ = feeder("settings", *FEEDER, *options, "--json")
    (document,) = json.loads(out)
    assert code == 0
    assert document["store_url"] == f"sqlite:///{project}/private.sqlite"
    assert document["train_days"] == 90
    assert load_settings("feeder120b", files).config_paths == tuple(files)


def test_user_folder_beside_the_usual_one_has_all_of_its_own(project, feeder):
    """A rehearsal in a sibling folder writes nothing that the real bot reads."""
    (project / "rehearsal").mkdir()
    usual, rehearsal = (
        load_settings("feeder120b", None, project / name) for name in ("user_data", "rehearsal")
    )
    with SqlStore(project / "other.sqlite") as other:
        other.write([record_after(10)])
    backup = project / "backup.jsonl"
    feeder("export", *FEEDER, "--store", "sqlite:///other.sqlite", "--out", backup)
    before = sorted(usual.user_data_dir.rglob("*"))
    code, out, err = feeder("import", backup, *FEEDER, "--userdir", "rehearsal")
    assert code == 0, err
    assert (rehearsal.user_data_dir / "feeder_params.sqlite").exists()
    assert sorted(usual.user_data_dir.rglob("*")) == before
    assert f"sqlite {project}/rehearsal/feeder_params.sqlite" in out + err
    _, out, _ = feeder("show", *FEEDER, "--userdir", "rehearsal")
    assert PAIR in out
    for settings in (usual, rehearsal):
        for name in ("state_dir", "outbox_path", "journal_path", "model_dir", "status_path"):
            assert settings.user_data_dir in getattr(settings, name).parents
        assert settings.user_data_dir in settings.default_datadir.parents


def test_ports_and_databases_of_the_six_feeders_differ():
    """Six bots on one host do not meet."""
    configs = [read_config([path]) for path in Path("config").glob("feeder*.json")]
    assert len({config["api_server"]["listen_port"] for config in configs}) == 6
    assert len({config["db_url"] for config in configs}) == 6


@pytest.mark.parametrize(("number", "side"), [(75, "long"), (120, "short")], ids=["75", "120"])
def test_feeders_of_one_letter_have_the_same_pairs_on_either_side(number, side):
    """75 is long, 120 is short, and a letter stands for four pairs."""
    for letter in "abc":
        feeder = load_settings(f"feeder{number}{letter}")
        assert feeder.side == side
        assert feeder.pairs == load_settings(f"feeder75{letter}").pairs
        assert len(feeder.pairs) == 4
