"""What was written, by row version: 32 bytes a memory, so that a proof need not read it again."""

import bisect
import hashlib
from array import array
from collections.abc import Mapping

from memory_pipeline.content.document import canonical
from memory_pipeline.domain.types import MemoryId, Scalar

DIGEST_BYTES = 16


class WrittenRows:
    """The metadata of documents as they were written, each with the version of its row then.

    A row that still has that version still says the same. Ids have to be noted in order; one that
    is not is forgotten, and read again by whoever asks.
    """

    def __init__(self) -> None:
        self._ids = array("q")
        self._versions = array("Q")
        self._digests = bytearray()

    def add(self, memory_id: MemoryId, version: str, metadata: Mapping[str, Scalar]) -> None:
        """Note what was written for a memory."""
        if self._ids and memory_id <= self._ids[-1]:
            return
        self._ids.append(memory_id)
        self._versions.append(int(version))
        self._digests += _digest(metadata)

    def covers(self, memory_id: MemoryId, version: str) -> bool:
        """Whether it is known what this version of the row is as a document."""
        at = self._find(memory_id)
        return at is not None and self._versions[at] == int(version)

    def matches(self, memory_id: MemoryId, metadata: Mapping[str, Scalar]) -> bool:
        """Whether this is the metadata that was written for the memory."""
        at = self._find(memory_id)
        if at is None:
            return False
        return self._digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES] == _digest(metadata)

    def _find(self, memory_id: MemoryId) -> int | None:
        at = bisect.bisect_left(self._ids, memory_id)
        return at if at < len(self._ids) and self._ids[at] == memory_id else None


def _digest(metadata: Mapping[str, Scalar]) -> bytes:
    return hashlib.blake2b(canonical(metadata).encode(), digest_size=DIGEST_BYTES).digest()
