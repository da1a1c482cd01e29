"""Filters of a search: the grammar, what they match, and what is refused."""

import enum
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.types import MetadataValue
from memory_pipeline.errors import InvalidFilter
from memory_pipeline.search.conditions import Condition, Group
from memory_pipeline.search.filters import parse_filter
from memory_pipeline.settings import Settings

RECIPE = recipe_from(Settings())
DOCUMENT: dict[str, MetadataValue] = {
    "date": "2026-03-02",
    "date_ts": 1772409600,
    "task": "bugfix",
    "component": "",
    "project_id": "lighthouse",
    "ts": 1772443800,
    "hash": "0" * 32,
}


def matches(where: dict[str, object], **changes: MetadataValue) -> bool:
    """Ask whether the document, with some changes, matches."""
    parsed = parse_filter(where, RECIPE)
    assert parsed is not None
    return parsed.matches(DOCUMENT | changes)


def chroma(where: dict[str, object]) -> dict[str, object]:
    """Translate a filter for Chroma."""
    parsed = parse_filter(where, RECIPE)
    assert parsed is not None
    return parsed.to_chroma()


@pytest.mark.parametrize("where", [None, {}])
def test_no_filter_filters_nothing(where: dict[str, object] | None) -> None:
    """None and an empty mapping are no filter."""
    assert parse_filter(where, RECIPE) is None


def test_a_plain_value_means_equal() -> None:
    """{field: value} is short for $eq."""
    assert chroma({"task": "bugfix"}) == {"task": {"$eq": "bugfix"}}
    assert matches({"task": "bugfix"})
    assert not matches({"task": "incident"})


def test_everything_in_one_mapping_has_to_match() -> None:
    """Several fields, operators and groups in one mapping are ANDed."""
    where: dict[str, object] = {
        "date_ts": {"$gte": 1, "$lt": 2},
        "$or": [{"task": "a"}, {"task": "b"}],
    }
    assert chroma(where) == {
        "$and": [
            {"date_ts": {"$gte": 1}},
            {"date_ts": {"$lt": 2}},
            {"$or": [{"task": {"$eq": "a"}}, {"task": {"$eq": "b"}}]},
        ]
    }
    assert matches(where, date_ts=1, task="b")
    assert not matches(where, date_ts=2, task="b")
    assert not matches(where, date_ts=1, task="c")


def test_groups_of_one_are_unwrapped() -> None:
    """Chroma refuses a group of one."""
    assert chroma({"$and": [{"$or": [{"task": {"$in": ["a"]}}]}]}) == {"task": {"$in": ["a"]}}


@pytest.mark.parametrize(
    ("op", "value", "found", "expected"),
    [
        ("$eq", 1, 1.0, True),
        ("$eq", 1.0, 1, True),
        ("$eq", True, 1, False),
        ("$eq", 1, True, False),
        ("$ne", 1, True, True),
        ("$ne", "1", 1, True),
        ("$in", [1, 2.5], 2.5, True),
        ("$in", [1.0], 1, True),
        ("$in", [True], 1, False),
        ("$nin", ["a"], 1, True),
        ("$nin", [1], 1.0, False),
        ("$gt", 0, True, False),
        ("$gt", 0, "1", False),
        ("$lt", 0.5, 0, True),
        ("$eq", 1.5, 1, False),
        ("$contains", "a", ["b", "a"], True),
        ("$contains", "a", ["b"], False),
        ("$contains", "a", "a", False),
        ("$contains", 1, [1.0, 2.5], True),
        ("$contains", 1.0, [1, 2], True),
        ("$contains", 1, [True], False),
        ("$contains", "1", [1], False),
        ("$not_contains", "a", ["a"], False),
        ("$not_contains", "a", ["b"], True),
        ("$not_contains", "a", "a", True),
        ("$not_contains", "a", "", True),
        ("$eq", "a", ["a"], False),
        ("$ne", "a", ["a"], True),
        ("$in", ["a"], ["a"], False),
        ("$nin", ["a"], ["a"], True),
        ("$gt", 0, [1], False),
        ("$lt", 1, "", False),
        ("$gte", 0, "", False),
    ],
)
def test_numbers_match_each_other_and_nothing_else_does(
    op: str, value: object, found: MetadataValue, *, expected: bool
) -> None:
    """Whole numbers and fractions compare; booleans, texts and lists are of other kinds."""
    assert matches({"task": {op: value}}, task=found) is expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"colour": "red"}, "'colour'; allowed is date, task, component, date_ts, project_id, ts"),
        ({"$not": {}}, "'$not'; allowed"),
        ({"task": {"$like": "x"}}, "an operator of filter.task is '$like'; allowed is $eq"),
        ({"task": {}}, "filter.task is a dict of 0; allowed is $eq"),
        ({"date": {"$gte": "2026-03-01"}}, "compare date_ts, in epoch seconds"),
        ({"task": {"$gt": "a"}}, "filter.task.$gt is 'a'; allowed is a number"),
        ({"ts": {"$gt": True}}, "filter.ts.$gt is True"),
        ({"task": None}, "filter.task is None"),
        ({"task": b"x"}, "a bytes"),
        ({"task": ["a"]}, "filter.task is a list of 1"),
        ({"task": {"$in": []}}, "allowed is a list of 1 to 1000"),
        ({"task": {"$in": "ab"}}, "allowed is a list of 1 to 1000"),
        ({"task": {"$in": ["a", 1]}}, "not a mixture"),
        ({"task": {"$in": [True, 1]}}, "not a mixture"),
        ({"task": {"$in": ["a"] * 1001}}, "a list of 1001"),
        ({"task": {"$in": [["a"]]}}, "filter.task.$in[0] is a list of 1"),
        ({"task": {"$contains": ["a"]}}, "filter.task.$contains is a list of 1"),
        ({"task": {"$not_contains": None}}, "filter.task.$not_contains is None"),
        ({"ts": math.nan}, "filter.ts is nan"),
        ({"ts": {"$lt": math.inf}}, "filter.ts.$lt is inf"),
        ({"ts": 2**63}, "a whole number beyond 64 bits"),
        ({"ts": 10**5000}, "a whole number beyond 64 bits"),
        ({"task": "x" * 257}, "(257 characters)"),
        ({"task": "\ud800"}, "lone surrogates"),
        ({"task": "a\0"}, "NUL"),
        ({"$and": []}, "filter.$and is a list of 0"),
        ({"$and": {"task": "a"}}, "filter.$and is a dict of 1"),
        ({"$or": [{"task": "a"}, {}]}, "filter.$or[1] is a dict of 0"),
        ({"$or": [{"task": "a"}, {"$and": [{"x": 1}]}]}, "a key of filter.$or[1].$and[0] is 'x'"),
        ({1: 2}, "a key of filter is 1"),
        ([], "a list of 0"),
        ("task", "'task'"),
    ],
)
def test_a_wrong_filter_is_told_where_and_what_is_allowed(where: object, message: str) -> None:
    """The message names the path, the value there and what is allowed."""
    with pytest.raises(InvalidFilter) as raised:
        parse_filter(where, RECIPE)  # type: ignore[arg-type]
    assert message in str(raised.value)
    assert len(str(raised.value)) < 400


