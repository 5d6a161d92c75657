"""The reader of kept JSON: strict, says the first thing wrong, and keeps what it does not know."""

from __future__ import annotations

import pytest
from typing_extensions import TypedDict

from feeder_mixin.documents import Amount, Count, ParameterValues, Time, checked
from feeder_mixin.errors import StateError
from feeder_mixin.schema import default_parameters


class Inner(TypedDict):
    """A part."""

    share: Amount | None


class Outer(TypedDict):
    """A document."""

    count: Count
    at: Time
    name: str
    is_safe: bool
    parameters: ParameterValues
    inner: dict[str, Inner]


GOOD = {
    "count": 3,
    "at": "2026-11-28T07:12:35.000000000Z",
    "name": "x",
    "is_safe": True,
    "parameters": default_parameters(),
    "inner": {"BTC": {"share": 0.5}, "ETH": {"share": None}},
}


def test_document_of_the_right_shape_comes_back_as_it_is():
    """The same object, keys of a later version included."""
    document = {**GOOD, "later": [1, 2]}
    assert checked(Outer, document, StateError) is document


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"count": True}, "count=True, expected a whole number"),
        ({"count": "1"}, "count='1', expected a whole number"),
        ({"count": -1}, "count=-1, expected greater than or equal to 0"),
        ({"at": "2026-01-01 00:00"}, "at='2026-01-01 00:00', expected a time such as 20"),
        ({"at": "x" * 500}, "xxx..., expected a time"),
        ({"name": None}, "name=None, expected a text"),
        ({"parameters": {}}, "parameters={}, expected the ten parameters"),
        ({"inner": []}, r"inner=\[\], expected a JSON object"),
        ({"inner": {"BTC": {}}}, "inner.BTC.share is missing"),
        (
            {"inner": {"BTC": {"share": float("inf")}}},
            "inner.BTC.share=inf, expected a finite number",
        ),
        (
            {"inner": {"BTC": {"share": float("nan")}}},
            "inner.BTC.share=nan, expected a finite number",
        ),
        ({"is_safe": 1}, "is_safe=1, expected true or false"),
    ],
)
def test_document_of_another_shape_is_refused_with_key_value_and_expectation(change, problem):
    """Nothing is converted: what a later step trusts is what is there."""
    with pytest.raises(StateError, match=problem):
        checked(Outer, {**GOOD, **change}, StateError)


@pytest.mark.parametrize("document", [None, [], "x", 7])
def test_document_that_is_no_object_is_refused(document):
    """Whatever JSON there is."""
    with pytest.raises(StateError, match=r"the document=.*expected a JSON object"):
        checked(Outer, document, StateError)


def test_help_does_not_pay_for_the_reader():
    """`feeder --help` imports no pydantic."""
    import subprocess
    import sys

    code = (
        "import sys; from feeder_mixin.cli.main import make_parser; make_parser(); "
        "sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
