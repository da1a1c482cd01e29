"""What the last probe of the Chroma servers found: replaced as a whole, never changed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.chroma.server_map import Marker, ProbeResult, ServerMap


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which server is where, the newest result of each address, and a client for each server."""

    map: ServerMap = field(default_factory=ServerMap)
    probes: Mapping[str, ProbeResult] = field(default_factory=dict)
    clients: Mapping[UUID, ChromaClient] = field(default_factory=dict)

    def markers(self, urls: Collection[str] | None = None) -> list[Marker | None]:
        """Return the markers of the servers found, all or those at some addresses."""
        found = set(self.map.found.values())
        at = found if urls is None else found.intersection(urls)
        return [result.marker for result in self.probes.values() if result.url in at]

    def is_newer(self, moment: float, urls: Sequence[str]) -> bool:
        """Whether all these addresses were probed since a moment of the monotonic clock."""
        return all(url in self.probes and self.probes[url].probed_at >= moment for url in urls)
