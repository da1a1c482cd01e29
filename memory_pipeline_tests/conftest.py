"""One real Postgres and Chroma a session; a fresh database and collections a test."""

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.chroma.marker import MARKER
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import Corrupt
from memory_pipeline.local.chroma import ChromaProcess, start_chroma
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings

# An assert in a word of the tests explains itself as one in a test does.
pytest.register_assert_rewrite("memory_pipeline_tests.integration", "memory_pipeline_tests.words")

_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Have SIGINT back where a shell has started the tests in the background, and ignores it there.

    Dagster gives SIGTERM the handler of SIGINT, and each process that a test starts inherits a
    signal that is ignored: it could then be stopped by SIGKILL alone.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the shell's settings out of every test."""
    import os

    for name in list(os.environ):
        if name.startswith("MEMORY_PIPELINE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Start the embedded Postgres once; without fsync, for nothing here outlives the session."""
    server = start_postgres(tmp_path_factory.mktemp("postgres") / "data", durable=False)
    try:
        server.create_database("template_migrated")
        migrate(Settings.load(database_url=server.url("template_migrated")))
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaProcess]:
    """Start one Chroma server; every test database makes collections of its own on it."""
    place = tmp_path_factory.mktemp("chroma")
    server = start_chroma(place / "data", place / "chroma.log")
    yield server
    server.stop()


def _create_database(postgres: EmbeddedPostgres, *, template: str | None) -> str:
    name = f"test_{next(_numbers)}"
    create = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
    if template:
        create += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(create)
    return postgres.url(name)


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> str:
    """Return the address of a database with nothing in it."""
    return empty_database_of(postgres)


def empty_database_of(postgres: EmbeddedPostgres) -> str:
    """Create a database with nothing in it; return its address."""
    return _create_database(postgres, template=None)


def new_database(postgres: EmbeddedPostgres) -> str:
    """Create a migrated database; return its address."""
    url = _create_database(postgres, template="template_migrated")
    # An installation of its own: what stands in the session's Chroma is another's.
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE memory_pipeline.installation SET id = gen_random_uuid()")
    return url


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> str:
    """Return the address of a freshly migrated database."""
    return new_database(postgres)


@pytest.fixture
def db(database_url: str) -> Iterator[psycopg.Connection]:
    """Connect as the application would; every statement commits by itself."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def settings(database_url: str, chroma: ChromaProcess, tmp_path: Path) -> Settings:
    """Return settings for a test's own database and the session's Chroma."""
    return Settings.load(
        home=tmp_path / "home",
        database_url=database_url,
        chroma_url=chroma.url,
        embedder="hashing",
        retry_seconds=0.05,
        retry_max_seconds=0.2,
        grace_seconds=0.1,
        request_seconds=3.0,
        lease_seconds=6.0,
    )


@pytest.fixture
def pipeline(settings: Settings, unmarked_chroma: None) -> Iterator[Pipeline]:
    """Return the parts, connected to a test's own database; the embedder is the stand-in."""
    with opened(settings, embedder=HashingEmbedder()) as parts:
        yield parts


@pytest.fixture
def unmarked_chroma(chroma: ChromaProcess) -> None:
    """Take the marker away: to a fresh database, the session's Chroma is a new server."""
    unmark(chroma)


def unmark(chroma: ChromaProcess) -> None:
    """Take the marker off a server."""
    client = ChromaClient(chroma.url, Settings.load())
    with suppress(Corrupt), client.call(60.0) as server:
        server.delete_collection(MARKER)
    client.close()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Return a function that polls a condition under a deadline; nothing sleeps blindly."""

    def wait(condition: Callable[[], object], *, within: float = 5.0) -> None:
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not so within {within} s: {condition}")
            time.sleep(0.02)

    return wait
