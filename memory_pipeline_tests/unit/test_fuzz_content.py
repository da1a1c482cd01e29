"""Whatever JSON Postgres can hold has a text, metadata that Chroma takes, and one hash."""

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from memory_pipeline.content.document import (
    METADATA_CHARACTERS,
    Recipe,
    compose,
    describe,
    parse,
    searchable_text,
)
from memory_pipeline.content.json_text import Number
from memory_pipeline.domain.types import Memory, MemoryId, TenantId, document_id, memory_id_of
from memory_pipeline.errors import Poison

HOSTILE_KEYS = (
    "$and", "$where", "#document", "chroma:document", "", " ", "*", "hash", "ts", "date", "task",
    "date_ts", "__proto__", "a.b", 'a"b', "\u202e", "👩‍👩‍👧", "İ", "x" * 300,
)  # fmt: skip
HOSTILE_TEXTS = (
    "", "NaN", "Infinity", "-Infinity", "null", "true", "1e400", "2026-03-02", "0000-00-00",
    "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00-23:59", "2026-W10-1", "\uff12026-03-02",
    "2024/05/08", "05/08/2024", "1:56 pm on 8 May, 2023", "1612013100000", "8 May", "10:30 EST",
    "\u202eright to left", "سلام", "👩‍👩‍👧‍👦", "\ufeff", "\u2028", "a\\u0000b",
    "'; DROP TABLE x; --", "../../etc/passwd", "z" * 1000,
)  # fmt: skip

