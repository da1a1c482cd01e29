"""The marker of a Chroma server: a collection without documents whose metadata identifies it.

It is read and written here; server_identity.py and domain/epoch.py decide what it means.
"""

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from memory_pipeline.chroma.client import CONTROL_ID, ChromaClient, opened
from memory_pipeline.chroma.server_map import Marker, ProbeResult
from memory_pipeline.domain.epoch import EpochStamp
from memory_pipeline.errors import ChromaUnavailable, Corrupt, Poison, ServerLost
from memory_pipeline.settings import Settings

MARKER = "memory-pipeline-marker"
SERVER_KEY = "server"
INSTALLATION_KEY = "installation"
# The keys of every marker that was ever written: the database's id is under "home".
DATABASE_ID_KEY = "home"
EPOCH_KEY = "epoch"
# Far below a lease: a thread that creates a collection may wait for another thread's probe and then
# for its own.
PROBE_SECONDS = 3.0


def probe_address(url: str, settings: Settings, new: Marker | None = None) -> ProbeResult:
    """Read the marker at an address, or write a new one, over a connection of its own."""
    client = ChromaClient(url, settings)
    try:
        return probe(client, settings, new)
    finally:
        client.close()


def probe(client: ChromaClient, settings: Settings, new: Marker | None = None) -> ProbeResult:
    """Read a server's marker, or write a new one; a failure is a result too."""
    url, probed_at = client.url, time.monotonic()
    try:
        marker = _read(client, settings) if new is None else _create(client, settings, new)
    except ServerLost as error:
        return ProbeResult(url, probed_at, strange=str(error))
    except ChromaUnavailable as error:
        return ProbeResult(url, probed_at, unreachable=str(error))
    except (Corrupt, Poison) as error:
        return ProbeResult(url, probed_at, unreachable=f"{url}: cannot read the marker: {error}")
    return ProbeResult(url, probed_at, marker)


def write_stamp(client: ChromaClient, settings: Settings, stamp: EpochStamp) -> None:
    """Write a stamp into a server's marker and leave the rest of the marker as it is.

    Raises:
        ChromaUnavailable: it may have been written.
        Corrupt: there is no marker.

    """
    with client.call(settings.request_seconds) as server:
        model = server.get_collection(MARKER)
        metadata = {
            **(model.metadata or {}),
            DATABASE_ID_KEY: stamp.database_id,
            EPOCH_KEY: str(stamp.nonce),
        }
        server._modify(model.id, new_metadata=metadata)  # noqa: SLF001 - as the library itself does


def accepts_writes(url: str, settings: Settings) -> bool:
    """Whether a server accepts a write now: a delete that finds nothing to delete.

    A server whose disk is full still answers reads, and so does one behind a proxy that limits
    writes.
    """
    client = ChromaClient(url, settings)
    try:
        with client.call(settings.request_seconds) as server:
            opened(server, server.get_collection(MARKER)).delete(ids=[CONTROL_ID])
    except (ChromaUnavailable, Corrupt, Poison):
        return False
    finally:
        client.close()
    return True


def remove_marker(client: ChromaClient, settings: Settings) -> None:
    """Delete a server's marker, as if the server was never used.

    Raises:
        ChromaUnavailable: it may have been deleted.
        Corrupt: there is no marker.

    """
    with client.call(settings.request_seconds) as server:
        server.delete_collection(MARKER)


def _read(client: ChromaClient, settings: Settings) -> Marker | None:
    with client.call(min(PROBE_SECONDS, settings.request_seconds)) as server:
        from chromadb.errors import NotFoundError  # noqa: PLC0415 - chromadb is slow

        try:
            model = server.get_collection(MARKER)
        except NotFoundError:
            return None
    return _marker(client.url, model.metadata)


def _create(client: ChromaClient, settings: Settings, marker: Marker) -> Marker:
    """Create the marker; of two processes that do so at once, both return the one that stays."""
    with client.call(settings.request_seconds) as server:
        model = server.create_collection(
            MARKER,
            metadata={
                SERVER_KEY: str(marker.server),
                INSTALLATION_KEY: str(marker.installation),
            },
            get_or_create=True,
        )
    return _marker(client.url, model.metadata)


def _marker(url: str, metadata: Mapping[str, Any] | None) -> Marker:
    fields = metadata or {}
    try:
        stamp = None
        if EPOCH_KEY in fields:
            stamp = EpochStamp(str(fields[DATABASE_ID_KEY]), UUID(str(fields[EPOCH_KEY])))
        return Marker(UUID(str(fields[SERVER_KEY])), UUID(str(fields[INSTALLATION_KEY])), stamp)
    except (KeyError, ValueError) as error:
        raise ServerLost(
            f"the collection {MARKER} in Chroma at {url} is not a marker of ours"
        ) from error
