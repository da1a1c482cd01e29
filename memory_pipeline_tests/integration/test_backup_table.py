"""Vectors in a table of the pipeline's own: memory_logs is only read, and nothing is lost by it.

What broke: each backup was an UPDATE of memory_logs, so every updated_at moved and audit tables
filled.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import quote
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector
from psycopg import sql
from pydantic import SecretStr
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.domain.types import MemoryId, RebuildId
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.worker.background import Intervals
from memory_pipeline_tests.embedders import CountingEmbedder
from memory_pipeline_tests.integration.capture.words import create_table
from memory_pipeline_tests.integration.rebuild.words import SECOND, assert_true, rebuilt
from memory_pipeline_tests.integration.sync.words import settled
from memory_pipeline_tests.integration.worker.words import living
from memory_pipeline_tests.words import ADA, change, count_of, held, one, remember

# What many applications have on a table.
AUDITED = """
CREATE TABLE audit (id bigint, at timestamptz DEFAULT now());
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit (id) VALUES (NEW.id); RETURN NULL; END $$;
CREATE TRIGGER audit AFTER UPDATE ON memory_logs FOR EACH ROW EXECUTE FUNCTION audit();
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON memory_logs FOR EACH ROW EXECUTE FUNCTION touch();
CREATE RULE told AS ON UPDATE TO memory_logs WHERE OLD.id < 0 DO ALSO INSERT INTO audit VALUES (1);
"""


@pytest.fixture
def embedder() -> CountingEmbedder:
    """Return the stand-in, which counts."""
    return CountingEmbedder()


@pytest.fixture
def under(
    settings: Settings, embedder: CountingEmbedder, unmarked_chroma: None
) -> Iterator[Callable[..., Pipeline]]:
    """Return a function that opens a pipeline with this backup."""
    with ExitStack() as stack:

        def under(backup: str, **more: object) -> Pipeline:
            changed = settings.model_copy(update={"backup": backup, "retire_seconds": 0.0, **more})
            return stack.enter_context(opened(changed, embedder=embedder))

        yield under


@pytest.fixture
def reading_url(db: psycopg.Connection, database_url: str) -> Iterator[str]:
    """Return the address of a role that owns nothing and may only read memory_logs."""
    name = f"reader_{uuid4().hex}"
    role = sql.Identifier(name)
    db.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    for grant in (
        "USAGE ON SCHEMA memory_pipeline",
        "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA memory_pipeline",
        "SELECT ON memory_logs",
    ):
        db.execute(sql.SQL("GRANT " + grant + " TO {}").format(role))
    yield database_url.replace("postgresql://postgres@", f"postgresql://{quote(name)}@")
    db.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))


def in_table(db: psycopg.Connection) -> set[int]:
    """Return the memories whose vector is in the pipeline's own table."""
    return {row[0] for row in db.execute("SELECT memory_id FROM memory_pipeline.vector_backup")}


def rows(db: psycopg.Connection) -> list[tuple[object, ...]]:
    """Return every row as it stands, with the place where it stands."""
    return db.execute("SELECT ctid, m.* FROM memory_logs m ORDER BY id").fetchall()


def test_memory_logs_is_only_read(
    under: Callable[..., Pipeline],
    db: psycopg.Connection,
    embedder: CountingEmbedder,
    reading_url: str,
) -> None:
    """No row moves, no trigger fires, and SELECT is all that the role needs of it."""
    db.execute(AUDITED.encode())
    ids = {remember(db, summary=f"memory {n}") for n in range(5)}
    before = rows(db)
    pipeline = under("table", database_url=SecretStr(reading_url))
    assert settled(pipeline)
    assert held(pipeline) == ids == in_table(db)
    assert rows(db) == before
    assert one(db, "SELECT count(*) FROM audit") == 0
    computed = len(embedder.texts)
    assert rebuilt(pipeline).verdict == "done"
    assert_true(pipeline)
    assert len(embedder.texts) == computed  # the rebuild has read them
    assert rows(db) == before


