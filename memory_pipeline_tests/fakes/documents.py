"""Vectors and documents for the tests, and how a fake collection measures and filters them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memory_pipeline.domain.types import (
    DIMENSION,
    Document,
    MemoryId,
    MetadataValue,
    Vector,
)
from memory_pipeline.errors import Poison
from memory_pipeline.search.conditions import MEMBERS, RANGES, kind_of


def refuse(documents: Sequence[Document]) -> None:
    """Raise Poison for what no collection takes."""
    for document in documents:
        if document.vector.shape != (DIMENSION,) or not np.isfinite(document.vector).all():
            raise Poison("the vector has the wrong dimension or is not finite")
        try:
            (document.text or "").encode()
        except UnicodeEncodeError as error:
            raise Poison("the text has lone surrogates") from error


def cosine_distance(one: Vector, other: Vector) -> float:
    """Measure as Chroma does; a zero vector is far from everything."""
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return max(0.0, 1.0 - float(one @ other) / length) if length else 1.0


def meets(metadata: Mapping[str, MetadataValue], where: Mapping[str, Any] | None) -> bool:
    """Whether metadata meets a Chroma filter."""
    return all(_meets(metadata, key, asked) for key, asked in (where or {}).items())


def _meets(metadata: Mapping[str, MetadataValue], key: str, asked: Any) -> bool:
    if key in {"$and", "$or"}:
        parts = (meets(metadata, part) for part in asked)
        return all(parts) if key == "$and" else any(parts)
    found = metadata.get(key)
    [(op, value)] = asked.items() if isinstance(asked, Mapping) else [("$eq", asked)]
    if op in MEMBERS:
        held = found if isinstance(found, list) else []
        inside = any(v == value and type(v) is type(value) for v in held)
        return inside is (op == "$contains")
    if op in RANGES:
        return isinstance(found, int | float) and bool(RANGES[op](found, value))
    values = value if op in {"$in", "$nin"} else [value]
    among = any(found == v and kind_of(found) == kind_of(v) for v in values)
    return among if op in {"$eq", "$in"} else not among


def a_vector(seed: int) -> Vector:
    """Make a vector of length one; another seed, another direction."""
    values = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    vector: Vector = values / np.linalg.norm(values)
    return vector


def a_document(
    memory_id: int,
    *,
    seed: int | None = None,
    text: str | None = '{"summary": "a memory"}',
    rewritten: bool = False,
    **metadata: MetadataValue,
) -> Document:
    """Make a document whose vector depends on its seed; the seed is its id unless given."""
    vector = a_vector(abs(memory_id) if seed is None else seed)
    found: dict[str, MetadataValue] = {"hash": f"hash of {memory_id}", **metadata}
    return Document(MemoryId(memory_id), vector, text, found, rewritten)


def no_lease() -> float:
    """Renew a lease that never ends."""
    return 5.0
