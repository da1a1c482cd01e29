"""Probes of several addresses at once: an address that hangs delays no other."""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

from memory_pipeline.chroma.marker import accepts_writes, probe_address
from memory_pipeline.chroma.server_map import Marker, ProbeResult
from memory_pipeline.settings import Settings


def probe_markers(urls: Collection[str], settings: Settings) -> dict[str, ProbeResult]:
    """Read the marker at each address; return the results by address."""
    with _threads(urls, "chroma-marker") as threads:
        return dict(
            zip(urls, threads.map(lambda url: probe_address(url, settings), urls), strict=True)
        )


def mark_servers(
    urls: Iterable[str], installation: UUID, settings: Settings
) -> dict[str, ProbeResult]:
    """Write a marker with a new UUID at each address; return what is there afterwards."""
    return {url: probe_address(url, settings, Marker(uuid4(), installation)) for url in urls}


def unwritable(servers: Mapping[UUID, str], settings: Settings) -> dict[UUID, str]:
    """Return the servers, with their addresses, that answer but accept no write now."""
    with _threads(servers, "chroma-write") as threads:
        accepted = list(threads.map(lambda url: accepts_writes(url, settings), servers.values()))
    probed = zip(servers.items(), accepted, strict=True)
    return {server: url for (server, url), accepts in probed if not accepts}


def _threads(probed: Collection[object], name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, len(probed)), thread_name_prefix=name)