def test_a_changed_text_gets_its_own_vector_and_a_deleted_memory_leaves_none(
    under: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """One vector a memory, always of its text of now."""
    pipeline = under("table")
    first, second = remember(db, summary="the first"), remember(db, summary="the second")
    assert settled(pipeline)
    change(db, first, "quite another text")
    db.execute("DELETE FROM memory_logs WHERE id = %s", (second,))
    assert settled(pipeline)
    assert in_table(db) == {first}
    [hit] = pipeline.search.search(ADA, "quite another text", k=1)
    assert round(hit.distance, 4) == 0.0
    assert_true(pipeline)


@pytest.mark.parametrize(
    ("one_way", "other"), [("on", "table"), ("table", "on"), ("table", "off"), ("on", "off")]
)
def test_switching_loses_no_vector_and_computes_none_again(
    under: Callable[..., Pipeline],
    db: psycopg.Connection,
    embedder: CountingEmbedder,
    one_way: str,
    other: str,
) -> None:
    """A vector is reused wherever it is; a text that changes gets one where the setting says."""
    memory = MemoryId(remember(db, summary="a text"))
    remember(db, summary="another text")
    assert settled(under(one_way))
    embedder.texts.clear()
    pipeline = under(other)
    assert rebuilt(pipeline).reused == 2
    assert embedder.texts == []
    change(db, memory, "a changed text")
    assert settled(pipeline)
    assert len(embedder.texts) == 1
    assert rebuilt(pipeline, SECOND).reused == (1 if other == "off" else 2)
    assert_true(pipeline)
    assert rebuilt(under(one_way), RebuildId("third")).verdict == "done"
    assert_true(under(one_way))


@pytest.mark.parametrize("trust", [True, False])
def test_a_vector_that_the_application_sets_comes_before_the_one_in_the_table(
    under: Callable[..., Pipeline], db: psycopg.Connection, *, trust: bool
) -> None:
    """As the attachment says: trusted it is the document's, else the pipeline's own is."""
    vectors = "trust" if trust else "recompute"
    db.execute("UPDATE memory_pipeline.installation SET vectors = %s", (vectors,))
    register_vector(db)
    pipeline = under("table")
    memory = remember(db, summary="a text")
    assert settled(pipeline)
    own = np.full(768, 0.25, dtype=np.float32)
    db.execute("UPDATE memory_logs SET embedding = %s WHERE id = %s", (own, memory))
    assert settled(pipeline)
    assert_true(pipeline)
    distance = pipeline.search.search(ADA, "a text", k=1)[0].distance
    assert (distance > 0.1) is trust
    rebuilt(pipeline)
    assert_true(pipeline)
    assert pipeline.search.search(ADA, "a text", k=1)[0].distance == pytest.approx(distance)
    # A new text: the application's vector is of the old one, and both are right again.
    change(db, memory, "a new text")
    assert settled(pipeline)
    assert round(pipeline.search.search(ADA, "a new text", k=1)[0].distance, 4) == 0.0
    assert_true(pipeline)
    rebuilt(pipeline, SECOND)
    assert_true(pipeline)


def test_a_vector_that_was_changed_in_chroma_is_found_by_the_one_in_the_table(
    under: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """P8: verify compares with whichever vector the document is made of."""
    pipeline = under("table")
    memory = remember(db, summary="a text")
    assert settled(pipeline)
    generation = pipeline.registry.live(ADA)
    assert generation is not None
    client = pipeline.servers.client(generation.server)
    with client.collection(generation, 5.0) as collection:
        collection.update(
            ids=[f"memory_log_{memory}"], embeddings=np.full((1, 768), 0.5, np.float32)
        )
    [finding] = pipeline.verify().run(ADA, sample=None).findings
    assert (finding.kind, finding.memory_id) == ("vector", memory)
    assert pipeline.repair().run(ADA, sample=None).after.findings == ()


def test_a_truncate_leaves_no_vectors(
    under: Callable[..., Pipeline], db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """Those with a document go with it, all others are swept by a worker."""
    pipeline = under("table")
    for n in range(3):
        remember(db, summary=f"memory {n}")
    assert settled(pipeline)
    db.execute("TRUNCATE memory_logs")
    db.execute(
        "INSERT INTO memory_pipeline.vector_backup"
        " SELECT n, 't', 'm', '[1,2]' FROM generate_series(900, 4000) AS n"
    )
    kept = remember(db, summary="the next one")
    with living(pipeline, intervals=Intervals(forget_seconds=0.2)):
        wait_until(lambda: in_table(db) == {kept}, within=10)
    assert count_of(db, "provenance") == 1


def migrated(settings: Settings, **changes: object) -> str:
    """Run migrate as a user does; return what it says."""
    env = settings_environment(settings.model_copy(update=changes))
    done = CliRunner().invoke(app, ["migrate"], env=env)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_migrate_names_what_a_backup_would_set_off_and_advises(
    settings: Settings, db: psycopg.Connection
) -> None:
    """The application's triggers and rules alone, and none where memory_logs is only read."""
    assert "MEMORY_PIPELINE_BACKUP" not in migrated(settings)
    db.execute(AUDITED.encode())
    for name, when in (("content", "UPDATE OF raw_data"), ("gone", "UPDATE"), ("added", "INSERT")):
        db.execute(
            f"CREATE TRIGGER {name} AFTER {when} ON memory_logs EXECUTE FUNCTION audit()".encode()
        )
    db.execute("ALTER TABLE memory_logs DISABLE TRIGGER gone")
    said = migrated(settings)
    assert "fires trigger audit on memory_logs, rule told on memory_logs, trigger touch on" in said
    assert "MEMORY_PIPELINE_BACKUP=table" in said
    assert not any(name in said for name in ("content", "gone", "added", "memory_pipeline_"))
    assert "MEMORY_PIPELINE_BACKUP" not in migrated(settings, backup="table")


def test_migrate_names_the_triggers_of_partitions_too(
    settings: Settings, db: psycopg.Connection
) -> None:
    """A backup in a row of theirs fires them."""
    db.execute("DROP TABLE memory_logs")
    assert settings.database_url is not None
    create_table(settings.database_url.get_secret_value(), tail="PARTITION BY RANGE (id)")
    db.execute("CREATE TABLE part PARTITION OF memory_logs FOR VALUES FROM (1) TO (100)")
    db.execute(AUDITED.replace("memory_logs", "part").encode())
    assert "trigger audit on part" in migrated(settings)
