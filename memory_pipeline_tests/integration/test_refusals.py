"""What Postgres refuses is one sentence: whatever refuses it, and without a word of the memory.

What broke: an error of the application's own trigger was a traceback that printed the memory, and
one that bore the condition of a missing table or of an outage sent people to `migrate`, or had them
wait for a Postgres that was up. A delete was not translated at all.
"""

import traceback
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.errors import InvalidMemory, PostgresUnavailable
from memory_pipeline.settings import Settings
from memory_pipeline.store import MemoryStore

# Stands in the refused memory, and nowhere else.
SECRET = "xyzzy-plugh"

TRIGGER = """
CREATE FUNCTION app_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(coalesce(NEW, OLD))::text LIKE '%xyzzy%' THEN
        {action}
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER app_guard {when} ON memory_logs FOR EACH ROW EXECUTE FUNCTION app_guard();
"""
WRITES = "BEFORE INSERT OR UPDATE"
RAISE = "RAISE EXCEPTION 'this is not allowed: %', to_jsonb(coalesce(NEW, OLD))"

REFUSALS = {
    "raise": (TRIGGER.format(when=WRITES, action=f"{RAISE};"), "app_guard().* raise_exception"),
    "raise after": (
        TRIGGER.format(when="AFTER INSERT OR UPDATE", action=f"{RAISE};"),
        "app_guard().* raise_exception",
    ),
    "raise as a missing table": (
        TRIGGER.format(when=WRITES, action=f"{RAISE} USING ERRCODE = 'undefined_table';"),
        "app_guard().* undefined_table",
    ),
    "raise as a missing grant": (
        TRIGGER.format(when=WRITES, action=f"{RAISE} USING ERRCODE = 'insufficient_privilege';"),
        "app_guard().* insufficient_privilege",
    ),
    "raise as an outage": (
        TRIGGER.format(when=WRITES, action=f"{RAISE} USING ERRCODE = 'cannot_connect_now';"),
        "app_guard().* cannot_connect_now",
    ),
    "raise as a lock": (
        TRIGGER.format(when=WRITES, action=f"{RAISE} USING ERRCODE = 'lock_not_available';"),
        "app_guard().* lock_not_available",
    ),
    "raise as a constraint": (
        TRIGGER.format(
            when=WRITES,
            action=f"{RAISE} USING ERRCODE = 'check_violation', CONSTRAINT = NEW.raw_data::text;",
        ),
        "app_guard().* check_violation",
    ),
    "raise with a condition of its own": (
        TRIGGER.format(when=WRITES, action=f"{RAISE} USING ERRCODE = 'MY001';"),
        "app_guard().* SQLSTATE MY001",
    ),
    "a broken trigger": (
        TRIGGER.format(when=WRITES, action="PERFORM count(*) FROM dropped_table;"),
        "app_guard().* undefined_table",
    ),
    "a trigger that divides by zero": (
        TRIGGER.format(when=WRITES, action="PERFORM 1 / 0;"),
        "app_guard().* division_by_zero",
    ),
    "a check constraint": (
        "ALTER TABLE memory_logs ADD CONSTRAINT no_magic CHECK (raw_data::text NOT LIKE '%xyzzy%')",
        "check_violation, 23514.*constraint no_magic",
    ),
    "a unique index": (
        (
            "CREATE UNIQUE INDEX app_once ON memory_logs ((raw_data->>'text'));"
            "INSERT INTO memory_logs (user_id, raw_data) VALUES "
            "('x', '{\"text\": \"xyzzy-plugh\"}')"
        ),
        "unique_violation, 23505.*constraint app_once",
    ),
    "an index that is too small": (
        "CREATE INDEX app_text ON memory_logs ((raw_data->>'long'))",
        "larger than Postgres can hold",
    ),
    "a generated column": (
        "ALTER TABLE memory_logs ADD n int GENERATED ALWAYS AS ((raw_data->>'text')::int) STORED",
        "invalid_text_representation",
    ),
}


@pytest.fixture
def store(settings: Settings) -> Iterator[MemoryStore]:
    """Return a store on a test's own database."""
    with MemoryStore(settings) as store:
        yield store


def assert_refused(refused: pytest.ExceptionInfo[InvalidMemory], said: str) -> None:
    """One sentence; neither it nor its traceback has the memory."""
    message = str(refused.value)
    assert message.startswith("Postgres refuses this memory: ")
    assert "\n" not in message
    refused.match(said.replace("()", r"\(\)"))
    shown = "".join(traceback.format_exception(refused.value))
    assert SECRET not in shown.replace(f'SECRET = "{SECRET}"', "")


