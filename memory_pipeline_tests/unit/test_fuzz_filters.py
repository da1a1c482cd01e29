"""Nothing outside of the grammar gets through to Chroma, whatever a caller passes."""

import json
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_pipeline.content.document import METADATA_CHARACTERS, recipe_from
from memory_pipeline.domain.types import MetadataValue, Scalar
from memory_pipeline.errors import InvalidFilter
from memory_pipeline.search.conditions import LISTS, MEMBERS, OPERATORS, RANGES, Condition
from memory_pipeline.search.filters import MAX_CONDITIONS, MAX_VALUES, parse_filter
from memory_pipeline.settings import Settings

RECIPE = recipe_from(Settings())
FOREIGN = (
    "$where", "$not", "$nor", "$contains", "$not_contains", "$regex", "$not_regex", "$expr", "$eq",
    "#document", "chroma:document", "$and ", "$AND", "user_id", "tenant", "id", "", "task.$eq",
    "__class__", "ts\0", "date\n",
)  # fmt: skip

keys = st.sampled_from([*RECIPE.keys, "$and", "$or", *OPERATORS, *FOREIGN]) | st.text(max_size=5)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=5)
    | st.sampled_from([10**4000, -(2**63) - 1, 2**63, "x" * 257, b"x", 1j, object(), {1}, range(3)])
    | st.decimals(),
    lambda child: (
        st.lists(child, max_size=4)
        | st.lists(child, max_size=3).map(tuple)
        | st.dictionaries(keys, child, max_size=3)
        | st.dictionaries(keys, child, max_size=3).map(MappingProxyType)
        | st.dictionaries(keys, child, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)
scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
conditions = st.one_of(
    scalars,
    st.dictionaries(st.sampled_from(["$eq", "$ne"]), scalars, min_size=1),
    st.dictionaries(st.sampled_from(MEMBERS), scalars, min_size=1),
    st.dictionaries(st.sampled_from(list(RANGES)), numbers, min_size=1),
    st.dictionaries(st.sampled_from(LISTS), st.lists(numbers, min_size=1, max_size=4), min_size=1),
    st.dictionaries(st.sampled_from(LISTS), st.lists(st.text("ab"), min_size=1), min_size=1),
)
filters = st.recursive(
    st.dictionaries(st.sampled_from(RECIPE.keys), conditions, min_size=1, max_size=3),
    lambda child: st.dictionaries(
        st.sampled_from(["$and", "$or"]), st.lists(child, min_size=1, max_size=3), min_size=1
    ),
    max_leaves=6,
)


def assert_in_grammar(asked: Any) -> tuple[int, int]:
    """Walk what is sent to Chroma; count its conditions and values."""
    assert type(asked) is dict
    assert len(asked) == 1, "Chroma takes one key a mapping"
    [(key, below)] = asked.items()
    assert type(key) is str
    if key in {"$and", "$or"}:
        assert type(below) is list
        assert len(below) >= 2, "Chroma refuses groups of one"
        counts = [assert_in_grammar(part) for part in below]
        return sum(c for c, _ in counts), sum(v for _, v in counts)
    assert key in RECIPE.keys
    assert type(below) is dict
    [(op, value)] = below.items()
    assert op in OPERATORS
    many = value if op in LISTS else [value]
    assert type(many) is list
    assert many
    assert len({type(v) for v in many}) == 1, "Chroma takes lists of one type"
    for one in many:
        assert type(one) in {str, int, float, bool}
        assert type(one) is not str or len(one) <= METADATA_CHARACTERS
        assert type(one) is not int or -(2**63) <= one < 2**63
        assert op not in RANGES or type(one) in {int, float}
    return 1, len(many)


@given(st.dictionaries(keys, values, max_size=3) | values)
def test_what_gets_through_is_the_grammar_and_nothing_else(where: Any) -> None:
    """Every structure is a filter of this grammar or an InvalidFilter; there is no third."""
    try:
        parsed = parse_filter(where, RECIPE)
    except InvalidFilter as refusal:
        str(refusal).encode()  # fit for any log and any terminal
        return
    if parsed is not None:
        asked = parsed.to_chroma()
        json.dumps(asked, allow_nan=False).encode()
        found, many = assert_in_grammar(asked)
        assert found <= 2 * MAX_CONDITIONS
        assert many <= 3 * MAX_VALUES


@given(filters)
def test_every_filter_of_the_grammar_is_taken(where: dict[str, object]) -> None:
    """The grammar refuses nothing that it promises."""
    parsed = parse_filter(where, RECIPE)
    assert parsed is not None
    assert_in_grammar(parsed.to_chroma())


@given(filters, st.sampled_from(FOREIGN), st.sampled_from(["key", "operator", "group"]))
def test_one_foreign_word_anywhere_spoils_the_whole(
    where: dict[str, object], word: str, place: str
) -> None:
    """A filter is taken or refused as a whole: nothing is dropped in silence."""
    hostile: dict[str, object] = {
        "key": {word: "other"},
        "operator": {"task": {word if word not in OPERATORS else "$like": "other"}},
        "group": {"$or": [{"task": "a"}, {word: [{"task": "b"}]}]},
    }[place]  # type: ignore[assignment]
    for mixed in ({"$and": [where, hostile]}, {"$or": [hostile, where]}, hostile):
        with pytest.raises(InvalidFilter):
            parse_filter(mixed, RECIPE)


@given(
    st.sampled_from(RECIPE.keys),
    st.dictionaries(
        st.sampled_from(RECIPE.keys), scalars | st.lists(scalars, min_size=1), max_size=7
    ),
    scalars,
)
def test_a_condition_and_its_opposite_part_all_documents(
    key: str, document: dict[str, MetadataValue], value: Scalar
) -> None:
    """What does not equal a value differs from it: no document is in both, none in neither."""
    for one, other in (("$eq", "$ne"), ("$in", "$nin"), ("$contains", "$not_contains")):
        equal, different = Condition(key, one, (value,)), Condition(key, other, (value,))
        assert equal.matches(document) is not different.matches(document)
