"""The marker of a Chroma server: a collection without documents whose metadata says who it is.

It is read and written here; what it means is decided in recognition.py and domain/epoch.py.
"""

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from memory_pipeline.chroma.client import CONTROL_ID, ChromaClient, opened
from memory_pipeline.chroma.server_identity import Marker, ProbeResult
from memory_pipeline.domain.epoch import EpochStamp
from memory_pipeline.errors import ChromaUnavailable, Corrupt, Poison, ServerLost
from memory_pipeline.settings import Settings

MARKER = "memory-pipeline-marker"
SERVER_KEY = "server"
INSTALLATION_KEY = "installation"
HOME_KEY = "home"
EPOCH_KEY = "epoch"
# Well below a lease: who begins a collection may wait for one look of another and for its own.
ASKING_SECONDS = 3.0


def ask(url: str, settings: Settings, new: Marker | None = None) -> ProbeResult:
    """Read an address's marker, or write a new one, over a connection of its own."""
    client = ChromaClient(url, settings)
    try:
        return answered(client, settings, new)
    finally:
        client.close()


def answered(client: ChromaClient, settings: Settings, new: Marker | None = None) -> ProbeResult:
    """Read a marker, or write a new one; what goes wrong is an answer too."""
    url, asked_at = client.url, time.monotonic()
    try:
        marker = _read(client, settings) if new is None else _mark(client, settings, new)
    except ServerLost as error:
        return ProbeResult(url, asked_at, strange=str(error))
    except ChromaUnavailable as error:
        return ProbeResult(url, asked_at, unreachable=str(error))
    except (Corrupt, Poison) as error:
        return ProbeResult(url, asked_at, unreachable=f"{url}: the marker cannot be read: {error}")
    return ProbeResult(url, asked_at, marker)


def write_stamp(client: ChromaClient, settings: Settings, stamp: EpochStamp) -> None:
    """Write a stamp into the marker that stands there, and leave the rest of it as it is.

    Raises:
        ChromaUnavailable: it may have been written.
        Corrupt: there is no marker.

    """
    with client.call(settings.request_seconds) as server:
        model = server.get_collection(MARKER)
        metadata = {
            **(model.metadata or {}),
            HOME_KEY: stamp.database_id,
            EPOCH_KEY: str(stamp.nonce),
        }
        server._modify(model.id, new_metadata=metadata)  # noqa: SLF001 - as the library itself does


def takes_control(url: str, settings: Settings) -> bool:
    """Whether a server takes a write now, one that finds nothing to do.

    One whose disk is full, or that is limited by what stands before it, still answers reads.
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
    """Make a server one that was never used. Raises Corrupt where there is no marker."""
    with client.call(settings.request_seconds) as server:
        server.delete_collection(MARKER)


def _read(client: ChromaClient, settings: Settings) -> Marker | None:
    with client.call(min(ASKING_SECONDS, settings.request_seconds)) as server:
        from chromadb.errors import NotFoundError  # noqa: PLC0415 - chromadb is slow

        try:
            model = server.get_collection(MARKER)
        except NotFoundError:
            return None
    return _marker(client.url, model.metadata)


def _mark(client: ChromaClient, settings: Settings, marker: Marker) -> Marker:
    """Write a new marker; where two processes do at once, one wins and both return it."""
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
    read = metadata or {}
    try:
        stamp = None
        if EPOCH_KEY in read:
            stamp = EpochStamp(str(read[HOME_KEY]), UUID(str(read[EPOCH_KEY])))
        return Marker(UUID(str(read[SERVER_KEY])), UUID(str(read[INSTALLATION_KEY])), stamp)
    except (KeyError, ValueError) as error:
        raise ServerLost(
            f"the collection {MARKER} in Chroma at {url} is not a marker of ours"
        ) from error
