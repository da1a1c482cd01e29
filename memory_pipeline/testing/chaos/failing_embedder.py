"""The lexical embedder, which fails on demand: the chaos run's embedder, by name.

A file names the failure of this moment: none (empty or absent), ``unavailable``, or ``refuses``
(every text). Texts with the poison mark are always refused.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from memory_pipeline.domain.types import Vector
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import EmbedderUnavailable, Poison
from memory_pipeline.testing.chaos.payloads import POISON

# Not a setting: it exists for this embedder alone.
MODEL_FILE_VARIABLE = "CHAOS_MODEL_FILE"


class FailingEmbedder:
    """The lexical stand-in; it refuses poison, and fails as its file demands. Thread-safe."""

    model = HashingEmbedder.model
    loaded = True

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inner = HashingEmbedder()

    @classmethod
    def from_environment(cls) -> Self:
        """Return one whose file the environment names."""
        return cls(Path(os.environ[MODEL_FILE_VARIABLE]))

    def load(self) -> None:
        """Do nothing: there is nothing to load."""

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector a text, in order.

        Raises:
            Poison: a text has the poison mark, or the file names ``refuses``.
            EmbedderUnavailable: the file names ``unavailable``.

        """
        try:
            failure = self._file.read_text()
        except OSError:
            failure = ""
        if failure == "unavailable":
            raise EmbedderUnavailable("the model is unavailable: a fault of the chaos run")
        if failure or any(POISON in text for text in texts):
            raise Poison(f"the model refuses one of {len(texts)} texts")
        return self._inner.embed(texts)


EMBEDDER = f"{__name__}:{FailingEmbedder.__name__}.{FailingEmbedder.from_environment.__name__}"
