"""Writes a Python value as JSON: every number as it is, however long, and at any depth.

Nothing here recurses: a memory may be nested as deeply as Postgres allows.
"""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal

from memory_pipeline.content.json_text import Number
from memory_pipeline.errors import InvalidMemory

NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)


class JsonText(str):
    """A piece of JSON that is written unchanged."""

    __slots__ = ()


class _End(JsonText):
    """The closing bracket of a container, which is no longer open once it is written."""

    __slots__ = ("closes",)
    closes: int


def exact_json(value: object) -> str:
    """Return a value as JSON for Postgres: Decimal, integers of any length, and JsonText too.

    Raises:
        InvalidMemory: the value is no JSON: of another type, not finite, or within itself.

    """
    try:
        return "".join(json_pieces(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMemory(f"raw_data is not JSON: {error}") from None


def json_pieces(
    value: object, *, default: Callable[[object], str] | None = None, ascii_only: bool = False
) -> Iterator[str]:
    """Yield the pieces of a value's JSON, as json.dumps writes it.

    Args:
        value: what ``json.dumps`` accepts, and what ``exact_json`` names.
        default: returns the text that stands for a value of another type.
        ascii_only: escape every other character.

    Raises:
        TypeError: a value is of another type.
        ValueError: a number is not finite, or a container is within itself.

    """
    waiting: list[object] = [value]
    open_containers: set[int] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, _End):
            open_containers.discard(node.closes)
            yield node
        elif isinstance(node, JsonText):
            yield node
        elif isinstance(node, dict | list | tuple):
            if id(node) in open_containers:
                raise ValueError("Circular reference detected")
            open_containers.add(id(node))
            waiting += reversed(_parts(node, ascii_only))
        else:
            yield _leaf(node, default, ascii_only)


def _parts(
    node: dict[object, object] | list[object] | tuple[object, ...],
    ascii_only: bool,  # noqa: FBT001 - private, and passed on
) -> list[object]:
    """Return what a container is written as, its children unwritten."""
    is_object = isinstance(node, dict)
    parts: list[object] = [JsonText("{" if is_object else "[")]
    comma = ""
    for child in node:
        if isinstance(node, dict):
            parts += [JsonText(f"{comma}{_key(child, ascii_only)}: "), node[child]]
        else:
            parts += [JsonText(comma), child]
        comma = ", "
    end = _End("}" if is_object else "]")
    end.closes = id(node)
    return [*parts, end]


def _key(key: object, ascii_only: bool) -> str:  # noqa: FBT001 - private, and passed on
    if isinstance(key, str):
        return json.dumps(key, ensure_ascii=ascii_only)
    return json.dumps({key: 0}, allow_nan=False)[1:-4]  # {"1": 0}: as json.dumps writes such a key


def _leaf(
    node: object,
    default: Callable[[object], str] | None,
    ascii_only: bool,  # noqa: FBT001 - private, and passed on
) -> str:
    if isinstance(node, Number) and NUMBER.fullmatch(node):
        return str(node)
    if isinstance(node, Decimal):
        if not node.is_finite():
            raise ValueError("Out of range Decimal values are not JSON compliant")
        return str(node)
    if isinstance(node, int) and not isinstance(node, bool):
        # Decimal prints an integer of any length, int at most 4,300 digits.
        return str(Decimal(int(node)))
    if default is not None and not isinstance(node, str | float | bool | None):
        return json.dumps(default(node), ensure_ascii=ascii_only)
    return json.dumps(node, ensure_ascii=ascii_only, allow_nan=default is not None)
