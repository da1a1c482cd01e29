"""Whatever refuses the backup of a vector costs the backup and nothing else.

What broke: a trigger that raises on each UPDATE of an append-only table. Nothing became searchable,
syncs ended in a traceback, and the status was silent.
"""

import logging
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from memory_pipeline.cli import status as status_command
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.embedders import CountingEmbedder
from memory_pipeline_tests.integration.rebuild.words import assert_true, rebuilt
from memory_pipeline_tests.integration.sync.words import settled, with_embedder
from memory_pipeline_tests.integration.worker.words import living
from memory_pipeline_tests.words import ADA, change, count_of, drained_due, held, one, remember

SECRET = "Ada keeps the key under the mat"

UNDEFINED = "1 / (embedding IS NULL)::integer"  # once there is a vector
EACH_ROW = "BEFORE UPDATE ON memory_logs FOR EACH ROW"


def trigger(body: str, *, when: str = EACH_ROW, kind: str = "TRIGGER") -> str:
    """Return the statements that make the trigger append_only."""
    return (
        f"CREATE FUNCTION frozen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
        f"CREATE {kind} append_only {when} EXECUTE FUNCTION frozen()"
    )


DEFERRED = "AFTER UPDATE ON memory_logs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
CHANGES = "trigger append_only changes what is stored with the vector"
# What refuses a backup, and what the status says of it.
REFUSALS = {
    "a trigger that raises": (
        trigger("RAISE 'no update of %', NEW.raw_data;"),
        "raise_exception (P0001) by trigger append_only",
    ),
    "a statement trigger that raises": (
        trigger(
            "RAISE 'no' USING ERRCODE = 'insufficient_privilege';",
            when="BEFORE UPDATE ON memory_logs",
        ),
        "insufficient_privilege (42501) by trigger append_only",
    ),
    "a deferred constraint trigger": (
        trigger(
            "RAISE check_violation USING CONSTRAINT = 'frozen_rows';",
            when=DEFERRED,
            kind="CONSTRAINT TRIGGER",
        ),
        "check_violation (23514) by constraint frozen_rows",
    ),
    "a trigger that returns no row": (
        trigger("RETURN NULL;"),
        "trigger append_only leaves out the UPDATE of the row",
    ),
    "a trigger that keeps the old row": (trigger("RETURN OLD;"), CHANGES),
    "a trigger that writes content": (
        trigger(
            "NEW.raw_data := NEW.raw_data || jsonb_build_object('edits', random()::text);"
            " RETURN NEW;"
        ),
        CHANGES,
    ),
    "a trigger whose function is broken": (
        trigger("INSERT INTO gone VALUES (NEW.*); RETURN NEW;"),
        "undefined_table (42P01) by trigger append_only",
    ),
    "a trigger whose own connection breaks": (
        trigger("RAISE USING ERRCODE = '08001', MESSAGE = 'no dblink';"),
        "sqlclient_unable_to_establish_sqlconnection (08001) by trigger append_only",
    ),
    "a trigger with a code of its own": (
        trigger("RAISE USING ERRCODE = 'ZZ042', MESSAGE = 'no';"),
        "error ZZ042 by trigger append_only",
    ),
    "a slow trigger": (
        trigger("PERFORM pg_sleep(30); RETURN NEW;"),
        "query_canceled (57014) by trigger append_only",
    ),
    "a constraint": (
        "ALTER TABLE memory_logs ADD CONSTRAINT no_vectors CHECK (embedding IS NULL)",
        "check_violation (23514) by constraint no_vectors",
    ),
    "a generated column": (
        f"ALTER TABLE memory_logs ADD half integer GENERATED ALWAYS AS ({UNDEFINED}) STORED",
        "division_by_zero (22012)",
    ),
    "an index": (
        f"CREATE INDEX vectors ON memory_logs (({UNDEFINED}))",
        "division_by_zero (22012)",
    ),
    "a rule": (
        "CREATE RULE append_only AS ON UPDATE TO memory_logs DO INSTEAD NOTHING",
        "feature_not_supported (0A000)",
    ),
}


@pytest.fixture(autouse=True)
def _two_memories(db: psycopg.Connection) -> None:
    """Have two memories, of which one was changed since its vector was stored."""
    remember(db, summary=SECRET)
    remember(db, summary="another one")


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


def refuse(db: psycopg.Connection, refusal: str) -> str:
    """Have the table refuse UPDATEs from now on; return what has to be said of it."""
    statements, reason = REFUSALS[refusal]
    db.execute(statements.encode())
    return reason


def said(pipeline: Pipeline) -> list[str]:
    """Return what the status says of the backup."""
    figures: dict[str, object] = {}
    problems, _ = status_command._inspect(pipeline.settings, figures)
    return [problem for problem in problems if "backed up" in problem]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_refuses_a_backup_costs_the_backup_alone(
    pipeline: Pipeline, db: psycopg.Connection, refusal: str
) -> None:
    """The documents are written, the changes acked, nobody is charged, and the status says why."""
    reason = refuse(db, refusal)
    sync = with_embedder(pipeline, embedder := CountingEmbedder())
    began = time.monotonic()
    assert settled(pipeline, sync)
    assert time.monotonic() - began < pipeline.settings.lease_seconds
    assert held(pipeline) == {1, 2}
    assert len(embedder.texts) == 2  # none was embedded again
    assert count_of(db, "failure") == 0
    assert one(db, "SELECT count(*) FROM memory_logs WHERE embedding IS NOT NULL") == 0
    assert_true(pipeline)
    [problem] = said(pipeline)
    assert reason in problem
    assert "MEMORY_PIPELINE_BACKUP=table" in problem
    assert SECRET not in problem


