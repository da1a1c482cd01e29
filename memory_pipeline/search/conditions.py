"""The meaning of a search filter, twice: as a query to Chroma and as a predicate in Python.

Both agree on every document while whole numbers stay within 2**53; Chroma compares some larger ones
rounded.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeGuard

from memory_pipeline.domain.types import BIGINT, MetadataValue, Scalar

RANGES: dict[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
LISTS = ("$in", "$nin")
# Of a stored list. All other operators are of a stored single value: no list equals anything.
MEMBERS = ("$contains", "$not_contains")
OPERATORS = ("$eq", "$ne", *RANGES, *LISTS, *MEMBERS)

GroupOperator = Literal["$and", "$or"]

# Corrects Chroma's answer about stored integers where the operand has a fraction: by operator, and
# whether the operand is above zero.
_CORRECTIONS: dict[tuple[str, bool], tuple[GroupOperator, str]] = {
    ("$eq", True): ("$and", "$ne"),
    ("$eq", False): ("$and", "$ne"),
    ("$ne", True): ("$or", "$eq"),
    ("$ne", False): ("$or", "$eq"),
    ("$gt", False): ("$or", "$gte"),
    ("$gte", True): ("$and", "$gt"),
    ("$lt", True): ("$or", "$lte"),
    ("$lte", False): ("$and", "$lt"),
}
_LIST_CORRECTIONS: dict[str, tuple[GroupOperator, str]] = {
    "$in": ("$and", "$nin"),
    "$nin": ("$or", "$in"),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One key compared with one value, or with a list of them."""

    field: str
    op: str
    values: tuple[Scalar, ...]

    def matches(self, metadata: Mapping[str, MetadataValue]) -> bool:
        """Whether a document with this metadata matches. Kinds of values never equal each other."""
        stored = metadata.get(self.field)
        if self.op in MEMBERS:
            held = isinstance(stored, list) and any(self._equals(value) for value in stored)
            return held is (self.op == "$contains")
        if self.op in RANGES:
            limit = self.values[0]
            return _is_number(stored) and _is_number(limit) and RANGES[self.op](stored, limit)
        return self._equals(stored) is (self.op in {"$eq", "$in"})

    def _equals(self, stored: object) -> bool:
        """Whether a stored single value is the value, or one of the values."""
        return any(stored == value and kind_of(stored) == kind_of(value) for value in self.values)

    def to_chroma(self) -> dict[str, object]:
        """Return the condition as Chroma's query.

        Chroma cuts the fraction off an operand before it compares it with a stored integer: its
        ``$eq 1.5`` finds 1, its ``$lt 0.5`` misses 0. So a second condition on the whole part
        removes, or adds, exactly that integer, and leaves stored fractions alone.
        """
        if self.op in LISTS:
            return self._list_to_chroma()
        value = self.values[0]
        if self.op in MEMBERS:
            return self._member_to_chroma(value)
        if not _has_fraction(value):
            return self._plain(self.op, value)
        query, correction = self._plain(self.op, value), _CORRECTIONS.get((self.op, value > 0))
        if correction is None:
            return query
        group, op = correction
        return _group(group, query, self._plain(op, int(value)))

    def _list_to_chroma(self) -> dict[str, object]:
        """Separate whole numbers from fractions: Chroma takes lists of one type only."""
        fractions = [v for v in self.values if _has_fraction(v)]
        others = [int(v) if _is_whole(v) else v for v in self.values if not _has_fraction(v)]
        lists = [[v for v in others if type(v) is kind] for kind in (str, bool, int, float)]
        queries = [self._plain(self.op, values) for values in lists if values]
        if fractions:
            wholes = [int(v) for v in fractions]
            group, opposite = _LIST_CORRECTIONS[self.op]
            correction = self._plain(opposite, wholes)
            queries.append(_group(group, self._plain(self.op, fractions), correction))
        return _group("$or" if self.op == "$in" else "$and", *queries)

    def _member_to_chroma(self, value: Scalar) -> dict[str, object]:
        """Ask for a whole number both ways: Chroma finds 1 in no [1.0], nor 1.0 in [1]."""
        both: list[Scalar] = [value]
        if _is_whole(value):
            both.append(int(value))
        elif type(value) is int and int(float(value)) == value:
            both.append(float(value))
        queries = [self._plain(self.op, each) for each in both]
        return _group("$or" if self.op == "$contains" else "$and", *queries)

    def _plain(self, op: str, value: object) -> dict[str, object]:
        return {self.field: {op: value}}


@dataclass(frozen=True, slots=True)
class Group:
    """Filters that all have to match (``$and``), or any of them (``$or``)."""

    op: GroupOperator
    parts: "tuple[Filter, ...]"

    def matches(self, metadata: Mapping[str, MetadataValue]) -> bool:
        """Whether a document with this metadata matches."""
        choose = all if self.op == "$and" else any
        return choose(part.matches(metadata) for part in self.parts)

    def to_chroma(self) -> dict[str, object]:
        """Return the group as Chroma's query. A group of one is unwrapped: Chroma refuses it."""
        return _group(self.op, *(part.to_chroma() for part in self.parts))


Filter = Condition | Group


def kind_of(value: object) -> str:
    """Return the kind that values need in common to be equal: 1 and 1.0 have it, 1 and True not."""
    if isinstance(value, bool):
        return "booleans"
    if isinstance(value, int | float):
        return "numbers"
    return "texts" if isinstance(value, str) else "nothing"


def _is_number(value: object) -> TypeGuard[float]:
    return kind_of(value) == "numbers"


def _has_fraction(value: Scalar) -> TypeGuard[float]:
    return isinstance(value, float) and not value.is_integer()


def _is_whole(value: Scalar) -> TypeGuard[float]:
    return isinstance(value, float) and value.is_integer() and int(value) in BIGINT


def _group(op: GroupOperator, *queries: dict[str, object]) -> dict[str, object]:
    return queries[0] if len(queries) == 1 else {op: list(queries)}
