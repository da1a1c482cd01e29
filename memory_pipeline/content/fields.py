"""Finds a field of a memory by its name or path, and makes a value of it that Chroma filters by."""

import json
import math
from collections.abc import Iterable, Sequence

from memory_pipeline.content.json_text import Number, without_surrogates
from memory_pipeline.domain.types import BIGINT, MetadataValue, Scalar

METADATA_CHARACTERS = 256  # longer texts are cut
LIST_VALUES = 256  # longer lists are cut
# Chroma writes all lists of a document in one statement of six variables a value. One value more
# than 5,461, and the collection takes no write ever again.
DOCUMENT_LIST_VALUES = 5_000


def field_of(fields: object, path: str) -> object:
    """Return the field of an object with this name, or at this dotted path; None: there is none.

    A key that has the dots itself comes first. A path goes through a list of objects: it leads to
    the list of what it finds in them.
    """
    if not isinstance(fields, dict):
        return None
    found = fields.get(path)
    return found if found is not None or "." not in path else _below(fields, path.split("."))


def _below(node: object, parts: Sequence[str]) -> object:
    if not parts:
        return node
    if isinstance(node, list):
        return _below_all(node, parts)
    if isinstance(node, dict):
        for end in range(len(parts), 0, -1):
            key = ".".join(parts[:end])
            if key in node and (found := _below(node[key], parts[end:])) is not None:
                return found
    return None


def _below_all(nodes: Iterable[object], parts: Sequence[str]) -> object:
    """Return what a path finds in the objects of a list, as one list. Lists in lists are ended."""
    found: list[object] = []
    for node in nodes:
        below = _below(node, parts) if isinstance(node, dict) else None
        found += below if isinstance(below, list) else [below]
    return found if any(value is not None for value in found) else None


def value_of(field: object, *, list_values: int) -> MetadataValue:
    """Return a field as a value of metadata; the empty text where it cannot be filtered by.

    A list keeps its texts, booleans and numbers, up to ``list_values`` of them. Chroma takes lists
    of one type: whole numbers beside fractions become fractions, and in any other mixture all
    become texts as JSON prints them. A list of which nothing is left is the empty text: Chroma
    takes no empty one.
    """
    if isinstance(field, list):
        kept = [s for value in field if (s := _scalar(value)) is not None][:list_values]
        return _of_one_type(kept) if kept else ""
    scalar = _scalar(field)
    return "" if scalar is None else scalar


def _of_one_type(values: list[Scalar]) -> list[Scalar]:
    types = {type(value) for value in values}
    if len(types) == 1:
        return values
    if types == {int, float}:
        return [float(value) for value in values]
    return [v if isinstance(v, str) else json.dumps(v) for v in values]


def _scalar(value: object) -> Scalar | None:
    if isinstance(value, str):
        # A number that neither 64 bits nor a finite float can hold is no text.
        if isinstance(value, Number):
            return None
        return without_surrogates(value[:METADATA_CHARACTERS])
    if isinstance(value, bool) or (isinstance(value, int) and int(value) in BIGINT):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # Chroma has no -0.0
    return None
