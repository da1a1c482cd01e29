"""The Chroma servers: each is known by the UUID in its marker collection, never by its address.

| at an address                 | registered servers       | meaning                               |
|-------------------------------|--------------------------|---------------------------------------|
| a marker of this installation |                          | that server; its address is noted     |
| the same marker once more     |                          | refused: a copy, or a second name     |
| a retired server's marker     |                          | refused: its collections are given up |
| another installation's marker |                          | refused: servers are never shared     |
| a marker that a copy of this  |                          | refused, until this database is told  |
| database has written          |                          | to take over (see domain/epoch.py)    |
| no answer                     | one was last seen there  | that server, which is down            |
| no marker                     | all are accounted for    | a new server: marked and registered   |
| no marker                     | one was last seen there  | its data is lost: said, not made anew |
| no marker                     | one is missing elsewhere | its data is lost, likewise            |
| no marker                     | one may be where an      | doubt: nothing is marked, nothing     |
|                               | unknown address is down  | called lost                           |
|                               | one is at no address     | said; nothing else                    |

One address that is down, lost or foreign stops none of the others. ``replace_lost`` alone gives a
lost server up: it is retired, and what is at its place becomes a new server.
"""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import UUID, uuid4

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.chroma.epoch_stamps import EpochStamps
from memory_pipeline.chroma.marker import answered, ask, remove_marker, takes_control
from memory_pipeline.chroma.server_identity import Marker, ProbeResult, ServerMap, identify_servers
from memory_pipeline.domain.types import Server
from memory_pipeline.errors import ChromaUnavailable, Corrupt
from memory_pipeline.postgres.epochs import PostgresEpochs
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.settings import Settings

NOT_RUNNING = (
    "Chroma is not running here: start it with `memory-pipeline up`, or set "
    "MEMORY_PIPELINE_CHROMA_URL"
)

TAKES_NO_WRITES = (
    "Chroma at {} answers but takes no writes. Is its disk full? Once there is room, one that "
    "still takes none has to be restarted: it can stay locked (`up` restarts its own)"
)


