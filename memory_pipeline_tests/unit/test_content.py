"""The document of a memory: its text, its metadata, its hash."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_pipeline.content.document import (
    Recipe,
    compose,
    content_hash,
    metadata,
    parse,
    recipe_from,
    same_metadata,
    searchable_text,
    text_hash,
    unread_dates,
    vector_hash,
)
from memory_pipeline.content.json_text import Number
from memory_pipeline.domain.types import Memory, MemoryId, MetadataValue, TenantId
from memory_pipeline.errors import Poison
from memory_pipeline.settings import Settings

RECIPE = recipe_from(Settings())
DEPTH = 50_000
CREATED_AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def a_recipe(**changes: object) -> Recipe:
    """Build the default recipe with some changes."""
    return recipe_from(Settings.load(**changes))


def a_memory(raw: str = "{}", *, project_id: str | None = "lighthouse") -> Memory:
    """Build a memory as one row shows it."""
    return Memory(
        id=MemoryId(1),
        tenant=TenantId("ada"),
        user_id="ada",
        project_id=project_id,
        raw=raw,
        embedding=None,
        created_at=CREATED_AT,
        updated_at=CREATED_AT,
        version="7",
    )


def text_of(raw: str, **changes: object) -> str:
    """Take the searchable text of raw_data."""
    return searchable_text(parse(raw), a_recipe(**changes))


def metadata_of(raw: str, **changes: object) -> dict[str, MetadataValue]:
    """Take the metadata of raw_data."""
    return metadata(a_memory(raw), parse(raw), a_recipe(**changes))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=300)
    | st.dates().map(str)
    | st.datetimes(timezones=st.none() | st.timezones()).map(str),
    lambda child: (
        st.lists(child, max_size=5)
        | st.dictionaries(
            st.sampled_from(["date", "task", "component", "summary", "details", "*"]) | st.text(),
            child,
            max_size=6,
        )
    ),
    max_leaves=25,
)


def test_the_projects_own_shape_reads_summary_details_and_then_the_rest() -> None:
    """Named fields come first and bare; others follow in the order Postgres prints them."""
    raw = (
        '{"date": "2026-03-02", "task": "bugfix", "details": "No  key\\nwas sent.", '
        '"summary": "Paid twice", "component": "billing", "files_touched": ["a.py", "b.py"]}'
    )
    assert text_of(raw) == (
        "Paid twice No key was sent. date: 2026-03-02 task: bugfix component: billing "
        "files_touched: a.py, b.py"
    )


def test_nested_keys_are_joined_and_array_positions_left_out() -> None:
    """A leaf is labelled with its path of keys."""
    raw = '{"a": {"b": [{"c": "one"}, {"c": "two"}, "three"]}, "n": 5}'
    assert text_of(raw) == "a.b.c: one, two a.b: three"


def test_named_fields_may_hold_any_json() -> None:
    """A named field that is an object or an array gives all its texts."""
    raw = '{"content": [{"type": "text", "text": "Hello"}, ["you", 7, null]], "title": {"de": "X"}}'
    assert text_of(raw) == "X text Hello you"


def test_without_a_star_only_named_fields_are_searched() -> None:
    """Leaving out * hides all other fields."""
    assert text_of('{"title": "A", "secret": "B"}', text_fields="title") == "A"


def test_a_star_may_stand_before_named_fields() -> None:
    """The order of text_fields is the order of the text."""
    assert text_of('{"title": "A", "note": "B"}', text_fields="*,title") == "note: B A"


def test_a_field_named_star_is_searched_like_any_other() -> None:
    """The wildcard does not hide a key of that name."""
    assert text_of('{"*": "A"}') == "*: A"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("{}", ""),
        ("[]", ""),
        ('""', ""),
        ("null", ""),
        ('"  plain\\u00a0 text "', "plain text"),
        ('["one", {"k": "two"}, ["three"]]', "one k: two three"),
        ("7", "7"),
        ("true", "true"),
        ('{"n": 1.5, "ok": false, "s": " "}', "n: 1.5 ok: false"),
        ('{"n": 1, "s": "words"}', "s: words"),
        ("1" * 30, "1" * 30),
    ],
)
def test_scalars_arrays_and_numbers_have_a_text_too(raw: str, text: str) -> None:
    """Whatever stands at the top is searched; numbers only where there is no text."""
    assert text_of(raw) == text


def test_long_text_ends_with_a_whole_word() -> None:
    """The limit cuts between words."""
    assert text_of('"alpha beta gamma"', text_limit=12) == "alpha beta"
    assert text_of('"alpha beta gamma"', text_limit=10) == "alpha beta"


def test_text_without_spaces_is_cut_at_the_limit() -> None:
    """One early space does not cost a text that has no others."""
    assert text_of(json.dumps("a " + "漢" * 5000), text_limit=1000) == "a " + "漢" * 998


@given(json_values, st.integers(1, 200))
def test_text_is_one_line_within_the_limit_and_fit_for_utf8(value: object, limit: int) -> None:
    """Every JSON shape gives a bounded text that any model can take."""
    raw = json.dumps(value)
    text = searchable_text(parse(raw), replace(RECIPE, text_limit=limit))
    assert len(text) <= limit
    assert text == " ".join(text.split())
    assert text.encode().decode() == text


@given(json_values)
def test_every_shape_has_metadata_that_chroma_takes(value: object) -> None:
    """Every key has a text, int64, finite number or boolean, or some of one type in a list."""
    content = compose(a_memory(json.dumps(value)), RECIPE)
    assert set(content.metadata) == set(RECIPE.keys)
    for value_or_list in content.metadata.values():
        values = value_or_list if isinstance(value_or_list, list) else [value_or_list]
        assert len({type(found) for found in values}) == 1
        for found in values:
            assert type(found) in {str, int, float, bool}
            if isinstance(found, str):
                assert len(found.encode()) <= 4 * 256
            else:
                assert -(2**63) <= found < 2**63 or isinstance(found, float)
                assert math.isfinite(found)
    assert content.content_hash == content.metadata["hash"]


@given(json_values)
def test_deep_memories_are_parsed_to_the_same_value(value: object) -> None:
    """The way that does not recurse gives what json.loads gives."""
    raw = json.dumps([value] + [[]] * 500)
    assert repr(parse(raw)) == repr([parse(json.dumps(value)), *[[]] * 500])


def test_fifty_thousand_levels_keep_their_text_and_metadata() -> None:
    """No depth that Postgres accepts costs a memory its words."""
    for opening, closing in (("[", "]"), ('{"key": ', "}")):
        deep = opening * DEPTH + '"buried treasure"' + closing * DEPTH
        content = compose(a_memory(f'{{"task": "dig", "deep": {deep}}}'), RECIPE)
        assert content.text.startswith("task: dig deep")
        assert content.text.endswith("buried treasure")
        assert content.metadata["task"] == "dig"


def test_parsing_does_not_depend_on_how_full_the_stack_is() -> None:
    """A caller deep in its own recursion gets the same value."""
    raw = "[" * 300 + '"x"' + "]" * 300

    def below(levels: int) -> object:
        return parse(raw) if levels == 0 else below(levels - 1)

    assert repr(below(sys.getrecursionlimit() - 320)) == repr(below(0))


def test_huge_numbers_are_kept_as_printed() -> None:
    """Integers beyond int64 and floats beyond double neither crash nor become infinite."""
    big, wide = "9" * 5000, "-9223372036854775809"
    value = parse(f'{{"big": {big}, "wide": {wide}, "far": 1e400, "fit": -9223372036854775808}}')
    assert value == {"big": big, "wide": wide, "far": "1e400", "fit": -(2**63)}
    assert text_of(f'{{"n": {big}}}') == f"n: {big}"[:4000]


def test_a_number_too_large_to_filter_by_is_empty() -> None:
    """What int64 and double cannot hold is stored as the sentinel, never rounded."""
    found = metadata_of(f'{{"date": 1e400, "task": {2**63}, "component": {2**63 - 1}}}')
    assert (found["date"], found["task"], found["component"]) == ("", "", 2**63 - 1)


def test_values_keep_their_types() -> None:
    """Booleans stay booleans and numbers numbers; null and objects are the sentinel."""
    raw = '{"a": true, "b": 1, "c": 1.5, "d": null, "e": {"x": 1}, "f": "x", "g": -0.0}'
    found = metadata_of(raw, metadata_fields="a,b,c,d,e,f,g,h")
    assert [found[k] for k in "abcdefgh"] == [True, 1, 1.5, "", "", "x", 0.0, ""]
    assert found["a"] is True
    assert str(found["g"]) == "0.0"


@pytest.mark.parametrize(
    ("field", "kept"),
    [
        ('["a", "b", "a"]', ["a", "b", "a"]),
        ("[3, 1]", [3, 1]),
        ("[1, 2.5]", [1.0, 2.5]),
        ("[true, false]", [True, False]),
        ("[-0.0]", [0.0]),
        ('[1, "a", true, 2.50]', ["1", "a", "true", "2.5"]),
        ("[true, 1]", ["true", "1"]),
        ('["a", null, {"b": 1}, ["c"], 1e400]', ["a"]),
        ('[""]', [""]),
        ("[]", ""),
        ("[null, [1], {}]", ""),
    ],
)
def test_a_list_is_kept_with_values_of_one_type(field: str, kept: object) -> None:
    """Whole numbers beside fractions become fractions, any other mixture becomes texts."""
    found = metadata_of(f'{{"task": {field}}}')["task"]
    assert repr(found) == repr(kept)


def test_lists_stay_far_below_what_breaks_a_collection() -> None:
    """Chroma takes 5,461 list values in a document; one more ends every write to a collection."""
    long = json.dumps(["x" * 300, *map(str, range(9_999))])
    found = metadata_of(f'{{"task": {long}}}')["task"]
    assert found == ["x" * 256, *map(str, range(255))]
    names = [f"f{n}" for n in range(100)]
    raw = "{" + ", ".join(f'"{name}": {long}' for name in names) + "}"
    kept = metadata_of(raw, metadata_fields=",".join(names))
    assert sum(len(v) for v in kept.values() if isinstance(v, list)) <= 5_000


def test_a_dotted_field_reaches_into_objects() -> None:
    """And through a list of objects; a key with the dots itself comes first."""
    raw = (
        '{"user": {"name": "ada", "address.city": {"zip": 7}, "born_on": "1815-12-10"},'
        ' "labels": [{"kind": "bug"}, {"other": 1}, "x", {"kind": ["p1", "p2"]}],'
        ' "a.b": "whole", "a": {"b": "inside", "c": null}}'
    )
    fields = "user.name,user.address.city.zip,user.born_on,labels.kind,a.b,a.c,a.b.c,nobody.name"
    found = metadata_of(raw, metadata_fields=fields)
    values = ["ada", 7, "1815-12-10", ["bug", "p1", "p2"], "whole", "", "", ""]
    assert [found[k] for k in fields.split(",")] == values
    assert found["user.born_on_ts"] == -4861728000


def test_a_dotted_text_field_is_embedded_once() -> None:
    """By its path, and not again among the others."""
    raw = '{"n": "z", "user": {"bio": "Writes notes", "role": "x"}, "title": "T"}'
    assert text_of(raw, text_fields="user.bio,*") == "Writes notes n: z user.role: x title: T"
    assert text_of(raw, text_fields="user.bio") == "Writes notes"
    own = '{"user.bio": "A", "user": {"bio": "B"}}'
    assert text_of(own, text_fields="user.bio,*") == "A user.bio: B"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2026-03-02", 1772409600),
        (" 2026-03-02 ", 1772409600),
        ("2026-03-02T01:00:00", 1772413200),
        ("2026-03-02T01:00:00+01:00", 1772409600),
        ("2026-03-02 00:00:00.9Z", 1772409600),
        ("1969-12-31T23:59:59.5Z", -1),
        ("0001-01-01T00:00:00+14:00", -62135647200),
        ("2026/03/02", 1772409600),
        (20260302, 1772409600),
        (1772409600, 1772409600),
        (1772409600123, 1772409600),
        ("last Tuesday", ""),
        ("", ""),
        (None, ""),
        (["2026-03-02"], ""),
    ],
)
def test_dates_can_be_compared_as_seconds(value: object, seconds: object) -> None:
    """A date has epoch seconds beside it; what is no date has the sentinel, never a time."""
    found = metadata_of(json.dumps({"date": value}))
    assert found["date_ts"] == seconds
    assert metadata_of("{}")["date_ts"] == ""


@pytest.mark.parametrize(
    ("field", "unread"),
    [
        ('"2026-03-02"', ()),
        ('"last Tuesday"', ("date",)),
        ('["2026-03-02"]', ("date",)),
        ("0", ("date",)),
        ("false", ("date",)),
        ('" "', ()),
        ("null", ()),
        ("[]", ()),
    ],
)
def test_a_date_that_cannot_be_read_is_known_from_the_metadata(
    field: str, unread: tuple[str, ...]
) -> None:
    """What is there and is no date; what is not there is no date that could not be read."""
    recipe = a_recipe(metadata_fields="date,closed_at")
    raw = f'{{"date": {field}, "closed_at": 1772409600}}'
    assert unread_dates(compose(a_memory(raw), recipe).metadata, recipe) == unread


def test_a_time_that_is_not_known_is_no_time() -> None:
    """A created_at that is NULL or infinite is neither before nor after any time."""
    assert metadata(replace(a_memory(), created_at=None), {}, RECIPE)["ts"] == ""


def test_a_list_of_a_dropped_collection_is_no_difference() -> None:
    """Chroma may show one under a key of no recipe of now; all else counts."""
    described = compose(a_memory('{"task": ["a"]}'), RECIPE).metadata
    assert same_metadata(dict(described), described)
    assert same_metadata({**described, "labels": ["of", "another"]}, described)
    changes: list[dict[str, MetadataValue]]
    changes = [{"labels": "x"}, {"task": ["a", "b"]}, {"task": "a"}]
    for change in changes:
        assert not same_metadata({**described, **change}, described)
    assert not same_metadata({"task": ["a"]}, described)


def test_only_fields_named_like_dates_have_seconds() -> None:
    """A date in a field of another name is a text; a _ts field by itself is one like any other."""
    fields = "due_on,closed_at,start_date,dated,task,date_ts"
    assert a_recipe(metadata_fields=fields).keys == (
        *fields.split(","),
        *("due_on_ts", "closed_at_ts", "start_date_ts", "dated_ts"),
        *("project_id", "ts", "hash"),
    )
    found = metadata_of('{"date": "2026-03-02", "date_ts": "mine"}', metadata_fields=fields)
    assert found["date_ts"] == "mine"


def test_the_rows_own_columns_are_filterable() -> None:
    """project_id and created_at of the row are in the metadata; no project is an empty text."""
    found = metadata(a_memory(project_id=None), {}, RECIPE)
    assert (found["project_id"], found["ts"]) == ("", 1772443800)
    naive = replace(a_memory(), created_at=datetime(2026, 3, 2, 9, 30))  # noqa: DTZ001
    assert metadata(naive, {}, RECIPE)["ts"] == 1772443800
    east = CREATED_AT.astimezone(timezone(timedelta(hours=5)))
    assert metadata(replace(a_memory(), created_at=east), {}, RECIPE)["ts"] == 1772443800


def test_the_content_hash_sees_every_difference() -> None:
    """Another text, project, time or type of a value is another hash; the row's version is not."""
    memory = a_memory('{"task": 1}')
    others = [
        a_memory('{"task": 1.0}'),
        a_memory('{"task": true}'),
        a_memory('{"task": 1}', project_id=None),
        replace(memory, created_at=CREATED_AT + timedelta(seconds=1)),
    ]
    hashes = {compose(each, RECIPE).content_hash for each in [memory, *others]}
    assert len(hashes) == 5
    assert compose(replace(memory, version="8"), RECIPE).content_hash in hashes
    assert content_hash(memory, {"a": 1}) != content_hash(memory, {"a": True})
    assert content_hash(memory, {"a": 1, "b": 2}) == content_hash(memory, {"b": 2, "a": 1})


