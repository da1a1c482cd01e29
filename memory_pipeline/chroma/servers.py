"""The Chroma servers: each is known by the UUID in its marker collection, never by its address.

server_identity.py decides which server is where. Here the addresses are probed and the decision is
carried out: new servers are marked and registered, lost ones are recorded as lost.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.chroma.epoch_stamps import EpochStamps
from memory_pipeline.chroma.marker import accepts_writes, remove_marker
from memory_pipeline.chroma.ports import Epochs, ServerRegistry
from memory_pipeline.chroma.probes import mark_servers, probe_markers, unwritable
from memory_pipeline.chroma.server_identity import identify_servers
from memory_pipeline.chroma.server_map import ServerMap
from memory_pipeline.chroma.snapshot import Snapshot
from memory_pipeline.domain.types import Server
from memory_pipeline.errors import ChromaUnavailable, Corrupt
from memory_pipeline.settings import Settings

NOT_RUNNING = (
    "Chroma is not running here: start it with `memory-pipeline up`, or set "
    "MEMORY_PIPELINE_CHROMA_URL"
)
UNWRITABLE = (
    "Chroma at {} answers but takes no writes. Is its disk full? A server that still takes none "
    "after space was freed has to be restarted: it can stay locked (`up` restarts its own)"
)


class Servers:
    """Resolves a server's UUID to a connection; checks its marker once per process.

    Thread-safe. Looking up a known server never blocks; threads that need a fresh probe share one.
    """

    def __init__(
        self, registry: ServerRegistry, settings: Settings, epochs: Epochs | None = None
    ) -> None:
        self._registry = registry
        # None: a rollback of Postgres is not detected.
        self._stamps = None if epochs is None else EpochStamps(epochs, settings)
        self._settings = settings
        self._lock = threading.Lock()
        self._snapshot = Snapshot()  # swapped under the lock, read without it
        self._connections: dict[str, ChromaClient] = {}  # only under the lock

    def client(self, server: UUID) -> ChromaClient:
        """Return a connection to a registered server.

        For a server that was not found before, every address without a server is probed.

        Raises:
            ChromaUnavailable: it cannot be reached.
            ServerLost: its data is gone, or another server answers in its place.
            PostgresUnavailable: a server that was not found before cannot be identified.

        """
        known = self._snapshot.clients.get(server)
        if known is not None:
            return known
        snapshot = self._probe(every=False)
        if server not in snapshot.clients and not snapshot.map.problem_of(server).url:
            snapshot = self._probe(every=True)
        known = snapshot.clients.get(server)
        if known is None:
            raise snapshot.map.problem_of(server).error()
        return known

    def choose_server(self) -> UUID:
        """Choose the server of a new generation: the usable one with the fewest memories.

        Raises:
            ChromaUnavailable: no server can be used.
            ServerLost: every server has lost its data or is refused.

        """
        self.check_identity()
        usable = set(self.usable())
        ready = [s for s in self._registry.servers() if s.id in usable and s.state == "ready"]
        if not ready:
            raise ChromaUnavailable("no Chroma server can take a new collection now", sent=False)
        return min(ready, key=lambda s: (s.memories, str(s.id))).id

    def check_identity(self, server: UUID | None = None) -> None:
        """Probe every address again, and register new servers.

        Args:
            server: the server that has to be usable; None: any of them.

        Raises:
            ChromaUnavailable: it cannot be reached.
            ServerLost: its data is gone, or another installation's server answers.

        """
        servers = self._probe(every=True).map
        if server is not None and server not in servers.found:
            raise servers.problem_of(server).error()
        if not servers.found:
            raise servers.problems()[0].error()

    def installation(self) -> UUID:
        """Return the installation to which the servers belong."""
        return self._registry.installation()

    def usable(self) -> list[UUID]:
        """Return the servers that the last probe found. Sends nothing."""
        return list(self._snapshot.clients)

    def problems(self) -> list[str]:
        """Probe every address; return a line per problem. Marks no new server, raises no outage."""
        try:
            snapshot = self._probe(every=True, mark=False)
        except ChromaUnavailable as error:
            return [str(error)]
        problems = [problem.message for problem in snapshot.map.problems()]
        refusing = unwritable(snapshot.map.found, self._settings)
        problems += [UNWRITABLE.format(url) for url in refusing.values()]
        return [*(self._stamps.problems(snapshot.markers()) if self._stamps else ()), *problems]

    def stamp(self, *, seconds: float) -> None:
        """Compare Postgres with the markers of the servers in use; begin an epoch when one is due.

        Servers that do not answer now are left out. The servers are identified again only where a
        marker has changed.

        Args:
            seconds: the age at which an epoch ends.

        Raises:
            PostgresUnavailable: nothing can be compared.

        """
        if self._stamps is not None:
            self._stamps.renew(
                self._snapshot, seconds=seconds, probe_again=lambda: self._probe(every=True)
            )

    def takes_writes(self, server: UUID) -> bool:
        """Whether a server is identified and accepts a write now. Raises no outage."""
        try:
            self.check_identity(server)
            return accepts_writes(self.client(server).url, self._settings)
        except ChromaUnavailable:
            return False

    def writable_and_unwritable(self) -> tuple[set[UUID], set[UUID]]:
        """Probe every registered server; return those that accept a write now, and the others.

        Raises:
            ChromaUnavailable: no address is configured.

        """
        now = self._probe(every=True).map
        writable = now.found.keys() - unwritable(now.found, self._settings).keys()
        return writable, {*now.found, *now.absent} - writable

    def replace_lost(self) -> list[UUID]:
        """Retire the servers whose data is gone, and mark what is at their places; return them.

        A server whose address is down, foreign or no longer configured is not retired.
        """
        lost = self._probe(every=True).map.lost
        if not lost:
            return []
        # 1. Retire first: a kill after marking would leave a missing server without an address.
        for server in lost:
            self._registry.retire_server(server)
        # 2. Mark these addresses: a probe would keep them for other servers that are missing.
        mark_servers(dict.fromkeys(lost.values()), self._registry.installation(), self._settings)
        # 3. Register what was marked, as any server that has a marker.
        self._probe(every=True)
        return list(lost)

    def remove_marker(self, server: UUID) -> None:
        """Delete the marker of a server on which nothing of this installation is left.

        Raises:
            ChromaUnavailable: it cannot be reached.

        """
        with suppress(Corrupt):  # it is gone already
            remove_marker(self.client(server), self._settings)

    def close(self) -> None:
        """Close every connection; the markers are checked again before the next use."""
        with self._lock:
            self._snapshot = Snapshot()
            while self._connections:
                self._connections.popitem()[1].close()

    def _probe(self, *, every: bool, mark: bool = True) -> Snapshot:
        """Read the markers, decide what they mean, and replace the snapshot.

        Args:
            every: probe every address; otherwise those where no server was found.
            mark: mark new servers, and record a rollback of Postgres.

        """
        addresses = self._settings.chroma_addresses()
        if not addresses:
            raise ChromaUnavailable(NOT_RUNNING, sent=False)
        began = time.monotonic()
        with self._lock:
            last = self._snapshot
            urls = [url for url in addresses if every or url not in last.map.found.values()]
            # Another thread has probed the same while this one waited for the lock.
            if last.is_newer(began, urls) and not (mark and last.map.new):
                return last
            # The registry first: a process that registers a server has marked it before.
            registered, installation = self._registry.servers(), self._registry.installation()
            probes = {**last.probes, **probe_markers(urls, self._settings)}

            def identify() -> ServerMap:
                results = [probes[url] for url in addresses]
                markers = [result.marker for result in results]
                foreign = self._stamps.foreign(markers) if self._stamps else {}
                return identify_servers(results, registered, installation, foreign)

            servers = identify()
            if mark and servers.new:
                probes |= mark_servers(servers.new, installation, self._settings)
                servers = identify()
            self._register(servers, registered)
            clients = {s: self._connection(url) for s, url in servers.found.items()}
            snapshot = Snapshot(servers, probes, clients)
            if mark and self._stamps is not None:
                # Only what was read now: an older stamp may be of an epoch that was deleted since.
                self._stamps.compare(snapshot.markers(urls))
            self._snapshot = snapshot
        return snapshot

    def _register(self, servers: ServerMap, registered: Sequence[Server]) -> None:
        """Record what was found where the registry says otherwise."""
        before = {s.id: s for s in registered}
        for server, url in servers.found.items():
            known = before.get(server)
            if known is None or (known.url, known.state) != (url, "ready"):
                self._registry.register_server(server, url)
        for server in servers.lost:
            if before[server].state != "lost":
                self._registry.mark_server(server, "lost")

    def _connection(self, url: str) -> ChromaClient:
        if url not in self._connections:
            self._connections[url] = ChromaClient(url, self._settings)
        return self._connections[url]
