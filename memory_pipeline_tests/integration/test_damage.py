"""The damage matrix of GUARANTEES.md: each is found by a command and cured by one, and it alone."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from typer.testing import CliRunner

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.chroma.marker import INSTALLATION_KEY, MARKER, SERVER_KEY
from memory_pipeline.cli import app
from memory_pipeline.domain.types import Generation, MemoryId, document_id
from memory_pipeline.local.chroma import ChromaProcess, start_chroma
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.pipeline import opened
from memory_pipeline.postgres.database import Database
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.rows import Load, fill

LOAD = Load(rows=900, tenants=3)
DAMAGED, NEIGHBOUR = LOAD.tenant(0), LOAD.tenant(1)


@dataclass
class Site:
    """An installation with a Chroma server of its own, whose files may be damaged."""

    settings: Settings
    chroma: ChromaProcess
    data: Path
    db: psycopg.Connection

    def __call__(self, *command: str, code: int | None = 0) -> dict[str, Any]:
        """Run a command as a user does; return what it prints as JSON."""
        done = CliRunner().invoke(
            app, [*command, "--json"], env=settings_environment(self.settings)
        )
        assert code is None or done.exit_code == code, done.output + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def generation(self, tenant: str = DAMAGED) -> Generation:
        """Return a tenant's live generation."""
        row = self.db.execute(
            "SELECT g.id, g.tenant, g.server, g.collection_id, g.model, g.config_hash, g.state"
            " FROM memory_pipeline.tenant t JOIN memory_pipeline.generation g ON g.id = t.live"
            " WHERE t.tenant = %s",
            (tenant,),
        ).fetchone()
        assert row is not None
        return Generation(*row)

    def meddle(self, act: Callable[[Any], object]) -> None:
        """Do something to the damaged tenant's collection behind the pipeline's back."""
        with opened(self.settings) as pipeline:
            live = self.generation()
            with pipeline.servers.client(live.server).collection(live, 10.0) as collection:
                act(collection)

    def restart_after(self, act: Callable[[], object]) -> None:
        """Stop the server, damage its files, start it again at the same address."""
        self.chroma.stop()
        act()
        self.chroma.restart()

    def segments(self) -> list[Path]:
        """Return the folders of vectors that are large enough to be a tenant's."""
        return sorted(p.parent for p in self.data.glob("*/header.bin"))

    def memories(self, tenant: str = DAMAGED) -> list[MemoryId]:
        """Return the ids of a tenant's memories."""
        rows = self.db.execute(
            "SELECT id FROM memory_logs WHERE user_id = %s ORDER BY id", (tenant,)
        ).fetchall()
        return [MemoryId(row[0]) for row in rows]


@pytest.fixture
def site(settings: Settings, db: psycopg.Connection, tmp_path: Path) -> Iterator[Site]:
    """Return an installation of three tenants, rebuilt and verified."""
    data = tmp_path / "chroma"
    chroma = start_chroma(data, tmp_path / "chroma.log")
    settings = settings.model_copy(update={"chroma_url": chroma.url})
    db.execute("UPDATE memory_pipeline.installation SET vectors = 'trust'")
    database = Database.from_settings(settings)
    fill(database, LOAD)
    database.close()
    here = Site(settings, chroma, data, db)
    assert here("rebuild", "--all")["written"] == LOAD.rows
    yield here
    chroma.stop()


def kinds(report: dict[str, Any], tenant: str = DAMAGED) -> dict[str, int]:
    """Count the findings of a tenant by kind."""
    found: dict[str, int] = {}
    for finding in report["findings"]:
        if finding["tenant"] == tenant:
            found[finding["kind"]] = found.get(finding["kind"], 0) + 1
    return found


def assert_cured(site: Site, *, alone: bool = True) -> None:
    """Repair by one command; then nothing is wrong, and the neighbour was left alone."""
    neighbour = site.generation(NEIGHBOUR)
    site("verify", "--repair")
    report = site("verify", "--sample", "all")
    assert (report["found"], report["documents"]) == (0, LOAD.rows)
    assert (site.generation(NEIGHBOUR).id == neighbour.id) is alone


def test_a_collection_that_was_deleted(site: Site) -> None:
    """P8: damaged; the tenant is rebuilt."""
    with opened(site.settings) as pipeline:
        pipeline.index.drop(site.generation(), seconds=10)
    assert kinds(site("verify", code=1)) == {"damaged": 1}
    assert_cured(site)


def test_a_hundred_documents_that_were_deleted(site: Site) -> None:
    """P8: each is missing; all are brought back."""
    lost = [document_id(i) for i in site.memories()[:100]]
    site.meddle(lambda c: c.delete(ids=lost))
    assert kinds(site("verify", code=1)) == {"missing": 100}
    assert_cured(site)


