"""Dagster instances, in memory and stored, and the pipeline's settings in the environment."""

import shutil
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from memory_pipeline.local.postgres import EmbeddedPostgres
from memory_pipeline.settings import Settings
from memory_pipeline_tests.dagster.reporting import Breaks
from memory_pipeline_tests.databases import create_database


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Return an instance that lives as long as the test."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def dagster_url(postgres: EmbeddedPostgres) -> str:
    """Return the address of an empty database for Dagster's storage."""
    return create_database(postgres)


@pytest.fixture
def dagster_home(dagster_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the DAGSTER_HOME that `up` makes; its database has no tables yet."""
    home = _home(tmp_path, monkeypatch)
    monkeypatch.setenv("MEMORY_PIPELINE_DAGSTER_DATABASE_URL", dagster_url)
    with as_file(files("memory_pipeline.local") / "dagster.yaml") as source:
        shutil.copyfile(source, home / "dagster.yaml")
    return home


@pytest.fixture
def on_postgres(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    """Return the instance that `up` makes, stored in Postgres."""
    with dg.DagsterInstance.get() as stored:
        yield stored


@pytest.fixture
def breaks(on_postgres: dg.DagsterInstance, dagster_url: str) -> Iterator[Breaks]:
    """Return what has Dagster's Postgres refuse events."""
    with psycopg.connect(dagster_url, autocommit=True) as connection:
        yield Breaks(connection)


@pytest.fixture
def on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """Return the instance of a DAGSTER_HOME without a storage: files of SQLite."""
    home = _home(tmp_path, monkeypatch)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.get() as stored:
        yield stored


@pytest.fixture(params=["on_postgres", "on_sqlite"])
def stored(request: pytest.FixtureRequest) -> dg.DagsterInstance:
    """Return the instance of DAGSTER_HOME, once on each storage."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, dg.DagsterInstance)
    return found


def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


@pytest.fixture
def environment(
    settings: Settings, unmarked_chroma: None, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Name the test's services in the environment, as Dagster's processes find them."""
    assert settings.database_url is not None
    assert settings.chroma_url is not None
    for name, value in {
        "HOME": str(settings.home),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "CHROMA_URL": settings.chroma_url,
        "EMBEDDER": "hashing",
        "RETRY_SECONDS": "0.05",
    }.items():
        monkeypatch.setenv(f"MEMORY_PIPELINE_{name}", value)
    return settings
