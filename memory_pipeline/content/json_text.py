"""Parses ``raw_data`` as Postgres prints it, and makes one line of text of a value.

Nothing here recurses: a memory may be nested as deeply as Postgres allows.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from memory_pipeline.domain.types import BIGINT
from memory_pipeline.errors import Poison

BIGINT_DIGITS = 20  # with the sign; Python refuses to convert thousands of digits
SAFE_BRACKETS = 400  # json.loads recurses once per bracket, on a stack that the caller uses too
LABEL_CHARACTERS = 200  # deeper keys are left out of a label: a deep memory would be all label
LONGEST_WORD = 64  # text without spaces (Chinese, base64) is cut anywhere

_LEXEME = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]|[^][{}",:\s]+', re.DOTALL)


class Number(str):
    """A number that neither 64 bits nor a finite float can hold, as Postgres prints it."""

    __slots__ = ()


def parse(raw: str) -> object:
    """Return ``raw_data`` as a Python value, whatever its depth and the size of its numbers.

    Raises:
        Poison: this is not JSON, which Postgres never prints.

    """
    try:
        if raw.count("[") + raw.count("{") > SAFE_BRACKETS:
            return _parse_deep(raw)
        return _parse_leaf(raw)
    except RecursionError:  # the caller has used up most of the stack
        return _parse_deep(raw)
    except (ValueError, LookupError) as exc:
        raise Poison(f"raw_data is not JSON: {exc}") from exc


def _parse_leaf(raw: str) -> object:
    value: object = _DECODER.decode(raw)
    return value


def _parse_deep(raw: str) -> object:
    """Return the same value as json.loads, without recursion."""
    root: list[object] = []
    open_nodes: list[list[object] | dict[str, object]] = [root]
    key: str | None = None
    for match in _LEXEME.finditer(raw):
        lexeme = match[0]
        if lexeme in "]}":
            open_nodes.pop()
            continue
        node: list[object] | dict[str, object] | None
        node = [] if lexeme == "[" else {} if lexeme == "{" else None
        value = _parse_leaf(lexeme) if node is None else node
        parent = open_nodes[-1]
        if isinstance(parent, list):
            parent.append(value)
        elif key is None:
            key = str(value)
        else:
            parent[key], key = value, None
        if node is not None:
            open_nodes.append(node)
    if len(root) != 1 or len(open_nodes) != 1:
        raise ValueError("brackets do not match")
    return root[0]


def _int(literal: str) -> int | Number:
    fits = len(literal) <= BIGINT_DIGITS and int(literal) in BIGINT
    return int(literal) if fits else Number(literal)


def _float(literal: str) -> float | Number:
    return float(literal) if math.isfinite(float(literal)) else Number(literal)


# Shared: json.loads builds a decoder for each text, which costs as much as the parsing.
_DECODER = json.JSONDecoder(parse_int=_int, parse_float=_float, parse_constant=Number)


def one_line(leaves: Iterable[tuple[str, object]], limit: int, *, numbers: bool = False) -> str:
    """Join the texts of labelled leaves, or their numbers and booleans, up to ``limit`` characters.

    Leaves that follow each other under one label share it: ``label: one, two``.
    """
    pieces: list[str] = []
    length, last = 0, ""
    for label, leaf in leaves:
        shown = _shown(leaf, limit, numbers=numbers)
        if not shown:
            continue
        joint = " " if not label else ", " if label == last else f" {label}: "
        pieces.append(joint + shown)
        length, last = length + len(pieces[-1]), label
        if length > limit + 1:
            break
    return without_surrogates(_cut("".join(pieces)[1:], limit))


def leaves_of(value: object, label: str = "") -> Iterator[tuple[str, object]]:
    """Yield (label, leaf) for each leaf of a value in document order; a label is a path of keys."""
    waiting = [(label, value)]
    while waiting:
        label, node = waiting.pop()
        if isinstance(node, dict):
            waiting.extend((_below(label, key), node[key]) for key in reversed(node))
        elif isinstance(node, list):
            waiting.extend((label, child) for child in reversed(node))
        else:
            yield label, node


@lru_cache(maxsize=1024)
def label_of(key: str) -> str:
    """Return a key as the label of its texts: one line, cut."""
    return _cut(_collapsed(key, LABEL_CHARACTERS), LABEL_CHARACTERS)


def _below(label: str, key: str) -> str:
    if not label:
        return label_of(key)
    return f"{label}.{label_of(key)}" if len(label) < LABEL_CHARACTERS else label


def _shown(leaf: object, limit: int, *, numbers: bool) -> str:
    if leaf is None or (isinstance(leaf, str) and not isinstance(leaf, Number)) == numbers:
        return ""
    return _collapsed(str(leaf).lower() if isinstance(leaf, bool) else str(leaf), limit)


def _collapsed(text: str, words: int) -> str:
    """Collapse whitespace between the first ``words`` words; nothing after them is ever shown."""
    return " ".join(text.split(None, words))


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    boundary = text.rfind(" ", max(0, limit - LONGEST_WORD), limit + 1)
    return text[: boundary if boundary > 0 else limit].rstrip()


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()
