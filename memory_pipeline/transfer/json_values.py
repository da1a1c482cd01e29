"""Cuts JSON values out of a text as they are written, one after the other, and knows their lines.

JSON lines, an array, several arrays, and values over many lines are read the same way: between two
values any white space, comma, byte order mark and bracket of an array may stand. It holds one value
in memory at a time.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from json import JSONDecodeError
from typing import IO

from memory_pipeline.content.json_text import Number
from memory_pipeline.domain.types import Origin

CHUNK_CHARACTERS = 2**18
# The longest word that may be cut by the end of what was read: a \\u escape, or "-Infinity".
LONGEST_WORD = 16
SHOWN_CHARACTERS = 2**16

_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"[ \t\n\r,\ufeff\x1e]*")
_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A part of a file that is no JSON; ``last``: nothing after it can be read."""

    origin: Origin
    reason: str
    last: bool = False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON; write null")


_DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=Number)
_STRICT = json.JSONDecoder(parse_constant=_refuse_constant)


def decoded(text: str) -> object:
    """Return a value that ``values`` has cut out, its numbers as they are written."""
    value: object = _DECODER.decode(text)
    return value


def members(text: str) -> dict[str, str]:
    """Return the values of an object by their keys, as written; the last of a key counts.

    Raises:
        ValueError: it is no JSON object.

    """
    if not text.startswith("{"):
        raise ValueError("no JSON object")
    found: dict[str, str] = {}
    at = _after(_SPACE, text, 1)
    while text[at : at + 1] != "}":
        if text[at : at + 1] != '"':
            raise JSONDecodeError("Expecting a key", text, at)
        key, at = _DECODER.raw_decode(text, at)
        begin = _after(_SPACE, text, _after(_SPACE, text, at) + 1)
        end = end_of(text, begin)
        found[key] = text[begin:end]
        at = _after(_SPACE, text, end)
        if text[at : at + 1] == ",":
            at = _after(_SPACE, text, at + 1)
    return found


def elements(text: str) -> list[str]:
    """Return the values of an array as written. Raises ValueError: it is no JSON array."""
    if not text.startswith("["):
        raise ValueError("no JSON array")
    found: list[str] = []
    at = _after(_SPACE, text, 1)
    while text[at : at + 1] != "]":
        end = end_of(text, at)
        found.append(text[at:end])
        at = _after(_SPACE, text, end)
        if text[at : at + 1] == ",":
            at = _after(_SPACE, text, at + 1)
    return found


def end_of(text: str, begin: int) -> int:
    """Return where the value that begins here ends.

    Raises:
        JSONDecodeError: it is no JSON, or its end is not there.

    """
    try:
        return _DECODER.raw_decode(text, begin)[1]
    except RecursionError:
        return _end_of_deep(text, begin)


def _end_of_deep(text: str, begin: int) -> int:
    """Return where a value ends by its brackets alone. Postgres parses it."""
    depth = 0
    for match in _BRACKET.finditer(text, begin):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    raise JSONDecodeError("Brackets do not match", text, len(text))


def problem(text: str) -> str | None:
    """Return what Python's parser let pass and Postgres does not."""
    bad = None if text.isascii() else _NOT_UTF8.search(text)
    if bad:
        byte = ord(bad[0]) - 0xDC00
        return f"the byte 0x{byte:02x} is not UTF-8; name the encoding, e.g. --encoding latin-1"
    if "NaN" in text or "Infinity" in text:
        try:
            _STRICT.decode(text)
        except RecursionError:
            return None  # Postgres finds it
        except ValueError as error:
            return str(error)
    return None


def _after(between: re.Pattern[str], text: str, at: int) -> int:
    found = between.match(text, at)
    return found.end() if found else at


def values(file: IO[str]) -> Iterator[Origin | Unreadable]:
    """Iterate over the values of a text, and over what is none."""
    return _Reading(file).values()


@dataclass(slots=True)
class _Reading:
    """What was read of a text and not yet used, and where in the text that is."""

    file: IO[str]
    buffer: str = ""
    at: int = 0
    is_all: bool = False
    line: int = 1
    _counted: int = 0
    _element: int | None = field(default=None)

    def values(self) -> Iterator[Origin | Unreadable]:
        while self._next():
            first = self.buffer[self.at]
            if first == "[" and self._element is None:
                self._element, self.at = 0, self.at + 1
            elif first == "]" and self._element is not None:
                self._element, self.at = None, self.at + 1
            else:
                value = self._value()
                yield value
                if isinstance(value, Unreadable) and value.last:
                    return
        if self._element is not None:
            reason = "the array does not end: the file is cut off"
            yield Unreadable(self._origin(self.at), reason, last=True)

    def _next(self) -> bool:
        """Go to the next value or bracket; return False where the text ends before it."""
        while True:
            self.at = _after(_BETWEEN, self.buffer, self.at)
            if self.at < len(self.buffer):
                return True
            if not self._read():
                return False

    def _read(self) -> bool:
        """Read as much again as is there; return False at the end of the text."""
        self._count()
        kept = self.buffer[self.at :]
        more = self.file.read(max(CHUNK_CHARACTERS, len(kept)))
        self.buffer, self.at, self._counted = kept + more, 0, 0
        self.is_all = not more
        return bool(more)

    def _count(self) -> None:
        """Count the lines up to here."""
        self.line += self.buffer.count("\n", self._counted, self.at)
        self._counted = self.at

    def _value(self) -> Origin | Unreadable:
        self._count()
        if self._element is not None:
            self._element += 1
        while True:
            try:
                end = end_of(self.buffer, self.at)
            except JSONDecodeError as error:
                if self._is_cut(error) and self._read():
                    continue
                line = self.line + self.buffer.count("\n", self.at, error.pos)
                where = "" if line == self.line else f" at line {line}"
                column = error.pos - self.buffer.rfind("\n", 0, error.pos)
                return self._unreadable(f"no JSON ({error.msg}{where}, character {column})")
            if end == len(self.buffer) and self._read():
                continue  # a number may go on
            return self._whole(end)

    def _is_cut(self, error: JSONDecodeError) -> bool:
        """Whether only the end of a value is missing, which may not have been read yet."""
        at_end = error.pos >= len(self.buffer) - LONGEST_WORD
        return not self.is_all and (at_end or error.msg.startswith("Unterminated string"))

    def _whole(self, end: int) -> Origin | Unreadable:
        origin = self._origin(end)
        self.at = end
        reason = problem(origin.text)
        return Unreadable(origin, reason) if reason else origin

    def _origin(self, end: int) -> Origin:
        return Origin(self.line, self.buffer[self.at : end], self._element)

    def _unreadable(self, reason: str) -> Unreadable:
        """Return what cannot be read, up to the next line that begins as this one does."""
        before = self.buffer.rfind("\n", 0, self.at) + 1
        indent = self.buffer[before : self.at].replace("\ufeff", "")
        if indent.strip(" \t"):  # the value is not the first of its line: no other is recognised
            end, last = len(self.buffer), True
        else:
            after = r"\n" if self.buffer[self.at] not in "{[" else rf"\n{indent}\ufeff?[{{,\]]"
            begin = re.compile(after)
            while not (found := begin.search(self.buffer, self.at)) and self._read():
                pass
            end, last = (found.start(), False) if found else (len(self.buffer), True)
        origin = self._origin(min(end, self.at + SHOWN_CHARACTERS))
        self.at = end
        return Unreadable(origin, reason, last)
