"""From a memory to the content of its document, which is all of the document but the vector.

- the *text*, which is embedded: one line of the words in ``raw_data``
- the *metadata*, by which searches filter: a value for every key of the recipe
- the *content hash*, which is compared to find documents that are out of date
- the stored *document*: ``raw_data`` as Postgres prints it, or nothing

Pure functions of the row and the recipe: the same memory gives the same content in every process.
A change of these functions that changes any content has to change ``RECIPE_VERSION``.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from memory_pipeline.content.dates import seconds, seconds_of
from memory_pipeline.content.fields import (
    DOCUMENT_LIST_VALUES,
    LIST_VALUES,
    METADATA_CHARACTERS,
    field_of,
    value_of,
)
from memory_pipeline.content.json_text import label_of, leaves_of, one_line, parse
from memory_pipeline.domain.types import Memory, MetadataValue, Vector
from memory_pipeline.settings import Settings, TenantBy, names_date

__all__ = [
    "METADATA_CHARACTERS",
    "Content",
    "Recipe",
    "canonical",
    "compose",
    "content_hash",
    "describe",
    "metadata",
    "parse",
    "recipe_from",
    "same_metadata",
    "searchable_text",
    "text_hash",
    "unread_dates",
    "vector_hash",
]

RECIPE_VERSION = 2
OTHERS = "*"  # in ``text_fields``: every field that is not named there

# Shared: json.dumps builds an encoder for each call that sorts.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an installation makes documents of its memories.

    A memory is any JSON. The recipe, taken from the settings, names the fields of it that matter:
    with ``text_fields=("summary", "*")`` and ``metadata_fields=("date", "task")`` the memory
    ``{"date": "2026-03-02", "task": "bugfix", "summary": "Paid twice"}`` is embedded as
    ``Paid twice date: 2026-03-02 task: bugfix`` and can be filtered by ``date``, ``date_ts``,
    ``task``, ``project_id``, ``ts`` and ``hash``. Whatever the shape of a memory, it has a text (an
    empty one if there is nothing to read) and a value for each of these keys. A field may be a path
    into objects: ``user.name``.

    A generation records the hash of the recipe that it was built with; another recipe needs a
    rebuild.

    Attributes:
        text_fields: the fields that are embedded, in this order and without their names; ``*``: all
            others, with their names.
        text_limit: the length of the text in characters.
        metadata_fields: the fields that can be filtered by.
        document: whether Chroma stores ``raw_data`` as well (``full``) or not (``none``).
        tenant_by: the columns whose values make a tenant.

    """

    text_fields: tuple[str, ...]
    text_limit: int
    metadata_fields: tuple[str, ...]
    document: Literal["full", "none"]
    tenant_by: TenantBy

    @property
    def date_fields(self) -> tuple[str, ...]:
        """The metadata fields named like a date: each has a ``<field>_ts`` in epoch seconds."""
        return _dates_among(self.metadata_fields)

    @property
    def list_values(self) -> int:
        """The most values of a list in metadata."""
        return min(LIST_VALUES, DOCUMENT_LIST_VALUES // max(1, len(self.metadata_fields)))

    @property
    def keys(self) -> tuple[str, ...]:
        """The metadata keys, which every document has."""
        times = (f"{f}_ts" for f in self.date_fields)
        return tuple(dict.fromkeys((*self.metadata_fields, *times, "project_id", "ts", "hash")))

    @property
    def config_hash(self) -> str:
        """The hash of the recipe. The order of metadata fields makes no difference."""
        parts = (RECIPE_VERSION, self.text_fields, self.text_limit, sorted(self.metadata_fields))
        printed = json.dumps([*parts, self.document, self.tenant_by])
        return hashlib.blake2b(printed.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a memory's document: all of it but the vector.

    ``text`` is embedded, and ``text_hash`` says whether a stored vector is of the same text.
    ``metadata`` has every key of the recipe, ``content_hash`` among them as ``hash``. ``document``
    is stored as it is; None: nothing is.
    """

    text: str
    text_hash: str
    metadata: Mapping[str, MetadataValue]
    document: str | None
    content_hash: str


def recipe_from(settings: Settings) -> Recipe:
    """Return the recipe that the settings describe."""
    return Recipe(
        text_fields=settings.text_fields,
        text_limit=settings.text_limit,
        metadata_fields=settings.metadata_fields,
        document=settings.document,
        tenant_by=settings.tenant_by,
    )


def compose(memory: Memory, recipe: Recipe) -> Content:
    """Return the content of a memory's document. Raises Poison where ``raw`` is not JSON."""
    value = parse(memory.raw)
    text = searchable_text(value, recipe)
    fields = metadata(memory, value, recipe)
    document = memory.raw if recipe.document == "full" else None
    return Content(text, text_hash(text), fields, document, str(fields["hash"]))


def describe(memory: Memory, recipe: Recipe) -> dict[str, MetadataValue]:
    """Return the metadata of a memory, with the content hash: all that a verify compares."""
    return metadata(memory, parse(memory.raw), recipe)


def searchable_text(value: object, recipe: Recipe) -> str:
    """Return the texts of a memory in one line; its numbers where it has no text at all."""
    return one_line(_selected(value, recipe), recipe.text_limit) or one_line(
        _selected(value, recipe), recipe.text_limit, numbers=True
    )


def _selected(value: object, recipe: Recipe) -> Iterator[tuple[str, object]]:
    """Yield (label, leaf) in the order of ``text_fields``; the named fields have no label.

    A memory that is no JSON object has no fields: all of it is embedded.
    """
    if not isinstance(value, dict):
        yield from leaves_of(value)
        return
    named = set(recipe.text_fields) - {OTHERS}
    paths = tuple(field for field in named if "." in field and value.get(field) is None)
    for field in recipe.text_fields:
        if field == OTHERS:
            for key in value:
                if key not in named:
                    others = leaves_of(value[key], label_of(key))
                    yield from _outside(others, paths) if paths else others
        elif (found := field_of(value, field)) is not None:
            yield from (("", leaf) for _, leaf in leaves_of(found))


def _outside(
    leaves: Iterator[tuple[str, object]], paths: tuple[str, ...]
) -> Iterator[tuple[str, object]]:
    """Leave out the leaves below a path that is named itself."""
    for label, leaf in leaves:
        if not any(label == path or label.startswith(f"{path}.") for path in paths):
            yield label, leaf


def metadata(memory: Memory, value: object, recipe: Recipe) -> dict[str, MetadataValue]:
    """Return a value that Chroma can filter by for every key of ``recipe.keys``.

    A text is cut at METADATA_CHARACTERS, a list at ``recipe.list_values``. What cannot be filtered
    by (null, objects, numbers beyond 64 bits, a time that cannot be read) and what is missing is
    the empty text, also for a ``_ts``: it is neither before nor after any time.
    """
    found = {f: field_of(value, f) for f in recipe.metadata_fields}
    values: dict[str, MetadataValue] = {
        f"{f}_ts": _or_missing(seconds(found[f])) for f in recipe.date_fields
    }
    for name, field in found.items():
        values[name] = value_of(field, list_values=recipe.list_values)
    values["project_id"] = value_of(memory.project_id, list_values=1)
    created_at = memory.created_at
    values["ts"] = _or_missing(None if created_at is None else seconds_of(created_at))
    values["hash"] = content_hash(memory, values)
    return values


def same_metadata(
    stored: Mapping[str, MetadataValue], described: Mapping[str, MetadataValue]
) -> bool:
    """Whether a document has the metadata of its memory.

    A list under a key of no recipe of now is left out: one of a collection that was dropped may
    come back in Chroma under another document's row. It cannot under a key that the document has.
    """
    if stored == described:
        return True
    own = {k: v for k, v in stored.items() if k in described or not isinstance(v, list)}
    return own == described


def unread_dates(metadata: Mapping[str, MetadataValue], recipe: Recipe) -> tuple[str, ...]:
    """Return the date fields of a memory that have a value, but none that can be read as a date."""
    return tuple(
        f
        for f in recipe.date_fields
        if metadata.get(f"{f}_ts") == "" and str(metadata.get(f, "")).strip()
    )


def _or_missing(seconds: int | None) -> int | str:
    return "" if seconds is None else seconds


@cache
def _dates_among(fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f for f in fields if names_date(f))


def content_hash(memory: Memory, metadata_without_hash: Mapping[str, MetadataValue]) -> str:
    """Hash a document's content: the memory as Postgres prints it, and its metadata."""
    # The metadata is one line, so the first line break separates the two.
    return text_hash(f"{canonical(metadata_without_hash)}\n{memory.raw}")


def canonical(metadata: Mapping[str, MetadataValue]) -> str:
    """Return metadata as one line of JSON, whatever the order of its keys."""
    return _CANONICAL.encode(dict(metadata))


def text_hash(text: str) -> str:
    """Hash a text, whatever characters it has."""
    return _hash(text.encode(errors="surrogatepass"))


def vector_hash(vector: Vector) -> str:
    """Hash a vector by its exact values, alike on machines of either byte order."""
    return _hash(vector.astype("<f4").tobytes())


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
