"""A lexical embedder without a model: for tests, benchmarks and machines that have no model."""

import functools
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import cast

import numpy as np
import numpy.typing as npt

from memory_pipeline.domain.types import DIMENSION, Vector

WORD_WEIGHT = 4.0  # a trigram weighs 1.0: the same word counts for more than a similar one


class HashingEmbedder:
    """Embeds the words of a text, not its meaning: texts that share words are near.

    The same text has the same vector in every process, on every machine. Thread-safe.
    """

    model = "hashing-768-v1"
    loaded = True

    def load(self) -> None:
        """Do nothing: there is nothing to load."""

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one unit vector per text, in order; also for a text without words."""
        return [_lexical(text) for text in texts]


def _lexical(text: str) -> Vector:
    words = re.findall(r"\w+", text.lower()) or [""]
    parts = [_features(word) for word in words]
    sums = np.bincount(
        np.concatenate([buckets for buckets, _ in parts]),
        weights=np.concatenate([weights for _, weights in parts]),
        minlength=DIMENSION,
    )
    if not sums.any():  # the words cancel each other out
        return _lexical("")
    return cast("Vector", (sums / np.linalg.norm(sums)).astype(np.float32))


@functools.lru_cache(maxsize=16_384)
def _features(word: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the buckets of a word and its trigrams, with signed weights."""
    padded = f"<{word}>"
    trigrams = (padded[at : at + 3] for at in range(len(padded) - 2)) if word else ()
    hashes = [_hash(f"word {word}"), *(_hash(f"part {trigram}") for trigram in trigrams)]
    weights = np.array([WORD_WEIGHT] + [1.0] * (len(hashes) - 1))
    signs = np.array([1.0 if h & 1 else -1.0 for h in hashes])
    return np.array([(h >> 1) % DIMENSION for h in hashes], dtype=np.intp), weights * signs


def _hash(feature: str) -> int:
    # hash() differs from process to process.
    digest = blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
