"""Values that are cut out of a text: as they are written, with their lines, and past bad ones."""

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_pipeline.transfer import json_values
from memory_pipeline.transfer.json_values import Unreadable, elements, members, values

LEAVES = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
OBJECTS = st.dictionaries(
    st.text(),
    st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
)
FINITE = OBJECTS.filter(lambda value: "Infinity" not in json.dumps(value))


def read(text: str) -> list[Any]:
    """Return the values of a text."""
    return list(values(io.StringIO(text)))


def read_in_pieces(text: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the values of a text that arrives in pieces of 7 characters."""
    monkeypatch.setattr(json_values, "CHUNK_CHARACTERS", 7)
    return read(text)


@settings(max_examples=30, deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=3), st.sampled_from([None, 1]), st.integers(3, 40))
def test_every_layout_gives_the_values_as_they_are_written(
    objects: list[dict[str, Any]], indent: int | None, chunk: int
) -> None:
    """Lines, an array, an array on one line, values over many lines: wherever a piece ends."""
    texts = [json.dumps(value, indent=indent, ensure_ascii=False) for value in objects]
    layouts = ["\n".join(texts), "".join(texts), f"[{','.join(texts)}]", ",\n".join(texts) + ","]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_values, "CHUNK_CHARACTERS", chunk)
        for layout in layouts:
            assert [found.text for found in read(layout)] == texts


@settings(max_examples=30, deadline=None)
@given(FINITE)
def test_members_and_elements_are_as_they_are_written(value: dict[str, Any]) -> None:
    """Each is a piece of the text."""
    text = json.dumps(value, indent=1)
    assert {k: json.loads(v) for k, v in members(text).items()} == value
    listed = json.dumps(list(value.values()))
    assert [json.loads(v) for v in elements(listed)] == list(value.values())


def test_a_number_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What broke: 12345678901234567890.125 arrived as 12345678901234567000."""
    text = '{"raw_data": {"a": 12345678901234567890.125, "b": 1e400, "c": 1.10, "d": ' + "9" * 5000
    [found] = read_in_pieces(text + "}}", monkeypatch)
    assert members(found.text)["raw_data"] == text[len('{"raw_data": ') :] + "}"


def test_a_value_knows_its_line_and_its_place_in_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several stand on one line, the place tells them apart."""
    text = '\ufeff\n[\n {"a":\n1}, {"b": 2},\n\n{"c": 3}]\n{"d": 4}'
    for found in read(text), read_in_pieces(text, monkeypatch):
        assert [str(f) for f in found] == [
            "line 3, element 1",
            "line 4, element 2",
            "line 6, element 3",
            "line 7",
        ]


@pytest.mark.parametrize("bad", ["no JSON", '{"a": 1', '{"a"; 1}', '{"a": "b', "{]}", "}"])
def test_reading_goes_on_after_a_bad_line(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given as it stands, and no line beside it is lost."""
    text = f'{{"n": 1}}\n{bad}\n{{"n": 2}}\n{{"n": 3}}\n'
    for found in read(text), read_in_pieces(text, monkeypatch):
        first, refused, *others = found
        assert isinstance(refused, Unreadable)
        assert (refused.origin.line, refused.origin.text, refused.last) == (2, bad, False)
        assert [f.text for f in (first, *others)] == ['{"n": 1}', '{"n": 2}', '{"n": 3}']


def test_reading_goes_on_after_a_bad_element_of_an_array() -> None:
    """Where each begins a line at the same depth."""
    text = '[\n  {"n": 1},\n  {"n": {\n    "a" 1}},\n  {"n": 3}\n]\n'
    first, refused, third = read(text)
    assert refused.reason.startswith("no JSON (")
    assert "at line 4" in refused.reason
    assert (first.text, third.text, third.element) == ('{"n": 1}', '{"n": 3}', 3)


def test_what_cannot_be_told_apart_ends_the_reading() -> None:
    """In an array on one line a bad element has no end."""
    [first, refused] = read('[{"n": 1}, {"n" 2}, {"n": 3}]')
    assert first.text == '{"n": 1}'
    assert refused.last


def test_an_array_that_is_cut_off_is_no_array() -> None:
    """What stands there is read, and that it is not all is said."""
    [first, refused] = read('[{"n": 1},\n')
    assert first.text == '{"n": 1}'
    assert "cut off" in refused.reason


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_python_takes_for_json_and_postgres_does_not_is_refused(word: str) -> None:
    """By itself: its neighbours in an array on one line are read."""
    first, refused, third = read(f'[{{"n": 1}}, {{"n": {word}}}, {{"n": "{word}"}}]')
    assert (first.element, third.element) == (1, 3)
    assert refused.reason == f"{word} is no JSON; write null"


def test_a_value_of_any_depth_is_cut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own parser recurses."""
    deep = '{"raw_data": ' + '[{"a]": ' * 3000 + '"}"' + "}]" * 3000 + "}"
    text = deep + '\n{"n": 1}'
    assert [f.text for f in read(text)] == [deep, '{"n": 1}']
    assert members(deep)["raw_data"] == deep[len('{"raw_data": ') : -1]
    monkeypatch.setattr(json_values, "CHUNK_CHARACTERS", 1000)
    assert [f.text for f in read(text)] == [deep, '{"n": 1}']
