"""From a memory to what is searched, filtered by and compared: text, metadata, content hash.

Pure functions of the row and the recipe: the same memory gives the same content in every process,
for ever; what changes that rule changes ``RECIPE_VERSION``. Nothing here touches a vector's values.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Literal

from memory_pipeline.content.json_text import (
    Number,
    label_of,
    leaves_of,
    one_line,
    parse,
    without_surrogates,
)
from memory_pipeline.domain.types import BIGINT, UNIX_EPOCH, Memory, Scalar, Vector
from memory_pipeline.settings import Settings, TenantBy, names_date

__all__ = [
    "Content",
    "Recipe",
    "canonical",
    "compose",
    "content_hash",
    "describe",
    "metadata",
    "parse",
    "recipe_from",
    "searchable_text",
    "text_hash",
    "vector_hash",
]

RECIPE_VERSION = 1
OTHERS = "*"
METADATA_CHARACTERS = 256
SECONDS_A_DAY = 86_400

# One for all: json.dumps builds another for each call that sorts.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which parts of ``raw_data`` are searched, filtered by and stored."""

    text_fields: tuple[str, ...]
    text_limit: int
    metadata_fields: tuple[str, ...]
    document: Literal["full", "none"]
    tenant_by: TenantBy

    @property
    def date_fields(self) -> tuple[str, ...]:
        """The metadata fields named like a date: each has a ``<field>_ts`` beside it."""
        return _dates_among(self.metadata_fields)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every metadata key that a document has, always."""
        times = (f"{f}_ts" for f in self.date_fields)
        return tuple(dict.fromkeys((*self.metadata_fields, *times, "project_id", "ts", "hash")))

    @property
    def config_hash(self) -> str:
        """What a generation was built with. The order of metadata fields makes no difference."""
        parts = (RECIPE_VERSION, self.text_fields, self.text_limit, sorted(self.metadata_fields))
        chosen = json.dumps([*parts, self.document, self.tenant_by])
        return hashlib.blake2b(chosen.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Content:
    """All that a memory's document is made of, but its vector."""

    text: str
    text_hash: str
    metadata: Mapping[str, Scalar]
    document: str | None
    content_hash: str


def recipe_from(settings: Settings) -> Recipe:
    """Take the recipe out of the settings."""
    return Recipe(
        text_fields=settings.text_fields,
        text_limit=settings.text_limit,
        metadata_fields=settings.metadata_fields,
        document=settings.document,
        tenant_by=settings.tenant_by,
    )


def compose(memory: Memory, recipe: Recipe) -> Content:
    """Make the content of a memory: the one function that the rest of the pipeline calls."""
    value = parse(memory.raw)
    text = searchable_text(value, recipe)
    found = metadata(memory, value, recipe)
    document = memory.raw if recipe.document == "full" else None
    return Content(text, text_hash(text), found, document, str(found["hash"]))


def describe(memory: Memory, recipe: Recipe) -> dict[str, Scalar]:
    """Make the metadata of a memory alone, the content hash in it: all that a verify compares."""
    return metadata(memory, parse(memory.raw), recipe)


def searchable_text(value: object, recipe: Recipe) -> str:
    """Put the texts of a memory in one line; its numbers only where it has no text at all."""
    return one_line(_selected(value, recipe), recipe.text_limit) or one_line(
        _selected(value, recipe), recipe.text_limit, numbers=True
    )


def _selected(value: object, recipe: Recipe) -> Iterator[tuple[str, object]]:
    """Yield (label, leaf): the named fields in order and without labels, then or between, others.

    A memory that is no JSON object has no fields: all of it is searched.
    """
    if not isinstance(value, dict):
        yield from leaves_of(value)
        return
    named = set(recipe.text_fields) - {OTHERS}
    for field in recipe.text_fields:
        if field == OTHERS:
            for key in value:
                if key not in named:
                    yield from leaves_of(value[key], label_of(key))
        elif field in value:
            yield from (("", leaf) for _, leaf in leaves_of(value[field]))


def metadata(memory: Memory, value: object, recipe: Recipe) -> dict[str, Scalar]:
    """Return every key of ``recipe.keys``, always, with a value that Chroma can filter by."""
    fields = value if isinstance(value, dict) else {}
    times: dict[str, Scalar] = {f"{f}_ts": _seconds(fields.get(f)) for f in recipe.date_fields}
    found = times | {f: _scalar(fields.get(f)) for f in recipe.metadata_fields}
    found["project_id"] = _scalar(memory.project_id)
    found["ts"] = _seconds_of(memory.created_at)
    found["hash"] = content_hash(memory, found)
    return found


def _scalar(value: object) -> Scalar:
    if isinstance(value, bool) or (isinstance(value, int) and int(value) in BIGINT):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value + 0.0  # Chroma has no -0.0
    if isinstance(value, str) and not isinstance(value, Number):
        return without_surrogates(value[:METADATA_CHARACTERS])
    return ""


@cache
def _dates_among(fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f for f in fields if names_date(f))


def _seconds(value: object) -> int:
    try:
        return _seconds_of(datetime.fromisoformat(value.strip())) if isinstance(value, str) else 0
    except ValueError:
        return 0


def _seconds_of(time: datetime) -> int:
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    since = aware - UNIX_EPOCH
    return since.days * SECONDS_A_DAY + since.seconds


def content_hash(memory: Memory, metadata_without_hash: Mapping[str, Scalar]) -> str:
    """Hash what a document says: the memory as Postgres prints it, and its metadata."""
    # JSON in one line: the first \n is the border
    return text_hash(f"{canonical(metadata_without_hash)}\n{memory.raw}")


def canonical(metadata: Mapping[str, Scalar]) -> str:
    """Write metadata in one line, the same for the same metadata."""
    return _CANONICAL.encode(dict(metadata))


def text_hash(text: str) -> str:
    """Hash a text."""
    return _hash(text.encode(errors="surrogatepass"))


def vector_hash(vector: Vector) -> str:
    """Hash a vector by its exact values, the same on machines of either byte order."""
    return _hash(vector.astype("<f4").tobytes())


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
