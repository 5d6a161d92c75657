"""A feeder's study as an Optuna study, for optuna-dashboard and Optuna's own plots.

The journal keeps trials in a form of its own (`journal` says why). What is exported is a copy to look
at: no command reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import optuna
import sqlalchemy.exc

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import NANOSECONDS, PARAMETERS, format_time_ns
from feeder_mixin.stores.masking import masked_store_url
from feeder_mixin.tune.run.journal import Journal, StudyRun
from feeder_mixin.tune.search.kept import TRIALS, KeptTrial
from feeder_mixin.tune.search.space import ALPHA

ALL_PAIRS: Final = "all"
LEVEL: Final = "feeder"
"""What a study is of: all pairs together."""


@dataclass(frozen=True, slots=True)
class FeederStudy:
    """A feeder's newest study, and what of it is kept.

    Attributes
    ----------
    trials
        In order of their numbers, which begin at 0.
    """

    feeder_id: str
    run: StudyRun
    trials: tuple[KeptTrial, ...]

    @property
    def name(self) -> str:
        """Return the name of the exported study."""
        return f"{self.feeder_id} {self.begun}"

    @property
    def begun(self) -> str:
        """Return when the search began: UTC, to the second."""
        return f"{format_time_ns(int(self.run.created_s * NANOSECONDS))[:19]}Z"

    @property
    def n_pruned(self) -> int:
        """Return how many trials were ended early."""
        return sum(trial.pruned for trial in self.trials)

    @property
    def best(self) -> float | None:
        """Return the lowest value of a trial that was not pruned: loss against the start set's, a ratio."""
        return min((trial.value for trial in self.trials if not trial.pruned), default=None)


def newest_study(journal: Journal, feeder_id: str) -> FeederStudy | None:
    """Return the feeder's newest study, None without one."""
    run = journal.newest_study()
    if run is None:
        return None
    return FeederStudy(
        feeder_id, run, tuple(journal.trials(run.run_id, TRIALS, KeptTrial).values())
    )


def export_study(kept: FeederStudy, url: str) -> int:
    """Write a study into an Optuna storage, and return how many trials were added.

    A trial that is there already is not written again.

    Parameters
    ----------
    url
        As Optuna takes it: ``sqlite:///FILE``, ``postgresql+psycopg://...``.

    Raises
    ------
    SettingsError
        When the storage can't be opened or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of each study
    try:
        study = optuna.create_study(
            storage=optuna.storages.RDBStorage(url),
            study_name=kept.name,
            direction="minimize",
            load_if_exists=True,
        )
        return _add(study, kept)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise SettingsError(
            f"--export {masked_store_url(url)}: Optuna can't write there: {problem}. Expected a storage "
            "as Optuna takes it, such as sqlite:///studies.db in a folder that exists"
        ) from error


def _add(study: optuna.Study, kept: FeederStudy) -> int:
    """Write what the study lacks of a search; return how many trials that was."""
    n_there = len(study.get_trials(deepcopy=False))
    if not n_there:
        about = {"feeder_id": kept.feeder_id, "pair": ALL_PAIRS, "level": LEVEL}
        for name, value in {**about, "fixed": dict(kept.run.fixes)}.items():
            study.set_user_attr(name, value)
    missing = kept.trials[n_there:]
    study.add_trials([_frozen(trial) for trial in missing])
    return len(missing)


def _frozen(trial: KeptTrial) -> optuna.trial.FrozenTrial:
    """Return a trial with LightGBM's values, not with the coordinates that were searched."""
    searched = [p for p in PARAMETERS if p.name != ALPHA]
    states = optuna.trial.TrialState
    return optuna.trial.create_trial(
        state=states.PRUNED if trial.pruned else states.COMPLETE,
        value=trial.value,
        params={p.name: p.restore(trial.parameters[p.name]) for p in searched},
        distributions={
            p.name: optuna.distributions.IntDistribution(int(p.low), int(p.high))
            if p.is_integer
            else optuna.distributions.FloatDistribution(p.low, p.high, log=p.is_log)
            for p in searched
        },
        user_attrs={"pair": ALL_PAIRS, "level": LEVEL},
        intermediate_values=dict(trial.reported),
    )
