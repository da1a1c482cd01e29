"""Private services of a benchmark: filled databases, empty Chroma servers, their settings."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from memory_pipeline.local.chroma import start_chroma
from memory_pipeline.local.postgres import EmbeddedPostgres
from memory_pipeline.postgres.database import Database
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.rows import Load, fill


def fill_database(postgres: EmbeddedPostgres, settings: Settings, load: Load, name: str) -> None:
    """Create a database that holds these memories with their vectors, never synced."""
    postgres.create_database(name)
    own = settings_for(settings, postgres, name, [])
    migrate(own, vectors="trust")
    database = Database.from_settings(own)
    fill(database, load)
    database.close()
    with psycopg.connect(postgres.url(name), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def copy_database(postgres: EmbeddedPostgres, template: str) -> str:
    """Create a fresh copy of a database, because a rebuild changes it; return its name."""
    name = f"{template}_copy"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        connection.execute("CHECKPOINT")
    return name


@contextmanager
def fresh_servers(home: Path, count: int) -> Iterator[list[str]]:
    """Start servers without data, yield their addresses, stop them and delete their files."""
    with tempfile.TemporaryDirectory(prefix="limit-", dir=home) as folder, ExitStack() as running:
        urls: list[str] = []
        for number in range(count):
            place = Path(folder) / f"chroma-{number}"
            server = start_chroma(place, place.with_suffix(".log"))
            running.callback(server.stop)
            urls.append(server.url)
        yield urls


def settings_for(
    settings: Settings, postgres: EmbeddedPostgres, database: str, urls: Sequence[str]
) -> Settings:
    """Return the settings of one measurement: this database and these servers."""
    return Settings.load(
        document=settings.document,
        embedder=settings.embedder,
        database_url=postgres.url(database),
        chroma_url=urls[0] if urls else None,
        chroma_urls=tuple(urls[1:]),
    )


def with_own_home(settings: Settings, home: Path) -> Settings:
    """Return settings with a home of the benchmark's, so that no service of the user is found."""
    return settings.model_copy(update={"home": home / "home"})
