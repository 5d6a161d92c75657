"""What a tuning run found, as a table and sentences: pure functions of result documents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.table import Table

from feeder_mixin.reports.records import percent
from feeder_mixin.schema import PARAMETER_BY_NAME, PARAMETERS, default_parameters
from feeder_mixin.tune.evaluate import ATR_RULE, DEFAULTS, TUNED


def closing_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return every contender of every pair on the test window; all numbers in percent."""
    alphas = sorted({result["alpha"] for result in results.values()})
    level = ", ".join(f"{alpha:g}" for alpha in alphas)
    table = Table(
        title=f"Test window, quantile level {level}, percent (skill: over the ATR rule)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("pair", no_wrap=True)
    table.add_column("model", no_wrap=True)
    headings = ("skill", "± SE", "exceed", "MAE", "safe acc", "called safe", "base rate")
    for heading in (*headings, "FPR", "FNR"):
        table.add_column(heading, justify="right")
    for pair, result in results.items():
        for number, (name, score) in enumerate(result["scores"].items()):
            table.add_row(
                "" if number else pair,
                name,
                percent(score["skill"]),
                "-" if name == ATR_RULE else percent(score["skill_se"]),
                percent(score["exceedance"]),
                percent(score["mae"], 2),
                percent(score["safety_accuracy"]),
                percent(score["predicted_safe_share"]),
                percent(score["realised_safe_share"]),
                percent(score["false_positive_rate"]),
                percent(score["false_negative_rate"]),
            )
        table.add_section()
    return table


def verdicts(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one sentence per pair: what won, and where tuning lost on the test window."""
    lines = []
    for pair, result in results.items():
        defaults, tuned = result["scores"][DEFAULTS]["skill"], result["scores"][TUNED]["skill"]
        if result["parameters"] == default_parameters():
            text = "the defaults won the search"
        elif tuned < defaults:
            text = (
                f"tuned lost to the defaults on the test window by {percent(defaults - tuned, 2)} "
                "points of skill"
            )
        else:
            text = (
                f"tuned beat the defaults on the test window by {percent(tuned - defaults, 2)} "
                "points of skill"
            )
        if tuned < 0:
            text += "; worse than the ATR rule there"
        if not result["metrics"].get("beats_rule", 1.0):
            text += "; nothing beat the ATR rule out of sample (beats_rule 0)"
        if result["scale_is_fallback"]:
            text += "; too little history for the label scale, ATR14/close stood in"
        lines.append(f"{pair}: {text}")
    return lines


def mean_importances(results: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean importance of each parameter over the pairs that have any, largest first."""
    sums: dict[str, float] = defaultdict(float)
    studies = [result["importances"] for result in results if result["importances"]]
    for importances in studies:
        for name, value in importances.items():
            sums[name] += value / len(studies)
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def on_bounds(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return parameter -> how many winners other than the defaults stand on an end of its range."""
    counts: dict[str, int] = defaultdict(int)
    for result in results:
        if result["parameters"] != default_parameters():
            for name, value in result["parameters"].items():
                parameter = PARAMETER_BY_NAME[name]
                counts[name] += value in {parameter.low, parameter.high}
    return {name: count for name, count in counts.items() if count}


def identical_pairs(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return groups of pairs with identical parameters."""
    groups: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for pair, result in results.items():
        groups[tuple(result["parameters"][p.name] for p in PARAMETERS)].append(pair)
    return [pairs for pairs in groups.values() if len(pairs) > 1]


def feeder_notes(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what holds over all pairs: importances, winners on bounds, identical winners."""
    importances = mean_importances(results.values())
    shares = ", ".join(f"{name} {percent(value, 0)} %" for name, value in importances.items())
    bounds = ", ".join(f"{name} {count}" for name, count in on_bounds(results.values()).items())
    notes = [
        f"Which parameters mattered (mean over pairs): {shares or 'too few finished trials to say'}",
        f"Tuned winners on an end of a range, by parameter: {bounds or 'none'}",
    ]
    defaults = default_parameters()
    for pairs in identical_pairs(results):
        same = "the defaults" if results[pairs[0]]["parameters"] == defaults else "same parameters"
        notes.append(f"Identical parameters ({same}): {', '.join(pairs)}")
    return notes
