"""The table of chroma/servers.py, line by line, against a real server and a real registry."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import psycopg
import pytest
from chromadb.api import ServerAPI

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.chroma.servers import INSTALLATION_KEY, MARKER, SERVER_KEY, Servers
from memory_pipeline.errors import ChromaUnavailable, ServerLost
from memory_pipeline.local.chroma import ChromaProcess
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.registry import PostgresRegistry, Server
from memory_pipeline.settings import Settings


@pytest.fixture
def raw(chroma: ChromaProcess) -> Iterator[ServerAPI]:
    """Return a client of the library itself, to look and to meddle."""
    client = ChromaClient(chroma.url, Settings.load())
    with client.call(5.0) as server:
        yield server
    client.close()


def _marked(raw: ServerAPI, server: UUID, installation: UUID) -> None:
    raw.create_collection(
        MARKER, metadata={SERVER_KEY: str(server), INSTALLATION_KEY: str(installation)}
    )


def _states(db: psycopg.Connection) -> dict[UUID, str]:
    rows = db.execute("SELECT id, state FROM memory_pipeline.server").fetchall()
    return {row[0]: row[1] for row in rows}


def test_a_new_server_is_marked_and_registered_once(pipeline: Pipeline, raw: ServerAPI) -> None:
    """The first that comes marks the server; whoever comes later finds the same one."""
    first = pipeline.servers.for_new_generation()
    later = Servers(pipeline.registry, pipeline.settings)
    assert later.for_new_generation() == first
    assert [s.id for s in pipeline.registry.servers()] == [first]
    metadata = raw.get_collection(MARKER).metadata or {}
    assert metadata[SERVER_KEY] == str(first)
    assert metadata[INSTALLATION_KEY] == str(pipeline.registry.installation())
    later.forget()


class _MeetingRegistry(PostgresRegistry):
    """A registry whose readers leave only when both have read."""

    meeting: threading.Barrier

    def servers(self) -> list[Server]:
        found = super().servers()
        if not found:
            self.meeting.wait(timeout=10)
        return found


def test_two_that_find_a_new_server_at_once_agree(pipeline: Pipeline) -> None:
    """Both mark it, one marker stays, and both take that one for the server."""
    registry = _MeetingRegistry(pipeline.database)
    registry.meeting = threading.Barrier(2)
    both = [Servers(registry, pipeline.settings) for _ in range(2)]

    def found(servers: Servers) -> set[UUID]:
        servers.recognise()
        return set(servers._clients)

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(found, both)
    assert one == other
    assert one == {s.id for s in pipeline.registry.servers()}
    for servers in both:
        servers.forget()


class _LateRegistry(PostgresRegistry):
    """A registry before whose first answer somebody else acts."""

    before: Callable[[], None] | None = None

    def servers(self) -> list[Server]:
        before, self.before = self.before, None
        if before is not None:
            before()
        return super().servers()


def test_a_server_that_another_marks_meanwhile_is_not_lost(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Who saw no marker, and then sees the registration, was only a moment too slow."""
    registry = _LateRegistry(pipeline.database)
    registry.before = pipeline.servers.recognise
    slow = Servers(registry, pipeline.settings)
    slow.recognise()
    assert set(_states(db).values()) == {"ready"}
    slow.forget()


def test_a_known_server_at_a_new_address_is_the_same_server(
    pipeline: Pipeline, chroma: ChromaProcess
) -> None:
    """`up` picks free ports, so an address means nothing; the newest one is noted."""
    server = pipeline.servers.for_new_generation()
    elsewhere = chroma.url.replace("127.0.0.1", "localhost")
    moved = Servers(
        pipeline.registry, pipeline.settings.model_copy(update={"chroma_url": elsewhere})
    )
    assert moved.for_new_generation() == server
    assert [(s.id, s.url) for s in pipeline.registry.servers()] == [(server, elsewhere)]
    moved.forget()


