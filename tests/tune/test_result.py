"""Results as the journal keeps them: nothing is lost, nothing foreign is taken."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_mixin.documents import built
from feeder_mixin.errors import TuningError
from feeder_mixin.tune.judge.contenders import DEFAULTS, RUNNING, TUNED
from feeder_mixin.tune.judge.decision import MODES, Champion, Decision, Outcome
from feeder_mixin.tune.judge.result import RESULT_VERSION, PairResult, Score
from feeder_mixin.tune.search.kept import Cell, KeptCell, KeptTrial, Measured
from tests.reports import builder

finite = st.floats(allow_nan=False, allow_infinity=False)
maybe = st.none() | finite
names = st.text(max_size=5)


@st.composite
def decisions(draw) -> Decision:
    """Draw a decision with any numbers, known or not."""
    return Decision(
        mode=draw(st.sampled_from(MODES)),
        outcome=draw(st.sampled_from(get_args(Outcome))),
        written=draw(st.sampled_from((None, DEFAULTS, RUNNING, TUNED))),
        candidate=draw(st.booleans()),
        reason=draw(st.text(max_size=20)),
        gain=draw(maybe),
        gain_se=draw(maybe),
        pooled_gain=draw(maybe),
        pooled_gain_se=draw(maybe),
        skill=draw(finite),
        skill_se=draw(maybe),
        pooled_skill=draw(finite),
        pooled_skill_se=draw(maybe),
        beats_rule=draw(st.booleans()),
        exceedance_interval=draw(st.tuples(finite, finite)),
        champion_time_ns=draw(st.none() | st.integers(0, 2**63)),
        champion_parameters=draw(st.none() | st.dictionaries(names, finite, max_size=3)),
    )


def short(result: PairResult) -> PairResult:
    """Return a result with four candles and four cells in its tables: whole ones are 100 kB of JSON."""
    chart = builder.make_chart(np.random.default_rng(0), side="short", n=4)
    cells = builder.make_risk().cells[:4]
    return replace(result, chart=chart, risk=replace(builder.make_risk(), cells=cells))


def scores() -> st.SearchStrategy[Score]:
    """Draw a score of which any figure but the skill may be unknown."""
    return st.builds(lambda skill, rest: Score(skill, *rest), finite, st.tuples(*[maybe] * 10))


@st.composite
def results(draw) -> PairResult:
    """Draw a result with any text and numbers in it."""
    made = builder.make_result(
        draw(st.text(max_size=20)),
        draw(st.integers(0, 5)),
        outcome=draw(st.sampled_from(get_args(Outcome))),
        time_ns=draw(st.integers(0, 2**63)),
        provenance=draw(st.dictionaries(names, names | st.lists(names) | maybe, max_size=3)),
        scale_is_fallback=draw(st.booleans()),
        decision=draw(st.none() | decisions()),
    )
    made = builder.with_tuned(made, draw(st.dictionaries(names, finite | st.integers())))
    importances = draw(st.dictionaries(names, finite, max_size=3))
    made = replace(made, study=replace(made.study, importances=importances))
    return builder.with_scores(
        short(made),
        draw(st.dictionaries(names, scores(), max_size=4)),
        tuned_gain=draw(finite),
        tuned_gain_se=draw(maybe),
    )


def kept(document: object) -> str:
    """Return a document as the journal keeps it."""
    return json.dumps(document, sort_keys=True, allow_nan=False)


def read(shape: type, text: str) -> object:
    """Return what the journal reads from a text."""
    return built(shape, text, TuningError)


@given(results())
def test_result_of_any_content_comes_back_from_json_as_it_was(result):
    """An interrupted run goes on from exactly what it had found."""
    assert read(PairResult, kept(result.to_json())) == result


@given(decisions())
def test_decision_of_any_content_comes_back_from_json_as_it_was(decision):
    """What bots may have read is known exactly."""
    assert read(Decision, kept(decision.to_json())) == decision


@pytest.mark.parametrize(
    "champion",
    [Champion(123, {"num_leaves": 20}), Champion(4, None), Champion(4, None, beats_rule=False)],
    ids=["valid", "expired", "beats nothing"],
)
def test_champion_comes_back_from_json_as_it_was(champion):
    """What stood in the store when the run began is what an interrupted run is decided on."""
    assert read(Champion, kept(champion.to_json())) == champion


@given(
    st.builds(
        KeptTrial,
        coordinates=st.dictionaries(names, finite | st.integers(-(2**63), 2**63), max_size=3),
        parameters=st.dictionaries(names, finite | st.integers(-(2**63), 2**63), max_size=3),
        value=finite,
        pruned=st.booleans(),
        reported=st.dictionaries(st.integers(0, 2000), finite, max_size=3),
    )
)
def test_trial_of_any_content_comes_back_from_json_as_it_was(trial):
    """A search that goes on makes its study again from what was kept."""
    assert read(KeptTrial, kept(trial.to_json())) == trial


def test_cell_comes_back_from_json_as_it_was():
    """A cell is never measured twice."""
    cell = KeptCell(Cell("BTC/USDT", 1, 3, (0.01, 100.0)), Measured((7, 8), (0.1, 0.2), 11))
    assert read(KeptCell, kept(cell.to_json())) == cell


def test_decision_to_json_has_the_keys_that_the_command_line_promises():
    """The names in the journal and in ``--json``."""
    document = builder.make_result().decided.to_json()
    assert set(document) == {
        "mode", "outcome", "written", "candidate", "reason", "gain", "gain_se", "pooled_gain",
        "pooled_gain_se", "skill", "skill_se", "pooled_skill", "pooled_skill_se", "beats_rule",
        "exceedance_interval", "champion_time_ns", "champion_parameters",
    }  # fmt: skip
    assert isinstance(document["exceedance_interval"], list)


def paths(document: object, path: tuple = ()) -> list[tuple]:
    """Return the path of every field in a document, of lists only the first item's."""
    if isinstance(document, dict):
        items = list(document.items())
    else:
        items = [(0, document[0])] if isinstance(document, list) and document else []
    found = []
    for key, value in items:
        found += [(*path, key), *paths(value, (*path, key))]
    return found


