"""The tables of chroma/server_identity.py against real servers and a real registry."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from chromadb.api import ServerAPI

from memory_pipeline.chroma.client import CONTROL_ID, ChromaClient
from memory_pipeline.chroma.marker import INSTALLATION_KEY, MARKER, SERVER_KEY
from memory_pipeline.chroma.servers import Servers
from memory_pipeline.cli.status import status
from memory_pipeline.domain.epoch import Comparison, EpochStamp
from memory_pipeline.domain.types import Server, TenantId
from memory_pipeline.errors import ChromaUnavailable, Corrupt, PostgresUnavailable, ServerLost
from memory_pipeline.local.chroma import ChromaProcess, start_chroma
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.epochs import PostgresEpochs
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline.settings import Settings
from memory_pipeline.testing.proxy import Link, Proxy


@contextmanager
def _raw(url: str) -> Iterator[ServerAPI]:
    client = ChromaClient(url, Settings.load())
    try:
        with client.call(5.0) as server:
            yield server
    finally:
        client.close()


@pytest.fixture
def raw(chroma: ChromaProcess) -> Iterator[ServerAPI]:
    """Return a client of the library itself, to read and to interfere."""
    with _raw(chroma.url) as server:
        yield server


def _marked(raw: ServerAPI, server: UUID, installation: UUID) -> None:
    raw.create_collection(
        MARKER, metadata={SERVER_KEY: str(server), INSTALLATION_KEY: str(installation)}
    )


def _states(db: psycopg.Connection) -> dict[UUID, str]:
    rows = db.execute("SELECT id, state FROM memory_pipeline.server").fetchall()
    return {row[0]: row[1] for row in rows}


def test_a_new_server_is_marked_and_registered_once(pipeline: Pipeline, raw: ServerAPI) -> None:
    """The first process marks the server; a later one finds the same server."""
    first = pipeline.servers.choose_server()
    later = Servers(pipeline.registry, pipeline.settings)
    assert later.choose_server() == first
    assert [s.id for s in pipeline.registry.servers()] == [first]
    metadata = raw.get_collection(MARKER).metadata or {}
    assert metadata[SERVER_KEY] == str(first)
    assert metadata[INSTALLATION_KEY] == str(pipeline.registry.installation())
    later.close()


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
        servers.check_identity()
        return set(servers.usable())

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(found, both)
    assert one == other
    assert one == {s.id for s in pipeline.registry.servers()}
    for servers in both:
        servers.close()


class _LateRegistry(PostgresRegistry):
    """A registry before whose first answer another process acts."""

    before: Callable[[], None] | None = None

    def servers(self) -> list[Server]:
        before, self.before = self.before, None
        if before is not None:
            before()
        return super().servers()


def test_a_server_that_another_marks_meanwhile_is_not_lost(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A process that saw no marker, and then the registration, was only a moment too slow."""
    registry = _LateRegistry(pipeline.database)
    registry.before = pipeline.servers.check_identity
    slow = Servers(registry, pipeline.settings)
    slow.check_identity()
    assert set(_states(db).values()) == {"ready"}
    slow.close()


def test_a_known_server_at_a_new_address_is_the_same_server(
    pipeline: Pipeline, chroma: ChromaProcess
) -> None:
    """`up` picks free ports, so an address means nothing; the newest one is noted."""
    server = pipeline.servers.choose_server()
    elsewhere = chroma.url.replace("127.0.0.1", "localhost")
    moved = Servers(
        pipeline.registry, pipeline.settings.model_copy(update={"chroma_url": elsewhere})
    )
    assert moved.choose_server() == server
    assert [(s.id, s.url) for s in pipeline.registry.servers()] == [(server, elsewhere)]
    moved.close()


