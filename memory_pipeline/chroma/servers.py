"""The Chroma servers: each is known by the UUID in its marker collection, never by its address.

| at the address               | registered servers | meaning                                      |
|------------------------------|--------------------|----------------------------------------------|
| a marker of this installation|                    | that server; its address is noted            |
| another installation's marker|                    | refused: two must never share a server       |
| no marker                    | none               | a new server: marked and registered          |
| no marker                    | one                | its data is lost: said, never made anew      |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.errors import ChromaUnavailable, Corrupt, PipelineError, Poison, ServerLost
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.settings import Settings

MARKER = "memory-pipeline-marker"
SERVER_KEY = "server"
INSTALLATION_KEY = "installation"


@dataclass(frozen=True, slots=True)
class Marker:
    """Which server this is, and whose."""

    server: UUID
    installation: UUID


class Servers:
    """Resolves a server's UUID to a connection. The marker is checked once a process."""

    def __init__(self, registry: PostgresRegistry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._clients: dict[UUID, ChromaClient] = {}

    def client(self, server: UUID) -> ChromaClient:
        """Return a connection to a registered server.

        Raises:
            ChromaUnavailable: it cannot be reached.
            ServerLost: what answers in its place is not it.

        """
        if server not in self._clients:
            self.recognise()
        if server not in self._clients:
            raise ServerLost(
                f"Chroma server {server} is registered, but not what answers at "
                f"{self._settings.chroma_url}"
            )
        return self._clients[server]

    def for_new_generation(self) -> UUID:
        """Choose the server of a new generation: the one with the fewest memories."""
        self.recognise()
        ready = [s for s in self._registry.servers() if s.id in self._clients]
        return min(ready, key=lambda s: (s.memories, str(s.id))).id

    def recognise(self) -> None:
        """Find out which server answers at the configured address, and register a new one.

        Raises:
            ChromaUnavailable: nothing answers.
            ServerLost: a registered server's data is gone, or the server is another installation's.

        """
        client = self._reach()
        try:
            marker = self._identify(client)
        except (Corrupt, Poison) as error:
            client.close()
            raise ChromaUnavailable(f"Chroma's marker cannot be read: {error}") from error
        except PipelineError:
            client.close()
            raise
        self._registry.register_server(marker.server, client.url)
        known = self._clients.get(marker.server)
        if known is not None and known.url == client.url:
            client.close()
        else:
            self._clients[marker.server] = client

    def _identify(self, client: ChromaClient) -> Marker:
        # The registry first: who registers in between has marked the server as well.
        registered = {s.id for s in self._registry.servers()}
        installation = self._registry.installation()
        marker = self._read_marker(client)
        if marker is None and registered:
            for server in registered:
                self._registry.mark_server(server, "lost")
            raise ServerLost(
                f"Chroma at {client.url} has lost its data (no marker; expected server "
                f"{', '.join(sorted(map(str, registered)))}): bring its volume back"
            )
        if marker is None:
            marker = self._mark(client, Marker(uuid4(), installation))
        if marker.installation != installation:
            raise ServerLost(
                f"Chroma at {client.url} belongs to another installation "
                f"({marker.installation}): point MEMORY_PIPELINE_CHROMA_URL at a server of this one"
            )
        return marker

    def forget(self) -> None:
        """Close every connection; the markers are checked again before the next use."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _reach(self) -> ChromaClient:
        if self._settings.chroma_url is None:
            raise ChromaUnavailable(
                "Chroma is not running here: start it with `memory-pipeline up`, "
                "or set MEMORY_PIPELINE_CHROMA_URL",
                sent=False,
            )
        return ChromaClient(self._settings.chroma_url, self._settings)

    def _read_marker(self, client: ChromaClient) -> Marker | None:
        with client.call(self._settings.request_seconds) as server:
            from chromadb.errors import NotFoundError  # noqa: PLC0415 - chromadb is slow

            try:
                model = server.get_collection(MARKER)
            except NotFoundError:
                return None
        return _marker(model.metadata)

    def _mark(self, client: ChromaClient, marker: Marker) -> Marker:
        """Write a new marker; where two processes do at once, one wins and both return it."""
        with client.call(self._settings.request_seconds) as server:
            model = server.create_collection(
                MARKER,
                metadata={
                    SERVER_KEY: str(marker.server),
                    INSTALLATION_KEY: str(marker.installation),
                },
                get_or_create=True,
            )
        return _marker(model.metadata)


def _marker(metadata: Mapping[str, Any] | None) -> Marker:
    read = metadata or {}
    try:
        return Marker(UUID(str(read[SERVER_KEY])), UUID(str(read[INSTALLATION_KEY])))
    except (KeyError, ValueError) as error:
        raise ServerLost(f"the collection {MARKER} in Chroma is not a marker of ours") from error
