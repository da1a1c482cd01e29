"""JSON that is written for Postgres: every number as it is, and any depth."""

import enum
import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_pipeline.content.json_text import parse
from memory_pipeline.content.json_writer import JsonText, exact_json
from memory_pipeline.errors import InvalidMemory

KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS.filter(lambda k: k not in {float("inf"), -float("inf")}), inner)
    ),
)


class Colour(enum.IntEnum):
    """Is a number to JSON."""

    RED = 3


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_a_value_is_written_as_the_standard_library_writes_it(value: object) -> None:
    """Keys that are no texts, tuples and enums too."""
    assert exact_json(value) == json.dumps(value, ensure_ascii=False)


def test_an_enum_is_its_number() -> None:
    """As a key too."""
    assert exact_json({Colour.RED: Colour.RED}) == '{"3": 3}'


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (parse("1e400"), "1e400"),
        (parse("[12345678901234567890123]"), "[12345678901234567890123]"),
        (Decimal("12345678901234567890.125"), "12345678901234567890.125"),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+400"), "1E+400"),
        (10**6000, "1" + "0" * 6000),
        (-(10**6000), "-1" + "0" * 6000),
        ({"as": JsonText('{"it": 1.10}')}, '{"as": {"it": 1.10}}'),
    ],
    ids=["number", "int64", "decimal", "zeros", "exponent", "long", "negative", "text"],
)
def test_a_number_is_written_as_it_is(value: object, written: str) -> None:
    """What broke: a number that a memory was read with was written back as a text."""
    assert exact_json(value) == written


def test_a_value_of_any_depth_is_written() -> None:
    """Python's own writer recurses."""
    value: list[object] = []
    for _ in range(5000):
        value = [value]
    assert exact_json(value) == "[" * 5001 + "]" * 5001


def test_a_value_that_stands_twice_is_written_twice() -> None:
    """It is no circle."""
    shared = [1]
    assert exact_json([shared, {"a": shared}]) == '[[1], {"a": [1]}]'


CIRCLE: list[object] = []
CIRCLE.append({"a": CIRCLE})


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), Decimal("NaN"), Decimal("-Infinity"), object(), {(1,): 2}, CIRCLE],
    ids=["nan", "infinity", "decimal nan", "decimal infinity", "object", "key", "circle"],
)
def test_what_is_no_json_is_refused(value: object) -> None:
    """With a sentence, and for ever is never."""
    with pytest.raises(InvalidMemory, match="raw_data is not JSON"):
        exact_json([value])
