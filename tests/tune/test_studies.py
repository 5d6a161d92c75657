"""Exported studies: what Optuna and its dashboard read is what the journal keeps."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import optuna
import pytest
from optuna_dashboard import wsgi

from feeder_mixin.cli.main import main
from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import default_parameters
from feeder_mixin.settings import load_settings
from feeder_mixin.tune.run.journal import FEEDER as WHOLE_FEEDER
from feeder_mixin.tune.run.journal import Journal
from feeder_mixin.tune.run.studies import FeederStudy, export_study, newest_study
from feeder_mixin.tune.search.kept import TRIALS, KeptTrial
from feeder_mixin.tune.search.space import SearchSpace

FEEDER = "feeder75a"
FIXES = {"max_depth": 4.0}


def make_trial(number: int, *, pruned: bool) -> KeptTrial:
    """Return a trial as a study keeps it; a pruned one has fewer cells."""
    parameters = {**default_parameters(), **FIXES, "num_leaves": 15.0 + number % 2}
    coordinates = SearchSpace(FIXES).encode(parameters)
    value = 0.01 * (number - 3)
    reported = {4: value} if pruned else {4: value + 0.5, 16: value}
    return KeptTrial(coordinates, parameters, value, pruned, reported)


def begin(journal: Journal, n_trials: int, seed: int = 0) -> int:
    """Keep a study with trials, every other one pruned; return its run."""
    identity = {"feeder_id": FEEDER, "seed": seed, "fixes": FIXES}
    run = journal.begin({WHOLE_FEEDER: identity}, {})[WHOLE_FEEDER]
    trials = {n: make_trial(n, pruned=n % 2 == 1).to_json() for n in range(n_trials)}
    journal.save_trials(run.run_id, TRIALS, trials)
    return run.run_id


@pytest.fixture
def journal(tmp_path: Path):
    """Return a journal with a study of six trials."""
    with Journal(tmp_path / "journal.sqlite") as journal:
        begin(journal, 6)
        yield journal


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return a storage of its own."""
    return f"sqlite:///{tmp_path / 'studies.db'}"


def load(study: FeederStudy, url: str) -> optuna.Study:
    """Return what Optuna reads of a study."""
    return optuna.load_study(study_name=study.name, storage=url)


def test_exported_trials_are_those_of_the_journal_with_lightgbms_values(journal, url):
    """Values, pruned ones, rungs and attributes; leaves and trees as such, not as coordinates."""
    newest = newest_study(journal, FEEDER)
    assert export_study(newest, url) == 6
    study = load(newest, url)
    assert study.user_attrs == {
        "feeder_id": FEEDER,
        "pair": "all",
        "level": "feeder",
        "fixed": FIXES,
    }
    for trial, kept in zip(study.trials, newest.trials, strict=True):
        assert trial.value == kept.value
        assert (trial.state == optuna.trial.TrialState.PRUNED) == kept.pruned
        assert trial.intermediate_values == dict(kept.reported)
        searched = set(kept.parameters) - {"quantile_alpha"}
        assert trial.params == {name: kept.parameters[name] for name in searched}
        assert trial.user_attrs == {"pair": "all", "level": "feeder"}
    assert study.best_value == newest.best == -0.03
    assert optuna.importance.get_param_importances(study)


def test_export_again_adds_only_what_is_new(journal, url):
    """A study that went on meanwhile is completed; nothing is written twice."""
    export_study(newest_study(journal, FEEDER), url)
    begin(journal, 9)
    study = newest_study(journal, FEEDER)
    assert export_study(study, url) == 3
    assert export_study(study, url) == 0
    assert len(load(study, url).trials) == 9


def test_newest_study_is_the_one_told(journal, tmp_path):
    """An earlier one is left out; where there is none, none is."""
    run_id = begin(journal, 2, seed=1)
    assert newest_study(journal, FEEDER).run.run_id == run_id
    with Journal(tmp_path / "empty.sqlite") as empty:
        assert newest_study(empty, FEEDER) is None


def test_optuna_dashboard_opens_an_exported_storage(journal, url):
    """Its real application, asked as a browser would."""
    export_study(newest_study(journal, FEEDER), url)
    app = wsgi(optuna.storages.RDBStorage(url))

    def ask(path: str) -> dict:
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
        }
        status: list[str] = []
        body = b"".join(app(environ, lambda said, _headers, _error=None: status.append(said)))
        assert status == ["200 OK"], body
        return json.loads(body)

    told = ask("/api/studies")["study_summaries"]
    assert [study["study_name"].split(" ")[0] for study in told] == [FEEDER]
    trials = ask(f"/api/studies/{told[0]['study_id']}")["trials"]
    assert [trial["state"] for trial in trials] == ["Complete", "Pruned"] * (len(trials) // 2)
    assert [len(trial["intermediate_values"]) for trial in trials] == [2, 1] * (len(trials) // 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sqlite:////nowhere/studies.db", "unable to open database file"),
        ("studies.db", "Could not parse SQLAlchemy URL"),
        ("nosuch://user:secret@host/db", "Can't load plugin"),
    ],
)
def test_export_to_what_optuna_can_not_open_says_so_and_hides_the_password(journal, name, said):
    """The message names option, storage and what Optuna expects."""
    with pytest.raises(SettingsError, match="--export") as caught:
        export_study(newest_study(journal, FEEDER), name)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.fixture
def place(tmp_path: Path, monkeypatch):
    """Return a folder with the repository's configs, entered, and the journal of a feeder in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(Path(__file__).parents[2] / "config")
    with Journal(load_settings(FEEDER).journal_path) as journal:
        begin(journal, 6)
    return tmp_path


def test_studies_command_prints_and_exports_the_newest_study(place, capfd):
    """One line; with --export the number of trials that are new in the storage."""
    assert main(["studies", "--feeder", FEEDER]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert out.startswith(f"{FEEDER}: study begun ")
    assert "6 trials, of which 3 pruned" in out
    command = ["studies", "--feeder", FEEDER, "--export", "sqlite:///studies.db", "--json"]
    for n_new in (6, 0):
        assert main(command) == 0
        (told,) = json.loads(capfd.readouterr().out)
        assert told["exported"] == {"storage": "sqlite:///studies.db", "trials": n_new}
        assert told["best"] == -0.03
    assert (place / "studies.db").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            ["--export", f"sqlite:///user_data/feeder_state/{FEEDER}/journal.sqlite"],
            "tuning journal",
        ),
        (["--export", "sqlite:///user_data/feeder_params.sqlite"], "the parameter store"),
    ],
)
def test_studies_command_refuses_what_it_can_not_do(place, capfd, option, said):
    """A file of ours is no storage of Optuna's."""
    assert main(["studies", "--feeder", FEEDER, *option]) == 2
    assert said in capfd.readouterr().err


def test_studies_command_where_nothing_was_tuned_says_how_to(place, capfd):
    """The command to run next is in the message."""
    assert main(["studies", "--feeder", "feeder75b"]) == 2
    assert "feeder optimize --feeder feeder75b" in capfd.readouterr().err
