"""What a stream cannot show is spelled, and JSON stays JSON."""

import io
import json
import sys

import pytest

from memory_pipeline.cli.console import print_json
from memory_pipeline.terminal import shows_everything, spell_what_is_lacking, utf8


def written(monkeypatch: pytest.MonkeyPatch, encoding: str, text: str) -> bytes:
    """Return what arrives where a terminal has an encoding."""
    stream = _terminal(monkeypatch, encoding)
    sys.stdout.write(text)
    sys.stdout.flush()
    return stream.getvalue()


def _terminal(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding))
    spell_what_is_lacking()
    return stream


@pytest.mark.parametrize(
    ("encoding", "text", "expected"),
    [
        ("ascii", "starting … — “a” → b", b'starting ... - "a" -> b'),
        ("ascii", "é日🐈", rb"\xe9\u65e5\U0001f408"),
        ("latin-1", "é…", b"\xe9..."),
        ("utf-8", "é…🐈", "é…🐈".encode()),
        ("utf-8", "half \udce9", rb"half \udce9"),
    ],
)
def test_what_a_terminal_cannot_show_is_spelled(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, expected: bytes
) -> None:
    """And what it can show stays as it is."""
    assert written(monkeypatch, encoding, text) == expected


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("depth", [1, 5000])
def test_json_is_json_in_every_encoding(
    monkeypatch: pytest.MonkeyPatch, encoding: str, depth: int
) -> None:
    """Also of a memory that is nested more deeply than the library goes."""
    value: object = "é日🐈"
    for _ in range(depth):
        value = {"ü": [value]}
    stream = _terminal(monkeypatch, encoding)
    print_json(value)
    sys.stdout.flush()
    printed = stream.getvalue().decode(encoding)
    assert ("é日🐈" in printed) == (encoding == "utf-8")
    assert depth > 1 or json.loads(printed) == value


def test_which_streams_show_everything() -> None:
    """A stream without an encoding is one that a test has put in its place."""
    assert shows_everything(io.StringIO())
    assert shows_everything(io.TextIOWrapper(io.BytesIO(), "UTF8"))
    assert not shows_everything(io.TextIOWrapper(io.BytesIO(), "cp1252"))


def test_arguments_are_utf8() -> None:
    """However Python has decoded them."""
    assert utf8("Zo\udcc3\udcab") == "Zoë"
    assert utf8("Zoë") == "Zoë"
    with pytest.raises(UnicodeDecodeError):
        utf8("\udcff")
