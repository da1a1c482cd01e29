"""The rows that a rebuild has written, by version: 32 bytes each, so that a proof skips them."""

import bisect
import hashlib
from array import array
from collections.abc import Mapping

from memory_pipeline.content.document import canonical
from memory_pipeline.domain.types import MemoryId, MetadataValue

DIGEST_BYTES = 16


class WrittenRows:
    """The metadata of documents as they were written, each with the version of its row then.

    A row that still has that version still has the same content. Ids have to be added in order; an
    id out of order is not kept, so that its row is read again. Not thread-safe.
    """

    def __init__(self) -> None:
        self._ids = array("q")
        self._versions = array("Q")
        self._digests = bytearray()

    def add(self, memory_id: MemoryId, version: str, metadata: Mapping[str, MetadataValue]) -> None:
        """Add the metadata that was written for a memory, and the version of its row."""
        if self._ids and memory_id <= self._ids[-1]:
            return
        self._ids.append(memory_id)
        self._versions.append(int(version))
        self._digests += _digest(metadata)

    def covers(self, memory_id: MemoryId, version: str) -> bool:
        """Whether the document of this version of the row is known."""
        at = self._find(memory_id)
        return at is not None and self._versions[at] == int(version)

    def matches(self, memory_id: MemoryId, metadata: Mapping[str, MetadataValue]) -> bool:
        """Whether exactly this metadata was written for the memory."""
        at = self._find(memory_id)
        if at is None:
            return False
        return self._digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES] == _digest(metadata)

    def _find(self, memory_id: MemoryId) -> int | None:
        at = bisect.bisect_left(self._ids, memory_id)
        return at if at < len(self._ids) and self._ids[at] == memory_id else None


def _digest(metadata: Mapping[str, MetadataValue]) -> bytes:
    return hashlib.blake2b(canonical(metadata).encode(), digest_size=DIGEST_BYTES).digest()