class Servers:
    """Resolves a server's UUID to a connection. Its marker is checked once a process.

    Several threads may ask at once: who asks for a server that is known waits for nobody, and those
    that have to look share one look.
    """

    def __init__(
        self,
        registry: PostgresRegistry,
        settings: Settings,
        epochs: PostgresEpochs | None = None,
    ) -> None:
        self._registry = registry
        # None: it is not noticed that Postgres went back.
        self._stamping = None if epochs is None else EpochStamps(registry, epochs, settings)
        self._settings = settings
        self._lock = threading.Lock()  # for all that follows; clients are also read without it
        self._clients: Mapping[UUID, ChromaClient] = {}
        self._connections: dict[str, ChromaClient] = {}
        self._answers: dict[str, ProbeResult] = {}
        self._view = ServerMap()

    def client(self, server: UUID) -> ChromaClient:
        """Return a connection to a registered server.

        One that was not found before is looked for at every address where no other server is.

        Raises:
            ChromaUnavailable: it cannot be reached.
            ServerLost: what answers in its place is not it.

        """
        known = self._clients.get(server)
        if known is not None:
            return known
        view = self._look(again=False)
        if server not in view.found and not view.trouble(server).url:
            view = self._look(again=True)
        known = self._clients.get(server)
        if known is None:
            raise view.trouble(server).error()
        return known

    def for_new_generation(self) -> UUID:
        """Choose the server of a new generation: the one with the fewest memories.

        Raises:
            ChromaUnavailable: no server can be used.

        """
        self.check_identity()
        usable = set(self.usable())
        ready = [s for s in self._registry.servers() if s.id in usable and s.state == "ready"]
        if not ready:
            raise ChromaUnavailable("no Chroma server can take a new collection now", sent=False)
        return min(ready, key=lambda s: (s.memories, str(s.id))).id

    def check_identity(self, server: UUID | None = None) -> None:
        """Find out anew which server answers at which address, and register new ones.

        Args:
            server: the one that has to be fine; None: one of them has to be.

        Raises:
            ChromaUnavailable: it cannot be reached.
            ServerLost: its data is gone, or another installation's server answers.

        """
        view = self._look(again=True)
        if server is not None and server not in view.found:
            raise view.trouble(server).error()
        if not view.found:
            raise view.problems()[0].error()

    def installation(self) -> UUID:
        """Return whose servers these are."""
        return self._registry.installation()

    def usable(self) -> list[UUID]:
        """Return the servers that were found when they were last looked for."""
        return list(self._clients)

    def problems(self) -> list[str]:
        """Look at every address and tell what is not fine, a line each; marks no new server."""
        try:
            view = self._look(again=True, mark=False)
        except ChromaUnavailable as error:
            return [str(error)]
        problems = [trouble.message for trouble in view.problems()]
        problems += [TAKES_NO_WRITES.format(url) for url in self._unwritable(view).values()]
        if self._stamping is None:
            return problems
        signs = self._stamping.compare(self._markers(self._answers), note=False).signs
        went_back = [f"Postgres went back in time ({s.reason}): no tenant is proven" for s in signs]
        return [*went_back, *problems]

    def stamp(self, *, seconds: float) -> None:
        """Compare Postgres with the markers of the servers in use; rotate what they say of it.

        Those that do not answer now are left out. Which servers are in use is not decided here,
        except where a marker is no longer as it was.

        Args:
            seconds: the age of an epoch that ends it.

        Raises:
            PostgresUnavailable: nothing can be said.

        """
        if self._stamping is None:
            return
        database_id = self._stamping.database_id()
        answers = {s: answered(client, self._settings) for s, client in self._clients.items()}
        markers = {s: a.marker for s, a in answers.items() if not a.unreachable}
        compared = list(markers.values())
        if not all(
            m and (m.server, m.database_id or database_id) == (s, database_id)
            for s, m in markers.items()
        ):
            self._look(again=True)
            compared = self._markers(self._answers)
        if self._stamping.compare(compared).settled:
            clients = {s: c for s, c in self._clients.items() if s in markers}
            self._stamping.rotate(clients, seconds=seconds)

    def takes_writes(self, server: UUID) -> bool:
        """Whether a server that is who it should be takes a write now."""
        try:
            self.check_identity(server)
            return takes_control(self.client(server).url, self._settings)
        except ChromaUnavailable:
            return False

    def writable_and_unwritable(self) -> tuple[set[UUID], set[UUID]]:
        """Look at every registered server; return those that take writes now, and the others.

        Raises:
            ChromaUnavailable: no address is known to ask.

        """
        view = self._look(again=True)
        writable = view.found.keys() - self._unwritable(view).keys()
        return writable, {*view.found, *view.absent} - writable

    def replace_lost(self) -> list[UUID]:
        """Give up the servers whose data is gone; return them. What is at their places is marked.

        One whose address is down, foreign or no longer among the settings is not given up.
        """
        lost = self._look(again=True).lost
        # 1. Retired first: a kill after marking would leave a server missing that has no place.
        for server in lost:
            self._registry.retire_server(server)
        # 2. By name: to a look, another missing server might have been at this address.
        for url in dict.fromkeys(lost.values()):
            ask(url, self._settings, _new(self._registry.installation()))
        # 3. Registered, as any server that has a marker.
        if lost:
            self._look(again=True)
        return list(lost)

    def remove_marker(self, server: UUID) -> None:
        """Take the marker off a server in use, which nothing of ours is left on.

        Raises:
            ChromaUnavailable: it cannot be reached.

        """
        with suppress(Corrupt):  # it is gone already
            remove_marker(self.client(server), self._settings)

    def close(self) -> None:
        """Close every connection; the markers are checked again before the next use."""
        with self._lock:
            self._clients, self._view = {}, ServerMap()
            self._answers.clear()
            while self._connections:
                self._connections.popitem()[1].close()

    def _look(self, *, again: bool, mark: bool = True) -> ServerMap:
        """Ask the addresses for their markers, and decide what that means.

        Args:
            again: ask all of them; otherwise those where no server was found.
            mark: mark new servers.

        """
        addresses = self._settings.chroma_addresses()
        if not addresses:
            raise ChromaUnavailable(NOT_RUNNING, sent=False)
        began = time.monotonic()
        with self._lock:
            known = set() if again else set(self._view.found.values())
            asked = [url for url in addresses if url not in known]
            if self._asked_since(began, asked) and not (mark and self._view.new):
                return self._view
            # The registry first: who registers in between has marked the server as well.
            registered, installation = self._registry.servers(), self._registry.installation()
            answers = dict(self._answers)
            with ThreadPoolExecutor(len(addresses), thread_name_prefix="chroma-marker") as threads:
                answers |= zip(asked, threads.map(self._ask, asked), strict=True)
            database_id = self._stamping.database_id() if self._stamping else None
            said = [answers[url] for url in addresses]
            view = identify_servers(said, registered, installation, database_id)
            if mark and view.new:
                answers |= {url: ask(url, self._settings, _new(installation)) for url in view.new}
                said = [answers[url] for url in addresses]
                view = identify_servers(said, registered, installation, database_id)
            self._note(view, registered)
            self._view, self._answers = view, answers
            if mark and self._stamping is not None:
                # What was not asked now may be from an epoch that is long forgotten.
                self._stamping.compare(self._markers(asked))
            self._clients = {s: self._connection(url) for s, url in view.found.items()}
            return view

    def _unwritable(self, view: ServerMap) -> dict[UUID, str]:
        """Return which of the servers that were found take no write now, and their addresses."""
        urls = view.found.values()
        with ThreadPoolExecutor(max(1, len(urls)), thread_name_prefix="control") as threads:
            taking = list(threads.map(lambda url: takes_control(url, self._settings), urls))
        found = zip(view.found.items(), taking, strict=True)
        return {server: url for (server, url), takes in found if not takes}

    def _asked_since(self, began: float, asked: Sequence[str]) -> bool:
        """Whether another thread has just looked, from ``began`` on."""
        return all(url in self._answers and self._answers[url].asked_at >= began for url in asked)

    def _note(self, view: ServerMap, registered: Sequence[Server]) -> None:
        """Write down what was found where it is not what the registry says."""
        before = {s.id: s for s in registered}
        for server, url in view.found.items():
            said = before.get(server)
            if said is None or (said.url, said.state) != (url, "ready"):
                self._registry.register_server(server, url)
        for server in view.lost:
            if before[server].state != "lost":
                self._registry.mark_server(server, "lost")

    def _markers(self, asked: Collection[str]) -> list[Marker | None]:
        """Return the markers of those of these addresses at which a server was found."""
        found = set(self._view.found.values()).intersection(asked)
        return [answer.marker for answer in self._answers.values() if answer.url in found]

    def _connection(self, url: str) -> ChromaClient:
        if url not in self._connections:
            self._connections[url] = ChromaClient(url, self._settings)
        return self._connections[url]

    def _ask(self, url: str) -> ProbeResult:
        return ask(url, self._settings)


def _new(installation: UUID) -> Marker:
    return Marker(uuid4(), installation)
