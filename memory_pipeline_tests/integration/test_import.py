"""An import into a real Postgres: all of a file or none of it, and the triggers see it."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.domain.outcomes import Stored
from memory_pipeline.domain.types import NewMemory, Origin, TenantId
from memory_pipeline.errors import InvalidMemory
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres import connection
from memory_pipeline.transfer import importing
from memory_pipeline.transfer.importing import Imported, Reading, import_file
from memory_pipeline.transfer.mapping import ByKeys, Finish, path_of

ADA = TenantId("ada")
SECRET = "xyzzy-plugh"


def lines(path: Path, *contents: object) -> Path:
    """Write a file with a memory of ada for each content; a blank line goes before each."""
    written = (json.dumps({"user_id": "ada", "raw_data": c}) for c in contents)
    path.write_text("".join(f"\n{line}\n" for line in written))
    return path


def imported(pipeline: Pipeline, path: Path, skip_bad: Path | None = None) -> Imported:
    """Import a file of memories without external ids."""
    return import_file(pipeline.transfer, path, Reading(ByKeys(), Finish()), skip_bad=skip_bad)


def test_imported_memories_are_stored_and_captured(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """By the same triggers as any other write."""
    path = lines(tmp_path / "f.jsonl", *({"text": f"memory {n}"} for n in range(7)))
    told: list[int] = []
    reading = Reading(ByKeys(), Finish(), limit=5)
    done = import_file(pipeline.transfer, path, reading, progress=told.append)
    assert (done.stored, told) == (Stored(imported=5), [path.stat().st_size])
    assert pipeline.memories.count(ADA) == 5
    assert len(db.execute("SELECT FROM memory_pipeline.change").fetchall()) == 5


def test_a_number_arrives_as_it_was_given(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """B13: what jsonb can hold, and any depth of it."""
    raw = '{"a": 12345678901234567890.125, "b": 1.10, "c": 0.1234567890123456789012345}'
    deep = "[" * 2000 + "]" * 2000
    path = tmp_path / "f.jsonl"
    path.write_text(
        "".join(f'{{"user_id": "ada", "raw_data": {r}}}\n' for r in (raw, "1e400", deep))
    )
    imported(pipeline, path)
    rows = db.execute("SELECT raw_data::text FROM memory_logs ORDER BY id").fetchall()
    assert [row[0] for row in rows] == [raw, "1" + "0" * 400, deep]


def test_a_time_is_the_same_in_every_column_and_session(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """A column without a time zone holds UTC, whatever the session's zone."""
    db.execute("ALTER TABLE memory_logs ALTER created_at TYPE timestamp")
    given = '{"user_id": "ada", "created_at": "2024-01-01T12:00:00+05:00", "raw_data": 1, "id": 1}'
    path = tmp_path / "f.jsonl"
    path.write_text(f'{given}\n{{"user_id": "ada", "raw_data": 2, "id": 2}}\n')
    db.execute("ALTER ROLE CURRENT_USER SET TimeZone = 'Asia/Tokyo'")
    try:
        imported_plainly(pipeline, path)
        known(pipeline, path)
    finally:
        db.execute("ALTER ROLE CURRENT_USER RESET TimeZone")
    times = "SELECT DISTINCT created_at::text FROM memory_logs WHERE raw_data = '1'"
    assert db.execute(times).fetchall() == [("2024-01-01 07:00:00",)]
    now = """SELECT count(*) FROM memory_logs WHERE raw_data = '2'
        AND created_at BETWEEN (now() AT TIME ZONE 'UTC') - interval '1 hour'
        AND (now() AT TIME ZONE 'UTC')"""
    assert db.execute(now).fetchone() == (2,)