def test_a_registered_server_without_its_marker_is_lost_and_never_made_anew(
    pipeline: Pipeline, raw: ServerAPI, db: psycopg.Connection
) -> None:
    """An emptied volume is reported, not hidden by a new marker; the marker's return ends it."""
    server = pipeline.servers.choose_server()
    raw.delete_collection(MARKER)
    later = Servers(pipeline.registry, pipeline.settings)
    for _ in range(2):
        with pytest.raises(ServerLost, match="lost its data"):
            later.choose_server()
        with pytest.raises(ServerLost, match="lost its data"):
            later.client(server)
    assert _states(db) == {server: "lost"}
    assert MARKER not in [c.name for c in raw.list_collections()]
    _marked(raw, server, pipeline.registry.installation())
    assert later.choose_server() == server
    assert _states(db) == {server: "ready"}
    later.close()


@pytest.mark.parametrize("registered", [False, True])
def test_another_installations_server_is_refused(
    pipeline: Pipeline, raw: ServerAPI, db: psycopg.Connection, *, registered: bool
) -> None:
    """Two installations never share a server, whether or not this one has one of its own."""
    known = set()
    if registered:
        known = {pipeline.servers.choose_server()}
        raw.delete_collection(MARKER)
    _marked(raw, uuid4(), uuid4())
    later = Servers(pipeline.registry, pipeline.settings)
    with pytest.raises(ServerLost, match="another installation"):
        later.choose_server()
    assert set(_states(db)) == known


def test_a_marker_that_is_none_of_ours_is_refused(pipeline: Pipeline, raw: ServerAPI) -> None:
    """A collection that merely has the marker's name identifies no server."""
    raw.create_collection(MARKER, metadata={"note": "a stranger's"})
    with pytest.raises(ServerLost, match="not a marker"):
        pipeline.servers.check_identity()
    assert pipeline.registry.servers() == []


def test_an_unknown_server_is_lost(pipeline: Pipeline) -> None:
    """A generation on a server that does not answer here is not searched on another."""
    pipeline.servers.choose_server()
    with pytest.raises(ServerLost):
        pipeline.servers.client(uuid4())


def test_a_server_that_is_down_is_no_lost_server(
    pipeline: Pipeline, settings: Settings, db: psycopg.Connection
) -> None:
    """An outage proves nothing about the data: the server stays as it is registered."""
    server = pipeline.servers.choose_server()
    down = Servers(
        pipeline.registry, settings.model_copy(update={"chroma_url": "http://127.0.0.1:1"})
    )
    with pytest.raises(ChromaUnavailable) as found:
        down.choose_server()
    assert not found.value.sent
    assert _states(db) == {server: "ready"}


def test_no_address_at_all_tells_what_to_do(pipeline: Pipeline, settings: Settings) -> None:
    """Without a server the message names the command and the variable."""
    nowhere = Servers(pipeline.registry, settings.model_copy(update={"chroma_url": None}))
    with pytest.raises(ChromaUnavailable, match="MEMORY_PIPELINE_CHROMA_URL"):
        nowhere.choose_server()


def test_a_marker_is_read_again_after_forget(pipeline: Pipeline, raw: ServerAPI) -> None:
    """What was recognised once is recognised again before it is trusted after trouble."""
    server = pipeline.servers.choose_server()
    raw.delete_collection(MARKER)
    pipeline.servers.client(server)
    with pytest.raises(ServerLost):
        pipeline.index.check_identity(server)