def test_depth_and_size_are_bounded() -> None:
    """Neither a deep, nor a wide, nor a self-repeating filter costs more than its refusal."""
    deep: dict[str, object] = {"task": "a"}
    for _ in range(100_000):
        deep = {"$and": [deep]}
    wide = {"$or": [{"task": "a"}] * 101}
    long = {"$or": [{"task": {"$in": ["a"] * 1000}}] * 3}
    laughs: dict[str, object] = {"task": "a"}
    for _ in range(7):
        laughs = {"$and": [laughs] * 1000}
    knot: dict[str, object] = {}
    knot["$and"] = [knot]
    for where in (deep, wide, long, laughs, knot):
        with pytest.raises(InvalidFilter):
            parse_filter(where, RECIPE)


def test_subclasses_are_taken_as_plain_values() -> None:
    """Enums of texts and numbers work, and Chroma gets plain values."""

    class Task(enum.StrEnum):
        FIX = "bugfix"

    class Level(enum.IntEnum):
        HIGH = 3

    assert json.dumps(chroma({"task": Task.FIX})) == '{"task": {"$eq": "bugfix"}}'
    asked = chroma({"ts": {"$in": [Level.HIGH]}})
    assert asked == {"ts": {"$in": [3]}}
    assert type(parse_filter({"ts": Level.HIGH}, RECIPE).values[0]) is int  # type: ignore[union-attr]


def test_fractions_do_not_find_whole_numbers_in_chroma() -> None:
    """Chroma cuts fractions off when it compares integers; the translation takes that back."""
    assert chroma({"ts": 1.5}) == {"$and": [{"ts": {"$eq": 1.5}}, {"ts": {"$ne": 1}}]}
    assert chroma({"ts": {"$lt": 0.5}}) == {"$or": [{"ts": {"$lt": 0.5}}, {"ts": {"$lte": 0}}]}
    assert chroma({"ts": {"$lt": -0.5}}) == {"ts": {"$lt": -0.5}}
    assert chroma({"ts": {"$in": [1, 2.0]}}) == {"ts": {"$in": [1, 2]}}


def test_a_whole_number_in_a_list_is_asked_for_both_ways() -> None:
    """Chroma keeps lists of whole numbers and of fractions apart."""
    assert chroma({"ts": {"$contains": 1}}) == {
        "$or": [{"ts": {"$contains": 1}}, {"ts": {"$contains": 1.0}}]
    }
    assert chroma({"ts": {"$not_contains": 2.0}}) == {
        "$and": [{"ts": {"$not_contains": 2.0}}, {"ts": {"$not_contains": 2}}]
    }
    assert chroma({"ts": {"$contains": 2**53 + 1}}) == {"ts": {"$contains": 2**53 + 1}}


operators = st.sampled_from(
    ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$contains", "$like"]
)
names = st.sampled_from(["task", "date", "ts", "hash", "$and", "$or", "nope"])
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.sampled_from([10**4000, 2**63, object(), "x" * 300]),
    lambda child: (
        st.lists(child, max_size=4)
        | st.tuples(child)
        | st.dictionaries(operators | names | st.integers() | st.text(), child, max_size=4)
    ),
    max_leaves=15,
)


@given(st.dictionaries(names | operators, anything, max_size=4) | anything)
def test_any_structure_is_a_filter_or_an_invalid_filter(where: object) -> None:
    """No caller's structure raises anything else, and what is accepted can be asked."""
    try:
        parsed = parse_filter(where, RECIPE)  # type: ignore[arg-type]
    except InvalidFilter:
        return
    assert parsed is None or isinstance(parsed, Condition | Group)
    if parsed is not None:
        json.dumps(parsed.to_chroma(), allow_nan=False)
        assert parsed.matches(DOCUMENT) in {True, False}
