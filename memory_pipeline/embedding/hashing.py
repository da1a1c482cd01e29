"""A lexical stand-in for the model: for tests, benchmarks and machines without one."""

import functools
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import cast

import numpy as np
import numpy.typing as npt

from memory_pipeline.domain.types import DIMENSION, Vector

WORD_WEIGHT = 4.0  # against 1.0 for each of its trigrams: the same word counts for more than a like


class HashingEmbedder:
    """A stand-in that needs no model: texts that share words are near, meaning is unknown to it.

    The same text has the same vector in every process, on every machine.
    """

    model = "hashing-768-v1"
    loaded = True

    def load(self) -> None:
        """Do nothing: there is nothing to load."""

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector a text, in order. Refuses nothing; a text without words has one too."""
        return [_lexical(text) for text in texts]


def _lexical(text: str) -> Vector:
    words = re.findall(r"\w+", text.lower()) or [""]
    parts = [_features(word) for word in words]
    sums = np.bincount(
        np.concatenate([buckets for buckets, _ in parts]),
        weights=np.concatenate([weights for _, weights in parts]),
        minlength=DIMENSION,
    )
    if not sums.any():  # words that cancel one another out
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
    # Never hash(), which differs from process to process.
    digest = blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
