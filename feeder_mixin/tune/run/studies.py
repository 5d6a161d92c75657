"""The journal's searches as Optuna studies, for optuna-dashboard and Optuna's own plots.

The journal keeps trials in a form of its own (`journal` says why). What is exported is a copy to look
at: no command reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Final

import optuna
import sqlalchemy.exc

from feeder_mixin.errors import SettingsError
from feeder_mixin.schema import NANOSECONDS, PARAMETER_BY_NAME, format_time_ns
from feeder_mixin.stores.masking import masked_store_url
from feeder_mixin.tune.run.journal import Journal, JournalRun
from feeder_mixin.tune.search.kept import SEARCH, KeptTrial

LEVEL: Final = "pair"
"""What a study is of: one pair."""


@dataclass(frozen=True, slots=True)
class PairStudy:
    """The newest search of one pair, and what of it is kept.

    Attributes
    ----------
    trials
        In order of their numbers, which begin at 0.
    """

    feeder_id: str
    run: JournalRun
    trials: tuple[KeptTrial, ...]

    @property
    def name(self) -> str:
        """Return the name of the exported study."""
        return f"{self.feeder_id} {self.run.pair} {self.begun}"

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
        """Return the lowest value of a trial that was not pruned: loss against the defaults', a ratio."""
        return min((trial.value for trial in self.trials if not trial.pruned), default=None)


def newest_studies(
    journal: Journal, feeder_id: str, pairs: Container[str] | None = None
) -> list[PairStudy]:
    """Return the newest search of every pair, in the order in which they began.

    Parameters
    ----------
    pairs
        Only these; None: all.
    """
    return [
        PairStudy(feeder_id, run, tuple(journal.trials(run.run_id, SEARCH, KeptTrial).values()))
        for run in journal.newest_runs()
        if pairs is None or run.pair in pairs
    ]


def export_studies(
    studies: Sequence[PairStudy], url: str, told: Callable[[int], None] = lambda _: None
) -> int:
    """Write searches into an Optuna storage, and return how many trials were added.

    A trial that is there already is not written again.

    Parameters
    ----------
    url
        As Optuna takes it: ``sqlite:///FILE``, ``postgresql+psycopg://...``.
    told
        Called with the number of studies written so far.

    Raises
    ------
    SettingsError
        When the storage can't be opened or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of each study
    n_added = 0
    try:
        storage = optuna.storages.RDBStorage(url)
        for number, kept in enumerate(studies, 1):
            study = optuna.create_study(
                storage=storage, study_name=kept.name, direction="minimize", load_if_exists=True
            )
            n_added += _add(study, kept)
            told(number)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise SettingsError(
            f"--export {masked_store_url(url)}: Optuna can't write there: {problem}. Expected a storage "
            "as Optuna takes it, such as sqlite:///studies.db in a folder that exists"
        ) from error
    return n_added


def _add(study: optuna.Study, kept: PairStudy) -> int:
    """Write what the study lacks of a search; return how many trials that was."""
    n_there = len(study.get_trials(deepcopy=False))
    if not n_there:
        about = {"feeder_id": kept.feeder_id, "pair": kept.run.pair, "level": LEVEL}
        for name, value in {**about, "fixed": dict(kept.run.fixes)}.items():
            study.set_user_attr(name, value)
    missing = kept.trials[n_there:]
    study.add_trials([_frozen(kept, trial) for trial in missing])
    return len(missing)


def _frozen(kept: PairStudy, trial: KeptTrial) -> optuna.trial.FrozenTrial:
    """Return a trial with LightGBM's values, not with the coordinates that were searched."""
    searched = [PARAMETER_BY_NAME[name] for name in trial.coordinates]
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
        # The learning curve gives the trees; a pruned trial has fewer than a set may have.
        user_attrs={
            "pair": kept.run.pair,
            "level": LEVEL,
            "n_estimators": int(trial.parameters["n_estimators"]),
        },
        intermediate_values=dict(trial.reported),
    )