# What Postgres refuses in jsonb, NUL and lone surrogates, never comes from it.
plain_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
texts = st.sampled_from(HOSTILE_TEXTS) | plain_texts
keys = st.sampled_from(HOSTILE_KEYS) | plain_texts


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# As Postgres prints them: numbers of any length, without an exponent.
numbers = st.from_regex(r"\A-?(0|[1-9][0-9]{0,400})(\.[0-9]{1,60})?\Z")
leaves = st.sampled_from(["null", "true", "false", "{}", "[]"]) | numbers | texts.map(_quoted)
raws: st.SearchStrategy[str] = st.recursive(
    leaves,
    lambda child: (
        st.lists(child, max_size=4).map(lambda parts: f"[{', '.join(parts)}]")
        | st.dictionaries(keys, child, max_size=5).map(
            lambda parts: f"{{{', '.join(f'{_quoted(k)}: {v}' for k, v in parts.items())}}}"
        )
    ),
    max_leaves=12,
)
fields = st.lists(keys.filter(lambda k: k not in {"hash", "ts", "project_id"}), unique=True)
recipes = st.builds(
    Recipe,
    text_fields=st.lists(keys, unique=True, max_size=4).map(tuple),
    text_limit=st.integers(1, 5000),
    metadata_fields=fields.map(lambda some: tuple(some[:4])),
    document=st.sampled_from(["full", "none"]),
    tenant_by=st.sampled_from(["user_id", "project_id", "both"]),
)
times = st.datetimes(
    datetime(2, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(9998, 12, 31),  # noqa: DTZ001
    timezones=st.just(UTC),
)
memories = st.builds(
    lambda raw, project, at: Memory(
        MemoryId(1), TenantId("ada"), "ada", project, raw, None, at, at, version="7"
    ),
    raws,
    st.none() | texts,
    times,
)


@given(memories, recipes)
def test_no_memory_that_postgres_holds_is_refused(memory: Memory, recipe: Recipe) -> None:
    """Total: text within its limit and fit for UTF-8, each key with a value that Chroma takes."""
    content = compose(memory, recipe)
    assert len(content.text) <= recipe.text_limit
    assert content.text.encode().decode() == content.text
    assert "\0" not in content.text
    assert set(content.metadata) == set(recipe.keys)
    for value_or_list in content.metadata.values():
        values = value_or_list if isinstance(value_or_list, list) else [value_or_list]
        assert len({type(found) for found in values}) == 1
        for found in values:
            assert type(found) in {str, int, float, bool}
            if isinstance(found, str):
                assert len(found) <= METADATA_CHARACTERS
                assert found.encode().decode() == found
            else:
                assert math.isfinite(found)
                assert not isinstance(found, int) or -(2**63) <= found < 2**63
    assert content.document == (memory.raw if recipe.document == "full" else None)


@given(memories, recipes)
def test_the_same_memory_always_gives_the_same(memory: Memory, recipe: Recipe) -> None:
    """Deterministic, whichever function is asked, and whatever it was asked before."""
    one, other = compose(memory, recipe), compose(replace(memory, version="8"), recipe)
    assert one == other
    assert describe(memory, recipe) == dict(one.metadata)


@given(memories, memories, recipes)
def test_hashes_differ_exactly_where_documents_do(
    one: Memory, other: Memory, recipe: Recipe
) -> None:
    """The hash stands for what is stored: the text as printed, and the metadata."""

    def said(memory: Memory) -> tuple[str, str]:
        metadata = describe(memory, recipe)
        return memory.raw, repr({k: metadata[k] for k in sorted(metadata) if k != "hash"})

    for left, right in ((one, other), (one, replace(other, raw=one.raw))):
        same = said(left) == said(right)
        assert (compose(left, recipe).content_hash == compose(right, recipe).content_hash) is same


@given(memories, recipes, st.integers(1, 10**6))
def test_a_fraction_of_a_second_is_no_other_document(
    memory: Memory, recipe: Recipe, microseconds: int
) -> None:
    """Times are told in whole seconds: within one second nothing changes, in the next it does."""
    assert memory.created_at is not None
    at = memory.created_at.replace(microsecond=0)
    later = at + timedelta(microseconds=microseconds)
    first, second = (compose(replace(memory, created_at=when), recipe) for when in (at, later))
    assert (first.content_hash == second.content_hash) is (microseconds < 10**6)


@given(raws, st.integers(401, 3000))
def test_a_deep_memory_is_no_different(raw: str, depth: int) -> None:
    """What stands at the bottom is read as what stands at the top."""
    value = parse("[" * depth + raw + "]" * depth)
    for _ in range(depth):
        assert isinstance(value, list)
        [value] = value
    assert repr(value) == repr(parse(raw))


@given(st.text() | raws | st.lists(st.sampled_from('[]{}",: \\0a'), max_size=30).map("".join))
def test_what_is_no_json_is_poison_and_nothing_else(raw: str) -> None:
    """One memory fails by its own class of error, never the worker."""
    try:
        parse(raw)
    except Poison:
        return


@given(raws)
def test_numbers_are_whole_or_as_printed(raw: str) -> None:
    """A number is an int64, a finite float, or the literal itself."""
    waiting = [parse(raw)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, Number):
            assert re.fullmatch(r"-?[0-9.]+", node)
        elif isinstance(node, float):
            assert math.isfinite(node)


@given(memories, recipes)
def test_text_is_found_by_itself(memory: Memory, recipe: Recipe) -> None:
    """The text is one line: what was made one line once stays as it is."""
    text = searchable_text(parse(memory.raw), recipe)
    assert text == " ".join(text.split())


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_id_comes_back_from_its_document(number: int) -> None:
    """Each id that a bigint holds has one name."""
    assert memory_id_of(document_id(MemoryId(number))) == number


@given(
    st.from_regex(r"\Amemory_log_-?[0-9]{1,25}\Z")
    | st.text()
    | st.sampled_from(
        ["memory_log_9223372036854775808", "memory_log_-0", "memory_log_007", "memory_log_1\n",
         "memory_log_9999999999999999999", "memory_log_٣", "memory_log_", "memory_log_control"]
    )
)  # fmt: skip
def test_no_other_name_is_taken_for_a_memorys(name: str) -> None:
    """A stranger's document is no memory's: neither beyond bigint nor by another spelling."""
    found = memory_id_of(name)
    assert found is None or (document_id(found) == name and -(2**63) <= found < 2**63)