@pytest.mark.parametrize(("rule", "said"), REFUSALS.values(), ids=REFUSALS)
def test_a_write_that_postgres_refuses_is_one_sentence(
    store: MemoryStore, db: psycopg.Connection, rule: str, said: str
) -> None:
    """B17: new or changed. What the sentence names is of the schema, and never of the row."""
    memory = store.remember("ada", {"text": "1"})
    db.execute(rule)
    # No compression makes it fit into an index.
    long = "".join(sha256(bytes([n])).hexdigest() for n in range(200))
    content = {"text": SECRET, "long": long}
    with pytest.raises(InvalidMemory) as refused:
        store.remember("ada", content)
    assert_refused(refused, said)
    with pytest.raises(InvalidMemory) as refused:
        store.update("ada", memory, content)
    assert_refused(refused, said)
    assert store.get("ada", memory) == {"text": "1"}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (TRIGGER.format(when="BEFORE DELETE", action=f"{RAISE};"), "app_guard().* raise_exception"),
        (
            (
                "CREATE TABLE note (memory bigint REFERENCES memory_logs); "
                "INSERT INTO note SELECT id FROM memory_logs"
            ),
            "foreign_key_violation, 23503.*constraint note_memory_fkey",
        ),
    ],
    ids=["trigger", "foreign key"],
)
def test_a_delete_that_postgres_refuses_is_one_sentence(
    store: MemoryStore, db: psycopg.Connection, rule: str, said: str
) -> None:
    """B17: a memory that other rows refer to stays."""
    memory = store.remember("ada", {"text": SECRET})
    db.execute(rule)
    with pytest.raises(InvalidMemory) as refused:
        store.forget("ada", memory)
    assert_refused(refused, said)


def test_a_row_that_row_level_security_refuses_is_one_sentence(
    settings: Settings, db: psycopg.Connection
) -> None:
    """It is not a missing grant."""
    db.execute("CREATE ROLE writer LOGIN")
    try:
        db.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON memory_logs TO writer")
        db.execute("ALTER TABLE memory_logs ENABLE ROW LEVEL SECURITY")
        db.execute("CREATE POLICY mine ON memory_logs WITH CHECK (user_id <> 'eve')")
        url = str(settings.database_url and settings.database_url.get_secret_value())
        as_writer = {"database_url": url.replace("postgres@", "writer@", 1)}
        with MemoryStore(Settings.load(**{**settings.model_dump(), **as_writer})) as store:
            with pytest.raises(InvalidMemory) as refused:
                store.remember("eve", {"text": SECRET})
            assert_refused(refused, "row level security")
    finally:
        db.execute("DROP OWNED BY writer; DROP ROLE writer")


def test_a_conflict_that_a_trigger_reports_may_be_repeated(
    store: MemoryStore, db: psycopg.Connection
) -> None:
    """A trigger that says serialization_failure asks for that."""
    action = f"{RAISE} USING ERRCODE = 'serialization_failure';"
    db.execute(TRIGGER.format(when=WRITES, action=action))
    with pytest.raises(PostgresUnavailable):
        store.remember("ada", {"text": SECRET})


def test_a_row_that_is_held_for_too_long_may_be_repeated(
    settings: Settings, db: psycopg.Connection
) -> None:
    """A role may have a lock_timeout: what broke was a traceback of the driver."""
    url = str(settings.database_url and settings.database_url.get_secret_value())
    hasty = {"database_url": f"{url}&options=-c%20lock_timeout%3D50ms"}
    with MemoryStore(Settings.load(**{**settings.model_dump(), **hasty})) as store:
        memory = store.remember("ada", {"text": "1"})
        with db.transaction():
            db.execute("SELECT FROM memory_logs FOR UPDATE")
            with pytest.raises(PostgresUnavailable, match="another transaction holds"):
                store.update("ada", memory, {"text": "2"})


@pytest.mark.parametrize("command", ["remember", "import", "forget"])
def test_a_command_ends_with_a_sentence_and_2(
    *,
    store: MemoryStore,
    db: psycopg.Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
) -> None:
    """B17: no traceback, and nothing of the memory on the terminal."""
    memory = store.remember("ada", {"text": SECRET})
    when = "BEFORE INSERT OR UPDATE OR DELETE"
    db.execute(TRIGGER.format(when=when, action=f"{RAISE};"))
    monkeypatch.setenv("MEMORY_PIPELINE_DATABASE_URL", database_url)
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(tmp_path))
    file = tmp_path / "f.jsonl"
    file.write_text('{"user_id": "ada", "raw_data": {"text": "xyzzy-plugh"}}\n')
    words = {
        "remember": ["--user", "ada", SECRET],
        "import": [str(file)],
        "forget": ["--tenant", "ada", str(memory)],
    }
    done = CliRunner().invoke(app, [command, *words[command]])
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert "app_guard()" in done.output
    assert SECRET not in done.output
    assert done.output.count("\n") == 1
