"""Storms of reloads: every pair moves on, the newest values win, nothing outdated ever serves.

The order of fits is the real one (`DueFits`, `ParameterCache`); clock and worker are simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.live.serve.snapshot import ParameterCache
from feeder_mixin.live.train import due
from feeder_mixin.live.train.due import DueFits
from feeder_mixin.live.train.models import TrainedModel
from feeder_mixin.schema import hash48
from tests.live.conftest import loaded_pair, market_settings
from tests.strategies import examples

BEGIN_S = 1_764_000_000.0


@dataclass(frozen=True)
class Reload:
    """A reload that gives some pairs other values."""

    at_s: float
    pairs: frozenset[int]


class AllThere:
    """Candles of which none is missing."""

    def __init__(self, feeder) -> None:
        self.settings = feeder
        self.folder = SimpleNamespace(expected_rows=lambda *_: 100)

    def stamp(self, _pair: str) -> str:
        """Return that no file changed."""
        return ""

    def has_candles(self, *_: object) -> bool:
        """Return that they are there."""
        return True


@dataclass
class Simulation:
    """A bot of some pairs whose fits take `fit_s` each, one after the other."""

    folder: object
    n_pairs: int
    fit_s: float
    now_s: float = BEGIN_S
    due_since: dict[str, float] = field(default_factory=dict)
    waits: dict[str, list[float]] = field(default_factory=dict)
    """Pair -> how long it was due before each of its models came into force."""

    def __post_init__(self) -> None:
        self.names = [f"P{number}/USDT:USDT" for number in range(self.n_pairs)]
        self.settings = market_settings(
            self.folder, tuple(self.names), context_pairs=self.names[:1]
        )
        self.cache = ParameterCache()
        self.due = DueFits(AllThere(self.settings), self.cache)
        self.versions = dict.fromkeys(self.names, 1)
        self.load(range(self.n_pairs))

    def load(self, numbers) -> None:
        """Give pairs other values, as a reload does."""
        for number in numbers:
            self.versions[self.names[number]] += 1
        loaded = {p: loaded_pair(p, v, reg_alpha=v / 1e6) for p, v in self.versions.items()}
        self.cache.swap_parameters(loaded, max(self.versions.values()), 0, int(self.now_s))
        for number in numbers:
            self.due_since.setdefault(self.names[number], self.now_s)

    def run(self, reloads: Sequence[Reload], until_s: float) -> None:
        """Fit what is due until then; reloads come while fits run."""
        left = sorted(reloads, key=lambda reload: reload.at_s)
        while self.now_s < until_s:
            fit = self.due.next()
            ends_s = self.now_s + (0.05 if fit is None else self.fit_s)
            if fit is not None:
                self.due.note_begun(fit)
            while left and BEGIN_S + left[0].at_s < ends_s:
                reload = left.pop(0)
                self.now_s = BEGIN_S + reload.at_s
                self.load(reload.pairs)
            self.now_s = ends_s
            if fit is not None:
                self._end(fit)

    def _end(self, fit) -> None:
        identity = hash48(*self.settings.context_pairs), self.settings.train_days
        model = TrainedModel(
            fit.pair, fit.parameters, fit.cut_s, 100, 1.0, *identity, "x", "shared-0-x", None
        )
        if self.cache.put_model(model, int(self.now_s)):
            assert model.parameters == self.cache.snapshot.pairs[fit.pair].loaded.parameters
            since_s = self.due_since.pop(fit.pair, self.now_s)
            self.waits.setdefault(fit.pair, []).append(self.now_s - since_s)
            self.due.note_done(fit)
        else:
            self.due.note_outdated(fit)

    @property
    def longest_wait_s(self) -> float:
        """Return how long a pair was due at most, those included that still are."""
        still = [self.now_s - since_s for since_s in self.due_since.values()]
        return max(still + [wait for waits in self.waits.values() for wait in waits])

    def is_current(self, pair: str) -> bool:
        """Return whether a pair's model is that of its newest values."""
        known = self.cache.snapshot.pairs[pair]
        return known.newest is not None and known.newest.model.parameters == known.loaded.parameters


@st.composite
def storms(draw) -> tuple[int, float, list[Reload]]:
    """Draw pairs, a fit's seconds, and up to 60 reloads at least two fits apart."""
    n_pairs = draw(st.integers(1, 12))
    fit_s = draw(st.floats(0.1, 1.5))
    pauses = draw(st.lists(st.floats(2.0, 6.0), min_size=1, max_size=60))
    changed = st.frozensets(st.integers(0, n_pairs - 1), min_size=1)
    everything = frozenset(range(n_pairs))
    at_s, reloads = 0.0, []
    for pause in pauses:
        at_s += pause * fit_s
        reloads.append(Reload(at_s, draw(changed | st.just(everything))))
    return n_pairs, fit_s, reloads


@given(storms())
@examples(15)
def test_storm_of_reloads_lets_every_pair_move_on_and_ends_with_the_newest_values(
    tmp_path_factory, storm
):
    """Reloads two fits apart: a pair that is due is served within three fits a pair; none is outdated."""
    n_pairs, fit_s, reloads = storm
    simulation = Simulation(tmp_path_factory.getbasetemp(), n_pairs, fit_s)
    with _clock(simulation):
        simulation.run(reloads, BEGIN_S + reloads[-1].at_s)
        bound_s = (3 * n_pairs + 2) * fit_s
        assert simulation.longest_wait_s <= bound_s
        simulation.run([], simulation.now_s + bound_s)
    assert all(map(simulation.is_current, simulation.names))


def test_storm_in_step_with_the_fits_starves_no_pair(tmp_path):
    """Six fits of half a second to a reload every three: it hits the same pair's turn each time."""
    simulation = Simulation(tmp_path, 6, 0.5)
    with _clock(simulation):
        reloads = [Reload(0.2 + 3.0 * n, frozenset(range(6))) for n in range(60)]
        simulation.run(reloads, BEGIN_S + 180.0)
    assert set(simulation.waits) == set(simulation.names)
    assert simulation.longest_wait_s <= 10.0


def test_unchanged_pairs_are_retrained_during_an_endless_storm(tmp_path, monkeypatch):
    """Pairs whose values change without end don't keep the daily retraining from the others."""
    monkeypatch.setattr(due, "PATIENCE_S", 60.0)
    simulation = Simulation(tmp_path, 6, 0.5)
    with _clock(simulation):
        simulation.run([], BEGIN_S + 10.0)
        assert all(map(simulation.is_current, simulation.names))
        simulation.now_s += 86_400.0
        start_s, before = simulation.now_s, {p: len(w) for p, w in simulation.waits.items()}
        storm = [Reload(start_s - BEGIN_S + 1.5 * n, frozenset({0, 1, 2})) for n in range(200)]
        simulation.run(storm, start_s + 300.0)
    assert all(len(simulation.waits[pair]) > before[pair] for pair in simulation.names[3:])


class _clock:  # noqa: N801  (reads as a statement)
    """The simulation's time in place of the real one."""

    def __init__(self, simulation: Simulation) -> None:
        def now() -> float:
            return simulation.now_s

        self._clock = SimpleNamespace(time=now, monotonic=now)

    def __enter__(self) -> None:
        self._time, due.time = due.time, self._clock

    def __exit__(self, *_: object) -> None:
        due.time = self._time