GUARD = """
CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.raw_data::text LIKE '%xyzzy%' THEN RAISE EXCEPTION 'no: %', NEW.raw_data; END IF;
    RETURN NEW;
END $$;
"""
RULES = {
    "check": "ALTER TABLE memory_logs ADD CHECK (raw_data::text NOT LIKE '%xyzzy%')",
    "before": GUARD + "CREATE TRIGGER guard BEFORE INSERT ON memory_logs FOR EACH ROW"
    " EXECUTE FUNCTION guard()",
    "after": GUARD + "CREATE TRIGGER guard AFTER INSERT ON memory_logs FOR EACH ROW"
    " EXECUTE FUNCTION guard()",
    "deferred": GUARD + "CREATE CONSTRAINT TRIGGER guard AFTER INSERT ON memory_logs"
    " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION guard()",
    "foreign key": "CREATE TABLE topic (name text PRIMARY KEY); INSERT INTO topic VALUES ('fine');"
    "ALTER TABLE memory_logs ADD topic text GENERATED ALWAYS AS (raw_data->>'text') STORED"
    " REFERENCES topic",
    "unique": "CREATE UNIQUE INDEX once ON memory_logs ((raw_data->>'text'))"
    " WHERE raw_data->>'text' <> 'fine';"
    "INSERT INTO memory_logs (user_id, raw_data) VALUES ('bob', '{\"text\": \"xyzzy-plugh\"}')",
    "json": "SELECT 1",
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("batch", [2, 5000])
def test_what_postgres_refuses_is_named_by_its_true_line(
    *,
    pipeline: Pipeline,
    db: psycopg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    batch: int,
) -> None:
    """What broke: it was the number of the row, that of a line in a trigger, or none.

    A trigger, a foreign key and a deferred constraint are checked when other rows have followed.
    """
    monkeypatch.setattr(importing, "BATCH_MEMORIES", batch)
    db.execute(rule)
    before = db.execute("SELECT count(*) FROM memory_logs").fetchall()
    fine = {"text": "fine"}
    path = lines(tmp_path / "f.jsonl", fine, fine, {"text": SECRET}, fine, fine)
    if rule == "SELECT 1":
        too_deep = "[" * 20000 + "]" * 20000
        path.write_text(path.read_text().replace(f'"{SECRET}"', too_deep))
    with pytest.raises(InvalidMemory) as refused:
        imported(pipeline, path)
    message = str(refused.value)
    assert message.startswith(f"{path}: line 6: Postgres refuses this memory: ")
    assert message.endswith("; nothing was imported")
    assert "xyzzy" not in message
    assert db.execute("SELECT count(*) FROM memory_logs").fetchall() == before

    bad = tmp_path / "bad.jsonl"
    done = imported(pipeline, path, bad)
    assert (done.stored.imported, done.skipped) == (4, 1)
    [written] = map(json.loads, bad.read_text().splitlines())
    assert written["line"] == 6
    assert written["text"] == path.read_text().splitlines()[5]
    assert pipeline.memories.count(ADA) == 4


def test_a_trigger_that_drops_rows_is_told(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """It raises nothing; a count of rows that are not there would be a lie."""
    db.execute(
        "CREATE FUNCTION void() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER void BEFORE INSERT ON memory_logs FOR EACH ROW EXECUTE FUNCTION void()"
    )
    path = lines(tmp_path / "f.jsonl", 1, 2)
    assert imported(pipeline, path).stored == Stored(dropped=2)
    assert known(pipeline, with_ids(tmp_path, a=1)) == Stored(dropped=1)


def test_an_import_may_take_longer_than_a_statement(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke: a file that took more than a minute could never be imported."""
    monkeypatch.setattr(connection, "STATEMENT_SECONDS", 1)
    db.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN PERFORM pg_sleep(1.2); RETURN NEW; END';"
        "CREATE TRIGGER slow BEFORE INSERT ON memory_logs FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    assert imported(pipeline, lines(tmp_path / "f.jsonl", 1)).stored.imported == 1
    with pipeline.database.transaction() as opened_connection:
        [limit] = opened_connection.execute("SHOW statement_timeout").fetchone() or ()
    assert limit == "1s"


# ---- external ids


def with_ids(folder: Path, **contents: object) -> Path:
    """Write a file of ada's memories with their external ids."""
    path = folder / "ids.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": name, "user_id": "ada", "raw_data": c}) + "\n"
            for name, c in contents.items()
        )
    )
    return path


