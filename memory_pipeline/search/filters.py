"""The grammar of search filters, and the messages for a filter outside of it.

Only keys that every document has can be filtered by, so "not equal" means the same for all of them.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NoReturn

from memory_pipeline.content.document import METADATA_CHARACTERS, Recipe
from memory_pipeline.content.json_text import without_surrogates
from memory_pipeline.domain.types import BIGINT, Scalar
from memory_pipeline.errors import InvalidFilter
from memory_pipeline.search.conditions import (
    LISTS,
    OPERATORS,
    RANGES,
    Condition,
    Filter,
    Group,
    GroupOperator,
    kind_of,
)

__all__ = ["Condition", "Filter", "Group", "parse_filter"]

MAX_DEPTH = 8
MAX_CONDITIONS = 100
MAX_LIST = 1000
MAX_VALUES = 2000  # each becomes up to six of the 32,766 variables that Chroma's SQLite binds
SHOWN_CHARACTERS = 60


def parse_filter(where: Mapping[str, object] | None, recipe: Recipe) -> Filter | None:
    """Return a caller's filter, checked; None for None and for an empty mapping.

    Raises:
        InvalidFilter: the message names the path in the filter, the value there and what is
            allowed.

    """
    if where is None or (isinstance(where, Mapping) and not where):
        return None
    return _Grammar(recipe).read(where, "filter", depth=1)


class _Grammar:
    """Reads one filter, and counts: a list may hold the same large filter a thousand times."""

    def __init__(self, recipe: Recipe) -> None:
        self._keys = recipe.keys
        self._conditions = 0
        self._values = 0

    def read(self, where: object, path: str, *, depth: int) -> Filter:
        """Read a mapping: every entry has to match."""
        if not isinstance(where, Mapping) or not where:
            _refuse(path, where, "a mapping of fields, $and or $or that is not empty")
        if depth > MAX_DEPTH:
            raise InvalidFilter(f"{path} is too deep; allowed are {MAX_DEPTH} levels")
        parts: list[Filter] = []
        for key, value in where.items():
            if key in ("$and", "$or"):
                parts.append(self._group(key, value, f"{path}.{key}", depth=depth))
            elif key in self._keys:
                parts.extend(self._field(key, value, f"{path}.{key}"))
            else:
                _refuse(f"a key of {path}", key, f"{', '.join(self._keys)}, $and, $or")
        return parts[0] if len(parts) == 1 else Group("$and", tuple(parts))

    def _group(self, op: GroupOperator, filters: object, path: str, *, depth: int) -> Filter:
        if not isinstance(filters, list | tuple) or not filters:
            _refuse(path, filters, "a list of filters that is not empty")
        numbered = enumerate(filters)
        parts = [self.read(part, f"{path}[{n}]", depth=depth + 1) for n, part in numbered]
        return parts[0] if len(parts) == 1 else Group(op, tuple(parts))

    def _field(self, field: str, conditions: object, path: str) -> Iterator[Condition]:
        if not isinstance(conditions, Mapping):
            yield self._condition(field, "$eq", conditions, path)
            return
        if not conditions:
            _refuse(path, conditions, ", ".join(OPERATORS))
        for op, value in conditions.items():
            if op not in OPERATORS:
                _refuse(f"an operator of {path}", op, ", ".join(OPERATORS))
            yield self._condition(field, op, value, f"{path}.{op}")

    def _condition(self, field: str, op: str, operand: object, path: str) -> Condition:
        if op in RANGES and kind_of(operand) != "numbers":
            times = f"{field}_ts"
            hint = f"; compare {times}, in epoch seconds, instead" if times in self._keys else ""
            _refuse(path, operand, f"a number{hint}")
        values = _list(operand, path) if op in LISTS else (_scalar(operand, path),)
        self._conditions += 1
        self._values += len(values)
        if self._conditions > MAX_CONDITIONS or self._values > MAX_VALUES:
            raise InvalidFilter(
                f"{path} is one too many; allowed are {MAX_CONDITIONS} conditions "
                f"and {MAX_VALUES} values in one filter"
            )
        return Condition(field, op, values)


def _list(operand: object, path: str) -> tuple[Scalar, ...]:
    if not isinstance(operand, list | tuple) or not 0 < len(operand) <= MAX_LIST:
        _refuse(path, operand, f"a list of 1 to {MAX_LIST} values")
    values = tuple(_scalar(value, f"{path}[{n}]") for n, value in enumerate(operand))
    if len({kind_of(value) for value in values}) > 1:
        _refuse(path, operand, "a list of texts, of numbers or of booleans, not a mixture")
    return values


def _scalar(operand: object, path: str) -> Scalar:
    """Return a value of a plain type: an enum's, or that of NumPy's float."""
    if isinstance(operand, bool):
        return operand
    # int(): with a subclass, a range compares every number that it holds.
    if isinstance(operand, int) and int(operand) in BIGINT:
        return int(operand)
    if isinstance(operand, float) and math.isfinite(operand):
        return float(operand)
    if not isinstance(operand, str):
        _refuse(path, operand, "a text, a boolean, a whole number of 64 bits or a finite number")
    return _text(str.__str__(operand), path)


def _text(operand: str, path: str) -> str:
    if len(operand) > METADATA_CHARACTERS:
        _refuse(
            path,
            operand,
            f"a text of at most {METADATA_CHARACTERS} characters: metadata is cut there",
        )
    if "\0" in operand or without_surrogates(operand) != operand:
        _refuse(path, operand, "a text without NUL and lone surrogates, as Postgres stores it")
    return operand


def _refuse(path: str, value: object, allowed: str) -> NoReturn:
    raise InvalidFilter(f"{path} is {_shown(value)}; allowed is {allowed}")


def _shown(value: object) -> str:
    """Describe any value; never print what may be huge, deep or unprintable."""
    if isinstance(value, str):
        cut = value[:SHOWN_CHARACTERS]
        return repr(cut) if cut == value else f"{cut!r}… ({len(value)} characters)"
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(int(value)) if int(value) in BIGINT else "a whole number beyond 64 bits"
    if isinstance(value, Mapping | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
