"""What a run says about its result: honest where tuning lost."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from feeder_mixin.reports.tables import (
    closing_table,
    feeder_notes,
    identical_pairs,
    importances_text,
    on_bounds,
    study_lines,
    together,
    verdicts,
)
from feeder_mixin.schema import default_parameters
from feeder_mixin.tune.judge.decision import Decision
from feeder_mixin.tune.judge.result import Redrawn, Score
from tests.reports import builder


def score(skill: float) -> Score:
    """Return a contender's figures."""
    return Score(
        skill=skill,
        skill_se=0.02,
        mae=0.0123,
        exceedance=0.11,
        safety_accuracy=0.6,
        predicted_safe_share=0.0,
        realised_safe_share=0.7,
        false_positive_rate=0.0,
        false_negative_rate=None,
        kupiec_p=None,
        christoffersen_p=None,
    )


DECISION = Decision(
    mode="auto",
    outcome="promoted",
    written="tuned",
    candidate=False,
    reason="won +1.00 points of skill (SE 0.20) over the running record, beyond noise",
    gain=0.01,
    gain_se=0.002,
    pooled_gain=0.012,
    pooled_gain_se=0.001,
    skill=0.05,
    skill_se=0.01,
    pooled_skill=0.06,
    pooled_skill_se=0.008,
    beats_rule=True,
    exceedance_interval=(0.05, 0.15),
    champion_time_ns=None,
    champion_parameters=None,
)


def result(tuned=0.06, defaults=0.05, decided=None, days=180.0, **changes):
    """Return a pair's result."""
    made = builder.make_result(labelled_days=days, decision=replace(DECISION, **(decided or {})))
    scores = {"ATR rule": score(0.0), "defaults": score(defaults), "tuned": score(tuned)}
    made = builder.with_scores(made, scores, tuned_gain=tuned - defaults, tuned_gain_se=0.002)
    return builder.with_tuned(made, {**default_parameters(), **changes})


def text_of(table) -> str:
    """Return a table as plain text."""
    console = Console(width=120, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_closing_table_shows_every_contender_and_a_dash_for_an_absent_rate():
    """A rate with an empty denominator is absent, never 0."""
    text = text_of(closing_table({"BTC/USDT:USDT": result()}))
    for word in ("ATR rule", "defaults", "tuned", "quantile level 0.1", "called", "base"):
        assert word in text
    tuned = next(line for line in text.splitlines() if line.strip().startswith("tuned"))
    assert tuned.split()[-2:] == ["0.0", "-"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        pytest.param(result(), "nothing better than its start set, the defaults", id="defaults"),
        pytest.param(result(num_leaves=20), "beat the defaults", id="won"),
        pytest.param(result(tuned=0.03, num_leaves=20), "lost to the defaults", id="lost"),
        pytest.param(result(tuned=-0.01, num_leaves=20), "worse than the ATR rule", id="below"),
        pytest.param(
            result(decided={"beats_rule": False}), "nothing beat the ATR rule", id="beats nothing"
        ),
        pytest.param(result(), "beats the ATR rule (skill 5.00 %, SE 1.00", id="beats the rule"),
        pytest.param(result(), "promoted, the tuned set is written (won +1.00", id="promoted"),
        pytest.param(
            result(decided={"outcome": "refused", "written": None, "candidate": True}),
            "refused, nothing is written, the running set stays, the tuned set is kept as a candidate",
            id="refused",
        ),
        pytest.param(
            result(decided={"outcome": "kept", "written": "running"}),
            "kept, the running set is written again",
            id="told",
        ),
        pytest.param(
            result(decided={"outcome": "first", "written": "defaults"}),
            "first record, the defaults are written",
            id="first",
        ),
        pytest.param(result(days=30.0), "judged on 30 labelled days", id="a try"),
        pytest.param(result(tuned=0.051, num_leaves=20), "within noise", id="noise"),
        pytest.param(result(), "hardly any entry would pass", id="never safe"),
    ],
)
def test_verdict_says_plainly_what_happened(found, words):
    """Where tuning lost, the sentence says lost."""
    (line,) = verdicts({"BTC/USDT:USDT": found})
    assert words in line


@pytest.mark.parametrize(
    ("written", "words"),
    [
        pytest.param("tuned", "promoted, the tuned set waits in the outbox", id="tuned"),
        pytest.param("defaults", "the defaults wait in the outbox", id="defaults"),
        pytest.param("running", "the running set waits in the outbox", id="running"),
    ],
)
def test_verdict_of_a_record_that_is_not_delivered_says_that_it_waits(written, words):
    """A store that refused or was down has no record: nothing is called written."""
    (line,) = verdicts({"BTC/USDT:USDT": result(decided={"written": written})}, {"BTC/USDT:USDT"})
    assert words in line
    assert "is written" not in line