def test_fifty_documents_that_were_altered(site: Site) -> None:
    """P8: each is stale."""
    names = [document_id(i) for i in site.memories()[:50]]
    site.meddle(lambda c: c.update(ids=names, metadatas=[{"component": "forged"}] * 50))
    assert kinds(site("verify", code=1)) == {"stale": 50}
    assert_cured(site)


def test_twenty_documents_of_another_tenant(site: Site) -> None:
    """P3: each is foreign, and goes; the other tenant keeps its own."""
    names = [document_id(i) for i in site.memories(NEIGHBOUR)[:20]]
    vectors = np.random.default_rng(1).random((20, 768), dtype=np.float32)
    site.meddle(lambda c: c.add(ids=names, embeddings=vectors, metadatas=[{"hash": "x"}] * 20))
    assert kinds(site("verify", code=1)) == {"foreign": 20}
    assert_cured(site)


def test_a_folder_of_vectors_that_was_removed(site: Site) -> None:
    """Chroma counts 300 documents and finds those alone that it had not saved yet."""
    site.restart_after(lambda: shutil.rmtree(site.segments()[0]))
    report = site("verify", code=1)
    assert {f["kind"] for f in report["findings"]} <= {"damaged", "unreachable"}
    assert len({f["tenant"] for f in report["findings"]}) == 1
    site("verify", "--repair", code=None)
    assert site("verify", "--sample", "all")["documents"] == LOAD.rows


def test_a_header_that_was_truncated(site: Site) -> None:
    """The collection answers nothing but errors; it is dropped without being read."""
    header = site.segments()[0] / "header.bin"
    site.restart_after(lambda: header.write_bytes(header.read_bytes()[:10]))
    report = site("verify", code=1)
    assert [f["kind"] for f in report["findings"]] == ["damaged"]
    site("verify", "--repair", code=None)
    assert site("verify", "--sample", "all")["documents"] == LOAD.rows


def test_a_database_file_that_was_removed(site: Site) -> None:
    """The server starts as if it were new: its marker is missing, which `status` says."""
    site.restart_after((site.data / "chroma.sqlite3").unlink)
    status = site("status", code=None)
    assert any("lost its data" in problem for problem in status["problems"])
    assert kinds(site("verify", code=None)) == {"lost": 1}
    assert_cured(site, alone=False)


def test_an_empty_volume(site: Site) -> None:
    """Nothing is written to it by itself; `rebuild --all` brings everything back."""

    def empty() -> None:
        shutil.rmtree(site.data)
        site.data.mkdir()

    site.restart_after(empty)
    assert any("lost its data" in problem for problem in site("status")["problems"])
    assert site("rebuild", "--all")["written"] == LOAD.rows
    assert site("verify", "--sample", "all")["found"] == 0


def test_the_volume_of_another_stack(site: Site, tmp_path: Path) -> None:
    """It is refused and never written; when our own is back, all is well by itself."""
    ours = tmp_path / "ours"

    def swap() -> None:
        site.data.rename(ours)
        site.data.mkdir()

    def swap_back() -> None:
        shutil.rmtree(site.data)
        ours.rename(site.data)

    site.restart_after(swap)
    client = ChromaClient(site.chroma.url, site.settings)
    marker = {SERVER_KEY: str(uuid4()), INSTALLATION_KEY: str(uuid4())}
    with client.call(5.0) as server:
        server.create_collection(MARKER, metadata=marker)
    assert any("another installation" in problem for problem in site("status")["problems"])
    report = site("verify", code=None)
    assert report["found"] + len(report["skipped"]) >= LOAD.tenants
    with client.call(5.0) as server:
        assert [c.name for c in server.list_collections()] == [MARKER]
    client.close()
    site.restart_after(swap_back)
    assert site("verify", "--sample", "all")["documents"] == LOAD.rows


def test_a_trigger_that_was_disabled(site: Site) -> None:
    """What slipped by is found; capture is mended, and so is the index."""
    site.db.execute("ALTER TABLE memory_logs DISABLE TRIGGER memory_pipeline_capture")
    site.db.execute("DELETE FROM memory_logs WHERE id = %s", (site.memories()[0],))
    report = site("verify", code=1)
    # The document of the deleted memory is no finding: every tenant is about to be compared.
    assert {f["kind"] for f in report["findings"]} == {"capture"}
    assert any("capture is broken" in problem for problem in site("status")["problems"])
    site("verify", "--repair")
    report = site("verify", "--sample", "all")
    assert (report["found"], report["documents"]) == (0, LOAD.rows - 1)
