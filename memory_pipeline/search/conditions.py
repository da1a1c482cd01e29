"""What a search filter means: to Chroma, and to Python.

The two agree on every document as long as whole numbers stay within 2**53; beyond, Chroma compares
some of them rounded.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeGuard

from memory_pipeline.domain.types import BIGINT, Scalar

RANGES: dict[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
LISTS = ("$in", "$nin")
OPERATORS = ("$eq", "$ne", *RANGES, *LISTS)

GroupOperator = Literal["$and", "$or"]

# How Chroma's answer about stored integers is mended where the operand has a fraction: by operator
# and whether the operand is above zero.
_MENDS: dict[tuple[str, bool], tuple[GroupOperator, str]] = {
    ("$eq", True): ("$and", "$ne"),
    ("$eq", False): ("$and", "$ne"),
    ("$ne", True): ("$or", "$eq"),
    ("$ne", False): ("$or", "$eq"),
    ("$gt", False): ("$or", "$gte"),
    ("$gte", True): ("$and", "$gt"),
    ("$lt", True): ("$or", "$lte"),
    ("$lte", False): ("$and", "$lt"),
}
_LIST_MENDS: dict[str, tuple[GroupOperator, str]] = {
    "$in": ("$and", "$nin"),
    "$nin": ("$or", "$in"),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One key compared with one value, or with a list of them."""

    field: str
    op: str
    values: tuple[Scalar, ...]

    def matches(self, metadata: Mapping[str, Scalar]) -> bool:
        """Tell whether a document with this metadata is meant. Numbers compare, types do not."""
        found = metadata.get(self.field)
        if self.op in RANGES:
            limit = self.values[0]
            return _is_number(found) and _is_number(limit) and RANGES[self.op](found, limit)
        among = any(found == value and kind_of(found) == kind_of(value) for value in self.values)
        return among if self.op in {"$eq", "$in"} else not among

    def to_chroma(self) -> dict[str, object]:
        """Ask Chroma the same.

        Chroma cuts the fraction off an operand before it compares it with a stored integer: its
        ``$eq 1.5`` finds 1, its ``$lt 0.5`` misses 0. So a second condition on the whole part
        takes back, or adds, exactly that integer; stored fractions it leaves alone.
        """
        if self.op in LISTS:
            return self._list_to_chroma()
        value = self.values[0]
        if not _has_fraction(value):
            return self._plain(self.op, value)
        asked, mend = self._plain(self.op, value), _MENDS.get((self.op, value > 0))
        return _group(mend[0], asked, self._plain(mend[1], int(value))) if mend else asked

    def _list_to_chroma(self) -> dict[str, object]:
        """Split whole numbers from fractions: Chroma takes lists of one type only."""
        fractions = [v for v in self.values if _has_fraction(v)]
        others = [int(v) if _is_whole(v) else v for v in self.values if not _has_fraction(v)]
        lists = [[v for v in others if type(v) is kind] for kind in (str, bool, int, float)]
        asked = [self._plain(self.op, values) for values in lists if values]
        if fractions:
            wholes = [int(v) for v in fractions]
            group, opposite = _LIST_MENDS[self.op]
            mended = self._plain(opposite, wholes)
            asked.append(_group(group, self._plain(self.op, fractions), mended))
        return _group("$or" if self.op == "$in" else "$and", *asked)

    def _plain(self, op: str, value: object) -> dict[str, object]:
        return {self.field: {op: value}}


@dataclass(frozen=True, slots=True)
class Group:
    """Filters of which all, or any, have to match."""

    op: GroupOperator
    parts: "tuple[Filter, ...]"

    def matches(self, metadata: Mapping[str, Scalar]) -> bool:
        """Tell whether a document with this metadata is meant."""
        choose = all if self.op == "$and" else any
        return choose(part.matches(metadata) for part in self.parts)

    def to_chroma(self) -> dict[str, object]:
        """Ask Chroma the same; it refuses groups of one, which are none."""
        return _group(self.op, *(part.to_chroma() for part in self.parts))


Filter = Condition | Group


def kind_of(value: object) -> str:
    """Name what values have to share to be equal: whole numbers and fractions do, booleans not."""
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


def _group(op: GroupOperator, *asked: dict[str, object]) -> dict[str, object]:
    return asked[0] if len(asked) == 1 else {op: list(asked)}
