"""The search of the feeder's set: trials that race over pairs and folds, all pairs' evidence together.

A trial is one parameter set; a cell is that set on one fold of one pair. Its value is the mean over
pairs of its pinball loss relative to that of the start set on the same cells, minus one: below 0 is
better. Loss, not skill: skill over the ATR rule would drift to the lowest level, because it rises as
the level falls (8.4 % at 0.05, 6.8 at 0.10, 4.9 at 0.20, with the same model).

Cells are measured in a fixed shuffled order, one fold of each pair, then another of each, in rungs of
`RUNGS` cells and last all of them: behind each the best few of a batch go on, where they are
better than the start set. So most trials end after two cells (`RUNGS_ALONE`: one), and one in eight at
most sees every fold. Trials are proposed `BATCH` at a time, whatever the number of workers: what is proposed and
who goes on depends on nothing but settings, candles and start sets.

What holds back: the best of the race are compared with the start set on redraws, over all pairs
(`finalists`), because the best of many trials on the same cells looks better than it is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import optuna

from feeder_mixin.tune.pooling import Estimate, pool
from feeder_mixin.tune.search.finalists import (
    N_FINALISTS,
    OwnChoice,
    RedrawGain,
    Redraws,
    choose_winner,
    promise,
    saved_by_day,
)
from feeder_mixin.tune.search.kept import SEARCHED_DRAW, Cell, KeptTrial, Measure, Measured
from feeder_mixin.tune.search.space import (
    ParameterSet,
    SearchSettings,
    SearchSpace,
    Trial,
    derive_seed,
    key_of,
    promising_keys,
)

BATCH: Final = 8
"""Trials that are proposed before any of them is measured, so that workers have enough to do."""

STARTUP_TRIALS: Final = 16
"""Random trials before TPE begins: two batches."""

MOST_PAIRS: Final = 32
"""Pairs that trials race over; finalists meet all. A trial's error falls little beyond: pairs share
their days. And workers keep the folds of so many pairs in memory."""

RUNGS: Final = (2, 8, 32)
"""Cells behind which trials are ended; the last rung is all cells.

A first rung of two cells chooses as well as one of four to eight: on all cells of 48 and 64 random
sets (four and six pairs, 5m, 6 and 30 candles) the best two of eight by so many cells miss 0.018 and
0.07 % of loss against the best of the eight by the other cells, whether it is two, four or eight.
"""

RUNGS_ALONE: Final = (1, 2)
"""The same where there are no more cells than `RUNGS[1]`: of a pair that is tuned alone.

