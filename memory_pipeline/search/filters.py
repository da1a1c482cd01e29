"""The grammar of search filters: what a caller may ask, and what is said to one who asks else.

Only keys that every document has can be filtered by, so "not equal" means the same everywhere.
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
    """Read a caller's filter; None and an empty mapping filter nothing.

    Raises:
        InvalidFilter: the message says where it is wrong and what is allowed there.

    """
    if where is None or (isinstance(where, Mapping) and not where):
        return None
    return _Grammar(recipe).read(where, "filter", depth=1)


class _Grammar:
    """Reads one filter and counts as it reads: a list may hold one big filter a thousand times."""

    def __init__(self, recipe: Recipe) -> None:
        self._keys = recipe.keys
        self._conditions = 0
        self._values = 0

    def read(self, where: object, place: str, *, depth: int) -> Filter:
        """Read a mapping: all that it names has to match."""
        if not isinstance(where, Mapping) or not where:
            _refuse(place, where, "a mapping of fields, $and or $or that is not empty")
        if depth > MAX_DEPTH:
            raise InvalidFilter(f"{place} is too deep; allowed are {MAX_DEPTH} levels")
        parts: list[Filter] = []
        for key, asked in where.items():
            if key in ("$and", "$or"):
                parts.append(self._group(key, asked, f"{place}.{key}", depth=depth))
            elif key in self._keys:
                parts.extend(self._field(key, asked, f"{place}.{key}"))
            else:
                _refuse(f"a key of {place}", key, f"{', '.join(self._keys)}, $and, $or")
        return parts[0] if len(parts) == 1 else Group("$and", tuple(parts))

    def _group(self, op: GroupOperator, asked: object, place: str, *, depth: int) -> Filter:
        if not isinstance(asked, list | tuple) or not asked:
            _refuse(place, asked, "a list of filters that is not empty")
        numbered = enumerate(asked)
        parts = [self.read(part, f"{place}[{n}]", depth=depth + 1) for n, part in numbered]
        return parts[0] if len(parts) == 1 else Group(op, tuple(parts))

    def _field(self, field: str, asked: object, place: str) -> Iterator[Condition]:
        if not isinstance(asked, Mapping):
            yield self._condition(field, "$eq", asked, place)
            return
        if not asked:
            _refuse(place, asked, ", ".join(OPERATORS))
        for op, value in asked.items():
            if op not in OPERATORS:
                _refuse(f"an operator of {place}", op, ", ".join(OPERATORS))
            yield self._condition(field, op, value, f"{place}.{op}")

    def _condition(self, field: str, op: str, asked: object, place: str) -> Condition:
        if op in RANGES and kind_of(asked) != "numbers":
            times = f"{field}_ts"
            hint = f"; compare {times}, in epoch seconds, instead" if times in self._keys else ""
            _refuse(place, asked, f"a number{hint}")
        values = _list(asked, place) if op in LISTS else (_scalar(asked, place),)
        self._conditions += 1
        self._values += len(values)
        if self._conditions > MAX_CONDITIONS or self._values > MAX_VALUES:
            raise InvalidFilter(
                f"{place} is one too many; allowed are {MAX_CONDITIONS} conditions "
                f"and {MAX_VALUES} values in one filter"
            )
        return Condition(field, op, values)


def _list(asked: object, place: str) -> tuple[Scalar, ...]:
    if not isinstance(asked, list | tuple) or not 0 < len(asked) <= MAX_LIST:
        _refuse(place, asked, f"a list of 1 to {MAX_LIST} values")
    values = tuple(_scalar(value, f"{place}[{n}]") for n, value in enumerate(asked))
    if len({kind_of(value) for value in values}) > 1:
        _refuse(place, asked, "a list of texts, of numbers or of booleans, not a mixture")
    return values


def _scalar(asked: object, place: str) -> Scalar:
    """Take a value as a plain one: subclasses (enums, NumPy's float) lose what they add."""
    if isinstance(asked, bool):
        return asked
    if isinstance(asked, int) and int(asked) in BIGINT:  # a range looks through for a subclass
        return int(asked)
    if isinstance(asked, float) and math.isfinite(asked):
        return float(asked)
    if not isinstance(asked, str):
        _refuse(place, asked, "a text, a boolean, a whole number of 64 bits or a finite number")
    return _text(str.__str__(asked), place)


def _text(asked: str, place: str) -> str:
    if len(asked) > METADATA_CHARACTERS:
        _refuse(
            place, asked, f"a text of {METADATA_CHARACTERS} characters: no longer ones are kept"
        )
    if "\0" in asked or without_surrogates(asked) != asked:
        _refuse(place, asked, "a text without NUL and lone surrogates, as Postgres stores it")
    return asked


def _refuse(place: str, found: object, allowed: str) -> NoReturn:
    raise InvalidFilter(f"{place} is {_shown(found)}; allowed is {allowed}")


def _shown(found: object) -> str:
    """Describe a stranger's value without printing what may be huge, deep or unprintable."""
    if isinstance(found, str):
        cut = found[:SHOWN_CHARACTERS]
        return repr(cut) if cut == found else f"{cut!r}… ({len(found)} characters)"
    if found is None or isinstance(found, bool | float):
        return repr(found)
    if isinstance(found, int):
        return repr(int(found)) if int(found) in BIGINT else "a whole number beyond 64 bits"
    if isinstance(found, Mapping | list | tuple):
        return f"a {type(found).__name__} of {len(found)}"
    return f"a {type(found).__name__}"