def test_the_document_is_what_postgres_prints_or_nothing() -> None:
    """The document is verbatim, spaces and number formats included."""
    raw = '{"n": 1.10,  "big": 12345678901234567890.5}'
    assert compose(a_memory(raw), RECIPE).document == raw
    assert compose(a_memory(raw), a_recipe(document="none")).document is None


def test_the_config_hash_changes_with_every_setting_that_shapes_documents() -> None:
    """A generation built otherwise is recognised; the order of metadata fields does not matter."""
    changes: list[dict[str, object]] = [
        {},
        {"text_fields": "summary,*"},
        {"text_limit": 100},
        {"metadata_fields": "date"},
        {"document": "none"},
        {"tenant_by": "both"},
    ]
    assert len({a_recipe(**change).config_hash for change in changes}) == len(changes)
    assert (
        a_recipe(metadata_fields="a,b").config_hash == a_recipe(metadata_fields="b,a").config_hash
    )


def test_text_and_hashes_are_the_same_in_another_process() -> None:
    """Nothing depends on the hash seed of a process."""
    program = (
        "from memory_pipeline.content.document import *;"
        "from memory_pipeline.settings import Settings;"
        "r = recipe_from(Settings());"
        'print(r.config_hash, text_hash(searchable_text(parse(\'{"b": "1", "a": "2"}\'), r)))'
    )
    command = [sys.executable, "-c", program]
    outputs = {
        subprocess.run(  # noqa: PLW1510
            command, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{RECIPE.config_hash} {text_hash('b: 1 a: 2')}\n"}


def test_the_recipe_is_frozen_by_its_hashes() -> None:
    """A change of text, metadata or hashing changes RECIPE_VERSION: indexes are stale."""
    recipe = Recipe(("summary", "*"), 4000, ("date", "task"), "full", "user_id")
    content = compose(a_memory('{"date": "2026-03-02", "summary": "Paid twice"}'), recipe)
    assert (recipe.config_hash, content.text_hash, content.content_hash) == FROZEN


def test_vectors_are_hashed_by_value() -> None:
    """Byte order and memory layout make no difference, the last bit does."""
    vector = np.linspace(0, 1, 768, dtype=np.float32)
    assert vector_hash(vector) == vector_hash(np.repeat(vector, 2)[::2])
    assert vector_hash(vector) == vector_hash(vector.astype(">f4"))
    assert vector_hash(vector) != vector_hash(np.nextafter(vector, np.float32(2)))
    assert len(vector_hash(vector)) == len(text_hash("")) == 32


@pytest.mark.parametrize("raw", ["", "{", "nonsense", "[" * 1000, "]" * 3 + "[" * 900])
def test_what_is_not_json_is_poison(raw: str) -> None:
    """Postgres never prints it; if it comes all the same, one memory fails and not the worker."""
    with pytest.raises(Poison):
        parse(raw)


def test_numbers_know_that_they_are_numbers() -> None:
    """A kept literal is no text."""
    assert isinstance(parse("1e999"), Number)


FROZEN = (
    "46ef3d28d3dda17a",
    "a381932e6320df1027316ab2fbe71fb1",
    "c971616c3b88623ea633b41a25d93a85",
)