Its five cells are dear beside first rungs of two. By one cell the best two of eight miss 0.18 % of loss
against the best by three others, by two cells 0.18 % (six pairs and sides, 40 random sets, 5m, 30 candles).
"""

GOES_ON: Final = (2, 1, 1)
"""Trials of a batch that go on at most behind each rung: what a study costs is bounded."""


class Study:
    """The search of a feeder's set.

    Parameters
    ----------
    folds
        Pair -> how many folds it has; at least one pair.
    starts
        Sets that the first trials try; the first of them is the start set.
    measure
        Measures cells. Pairs that fail there are left out from then on.

    Attributes
    ----------
    kept
        Number -> trial that has ended, as the journal has it.
    """

    def __init__(
        self,
        settings: SearchSettings,
        folds: Mapping[str, int],
        starts: Sequence[ParameterSet],
        measure: Measure,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._settings, self._starts, self._measure = settings, starts, measure
        self._cells = shuffled_cells(settings, folds)
        self._rungs = split_rungs(self._cells)
        self._space = SearchSpace(settings.fixes, settings.searched)
        self._study = optuna.create_study(direction="minimize")
        self._promising = set(promising_keys(settings))
        self._measured: dict[Cell, Measured] = {}
        self.kept: dict[int, KeptTrial] = {}

    @property
    def trials(self) -> list[Trial]:
        """Return the trials that have ended, by their numbers."""
        return [
            Trial(
                number,
                dict(one.parameters),
                one.value,
                one.pruned,
                is_promising=key_of(one.parameters) in self._promising,
            )
            for number, one in self.kept.items()
        ]

    @property
    def raced(self) -> set[str]:
        """Return the pairs that trials race over."""
        return {pair for pair, _ in self._cells}

    @property
    def n_cells(self) -> int:
        """Return how many cells a trial is measured on that comes to the end of the race."""
        return len(self._cells)

    def run(
        self,
        n_trials: int,
        out_of_time: Callable[[], bool],
        told: Callable[[Mapping[int, KeptTrial]], None],
    ) -> None:
        """Make trials until there are `n_trials`, or time is up; the first batch is made anyway.

        Parameters
        ----------
        told
            Called with the trials of each batch as it ends: number -> trial.
        """
        for first in range(0, n_trials, BATCH):
            if first and out_of_time():
                return
            batch = self._propose(range(first, first + BATCH))
            # All are proposed, so that more trials, asked for later, are those of one longer search.
            self._race([one for one in batch if one.number < n_trials])
            told({number: self.kept[number] for number in self.kept if number >= first})

    def _propose(self, numbers: range) -> list[_Racer]:
        s, racers = self._settings, []
        for number in numbers:
            seed = derive_seed(s.seed, s.feeder_id, "study", number)
            self._study.sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=STARTUP_TRIALS
            )
            if number < len(self._starts):
                self._study.enqueue_trial(self._space.encode(self._starts[number]))
            asked = self._study.ask(self._space.distributions)
            parameters = (
                self._starts[number]
                if number < len(self._starts)
                else self._space.decode(asked.params)
            )
            racers.append(_Racer(number, parameters, asked))
        return racers

    def _race(self, racers: Sequence[_Racer]) -> None:
        """Measure trials rung by rung, and tell the study how they ended."""
        if racers[0].number == 0:
            # To the end of the race at once: all others are compared with it.
            self._ask(racers[:1], self._cells)
        running, cells = list(racers), list[tuple[str, int]]()
        for rung, added in enumerate(self._rungs):
            cells += added
            n_cells = len(cells)
            self._ask(running, added)
            for one in running:
                one.reported[n_cells] = self._value(one.parameters, cells)
            if rung < len(self._rungs) - 1:
                # Beside those the start set stays: what it lacked of cells would be compared with it;
                # and promising sets do, which two unlucky cells would end as any other.
                stays = [one for one in running if self._stays(one)]
                better = [one for one in running if one not in stays]
                better = [one for one in better if one.reported[n_cells] < 0.0]
                better.sort(key=lambda one: (one.reported[n_cells], one.number))
                running = [*stays, *better[: GOES_ON[rung]]]
        for one in racers:
            self._end(one, is_pruned=one not in running)

    def _stays(self, one: _Racer) -> bool:
        """Return whether a trial comes to the end of the race whatever its first cells say."""
        return one.number == 0 or key_of(one.parameters) in self._promising

    def _ask(self, racers: Sequence[_Racer], cells: Sequence[tuple[str, int]]) -> None:
        wanted = [
            Cell(pair, SEARCHED_DRAW, fold, key_of(one.parameters))
            for pair, fold in cells
            for one in racers
        ]
        self._measured |= self._measure([cell for cell in wanted if cell not in self._measured])

    def _by_pair(
        self, parameters: ParameterSet, cells: Sequence[tuple[str, int]]
    ) -> dict[str, list[Measured]]:
        """Return pair -> what a set gave on those of the cells that were measured."""
        key, found = key_of(parameters), defaultdict[str, list[Measured]](list)
        for pair, fold in cells:
            measured = self._measured.get(Cell(pair, SEARCHED_DRAW, fold, key))
            if measured is not None:
                found[pair].append(measured)
        return found

    def _value(self, parameters: ParameterSet, cells: Sequence[tuple[str, int]]) -> float:
        """Return the mean over pairs of the loss against the start set's, as a ratio minus one."""
        reference = self._by_pair(self._starts[0], cells)
        ratios = [
            sum(one.mean for one in own) / sum(one.mean for one in reference[pair])
            for pair, own in self._by_pair(parameters, cells).items()
            # Shorter where the pair failed meanwhile: it says nothing any more.
            if len(own) == len(reference[pair])
        ]
        return sum(ratios) / len(ratios) - 1.0 if ratios else 0.0

    def _end(self, one: _Racer, *, is_pruned: bool) -> None:
        states = optuna.trial.TrialState
        for n_cells, value in one.reported.items():
            one.asked.report(value, n_cells)
        value = list(one.reported.values())[-1]
        if is_pruned:
            self._study.tell(one.asked, state=states.PRUNED)
        else:
            self._study.tell(one.asked, value)
        self.kept[one.number] = KeptTrial(
            coordinates=dict(one.asked.params),
            parameters=dict(one.parameters),
            value=value,
            pruned=is_pruned,
            reported=dict(one.reported),
        )

    def gain(self, trial: Trial) -> Estimate:
        """Return the loss that a trial saves against the start set on all cells of the race, with its error by day."""
        own, start = (self._by_pair(p, self._cells) for p in (trial.parameters, self._starts[0]))
        losses = {
            pair: saved_by_day(own[pair], measured)
            for pair, measured in start.items()
            if len(own[pair]) == len(measured)  # shorter where the pair failed meanwhile
        }
        return pool(losses).together if losses else Estimate(0.0, math.inf, 0)

    def importances(self) -> dict[str, float]:
        """Return Optuna's importance of each searched coordinate, empty with too few trials.

        Over all trials by their last value: those that ended early tell as much of a coordinate that
        matters as the best ones do.
        """
        if len(self.kept) < STARTUP_TRIALS or len({t.value for t in self.kept.values()}) < 2:
            return {}
        study = optuna.create_study(direction="minimize")
        for kept in self.kept.values():
            study.add_trial(
                optuna.trial.create_trial(
                    value=kept.value,
                    params=dict(kept.coordinates),
                    distributions=self._space.distributions,
                )
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


class _Racer:
    """A trial on its way: number of cells -> value at each rung that it came to."""

    def __init__(self, number: int, parameters: ParameterSet, asked: optuna.Trial) -> None:
        self.number, self.parameters, self.asked = number, parameters, asked
        self.reported: dict[int, float] = {}


def shuffled_cells(settings: SearchSettings, folds: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return pair and fold of every cell in the order of the race, of `MOST_PAIRS` pairs at most.

    One fold of each pair, then another of each: the first cells are of many pairs and times. The
    order of the pairs, and of the folds of each, depends on the seed alone.
    """

    def place(*what: object) -> int:
        return derive_seed(settings.seed, settings.feeder_id, *what)

    pairs = sorted(sorted(folds), key=lambda pair: place("pairs", pair))[:MOST_PAIRS]
    orders = {
        pair: sorted(range(folds[pair]), key=lambda fold: place(pair, fold)) for pair in pairs
    }
    return [
        (pair, orders[pair][turn])
        for turn in range(max(folds[pair] for pair in pairs))
        for pair in pairs
        if turn < folds[pair]
    ]


def split_rungs(cells: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """Return what each rung of the race adds to the cells before it.

    Examples
    --------
    >>> [len(rung) for rung in split_rungs([("BTC/USDT", n) for n in range(20)])]
    [2, 6, 12]
    >>> [len(rung) for rung in split_rungs([("BTC/USDT", n) for n in range(5)])]
    [1, 1, 3]
    """
    rungs = RUNGS if len(cells) > RUNGS[1] else RUNGS_ALONE
    ends = [n for n in rungs if n < len(cells)]
    starts = [0, *ends]
    return [list(cells[a:b]) for a, b in zip(starts, [*ends, len(cells)], strict=True)]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What the search of a feeder gave.

    Attributes
    ----------
    winner
        Whose set is the feeder's.
    choices
        Pair -> what serves it; without pairs that failed.
    evidence
        The best few trials against the start set.
    trials
        All that were tried.
    """

    winner: Trial
    choices: Mapping[str, OwnChoice]
    evidence: tuple[RedrawGain, ...]
    trials: tuple[Trial, ...]


def choose_sets(study: Study, folds: Mapping[str, int], measure: Measure) -> SearchResult:
    """Return the feeder's set and each pair's, from the redraws of the study's best trials.

    Parameters
    ----------
    folds
        Pair -> how many folds it has; all pairs, also those that trials did not race over.
    """
    start, *others = study.trials
    # Below 0: better than the start set on the search's draw. Worse ones can't win the redraws.
    better: dict[tuple[float, ...], Trial] = {}
    for trial in others:
        if not trial.pruned and trial.value < 0.0:
            better.setdefault(key_of(trial.parameters), trial)
    better.pop(key_of(start.parameters), None)
    finalists = sorted(better.values(), key=lambda t: (-promise(t, study.gain(t)), t.number))
    finalists = finalists[:N_FINALISTS]
    redraws = Redraws(folds, measure)
    evidence = redraws.compare(finalists, start)
    winner = choose_winner(evidence, start)
    rest = [trial for trial in (start, *finalists) if trial is not winner]
    choices = redraws.choices(winner, rest)
    return SearchResult(winner, choices, tuple(evidence), tuple(study.trials))
