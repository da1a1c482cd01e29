"""A cache of vectors by text, in front of any embedder."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from memory_pipeline.domain.types import Vector
from memory_pipeline.ports import Embedder


class CachedEmbedder:
    """Keeps the most recently used vectors, so that a retried batch is not embedded again.

    Texts are embedded in chunks, shortest first, and each chunk is kept when it is done: if the
    model refuses one chunk, a retry embeds only that one again. Thread-safe. The vectors are shared
    and therefore read-only.
    """

    def __init__(self, inner: Embedder, capacity: int = 2048, *, chunk: int = 32) -> None:
        self._inner = inner
        self._capacity = capacity
        self._chunk = chunk
        self._kept: OrderedDict[str, Vector] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def loaded(self) -> bool:
        """Whether ``embed`` would start at once."""
        return self._inner.loaded

    @property
    def model(self) -> str:
        """The fingerprint of the embedder behind the cache."""
        return self._inner.model

    def load(self) -> None:
        """Load the model. Raises ModelMissing or EmbedderUnavailable."""
        self._inner.load()

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector per text, in order. Raises as the embedder behind the cache does."""
        with self._lock:
            found = {text: self._kept[text] for text in texts if text in self._kept}
            for text in found:
                self._kept.move_to_end(text)
        missing = sorted({text for text in texts if text not in found}, key=len)
        for start in range(0, len(missing), self._chunk):
            chunk = missing[start : start + self._chunk]
            found |= self._keep(dict(zip(chunk, self._inner.embed(chunk), strict=True)))
        return [found[text] for text in texts]

    def _keep(self, vectors: dict[str, Vector]) -> dict[str, Vector]:
        # A row of a matrix would keep the whole matrix in memory; a copy does not.
        copies = {text: vector.copy() for text, vector in vectors.items()}
        for vector in copies.values():
            vector.flags.writeable = False
        with self._lock:
            self._kept |= copies
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return copies
