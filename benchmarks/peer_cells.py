"""The cells of `peers.py`: kept in a file as they finish, pooled, compared, printed.

A cell is a pair, a side and a cut. Tuners share candles, pairs share days: what is compared is the
difference on the same candles, and its standard error is by blocks of a day over all cells.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feeder_mixin.errors import SettingsError
from feeder_mixin.model.metrics import ratio_with_error

RULE, DEFAULTS, OURS = "ATR rule", "defaults", "ours"
NAIVE, TUNER_CV, FLAML = "naive loop", "LightGBMTunerCV", "FLAML"


@dataclass(frozen=True, slots=True)
class Result:
    """What a contender did on a cell's untouched window.

    Attributes
    ----------
    day_losses
        Pinball loss of its forecasts summed by day, in the order of the cell's days.
    cpu_s, n_trials
        What its search took; the last fit and the forecast are not in it. 0 without a search.
    parameters
        What it was fitted with.
    """

    day_losses: list[float]
    exceedance: float
    cpu_s: float
    n_trials: int
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """All contenders on one pair, side and cut.

    Attributes
    ----------
    days
        Days of the untouched window since the epoch.
    results
        Contender -> what it did.
    """

    pair: str
    side: str
    cut: str
    days: list[int]
    results: dict[str, Result]

    @property
    def key(self) -> str:
        """Return what tells this cell from others."""
        return cell_key(self.pair, self.side, self.cut)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Cell:
        """Return the cell of a document that `asdict` made."""
        results = {name: Result(**fields) for name, fields in document["results"].items()}
        return cls(**{**document, "results": results})


def cell_key(pair: str, side: str, cut: str) -> str:
    """Return the name of a cell."""
    return f"{pair} {side} {cut}"


class CellFile:
    """Finished cells, on disk as soon as they are added.

    Parameters
    ----------
    path
        None: kept in memory only.
    settings
        What every cell of the file was measured with.

    Raises
    ------
    SettingsError
        When the file holds something else, or cells of other settings.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self._path, self._settings = path, dict(settings)
        self.cells: dict[str, Cell] = {}
        if path is None:
            return
        if not path.exists():
            self._write_first(path)
            return
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            kept = document["settings"]
            self.cells = {c.key: c for c in map(Cell.from_json, document["cells"])}
        except (ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{path} is no file of this benchmark ({error!r}); name another one with --json"
            ) from error
        for name in sorted({*kept, *settings}):
            if kept.get(name) != self._settings.get(name):
                raise SettingsError(
                    f"{path} keeps cells of {name} {kept.get(name)}, this run has "
                    f"{self._settings.get(name)}: name another file with --json, or delete this one"
                )

    def missing(self, key: str, contenders: Sequence[str]) -> list[str]:
        """Return the contenders that a cell has no result of."""
        cell = self.cells.get(key)
        return [name for name in contenders if cell is None or name not in cell.results]

    def add(self, cell: Cell) -> None:
        """Keep a cell, beside the results that it had."""
        kept = self.cells.get(cell.key)
        if kept is not None:
            cell = Cell(cell.pair, cell.side, cell.cut, cell.days, {**kept.results, **cell.results})
        self.cells[cell.key] = cell
        if self._path is not None:
            self._write(self._path)

    def _write_first(self, path: Path) -> None:
        try:
            self._write(path)  # before the first cell, which takes minutes
        except OSError as error:
            raise SettingsError(f"--json {path} can't be written: {error.strerror}") from error

    def _write(self, path: Path) -> None:
        cells = [asdict(self.cells[key]) for key in sorted(self.cells)]
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(json.dumps({"settings": self._settings, "cells": cells}), encoding="utf-8")
        fresh.replace(path)  # a kill leaves the old file or the new one


def pooled_gain(cells: Iterable[Cell], contender: str, against: str) -> tuple[float, float]:
    """Return the mean over cells of skill over the ATR rule minus `against`'s, and its error.

    Every cell's losses count in units of its own ATR rule's. Cells that share a day share its
    market: the error is by blocks of a day, each over all cells that have it.
    """
    gain: defaultdict[int, float] = defaultdict(float)
    rule: defaultdict[int, float] = defaultdict(float)
    for cell in cells:
        total = sum(cell.results[RULE].day_losses)
        for day, reference, theirs, own in zip(
            cell.days,
            cell.results[RULE].day_losses,
            cell.results[against].day_losses,
            cell.results[contender].day_losses,
            strict=True,
        ):
            gain[day] += (theirs - own) / total
            rule[day] += reference / total
    days = sorted(gain)
    return ratio_with_error(np.array([gain[d] for d in days]), np.array([rule[d] for d in days]))


def skill_of(cell: Cell, contender: str) -> float:
    """Return a contender's skill over the ATR rule on a cell."""
    losses = cell.results[contender].day_losses
    return 1 - sum(losses) / sum(cell.results[RULE].day_losses)


def table(cells: Sequence[Cell], contenders: Sequence[str], alpha: float) -> str:
    """Return one line per contender, and what ours is against it.

    ``> 0`` counts the cells with skill over the ATR rule, ``off`` is the mean distance of a cell's
    exceedance from the level, ``most`` the dearest search of any cell.
    """
    header = (
        f"{'contender':<16}{'skill %':>8}{'(SE)':>7}{'> 0':>8}{'exceed %':>10}{'off':>6}"
        f"{'CPU-s':>8}{'most':>6}{'trials':>8}   ours minus it, points (paired SE)"
    )
    lines = [header]
    for name in contenders:
        results = [cell.results[name] for cell in cells]
        skill, error = pooled_gain(cells, name, RULE)
        positive = sum(skill_of(cell, name) > 0 for cell in cells)
        missed = 100 * np.array([r.exceedance for r in results])
        cpu_s = [r.cpu_s for r in results]
        versus = "" if name == OURS else "{:+.2f} ({:.2f})".format(*_points(cells, name))
        lines.append(
            f"{name:<16}{100 * skill:8.2f}{f'({100 * error:.2f})':>7}"
            f"{f'{positive}/{len(cells)}':>8}{missed.mean():10.2f}"
            f"{np.abs(missed - 100 * alpha).mean():6.2f}{np.mean(cpu_s):8.1f}{max(cpu_s):6.0f}"
            f"{np.mean([r.n_trials for r in results]):8.1f}   {versus}"
        )
    return "\n".join(lines)


def _points(cells: Sequence[Cell], peer: str) -> tuple[float, float]:
    gain, error = pooled_gain(cells, OURS, peer)
    return 100 * gain, 100 * error


def verdicts(cells: Sequence[Cell], contenders: Sequence[str]) -> list[str]:
    """Return one line per promise on the peers: not a standard error below, above the naive loop."""
    lines = []
    for name in contenders:
        if name not in {NAIVE, TUNER_CV, FLAML}:
            continue
        gain, error = _points(cells, name)
        if name == NAIVE:
            holds, promise = gain > 0, "above the naive loop"
        else:
            holds, promise = gain >= -error, f"not below {name} by more than one paired SE"
        lines.append(f"{'holds' if holds else 'DOES NOT HOLD'}: ours {promise}")
    return lines
