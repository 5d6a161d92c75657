"""Cells measured by whichever executor there is: what comes back is in the journal first.

The command's process alone writes the journal. What it holds already is never measured again: a study
that is gone on with asks for the same cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from feeder_mixin.executors.base import Executor, run_in_turn
from feeder_mixin.tune.run.journal import Journal
from feeder_mixin.tune.run.work import CellsAnswer, Fail, PlannedPairs
from feeder_mixin.tune.search.kept import CELLS, SEARCHED_DRAW, Cell, KeptCell, Measured


class Measuring:
    """Measures the cells of a study (`search.kept.Measure`).

    Parameters
    ----------
    run_id
        Of the study in the journal.
    failed
        Called with a pair and why it fails; nothing of it is measured from then on.
    told
        Called about twice a second while cells are measured, with the tasks that have come back and
        all tasks of this call.

    Attributes
    ----------
    spent_s
        Pair -> wall seconds that workers spent on its cells.
    n_cells
        Cells that are kept.
    """

    def __init__(
        self,
        executor: Executor,
        prepared: PlannedPairs,
        *,
        journal: Journal,
        run_id: int,
        failed: Fail,
    ) -> None:
        self._executor, self._prepared = executor, prepared
        self._journal, self._run_id, self._failed = journal, run_id, failed
        self._kept = {
            one.cell: one.measured for one in journal.trials(run_id, CELLS, KeptCell).values()
        }
        self._lost: set[str] = set()
        self.told: Callable[[int, int], None] = lambda _done, _total: None
        self.spent_s = dict.fromkeys(prepared.layouts, 0.0)

    @property
    def n_cells(self) -> int:
        """Return how many cells are kept."""
        return len(self._kept)

    def __call__(self, cells: Sequence[Cell]) -> dict[Cell, Measured]:
        """Return what the cells gave, of this run or an interrupted one; not of pairs that fail."""
        tasks: dict[str, list[Cell]] = {}
        for cell in cells:
            if cell not in self._kept and cell.pair not in self._lost:
                tasks.setdefault(f"{cell.pair} {cell.draw}", []).append(cell)
        self._collect(tasks)
        return {
            cell: self._kept[cell]
            for cell in cells
            if cell in self._kept and cell.pair not in self._lost
        }

    def free(self) -> None:
        """Free what workers keep of every pair for the search's own draw."""
        for pair in self._prepared.layouts:
            self._prepared.free(pair)

    def _submit(self, key: str, wanted: Sequence[Cell]) -> None:
        pair, draw = wanted[0].pair, wanted[0].draw
        call = self._prepared.cells(pair, draw, wanted)
        self._executor.submit(key, call.function, *call.arguments, home=pair)

    def _collect(self, tasks: Mapping[str, Sequence[Cell]]) -> None:
        back: list[str] = []
        for key, answer in run_in_turn(
            self._executor,
            lambda key: self._submit(key, tasks[key]),
            tasks,
            lambda: self.told(len(back), len(tasks)),
        ):
            back.append(key)
            wanted = tasks[key]
            pair = wanted[0].pair
            if isinstance(answer, CellsAnswer):
                self._keep(wanted, answer)
            else:
                self._lost.add(pair)
                self._failed(pair, answer)
            # A redraw is measured once: a worker need not keep the candles of all pairs for it.
            if wanted[0].draw != SEARCHED_DRAW:
                self._prepared.free(pair)
            self.told(len(back), len(tasks))

    def _keep(self, wanted: Sequence[Cell], answer: CellsAnswer) -> None:
        found = dict(zip(wanted, answer.measured, strict=True))
        documents = {
            number: KeptCell(cell, one).to_json()
            for number, (cell, one) in enumerate(found.items(), len(self._kept))
        }
        self._journal.save_trials(self._run_id, CELLS, documents)
        self._kept |= found
        self.spent_s[wanted[0].pair] += answer.took_s
