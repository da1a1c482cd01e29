"""Chroma itself answers filters as Filter.matches does."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import chromadb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory_pipeline.content.document import recipe_from
from memory_pipeline.domain.types import MetadataValue, Scalar
from memory_pipeline.search.conditions import Filter
from memory_pipeline.search.filters import parse_filter
from memory_pipeline.settings import Settings

RECIPE = recipe_from(Settings(metadata_fields=("k", "m")))
EXACT = 2**53
VALUES: list[Scalar] = [
    *(True, False, "", "1", "a", "true"),
    *(0, 1, -1, 2, -2, 3, EXACT, -EXACT),
    *(0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.5, 1e-9, 1e300, -1e300, float(EXACT)),
]
NUMBERS = [v for v in VALUES if not isinstance(v, bool | str)]
TEXTS = [v for v in VALUES if isinstance(v, str)]
KINDS: list[list[Scalar]] = [[*NUMBERS], [*TEXTS], [True, False]]
LISTS_HELD: list[list[Scalar]] = [
    ["a"],
    ["1", "a", "a"],
    [""],
    ["true", "b"],
    [1],
    [0, 1, 2, -1],
    [EXACT, 2**53 + 1, 2**63 - 1],
    [1.0],
    [0.5, 2.0, float(EXACT)],
    [1e300, 0.0],
    [True],
    [False, True],
]
HELD: list[MetadataValue] = [*VALUES, *LISTS_HELD]
DOCUMENTS: dict[str, dict[str, MetadataValue]] = {
    f"{i}-{j}": {"k": k, "m": m} for i, k in enumerate(HELD) for j, m in enumerate("ab")
}


@pytest.fixture(scope="module")
def collection() -> Iterator[Any]:
    """Fill one collection with a value of every kind."""
    client = chromadb.EphemeralClient()
    name = f"filters-{uuid4()}"
    made = client.create_collection(name, embedding_function=None)
    made.add(
        ids=list(DOCUMENTS),
        embeddings=np.ones((len(DOCUMENTS), 2), dtype=np.float32),
        metadatas=[dict(found) for found in DOCUMENTS.values()],
    )
    yield made
    client.delete_collection(name)


def answers(collection: Any, asked: Filter) -> set[str]:
    """Ask Chroma."""
    return set(collection.get(where=asked.to_chroma(), include=[])["ids"])


conditions = st.one_of(
    st.fixed_dictionaries({"k": st.sampled_from(VALUES)}),
    st.dictionaries(st.just("m"), st.sampled_from("ab"), min_size=1),
    st.builds(
        lambda op, value: {"k": {op: value}},
        st.sampled_from(["$eq", "$ne", "$contains", "$not_contains"]),
        st.sampled_from(VALUES),
    ),
    st.builds(
        lambda op, value: {"k": {op: value}},
        st.sampled_from(["$gt", "$gte", "$lt", "$lte"]),
        st.sampled_from(NUMBERS) | st.floats(-4, 4),
    ),
    st.builds(
        lambda op, values: {"k": {op: values}},
        st.sampled_from(["$in", "$nin"]),
        st.sampled_from(KINDS).flatmap(
            lambda kind: st.lists(st.sampled_from(kind), min_size=1, max_size=5)
        ),
    ),
)
filters = st.recursive(
    conditions,
    lambda child: st.builds(
        lambda op, parts: {op: parts},
        st.sampled_from(["$and", "$or"]),
        st.lists(child, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=filters)
def test_chroma_answers_what_matches_says(collection: Any, where: dict[str, object]) -> None:
    """For documents and filters of every kind, both find the same documents."""
    parsed = parse_filter(where, RECIPE)
    assert parsed is not None
    expected = {name for name, metadata in DOCUMENTS.items() if parsed.matches(metadata)}
    assert answers(collection, parsed) == expected


def test_every_operator_agrees_on_every_pair_of_values(collection: Any) -> None:
    """No pair of a stored value and an operand is left to chance."""
    for op in ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$contains", "$not_contains"):
        for value in NUMBERS if op.startswith(("$g", "$l")) else VALUES:
            parsed = parse_filter({"k": {op: value}}, RECIPE)
            assert parsed is not None
            expected = {name for name, found in DOCUMENTS.items() if parsed.matches(found)}
            assert answers(collection, parsed) == expected, (op, value)
    for big in (2**53 + 1, 2**63 - 1):  # in lists even these are compared exactly
        parsed = parse_filter({"k": {"$contains": big}}, RECIPE)
        assert parsed is not None
        assert len(answers(collection, parsed)) == 2


def test_chroma_takes_the_largest_filter(collection: Any) -> None:
    """What the grammar accepts, Chroma's SQLite can bind."""
    fractions = [n + 0.5 for n in range(1000)]
    parsed = parse_filter({"$and": [{"k": {"$nin": fractions}}, {"k": {"$in": fractions}}]}, RECIPE)
    assert parsed is not None
    assert answers(collection, parsed) == set()
    many = parse_filter({"$or": [{"k": n + 0.5} for n in range(100)]}, RECIPE)
    assert many is not None
    halves = {name for name, found in DOCUMENTS.items() if found["k"] in (0.5, 1.5, 2.5)}
    assert answers(collection, many) == halves
    deep: dict[str, object] = {"k": "a"}
    for _ in range(7):
        deep = {"$or": [deep, {"m": "zz"}]}
    nested = parse_filter(deep, RECIPE)
    assert nested is not None
    assert answers(collection, nested) == {n for n, found in DOCUMENTS.items() if found["k"] == "a"}