DOCUMENT = json.loads(kept(short(builder.make_result()).to_json()))
FREE = {"provenance"}
"""Its fields may hold anything."""
FIELDS = [path for path in paths(DOCUMENT) if path[0] not in FREE or len(path) == 1]


@pytest.mark.parametrize("path", FIELDS, ids=lambda path: ".".join(map(str, path)))
def test_result_with_a_wrong_field_is_an_error_that_names_it(path):
    """Whatever a foreign hand put there: said, never half taken, never another exception."""
    for wrong in ({"foreign": []}, "text", [[]]):
        document = json.loads(kept(DOCUMENT))
        part = document
        for key in path[:-1]:
            part = part[key]
        if type(part[path[-1]]) is type(wrong):
            continue
        part[path[-1]] = wrong
        with pytest.raises(TuningError, match=rf"^{path[0]}\b.*(is missing|expected)"):
            read(PairResult, kept(document))


@pytest.mark.parametrize(
    "document",
    [None, [], "x", {}, {"version": RESULT_VERSION}, {**DOCUMENT, "version": RESULT_VERSION - 1}],
    ids=["null", "list", "text", "empty", "version only", "older version"],
)
def test_foreign_document_is_an_error(document):
    """JSON, but no result of this form."""
    with pytest.raises(TuningError, match=r"is missing|expected"):
        read(PairResult, kept(document))


def test_result_without_the_tuned_set_is_an_error_that_says_so():
    """Nothing could be decided on it."""
    document = json.loads(kept(DOCUMENT))
    del document["evidence"]["sets"][TUNED]
    with pytest.raises(TuningError, match=r"^evidence: tuned is missing among the sets$"):
        read(PairResult, kept(document))