def test_place_picks_the_recognised_server(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A new generation is created where a server answers, though an emptier one is registered."""
    server = pipeline.index.choose_server()
    pipeline.registry.register_server(uuid4(), "http://127.0.0.1:1")
    db.execute("UPDATE memory_pipeline.server SET state = 'lost' WHERE id <> %s", (server,))
    assert pipeline.index.choose_server() == server


# ---- two servers

NOBODY = "http://127.0.0.1:1"
TENANT = TenantId("ada")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the second server's data."""
    return tmp_path_factory.mktemp("second-chroma") / "data"


@pytest.fixture(scope="module")
def _second(volume: Path) -> Iterator[ChromaProcess]:
    server = start_chroma(volume, volume.with_name("chroma.log"))
    yield server
    server.stop()


@pytest.fixture
def second(_second: ChromaProcess) -> ChromaProcess:
    """Return a second server, which a test may stop; it runs and nothing has marked it."""
    if not _second.alive():
        _second.restart()
    _unmark(_second.url)
    return _second


@pytest.fixture
def both(pipeline: Pipeline, second: ChromaProcess) -> Iterator[Callable[..., Servers]]:
    """Return what makes the servers of a process: of both addresses, or of those given."""
    made: list[Servers] = []

    def servers(*urls: str, registry: PostgresRegistry | None = None) -> Servers:
        first, *further = urls or (str(pipeline.settings.chroma_url), second.url)
        settings = pipeline.settings.model_copy(
            update={"chroma_url": first, "chroma_urls": tuple(further)}
        )
        made.append(Servers(registry or pipeline.registry, settings))
        return made[-1]

    yield servers
    for one in made:
        one.close()


def _unmark(url: str) -> None:
    with suppress(Corrupt), _raw(url) as server:
        server.delete_collection(MARKER)


def _marker(url: str) -> UUID | None:
    """Return the server in an address's marker, read without the product's code."""
    try:
        with _raw(url) as server:
            metadata = server.get_collection(MARKER).metadata or {}
    except Corrupt:
        return None
    return UUID(str(metadata[SERVER_KEY]))


def _emptied(server: ChromaProcess, volume: Path) -> None:
    """Lose a server's volume, as an ephemeral disk is lost."""
    server.stop()
    shutil.rmtree(volume)
    volume.mkdir()
    server.restart()


def _at(pipeline: Pipeline, url: str) -> UUID:
    """Return the one server that is registered at an address."""
    (server,) = [s.id for s in pipeline.registry.servers() if s.url == url]
    return server


def test_two_new_servers_are_both_marked_and_registered(
    pipeline: Pipeline, both: Callable[..., Servers], chroma: ChromaProcess, second: ChromaProcess
) -> None:
    """A later process finds the same two."""
    servers = both()
    servers.check_identity()
    found = {s.url: s.id for s in pipeline.registry.servers()}
    assert found == {chroma.url: _marker(chroma.url), second.url: _marker(second.url)}
    assert set(servers.usable()) == set(found.values())
    assert {servers.client(server).url for server in found.values()} == set(found)
    assert both().problems() == []
    assert {s.url: s.id for s in pipeline.registry.servers()} == found


def test_new_generations_go_where_the_fewest_memories_are(
    pipeline: Pipeline, both: Callable[..., Servers]
) -> None:
    """Tenants spread over the servers by their sizes."""
    servers = both()
    pipeline.registry.register(TENANT)
    large = servers.choose_server()
    for memories in (10, 4, 4):
        placed = servers.choose_server()
        assert (placed == large) == (memories == 10)
        pipeline.registry.begin_generation(
            TENANT, placed, model="", config_hash="", memories=memories
        )


def test_a_server_that_is_down_stops_no_other(
    pipeline: Pipeline, both: Callable[..., Servers], chroma: ChromaProcess, second: ChromaProcess
) -> None:
    """Its tenants wait; nothing is called lost; it is found as soon as it is back."""
    both().check_identity()
    well, down = _at(pipeline, chroma.url), _at(pipeline, second.url)
    second.stop()
    servers = both()
    for _ in range(2):
        assert servers.client(well).url == chroma.url
        with pytest.raises(ChromaUnavailable, match=second.url) as found:
            servers.client(down)
        assert type(found.value) is ChromaUnavailable
        assert not found.value.sent
    servers.check_identity()
    servers.check_identity(well)
    with pytest.raises(ChromaUnavailable):
        servers.check_identity(down)
    assert servers.choose_server() == well
    assert servers.replace_lost() == []
    (problem,) = servers.problems()
    assert second.url in problem
    assert {s.state for s in pipeline.registry.servers()} == {"ready"}
    second.restart()
    assert servers.client(down).url == second.url
    assert servers.problems() == []


def test_a_server_that_answers_and_takes_no_writes_is_said(
    pipeline: Pipeline, both: Callable[..., Servers], chroma: ChromaProcess
) -> None:
    """As one whose disk was full: it stays locked, and everything but this check is in order."""
    pipeline.servers.check_identity()
    with Proxy() as proxy:
        port = urlsplit(chroma.url).port or 0
        way = proxy.add(Link("chroma", port, http=True, refused=CONTROL_ID.encode()))
        (problem,) = both(f"http://127.0.0.1:{way.port}").problems()
    assert f"{way.port} answers but takes no writes" in problem


def test_a_further_server_is_taken_while_another_is_down(
    pipeline: Pipeline, both: Callable[..., Servers], chroma: ChromaProcess, second: ChromaProcess
) -> None:
    """The one that is down is known to be at its own address, so this one is none that is lost."""
    both(second.url).check_identity()
    second.stop()
    both().check_identity()
    assert _at(pipeline, chroma.url) == _marker(chroma.url)


def test_a_lost_server_stops_no_other_and_is_replaced_when_asked(
    pipeline: Pipeline,
    both: Callable[..., Servers],
    chroma: ChromaProcess,
    second: ChromaProcess,
    *,
    volume: Path,
    db: psycopg.Connection,
) -> None:
    """What broke: the volume is gone. Not enough: a new marker, for then nothing is rebuilt.

    It is reported and left alone until an operator retires it, with its generations. What is at its
    place is a new server then, also to a process that knew the old one.
    """
    old = both()
    old.check_identity()
    well, lost = _at(pipeline, chroma.url), _at(pipeline, second.url)
    pipeline.registry.register(TENANT)
    generation = pipeline.registry.begin_generation(
        TENANT, lost, model="", config_hash="", memories=1
    )
    _emptied(second, volume)
    servers = both()
    for _ in range(2):
        with pytest.raises(ServerLost, match=f"{second.url} has lost its data .*{lost}"):
            servers.client(lost)
        assert servers.choose_server() == well
        (problem,) = servers.problems()
        assert str(lost) in problem
    assert _states(db) == {well: "ready", lost: "lost"}
    assert _marker(second.url) is None

    assert servers.replace_lost() == [lost]
    new = _marker(second.url)
    assert new is not None
    assert _states(db) == {well: "ready", lost: "retired", new: "ready"}
    state = "SELECT state FROM memory_pipeline.generation WHERE id = %s"
    assert db.execute(state, (generation.id,)).fetchone() == ("lost",)
    assert set(servers.usable()) == {well, new}
    assert old.client(new).url == second.url
    with pytest.raises(ServerLost):
        old.client(lost)
    assert servers.problems() == []
    assert servers.replace_lost() == []


def test_a_lost_server_whose_volume_comes_back_is_well(
    pipeline: Pipeline, both: Callable[..., Servers], second: ChromaProcess
) -> None:
    """As long as it is not retired."""
    servers = both()
    servers.check_identity()
    lost = _at(pipeline, second.url)
    _unmark(second.url)
    with pytest.raises(ServerLost):
        servers.check_identity(lost)
    with _raw(second.url) as raw:
        _marked(raw, lost, pipeline.registry.installation())
    assert servers.client(lost).url == second.url
    assert {s.state for s in pipeline.registry.servers()} == {"ready"}


def test_a_retired_server_that_returns_is_refused(
    pipeline: Pipeline, both: Callable[..., Servers], chroma: ChromaProcess, second: ChromaProcess
) -> None:
    """Its old volume is back too late: it is never used, nor written to, until it is empty."""
    servers = both()
    servers.check_identity()
    lost = _at(pipeline, second.url)
    _unmark(second.url)
    servers.replace_lost()
    _unmark(second.url)
    with _raw(second.url) as raw:
        _marked(raw, lost, pipeline.registry.installation())
    for seen in (servers, both()):
        seen.check_identity()
        assert [seen.client(s).url for s in seen.usable()] == [chroma.url]
        with pytest.raises(ServerLost, match="retired"):
            seen.client(lost)
        assert any("empty its volume" in problem for problem in seen.problems())
        assert seen.replace_lost() == []
    assert _marker(second.url) == lost
    assert [s.state for s in pipeline.registry.servers() if s.id == lost] == ["retired"]


def test_another_installations_server_stops_no_other(
    pipeline: Pipeline, both: Callable[..., Servers], chroma: ChromaProcess, second: ChromaProcess
) -> None:
    """It is named and never touched."""
    stranger = uuid4()
    with _raw(second.url) as raw:
        _marked(raw, stranger, uuid4())
    servers = both()
    server = servers.choose_server()
    assert servers.client(server).url == chroma.url
    (problem,) = servers.problems()
    assert "another installation" in problem
    assert second.url in problem
    assert servers.replace_lost() == []
    assert _marker(second.url) == stranger
    assert _states_of(pipeline) == {server: "ready"}


def test_a_server_whose_address_was_taken_away_is_not_given_up(
    pipeline: Pipeline, both: Callable[..., Servers], chroma: ChromaProcess, second: ChromaProcess
) -> None:
    """Its data may be intact: it is reported until its address is back."""
    both().check_identity()
    away = _at(pipeline, second.url)
    servers = both(chroma.url)
    with pytest.raises(ServerLost, match="none of the addresses"):
        servers.client(away)
    assert servers.replace_lost() == []
    (problem,) = servers.problems()
    assert str(away) in problem
    assert set(_states_of(pipeline).values()) == {"ready"}
    assert both().client(away).url == second.url


def test_replacing_a_lost_server_leaves_one_whose_address_was_taken_away(
    pipeline: Pipeline, both: Callable[..., Servers], chroma: ChromaProcess, second: ChromaProcess
) -> None:
    """The emptied address becomes a new server; it is not taken for the other one's place."""
    both().check_identity()
    lost, away = _at(pipeline, chroma.url), _at(pipeline, second.url)
    _unmark(chroma.url)
    servers = both(chroma.url)
    assert servers.replace_lost() == [lost]
    new = _marker(chroma.url)
    assert servers.usable() == [new]
    assert _states_of(pipeline) == {lost: "retired", away: "ready", new: "ready"}
    assert servers.replace_lost() == []
    assert both().client(away).url == second.url


def test_in_doubt_nothing_is_marked_and_nothing_is_lost(
    pipeline: Pipeline, both: Callable[..., Servers], chroma: ChromaProcess, second: ChromaProcess
) -> None:
    """A server is missing, and one address that it may have moved to cannot be reached."""
    both(chroma.url).check_identity()
    moved = _at(pipeline, chroma.url)
    servers = both(NOBODY, second.url)
    for _ in range(2):
        with pytest.raises(ChromaUnavailable, match=NOBODY) as found:
            servers.client(moved)
        assert type(found.value) is ChromaUnavailable
        with pytest.raises(ChromaUnavailable):
            servers.choose_server()
    assert servers.replace_lost() == []
    assert any(second.url in problem for problem in servers.problems())
    assert _marker(second.url) is None
    assert _states_of(pipeline) == {moved: "ready"}


def test_looking_for_problems_marks_nothing(
    pipeline: Pipeline, both: Callable[..., Servers], second: ChromaProcess
) -> None:
    """`status` at a wrong address leaves no trace there; the first use marks."""
    servers = both()
    assert servers.problems() == []
    assert pipeline.registry.servers() == []
    assert _marker(second.url) is None
    servers.check_identity()
    assert _marker(second.url) == _at(pipeline, second.url)


def test_problems_are_told_whatever_is_the_matter(pipeline: Pipeline, settings: Settings) -> None:
    """Chroma's troubles are lines for a person, never an error."""
    nowhere = settings.model_copy(update={"chroma_url": None})
    (problem,) = Servers(pipeline.registry, nowhere).problems()
    assert "memory-pipeline up" in problem


class _CountingRegistry(PostgresRegistry):
    """A registry that knows how often it was read."""

    reads = 0

    def servers(self) -> list[Server]:
        self.reads += 1
        return super().servers()


def test_threads_that_ask_at_once_share_a_look(
    pipeline: Pipeline, both: Callable[..., Servers], second: ChromaProcess
) -> None:
    """Thirty tenants of a server that is down do not wait one after the other."""
    both().check_identity()
    down = _at(pipeline, second.url)
    second.stop()
    registry = _CountingRegistry(pipeline.database)
    servers = both(registry=registry)
    start = threading.Barrier(30)

    def ask(_: int) -> str:
        start.wait(timeout=10)
        with pytest.raises(ChromaUnavailable) as found:
            servers.client(down)
        return str(found.value)

    with ThreadPoolExecutor(30) as threads:
        assert len(set(threads.map(ask, range(30)))) == 1
    assert 1 <= registry.reads < 30


def test_a_server_that_hangs_delays_nobody_else(
    pipeline: Pipeline,
    both: Callable[..., Servers],
    chroma: ChromaProcess,
    second: ChromaProcess,
    wait_until: Callable[..., None],
) -> None:
    """While one thread waits for its answer, the others get the servers that are known."""
    servers = both()
    servers.check_identity()
    well = _at(pipeline, chroma.url)
    os.kill(second.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        try:
            looking = thread.submit(servers.check_identity)
            wait_until(servers._lock.locked)
            assert servers.client(well).url == chroma.url
            assert not looking.done()
        finally:
            os.kill(second.pid, signal.SIGCONT)
        looking.result(timeout=10)


def test_two_that_replace_a_lost_server_at_once_agree(
    pipeline: Pipeline, both: Callable[..., Servers], second: ChromaProcess
) -> None:
    """One new server takes its place, whichever process was first."""
    both().check_identity()
    _unmark(second.url)
    start = threading.Barrier(2)

    def replace(servers: Servers) -> set[UUID]:
        start.wait(timeout=10)
        servers.replace_lost()
        return set(servers.usable())

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(replace, [both(), both()])
    assert one == other
    assert _marker(second.url) in one
    assert sorted(_states_of(pipeline).values()) == ["ready", "ready", "retired"]


def test_status_lists_the_servers_and_what_is_the_matter_with_them(
    pipeline: Pipeline,
    both: Callable[..., Servers],
    second: ChromaProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each with its memories; one line a problem, however many tenants have it."""
    both().check_identity()
    away = _at(pipeline, second.url)
    pipeline.registry.register(TENANT)
    pipeline.registry.begin_generation(TENANT, away, model="", config_hash="", memories=7)
    second.stop()
    given = pipeline.settings.model_copy(update={"chroma_urls": (second.url,)})
    for name, value in settings_environment(given).items():
        monkeypatch.setenv(name, value)
    status(as_json=True)
    said = json.loads(capsys.readouterr().out)
    (server,) = [s for s in said["servers"] if s["id"] == str(away)]
    assert server == {"id": str(away), "url": second.url, "state": "ready", "memories": 7}
    assert len(said["servers"]) == 2
    (problem,) = said["problems"]
    assert second.url in problem
    assert said["services"]["chroma-2"] == "external down"


class _InterruptedEpochs(PostgresEpochs):
    """Epochs of a Postgres that is away for the first comparison."""

    interrupted = False

    def compare(self, stamps: Collection[EpochStamp]) -> Comparison:
        if not self.interrupted:
            self.interrupted = True
            raise PostgresUnavailable("Postgres restarts")
        return super().compare(stamps)


def test_an_interrupted_comparison_leaves_no_server_half_known(pipeline: Pipeline) -> None:
    """What broke: Postgres restarts while a process identifies its first server.

    From then on this process took a server that is well for a lost one, until it was restarted or
    checked every address again. A comparison that fails must leave everything to the next attempt.
    """
    server = pipeline.servers.choose_server()
    epochs = _InterruptedEpochs(pipeline.database, pipeline.settings)
    servers = Servers(pipeline.registry, pipeline.settings, epochs)
    with pytest.raises(PostgresUnavailable):
        servers.client(server)
    assert servers.usable() == []
    assert servers.client(server).url == pipeline.servers.client(server).url
    servers.close()


def _states_of(pipeline: Pipeline) -> dict[UUID, str]:
    return {s.id: s.state for s in pipeline.registry.servers()}
