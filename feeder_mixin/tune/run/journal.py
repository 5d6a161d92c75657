"""The durable side of tuning: runs, their trials and results, in one SQLite file per feeder.

A run is the tuning of one pair, or the study of the whole feeder (`FEEDER`) that its pairs share. It
is identified by everything that decides its result; *open* while something is missing, *finished* once
it has a result (a study has none of its own: it is open until it is closed), *closed* once the command
that asked for it has ended, or a rollback has set it aside: the same command after a crash finds open
and finished runs and goes on; after a normal end it starts new ones.

Why not an Optuna storage (2026-11): its journal file writes each suggestion alone, 10 to 15 lock
cycles a trial, and its SQL storage makes 7 trials/s, where a whole trial here takes 0.1 s; and a
run must keep more than trials. One row per finished trial costs under 1 ms, and SQLite takes care
of torn writes, full disks and several processes. In WAL mode a killed process loses nothing that
was committed.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from feeder_mixin.documents import Numbers, built
from feeder_mixin.errors import TuningError
from feeder_mixin.tune.judge.decision import Champion, Decision
from feeder_mixin.tune.judge.result import RESULT_VERSION, PairResult

Kept = TypeVar("Kept")

FEEDER: Final = "*"
"""Stands in the place of a pair in the run of a feeder's study."""

State = Literal["open", "finished", "closed"]

BUSY_TIMEOUT_S: Final = 30.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY,
    pair TEXT NOT NULL,
    identity TEXT NOT NULL,
    warm_start TEXT NOT NULL,
    state TEXT NOT NULL,
    created_s REAL NOT NULL,
    result TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS unclosed ON runs (identity) WHERE state != 'closed';