def test_on_bounds_counts_tuned_winners_only():
    """The defaults stand on bounds by design; they are no sign of a range too narrow."""
    defaults = default_parameters()
    moved = {**defaults, "learning_rate": 0.1}
    assert on_bounds([defaults, moved, {**moved, "max_depth": 5}])["learning_rate"] == 2
    assert on_bounds([defaults]) == {}
    # Nor is a default beside a value that was fixed.
    assert on_bounds([{**defaults, "num_leaves": 31}]) == {}


def test_identical_pairs_are_grouped_and_named():
    """Two pairs with the same parameters are said, with whether they are the defaults."""
    results = {"A": result(), "B": result(num_leaves=20), "C": result()}
    assert identical_pairs(results) == [["A", "C"]]
    assert any("the defaults" in note and "A, C" in note for note in feeder_notes(results))


def test_all_pairs_together_have_an_interval_and_one_pair_has_said_it():
    """The pooled numbers, once for all pairs; a single pair has said its own."""
    (line,) = together({"A": result(), "B": result()})
    assert line == (
        "All 2 pairs together: skill over the ATR rule 6.00 % (SE 0.80, 95 %: 4.43 to 7.57), tuned "
        "sets over the previous ones 1.20 points (SE 0.10, 95 %: 1.00 to 1.40)"
    )
    assert together({"A": result()}) == []


def test_importances_are_told_largest_first():
    """The feeder's study has them; one of few trials has none."""
    assert (
        importances_text({"max_depth": 0.2, "rate_x_trees": 0.8})
        == "rate_x_trees 80 %, max_depth 20 %"
    )
    assert importances_text({}) == "too few trials to say"


def studied(winner: int, own_winner: int | None = None, **changes):
    """Return the result of a pair of a study that this trial won."""
    own = winner if own_winner is None else own_winner
    made = result()
    study = builder.make_study(winner=winner, **changes)
    evidence = replace(made.evidence, is_feeders=own == winner)
    return replace(made, study=study, own=replace(made.own, winner=own), evidence=evidence)


def test_study_lines_say_what_the_feeders_set_changed_and_won():
    """Which trial, on how many pairs, how much, and in which parameters it differs."""
    parameters = {**default_parameters(), "n_estimators": 250}
    lines = study_lines(
        {"A": studied(7, parameters=parameters), "B": studied(7, parameters=parameters)}
    )
    assert lines[0] == (
        "Study of 20 trials over 10 pairs: trial 7 won for the feeder, loss 1.00 % (SE 0.40) below the "
        "start set's"
    )
    assert lines[1] == "The feeder's set differs from the defaults in: n_estimators 100 -> 250"
    assert lines[2].startswith("No pair leaves the feeder's set")
    assert "67 windows of 15 days" in lines[2]


def test_study_lines_of_a_study_without_a_winner_say_how_near_it_came():
    """Nothing is to be found at 5m and 30 candles: that is said, with the evidence."""
    tried = default_parameters() | {"n_estimators": 200.0}
    redrawn = (Redrawn(9, 0.0004, 0.0005, tried, windows_needed=31.2),)
    (line,) = study_lines({"A": studied(0, redrawn=redrawn)})
    assert line == (
        "Study of 20 trials over 10 pairs: the start set won; the best other one, trial 9 (n_estimators "
        "100 -> 200), saves 0.04 % (SE 0.05) of loss, which is not beyond noise: to tell such a gain from "
        "noise takes 32 windows of 15 days"
    )
    tried |= {"num_leaves": 20.0, "max_depth": 5.0, "reg_alpha": 0.5}
    (line,) = study_lines({"A": studied(0, redrawn=(replace(redrawn[0], parameters=tried),))})
    assert "trial 9 (4 parameters changed), saves 0.04 %" in line
    of_earlier_version = (Redrawn(9, 0.0004, 0.0005),)
    (line,) = study_lines({"A": studied(0, redrawn=of_earlier_version)})
    assert line.endswith("trial 9, saves 0.04 % (SE 0.05) of loss, which is not beyond noise")
    assert "no trial was better" in study_lines({"A": studied(0, redrawn=())})[0]


def test_study_lines_name_pairs_with_a_set_of_their_own():
    """Those alone run another set than the others."""
    lines = study_lines({"A": studied(7), "B": studied(7, own_winner=0)})
    assert "Pairs with a set of their own, by their own evidence: B" in lines
