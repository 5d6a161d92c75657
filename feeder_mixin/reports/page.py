"""The page: one self-contained HTML file, from sections.

Everything that comes from data is escaped: Jinja2 escapes the text, its ``tojson`` the plots, and
plotly's labels are escaped where they are made. The page asks for nothing: its policy forbids every
request, so what is not in the file can't be loaded.

Interactive plots, not pictures (2026-11): labels keep their size at any width, where a picture that
fits a phone is unreadable on a desk or the other way round; values are one tap away; and freqtrade's
and Optuna's users know plotly. Its price is the library, 4.8 MB of JavaScript. It is embedded once,
compressed (2.0 MB as text): every browser since 2023 unpacks it. Plots are compressed, too, and each is
unpacked and drawn when it comes into sight: a page of 163 pairs has 340 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import jinja2
import plotly.offline

from feeder_mixin.reports import _evidence as evidence
from feeder_mixin.reports import _origins as origins
from feeder_mixin.reports import _risk as risk
from feeder_mixin.reports import _tuning as tuning
from feeder_mixin.reports._figures import ALL_PAIRS
from feeder_mixin.reports._palette import COLOURS
from feeder_mixin.reports._parts import MOST_SHOWN, Section, packed, signed
from feeder_mixin.reports._verdict import Verdict, make_verdict, outcome_counts_text
from feeder_mixin.reports.documents import FeederReport, KnownPair, StoredPair, TunedPair
from feeder_mixin.reports.records import percent

_TEMPLATE: Final = "page.html"


@dataclass(frozen=True, slots=True)
class Card:
    """One of the figures on top: a number, what to hold it against, and whether it holds.

    Attributes
    ----------
    is_good
        None where nothing can be said.
    """

    title: str
    number: str
    note: str
    is_good: bool | None = None

    @property
    def state(self) -> str:
        """Return the name of the state in the style sheet."""
        return {True: "good", False: "bad", None: "unknown"}[self.is_good]


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered report.

    Attributes
    ----------
    missing
        What could not be shown, one sentence each, as the command line says it.
    """

    html: str
    verdict: Verdict
    missing: Sequence[str]


def render_page(report: FeederReport, chart_pairs: Sequence[str] = ()) -> Page:
    """Return the page of a feeder; the candles of `chart_pairs` come first."""
    verdict = make_verdict(report)
    sections = all_sections(report, chart_pairs)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("feeder_mixin.reports", "web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_keep_units,
    )
    html = environment.get_template(_TEMPLATE).render(
        report=report,
        verdict=verdict,
        outcomes=outcome_counts_text(verdict.outcomes),
        cards=cards(verdict, report),
        sections=sections,
        colours=COLOURS,
        dark_of={colour.light: colour.dark for colour in COLOURS.values()},
        most_rows=MOST_SHOWN,
        all_pairs=ALL_PAIRS,
        library=packed_library(),
    )
    missing = [line for section in sections for line in section.missing]
    if report.journal_error is not None:
        missing.insert(0, report.journal_error)
    return Page(html, verdict, missing)


def all_sections(report: FeederReport, chart_pairs: Sequence[str]) -> list[Section]:
    """Return the page's sections in order."""
    # What is called safe, and candles with a band, are of the built-in model alone.
    decisions = [evidence.value_section(report), risk.risk_section(report)] if report.side else []
    candles = [tuning.candle_section(report, chart_pairs)] if report.side else []
    return [
        evidence.skill_section(report),
        evidence.exceedance_section(report),
        *decisions,
        evidence.promotion_section(report),
        tuning.history_section(report),
        tuning.spread_section(report),
        *candles,
        evidence.calibration_section(report),
        origins.provenance_section(report),
        origins.store_section(report),
    ]


def _keep_units(value: object) -> object:
    """Return a text with its percent signs bound to their numbers: no line begins with a unit."""
    return value.replace(" %", "\N{NO-BREAK SPACE}%") if type(value) is str else value


@cache
def packed_library() -> str:
    """Return plotly.js, compressed, as text."""
    return packed(plotly.offline.get_plotlyjs())


def cards(verdict: Verdict, report: FeederReport) -> list[Card]:
    """Return the figures on top; one that the results do not hold shows a dash."""
    first = [_skill_card(verdict, report.yardstick), _exceedance_card(verdict)]
    return [*first, _value_card(verdict)] if report.side else first


def _skill_card(verdict: Verdict, yardstick: str) -> Card:
    bounds = verdict.pooled_skill_interval
    note = "not in these results" if verdict.pooled_skill is None else "pooled over the pairs"
    if bounds is not None:
        note = f"95 %: {signed(bounds[0])} to {signed(bounds[1])} %, pooled over the pairs"
    is_good = None if bounds is None else bounds[0] > 0
    return Card(f"Skill over {yardstick}", _unit(signed(verdict.pooled_skill)), note, is_good)


def _exceedance_card(verdict: Verdict) -> Card:
    nominal = percent(verdict.nominal)
    note = f"nominal {nominal} %"
    if verdict.n_intervals:
        note += f"; {verdict.n_inside} of {verdict.n_intervals} pairs inside their 95 % interval"
    # One honest pair in twenty is outside.
    enough = verdict.n_inside >= 0.9 * verdict.n_intervals
    is_good = enough if verdict.n_intervals else None
    title = "Candles worse than predicted"
    return Card(title, _unit(percent(verdict.exceedance)), note, is_good)


def _value_card(verdict: Verdict) -> Card:
    title = "Unsafe among candles called safe"
    if verdict.n_safe is None or verdict.unsafe_model is None or verdict.unsafe_rule is None:
        return Card(title, "-", "not in these results")
    if not verdict.n_safe:
        return Card(title, "-", "no candle was called safe", is_good=False)
    rule = f"ATR rule at as many entries: {percent(verdict.unsafe_rule / verdict.n_safe)} %"
    if verdict.unsafe_rule:
        change = verdict.unsafe_model / verdict.unsafe_rule - 1
        rule += f", so {abs(100 * change):.0f} % {'fewer' if change <= 0 else 'more'}"
    is_good = verdict.unsafe_model <= verdict.unsafe_rule
    return Card(title, _unit(percent(verdict.unsafe_model / verdict.n_safe)), rule, is_good)


def _unit(number: str) -> str:
    return number if number == "-" else f"{number} %"


def report_document(report: FeederReport, page: Page) -> dict[str, Any]:
    """Return what the page says as one JSON document, without plots."""
    return {
        "feeder_id": report.feeder_id,
        "side": report.side,
        "made_at": f"{report.made_at:%Y-%m-%dT%H:%M:%SZ}",
        "verdict": page.verdict.to_dict(),
        "missing": list(page.missing),
        "failures": dict(report.failures),
        "pairs": {pair: _pair_document(known) for pair, known in report.results.items()},
    }


def _pair_document(known: KnownPair) -> dict[str, Any]:
    value = known.result.decision_value if isinstance(known, TunedPair) else None
    return {
        "time_ns": known.time_ns,
        "served": known.served,
        "scores": {name: score.to_json() for name, score in known.scores.items()},
        "decision": None if known.decision is None else known.decision.to_json(),
        "decision_value": None if value is None else value.to_json(),
        "from_store": isinstance(known, StoredPair),
    }