CREATE TABLE IF NOT EXISTS trials (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    stage TEXT NOT NULL,
    number INTEGER NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (run_id, stage, number)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What the store held when a run began: kept, because the store changes meanwhile.

    Attributes
    ----------
    sets
        Parameters of all of the feeder's pairs: what its study starts from.
    champion
        What bots took for the pair; None where they took nothing.
    decision
        What an interrupted command decided on a result that has been opened again since.
    """

    sets: tuple[Numbers, ...] = ()
    champion: Champion | None = None
    decision: Decision | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that the journal keeps."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the journal holds it.

    Attributes
    ----------
    result
        What `Journal.finish` kept; None while the run is open.
    """

    run_id: int
    pair: str
    state: State
    warm_start: WarmStart
    result: PairResult | None


@dataclass(frozen=True, slots=True)
class StudyRun:
    """When a study began, and what of it was not searched.

    Attributes
    ----------
    created_s
        In s since the epoch.
    fixes
        Parameter -> value that was given.
    """

    run_id: int
    state: State
    created_s: float
    fixes: Numbers


@dataclass(frozen=True, slots=True)
class _Identity:
    """Of what decides a run's result, what is read back."""

    fixes: Numbers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewestResults:
    """The newest result of every pair that has one.

    Attributes
    ----------
    results
        Pair -> run id and result.
    unread
        Pairs whose newest result another version made: its form is not known here.
    """

    results: Mapping[str, tuple[int, PairResult]]
    unread: tuple[str, ...]


class Journal:
    """Runs and trials of one feeder; of a tuning, the command alone writes here.

    Any method raises `TuningError` that names the file when the disk is full, read-only or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def begin(
        self,
        identities: Mapping[str, Mapping[str, object]],
        warm_starts: Mapping[str, WarmStart],
    ) -> dict[str, Run]:
        """Return the unclosed run of every pair, made now where there is none.

        All are made in one transaction, so that every pair of a command starts from the same store
        content, whatever dies meanwhile.

        Parameters
        ----------
        identities
            Pair -> everything that decides its result.
        warm_starts
            Pair -> what a run made now starts from.
        """
        with self._transaction():
            for pair, identity in identities.items():
                self._db.execute(
                    "INSERT OR IGNORE INTO runs (pair, identity, warm_start, state, created_s)"
                    " VALUES (?, ?, ?, 'open', ?)",
                    (
                        pair,
                        _dump(identity),
                        _dump(warm_starts.get(pair, WarmStart()).to_json()),
                        time.time(),
                    ),
                )
        return {pair: self._unclosed(identity) for pair, identity in identities.items()}

    def _unclosed(self, identity: Mapping[str, object]) -> Run:
        with self._errors():
            run_id, pair, state, warm_start, result = self._db.execute(
                "SELECT id, pair, state, warm_start, result FROM runs"
                " WHERE identity = ? AND state != 'closed'",
                (_dump(identity),),
            ).fetchone()
        return self._make_run(run_id, pair, state, warm_start, result)

    def drop_unclosed(self, pairs: Sequence[str], study: Mapping[str, object]) -> int:
        """Delete open and finished runs of pairs, and a study; return how many there were.

        Parameters
        ----------
        study
            Its identity.
        """
        marks = ",".join("?" * len(pairs))
        with self._transaction():
            cursor = self._db.execute(
                f"DELETE FROM runs WHERE state != 'closed' AND (pair IN ({marks}) OR identity = ?)",  # noqa: S608 - marks are '?' only
                (*pairs, _dump(study)),
            )
        return cursor.rowcount

    def set_aside(self, pairs: Sequence[str]) -> int:
        """Close the pairs' open and finished runs as they are; return how many there were.

        What they compare with runs no more. Their trials and results stay, but no command goes on
        with them, nor with the feeder's study.
        """
        pairs = [*pairs, FEEDER]
        marks = ",".join("?" * len(pairs))
        with self._transaction():
            cursor = self._db.execute(
                f"UPDATE runs SET state = 'closed' WHERE state != 'closed' AND pair IN ({marks})",  # noqa: S608 - marks are '?' only
                tuple(pairs),
            )
        return cursor.rowcount

    def oldest_unclosed_s(self) -> float | None:
        """Return when the oldest open or finished run was begun, in s since the epoch."""
        with self._errors():
            row = self._db.execute("SELECT MIN(created_s) FROM runs WHERE state != 'closed'")
            oldest: float | None = row.fetchone()[0]
        return oldest

    def prune(self, before_s: float, *, dry_run: bool = False) -> int:
        """Delete closed runs begun before a time, with their trials; return how many.

        The newest result of each pair stays, and the newest study: reports show them.

        Parameters
        ----------
        before_s
            In s since the epoch.
        dry_run
            Only count.
        """
        condition = (
            "FROM runs WHERE state = 'closed' AND created_s < ? AND id NOT IN"
            " (SELECT MAX(id) FROM runs WHERE result IS NOT NULL OR pair = ? GROUP BY pair)"
        )
        with self._transaction():
            (n_runs,) = self._db.execute(
                f"SELECT COUNT(*) {condition}", (before_s, FEEDER)
            ).fetchone()
            if not dry_run:
                self._db.execute(f"DELETE {condition}", (before_s, FEEDER))
        return int(n_runs)

    def save_trials(
        self, run_id: int, stage: str, documents: Mapping[int, Mapping[str, object]]
    ) -> None:
        """Keep finished trials or redraws, number -> document, in one transaction.

        Saving one again does nothing: trials are a function of run and number.
        """
        rows = [(run_id, stage, number, _dump(one)) for number, one in documents.items()]
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO trials VALUES (?, ?, ?, ?)", rows)

    def trials(self, run_id: int, stage: str, shape: type[Kept]) -> dict[int, Kept]:
        """Return number -> trial or redraw of a stage, of the type that was kept, in order."""
        with self._errors():
            rows = self._db.execute(
                "SELECT number, document FROM trials WHERE run_id = ? AND stage = ? ORDER BY number",
                (run_id, stage),
            ).fetchall()
        return {number: self._built(shape, text) for number, text in rows}

    def newest_results(self) -> NewestResults:
        """Return every pair's newest result, of runs closed or not; nothing is changed."""
        with self._errors():
            rows = self._db.execute(
                "SELECT pair, id, result FROM runs WHERE id IN"
                " (SELECT MAX(id) FROM runs WHERE result IS NOT NULL GROUP BY pair) ORDER BY id"
            ).fetchall()
        results, unread = {}, []
        for pair, run_id, text in rows:
            if self._read(text).get("version") == RESULT_VERSION:
                results[pair] = run_id, self._built(PairResult, text)
            else:
                unread.append(pair)
        return NewestResults(results, tuple(unread))

    def newest_study(self) -> StudyRun | None:
        """Return the newest run of the feeder's study, None without one."""
        with self._errors():
            row = self._db.execute(
                "SELECT id, state, created_s, identity FROM runs WHERE pair = ? ORDER BY id DESC LIMIT 1",
                (FEEDER,),
            ).fetchone()
        if row is None:
            return None
        run_id, state, created_s, identity = row
        return StudyRun(run_id, state, created_s, self._built(_Identity, identity).fixes)

    def finish(self, run_id: int, result: PairResult) -> None:
        """Keep a run's result; from now on it is finished."""
        with self._errors():
            self._db.execute(
                "UPDATE runs SET state = 'finished', result = ? WHERE id = ? AND state = 'open'",
                (_dump(result.to_json()), run_id),
            )

    def amend(self, run_id: int, decision: Decision) -> None:
        """Keep what was decided on a finished run's result."""
        with self._errors():
            self._db.execute(
                "UPDATE runs SET result = json_set(result, '$.decision', json(?))"
                " WHERE id = ? AND state = 'finished'",
                (_dump(decision.to_json()), run_id),
            )

    def reopen(self, run_id: int) -> Run:
        """Open a finished run again, and return it: more trials were asked for.

        What was decided on its result stays, as ``decision`` of its warm start: bots may read it.
        """
        with self._errors():
            (row,) = self._db.execute(
                "UPDATE runs SET state = 'open', result = NULL, warm_start = json_set(warm_start,"
                " '$.decision', json(COALESCE(json_extract(result, '$.decision'),"
                " json_extract(warm_start, '$.decision'), 'null')))"
                " WHERE id = ? AND state = 'finished'"
                " RETURNING id, pair, state, warm_start, result",
                (run_id,),
            ).fetchall()
        return self._make_run(*row)

    def close_runs(self, run_ids: Sequence[int]) -> None:
        """Close finished runs, and the study: the command that asked for them has ended."""
        with self._transaction():
            self._db.executemany(
                "UPDATE runs SET state = 'closed' WHERE id = ? AND (state = 'finished' OR pair = ?)",
                [(run_id, FEEDER) for run_id in run_ids],
            )

    def _make_run(
        self, run_id: int, pair: str, state: State, warm_start: str, result: str | None
    ) -> Run:
        return Run(
            run_id,
            pair,
            state,
            self._built(WarmStart, warm_start),
            None if result is None else self._built(PairResult, result),
        )

    def _built(self, shape: type[Kept], text: str) -> Kept:
        """Return what a document holds as its type."""
        return built(
            shape,
            text,
            lambda problem: self._damaged(f"holds a document of another form: {problem}"),
        )

    def _read(self, text: str) -> dict[str, object]:
        """Return a document as it was kept."""
        try:
            document = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._damaged(f"holds a document that is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise self._damaged(f"holds {text[:40]!r} in place of a document")
        return document

    def _damaged(self, problem: str) -> TuningError:
        return TuningError(
            f"tuning journal {self.path} is damaged: it {problem}. Restore it from a copy, or move it "
            "away: unfinished trials then start anew"
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # SQLite itself ends it on a full disk
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise TuningError(
                f"tuning journal {self.path} can't be used: {error}. Finished trials in it are kept; "
                "free disk space or make the folder writable, then run the same command again"
            ) from error


def _dump(document: Mapping[str, object]) -> str:
    return json.dumps(document, sort_keys=True, allow_nan=False)