@pytest.mark.parametrize("refusal", ["a trigger that raises", "a trigger that returns no row"])
def test_a_changed_memory_is_embedded_and_written_though_its_old_vector_stays(
    pipeline: Pipeline, db: psycopg.Connection, refusal: str
) -> None:
    """The vector in the row is of the old text, and is never taken for the new one's."""
    assert settled(pipeline)
    refuse(db, refusal)
    db.execute("ALTER TABLE memory_logs DISABLE TRIGGER append_only")
    change(db, 1, "the new text")
    db.execute("ALTER TABLE memory_logs ENABLE TRIGGER append_only")
    assert settled(pipeline)
    assert_true(pipeline)
    hit, *_ = pipeline.search.search(ADA, "the new text", k=1)
    assert (hit.memory_id, round(hit.distance, 4)) == (1, 0.0)
    rebuilt(pipeline)
    assert_true(pipeline)


def test_a_rebuild_computes_again_what_could_not_be_backed_up(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """It says so in its figures, and it ends."""
    refuse(db, "a trigger that raises")
    assert settled(pipeline)
    outcome = rebuilt(pipeline)
    assert (outcome.verdict, outcome.embedded, outcome.reused) == ("done", 2, 0)
    assert_true(pipeline)


def test_one_row_that_refuses_costs_the_others_nothing(
    pipeline: Pipeline, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Its batch is halved until it is alone."""
    db.execute(
        "ALTER TABLE memory_logs ADD CONSTRAINT not_this_one CHECK (id <> 17 OR embedding IS NULL)"
    )
    for n in range(60):
        remember(db, summary=f"memory {n}")
    assert settled(pipeline)
    bare = {row[0] for row in db.execute("SELECT id FROM memory_logs WHERE embedding IS NULL")}
    assert bare == {17}
    assert len(held(pipeline)) == 62
    assert "by constraint not_this_one" in caplog.text


def test_a_table_that_refuses_everything_is_asked_once_a_slice(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """What is refused is not tried row by row, batch after batch."""
    db.execute("CREATE SEQUENCE tried")
    db.execute(trigger("PERFORM nextval('tried'); RAISE 'no';").encode())
    assert settled(pipeline)
    before = one(db, "SELECT last_value FROM tried")
    for n in range(100):
        remember(db, summary=f"memory {n}")
    assert settled(pipeline)
    assert len(held(pipeline)) == 102
    assert one(db, "SELECT last_value FROM tried") - before < 16


def test_the_refusal_is_over_when_a_backup_succeeds(
    pipeline: Pipeline, db: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, not a batch; another reason is logged again."""
    caplog.set_level(logging.WARNING)

    def lines() -> list[str]:
        return [r.message for r in caplog.records if "vector_backup_refused" in r.message]

    refuse(db, "a trigger that raises")
    for n in range(3):
        remember(db, summary=f"memory {n}")
        assert settled(pipeline)
    assert len(lines()) == 1
    assert SECRET not in lines()[0]
    db.execute("DROP TRIGGER append_only ON memory_logs")
    remember(db, summary="after that")
    assert settled(pipeline)
    assert said(pipeline) == []
    db.execute("ALTER TABLE memory_logs ADD CONSTRAINT no_more CHECK (embedding IS NULL) NOT VALID")
    remember(db, summary="and again")
    assert settled(pipeline)
    assert len(lines()) == 2
    assert len(said(pipeline)) == 1


def test_without_the_grant_everything_is_searchable_all_the_same(
    pipeline: Pipeline,
    reopened: Callable[..., Pipeline],
    db: psycopg.Connection,
    reading_url: str,
) -> None:
    """A role that may not update memory_logs syncs it, and the status names the reason."""
    assert settled(reopened(database_url=SecretStr(reading_url)))
    assert held(pipeline) == {1, 2}
    [problem] = said(pipeline)
    assert "insufficient_privilege (42501)" in problem


def test_a_memory_that_an_application_holds_for_long_is_searchable_meanwhile(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """A lock delays the backup for a moment, and then the document waits for it no longer."""
    with psycopg.connect(pipeline.database.url) as application, application.transaction():
        application.execute("SELECT FROM memory_logs WHERE id = 1 FOR UPDATE")
        drained_due(pipeline)
        assert held(pipeline) == {2}
        wait_until(lambda: settled(pipeline) and held(pipeline) == {1, 2}, within=10)
    assert_true(pipeline)


def test_a_worker_on_an_append_only_table_keeps_it_searchable_and_says_why_once(
    pipeline: Pipeline,
    db: psycopg.Connection,
    wait_until: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What broke: ten stack traces in half a minute, for ever, and nothing in the index."""
    caplog.set_level(logging.WARNING)
    refuse(db, "a trigger that raises")
    with living(pipeline):
        for n in range(8):
            memory = remember(db, summary=f"memory {n}")
            wait_until(
                lambda memory=memory: pipeline.registry.live(ADA) and memory in held(pipeline)
            )
    assert [r.message.split("event=")[1].split()[0] for r in caplog.records] == [
        "vector_backup_refused"
    ]
    assert pipeline.workers.backlog().unbacked_memories == 10
    assert "Traceback" not in caplog.text