def test_a_registered_server_without_its_marker_is_lost_and_never_made_anew(
    pipeline: Pipeline, raw: ServerAPI, db: psycopg.Connection
) -> None:
    """An emptied volume is told, not covered up by a new marker; the marker's return heals it."""
    server = pipeline.servers.for_new_generation()
    raw.delete_collection(MARKER)
    later = Servers(pipeline.registry, pipeline.settings)
    for _ in range(2):
        with pytest.raises(ServerLost, match="lost its data"):
            later.for_new_generation()
        with pytest.raises(ServerLost, match="lost its data"):
            later.client(server)
    assert _states(db) == {server: "lost"}
    assert MARKER not in [c.name for c in raw.list_collections()]
    _marked(raw, server, pipeline.registry.installation())
    assert later.for_new_generation() == server
    assert _states(db) == {server: "ready"}
    later.forget()


@pytest.mark.parametrize("registered", [False, True])
def test_another_installations_server_is_refused(
    pipeline: Pipeline, raw: ServerAPI, db: psycopg.Connection, *, registered: bool
) -> None:
    """Two installations never share a server, whether or not this one has one of its own."""
    known = set()
    if registered:
        known = {pipeline.servers.for_new_generation()}
        raw.delete_collection(MARKER)
    _marked(raw, uuid4(), uuid4())
    later = Servers(pipeline.registry, pipeline.settings)
    with pytest.raises(ServerLost, match="another installation"):
        later.for_new_generation()
    assert set(_states(db)) == known


def test_a_marker_that_is_none_of_ours_is_refused(pipeline: Pipeline, raw: ServerAPI) -> None:
    """A collection that merely has the marker's name is nobody's identity."""
    raw.create_collection(MARKER, metadata={"note": "a stranger's"})
    with pytest.raises(ServerLost, match="not a marker"):
        pipeline.servers.recognise()
    assert pipeline.registry.servers() == []


def test_an_unknown_server_is_lost(pipeline: Pipeline) -> None:
    """A generation on a server that does not answer here is not looked for on another."""
    pipeline.servers.for_new_generation()
    with pytest.raises(ServerLost):
        pipeline.servers.client(uuid4())


def test_a_server_that_is_down_is_no_lost_server(
    pipeline: Pipeline, settings: Settings, db: psycopg.Connection
) -> None:
    """An outage says nothing about the data: the server stays as it is registered."""
    server = pipeline.servers.for_new_generation()
    down = Servers(
        pipeline.registry, settings.model_copy(update={"chroma_url": "http://127.0.0.1:1"})
    )
    with pytest.raises(ChromaUnavailable) as found:
        down.for_new_generation()
    assert not found.value.sent
    assert _states(db) == {server: "ready"}


def test_no_address_at_all_tells_what_to_do(pipeline: Pipeline, settings: Settings) -> None:
    """Without a server the message names the command and the variable."""
    nowhere = Servers(pipeline.registry, settings.model_copy(update={"chroma_url": None}))
    with pytest.raises(ChromaUnavailable, match="MEMORY_PIPELINE_CHROMA_URL"):
        nowhere.for_new_generation()


def test_a_marker_is_read_again_after_forget(pipeline: Pipeline, raw: ServerAPI) -> None:
    """What was recognised once is recognised again before it is trusted after trouble."""
    server = pipeline.servers.for_new_generation()
    raw.delete_collection(MARKER)
    pipeline.servers.client(server)
    with pytest.raises(ServerLost):
        pipeline.index.recognise()


def test_place_picks_the_recognised_server(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A generation is placed where somebody answers, though an emptier server is registered."""
    server = pipeline.index.place()
    pipeline.registry.register_server(uuid4(), "http://127.0.0.1:1")
    db.execute("UPDATE memory_pipeline.server SET state = 'lost' WHERE id <> %s", (server,))
    assert pipeline.index.place() == server