def known(pipeline: Pipeline, path: Path) -> Stored:
    """Import a file by the ids of its memories."""
    reading = Reading(ByKeys(external_id=path_of("id")), Finish(once=True))
    return import_file(pipeline.transfer, path, reading).stored


def raws(db: psycopg.Connection) -> list[str]:
    """Return what every memory says, in the order of their ids."""
    return [r[0] for r in db.execute("SELECT raw_data::text FROM memory_logs ORDER BY id")]


def test_a_file_that_is_imported_twice_is_there_once(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """What is the same changes no row, what has changed is updated, what is new is added."""
    assert known(pipeline, with_ids(tmp_path, a=1, b=2)) == Stored(imported=2)
    versions = "SELECT id, xmin::text FROM memory_logs ORDER BY id"
    before = db.execute(versions).fetchall()
    assert known(pipeline, with_ids(tmp_path, a=1, b=2)) == Stored(unchanged=2)
    assert db.execute(versions).fetchall() == before
    assert known(pipeline, with_ids(tmp_path, a=1, b=22, c=3)) == Stored(1, 1, 1)
    assert raws(db) == ["1", "22", "3"]
    assert db.execute("SELECT count(*) FROM memory_pipeline.external_id").fetchone() == (3,)


def test_an_id_that_stands_twice_in_a_file_is_one_memory(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """The last says what it is."""
    path = with_ids(tmp_path, a=1)
    path.write_text(path.read_text() + with_ids(tmp_path, a=2).read_text())
    assert known(pipeline, path) == Stored(imported=1, updated=1)
    assert raws(db) == ["2"]


def test_an_id_names_a_memory_of_its_tenant_alone(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """P3: no file of a tenant changes another's memory."""
    path = with_ids(tmp_path, a=1)
    known(pipeline, path)
    path.write_text(
        path.read_text().replace('"ada"', '"bob"').replace('"raw_data": 1', '"raw_data": 2')
    )
    assert known(pipeline, path) == Stored(imported=1)
    assert raws(db) == ["1", "2"]


def test_a_memory_that_moved_to_another_tenant_is_not_changed(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """P3: it is the other's now."""
    known(pipeline, with_ids(tmp_path, a=1))
    db.execute("UPDATE memory_logs SET user_id = 'bob'")
    assert known(pipeline, with_ids(tmp_path, a=2)) == Stored(imported=1)
    assert raws(db) == ["1", "2"]


def test_what_the_application_has_changed_stays_while_the_file_does(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """A file that says nothing new overwrites nothing."""
    known(pipeline, with_ids(tmp_path, a=1))
    db.execute("UPDATE memory_logs SET raw_data = '\"mine\"'")
    assert known(pipeline, with_ids(tmp_path, a=1)) == Stored(unchanged=1)
    assert raws(db) == ['"mine"']
    assert known(pipeline, with_ids(tmp_path, a=2)) == Stored(updated=1)
    assert raws(db) == ["2"]


def test_a_memory_that_is_gone_is_imported_again(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path
) -> None:
    """Also where another memory has its number meanwhile: that one is not touched."""
    known(pipeline, with_ids(tmp_path, a=1))
    db.execute("TRUNCATE memory_logs RESTART IDENTITY")
    db.execute("INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', '\"another\"')")
    assert known(pipeline, with_ids(tmp_path, a=2)) == Stored(imported=1)
    assert raws(db) == ['"another"', "2"]


@pytest.mark.parametrize("columns", ["bigint", "uuid"])
def test_external_ids_hold_for_columns_of_other_types(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path, columns: str
) -> None:
    """A tenant is what Postgres prints."""
    db.execute("DROP INDEX memory_logs_user_id")
    db.execute(f"ALTER TABLE memory_logs ALTER user_id TYPE {columns} USING NULL")
    user = {"bigint": "42", "uuid": "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"}[columns]
    path = with_ids(tmp_path, a=1)
    path.write_text(path.read_text().replace("ada", user))
    assert known(pipeline, path) == Stored(imported=1)
    assert known(pipeline, path) == Stored(unchanged=1)
    assert imported_plainly(pipeline, path) == Stored(imported=1)


def imported_plainly(pipeline: Pipeline, path: Path) -> Stored:
    """Import a file without looking at its ids."""
    reading = Reading(ByKeys(frozenset({"id"})), Finish())
    return import_file(pipeline.transfer, path, reading).stored


def test_two_imports_at_once_store_each_memory_once(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """The second waits for the first to end, and finds what it has stored."""
    first_is_in, first_may_end = threading.Event(), threading.Event()
    batch = [
        NewMemory("ada", None, None, "1", "a", Origin(1, "")),
        NewMemory("ada", None, None, "2", "b", Origin(2, "")),
    ]

    def slowly() -> Iterator[Sequence[NewMemory]]:
        yield batch
        first_is_in.set()
        assert first_may_end.wait(30)

    def refused(_memory: NewMemory, reason: str) -> None:
        raise AssertionError(reason)

    done: dict[str, Stored] = {}

    def store(name: str, batches: Iterator[Sequence[NewMemory]]) -> None:
        done[name] = pipeline.transfer.store(batches, refused=refused, once=True)

    first = threading.Thread(target=store, args=("first", slowly()))
    second = threading.Thread(target=store, args=("second", iter([batch[::-1]])))
    first.start()
    assert first_is_in.wait(30)
    second.start()
    waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while not db.execute(waiting).fetchall():
        assert second.is_alive()
    first_may_end.set()
    first.join(30)
    second.join(30)
    assert done == {"first": Stored(imported=2), "second": Stored(unchanged=2)}
    assert raws(db) == ["1", "2"]


# ---- the command


def test_the_command_tells_what_it_did(
    db: psycopg.Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit code too: 1 where something was refused."""
    monkeypatch.setenv("MEMORY_PIPELINE_DATABASE_URL", database_url)
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(tmp_path / "home"))
    path = with_ids(tmp_path, a=1)
    path.write_text(path.read_text() + "no JSON\n" + '{"id": 2, "raw_data": 1}\n')
    words = ["import", str(path), "--external-id", "id", "--skip-bad", str(tmp_path / "bad")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1, done.output
    assert "2 refused: they are in " in done.output
    assert "imported 1 memories" in done.output
    done = CliRunner().invoke(app, [*words, "--user-id", "bob", "--json"])
    assert done.exit_code == 1, done.output
    assert json.loads(done.stdout) == {
        "imported": 1,
        "updated": 0,
        "unchanged": 1,
        "dropped": 0,
        "skipped": 1,
        "notes": {},
    }
    done = CliRunner().invoke(
        app, ["import", "-", "--map", "raw_data=."], input='{"user_id": "eve"}'
    )
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["import", "-"], input="")
    assert (done.exit_code, done.output) == (0, "imported 0 memories: there are none in the file\n")
    assert raws(db) == ["1", "1", '{"user_id": "eve"}']


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "mcp", "--map", "raw_data=x"], "--preset says itself"),
        (["--preset", "mcp", "--external-id", "x"], "--preset says itself"),
        (["--map", "raw_data=x", "--ignore", "y"], "--map leaves out"),
        (["--user-id", ""], "--user-id has to be"),
        (["--preset", "none"], "'none' is not one of"),
        (["--encoding", "none"], "'none' is no encoding"),
        ([], "the standard input: line 1: no JSON"),
    ],
)
def test_a_wrong_use_is_refused(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    said: str,
) -> None:
    """With 2, and a sentence."""
    monkeypatch.setenv("MEMORY_PIPELINE_DATABASE_URL", database_url)
    monkeypatch.setenv("MEMORY_PIPELINE_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["import", "-", *options], input="x")
    assert done.exit_code == 2
    assert said in done.output


def test_a_file_that_is_not_there_is_named(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a folder a file."""
    monkeypatch.setenv("MEMORY_PIPELINE_DATABASE_URL", database_url)
    for path, said in ((tmp_path / "none", "does not exist"), (tmp_path, "Is a directory")):
        done = CliRunner().invoke(app, ["import", str(path)])
        assert done.exit_code == 2
        assert said in done.output
