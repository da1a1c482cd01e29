"""The commands dead-letters and replay: output, refusals, exit codes."""

import json
import logging
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from memory_pipeline.cli import app
from memory_pipeline.maintenance.alerts import NAMED_DEAD_LETTERS, Alerts, send_dead_letter_alerts
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings
from memory_pipeline_tests.webhook import webhook
from memory_pipeline_tests.words import drained, remember, tried

SECRET = "the patient's secret illness"
BURIED = """
    INSERT INTO memory_pipeline.failure
        (tenant, memory_id, attempts, first_error, last_error, kind, content_hash, model,
         config_hash, version, buried_at)
    VALUES (%s, %s, 5, 'embedding: [first]', 'embedding: [last]', 'embedding', 'abc', 'the model',
            'the configuration', '0.1.0', now())
"""


@dataclass
class Commands:
    """Runs commands in this process against the test's own services."""

    def __call__(self, *words: str, code: int = 0) -> Result:
        """Run a command and expect an exit code."""
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == code, f"{words}: {result.output}{result.exception!r}"
        assert SECRET not in result.output
        return result

    def json(self, *words: str) -> Any:
        """Run a command with --json; return what it prints."""
        return json.loads(self(*words, "--json").stdout)


@pytest.fixture
def run(settings: Settings, unmarked_chroma: None, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Name the test's services in the environment; return what runs commands."""
    logger = logging.getLogger("memory_pipeline")  # a command sets it up for its own streams
    for kept in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, kept, getattr(logger, kept))
    assert settings.database_url is not None
    assert settings.chroma_url is not None
    for name, value in {
        "HOME": str(settings.home),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "CHROMA_URL": settings.chroma_url,
        "EMBEDDER": "hashing",
    }.items():
        monkeypatch.setenv(f"MEMORY_PIPELINE_{name}", value)
    return Commands()


@pytest.fixture
def letters(pipeline: Pipeline, db: psycopg.Connection) -> dict[str, int]:
    """Bury a memory of each of two tenants, both in sync with other memories."""
    ids = {user: remember(db, user, SECRET) for user in ("ada", "bob")}
    drained(pipeline)
    for user, memory in ids.items():
        db.execute(BURIED, (user, memory))
    tried(pipeline, db)
    return ids


def pending(db: psycopg.Connection) -> list[tuple[str, int, bool]]:
    """Return the changes that wait."""
    rows = db.execute("SELECT tenant, memory_id, recheck FROM memory_pipeline.change ORDER BY seq")
    return [(tenant, memory, again) for tenant, memory, again in rows]


# ---- list and show


def test_without_dead_letters_a_list_says_so(run: Commands, db: psycopg.Connection) -> None:
    """And it is no failure."""
    assert "no dead letters" in run("dead-letters", "list").stderr
    assert run.json("dead-letters", "list") == {"dead_letters": 0, "waived": 0, "shown": []}


def test_a_list_names_them_and_why(run: Commands, letters: dict[str, int]) -> None:
    """Tenant, memory, class and error are shown; brackets in an error are not markup."""
    said = run("dead-letters", "list")
    for part in ("ada", "bob", str(letters["ada"]), "embedding", "[last]"):
        assert part in said.stdout
    assert "2 dead letters" in said.stderr


def test_a_list_for_programs_has_all_that_is_known(run: Commands, letters: dict[str, int]) -> None:
    """And no text of the memory."""
    said = run.json("dead-letters", "list", "--tenant", "ada")
    [line] = said["shown"]
    assert (said["dead_letters"], said["waived"]) == (1, 0)
    assert line | {"first_at": 0, "last_at": 0, "buried_at": 0} == {
        "tenant": "ada",
        "memory_id": letters["ada"],
        "class": "embedding",
        "first_error": "embedding: [first]",
        "last_error": "embedding: [last]",
        "attempts": 5,
        "first_at": 0,
        "last_at": 0,
        "buried_at": 0,
        "content_hash": "abc",
        "model": "the model",
        "config_hash": "the configuration",
        "version": "0.1.0",
        "waived_at": None,
        "waived_by": None,
        "waived_because": None,
    }


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--class", "embedding"), 2),
        (("--class", "index"), 0),
        (("--older-than", "1h"), 0),
        (("--older-than", "0"), 2),
        (("--tenant", "ada", "--tenant", "bob"), 2),
        (("--id", "-1"), 0),
    ],
)
def test_a_list_can_be_narrowed(
    run: Commands, letters: dict[str, int], words: tuple[str, ...], found: int
) -> None:
    """Dead letters that do not match are not counted; an empty list is no failure."""
    assert run.json("dead-letters", "list", *words)["dead_letters"] == found


def test_a_long_list_says_how_many_it_does_not_show(run: Commands, letters: dict[str, int]) -> None:
    """Nothing is hidden by a limit."""
    assert "2 dead letters; 1 not shown" in run("dead-letters", "list", "--limit", "1").stderr


def test_one_can_be_shown_by_its_id(run: Commands, letters: dict[str, int]) -> None:
    """With everything, one line each."""
    for words in ((str(letters["bob"]),), ("--id", str(letters["bob"]))):
        said = run("dead-letters", "show", *words).stdout
        assert "bob" in said
        assert "ada" not in said
        assert "[first]" in said
        assert "the configuration" in said
    assert "no dead letters match" in run("dead-letters", "show", "999999", code=1).stderr


# ---- replay, waive, unwaive


def test_a_replay_enqueues_and_the_next_sync_lands_it(
    run: Commands, letters: dict[str, int], db: psycopg.Connection
) -> None:
    """And it is gone from the list."""
    assert run.json("dead-letters", "replay", "--tenant", "ada") == {"replayed": 1}
    assert pending(db) == [("ada", letters["ada"], True)]
    run("sync")
    assert run.json("dead-letters", "list")["dead_letters"] == 1
    assert run.json("dead-letters", "replay", "--all") == {"replayed": 1}
    run("sync")
    assert run.json("dead-letters", "list")["dead_letters"] == 0


def test_a_sync_replays_by_itself_what_another_version_refused(
    run: Commands, letters: dict[str, int], db: psycopg.Connection
) -> None:
    """Dead letters without a recorded cause are replayed too."""
    db.execute("UPDATE memory_pipeline.failure SET cause = '', tried_under = '{}'")
    run("sync")
    assert run.json("dead-letters", "list")["dead_letters"] == 0


def test_waiving_is_shown_everywhere_and_can_be_taken_back(
    run: Commands, letters: dict[str, int]
) -> None:
    """List, status, tenants and verify count it; a replay of all skips it."""
    memory = str(letters["ada"])
    words = ("--id", memory, "--reason", "a known one", "--by", "grace")
    assert run.json("dead-letters", "waive", *words) == {"waived": 1}
    assert "no dead letters match" in run("dead-letters", "waive", *words, code=1).stderr
    [line] = run.json("dead-letters", "list", "--tenant", "ada")["shown"]
    assert (line["waived_by"], line["waived_because"]) == ("grace", "a known one")
    assert "1 of them waived" in run("dead-letters", "list").stderr
    status = run.json("status")
    assert (status["dead_letters"], status["waived_dead_letters"]) == (2, 1)
    assert [t["waived_dead_letters"] for t in run.json("tenants")] == [1, 0]
    assert run.json("dead-letters", "replay", "--all") == {"replayed": 1}
    assert run.json("dead-letters", "unwaive", "--all") == {"unwaived": 1}
    assert run.json("dead-letters", "replay", "--id", memory) == {"replayed": 1}


def test_who_waives_is_who_runs_it(run: Commands, letters: dict[str, int]) -> None:
    """Unless --by names another."""
    run("dead-letters", "waive", "--all", "--reason", "known")
    assert all(line["waived_by"] for line in run.json("dead-letters", "list")["shown"])


@pytest.mark.parametrize("verb", ["replay", "unwaive", "waive"])
def test_who_changes_something_has_to_say_what(
    run: Commands, letters: dict[str, int], verb: str, db: psycopg.Connection
) -> None:
    """A forgotten option does not select everything, and --all is not narrowed silently."""
    reason = ("--reason", "known") if verb == "waive" else ()
    assert "--all" in run("dead-letters", verb, *reason, code=2).stderr
    assert "--all" in run("dead-letters", verb, *reason, "--all", "--id", "1", code=2).stderr
    assert pending(db) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("dead-letters", "list", "--tenant", "nobody"), "there is no tenant 'nobody'"),
        (("dead-letters", "replay", "--tenant", "nobody"), "there is no tenant 'nobody'"),
        (("dead-letters", "list", "--class", "bad"), "content, embedding, index"),
        (("dead-letters", "list", "--older-than", "soon"), "2h"),
        (("dead-letters", "list", "--id", str(2**63)), "no memory's id"),
        (("dead-letters", "waive", "--all"), "--reason"),
        (("dead-letters", "waive", "--all", "--reason", " "), "--reason"),
        (("replay",), "--since"),
        (("replay", "--tenant", "nobody"), "there is no tenant 'nobody'"),
        (("replay", "--since", "soon"), "2026-01-31"),
        (("replay", "--ids", "1,x"), "'x' is no memory's id"),
    ],
)
def test_wrong_words_are_refused_with_what_is_allowed(
    run: Commands, letters: dict[str, int], words: tuple[str, ...], says: str
) -> None:
    """Exit code 2, as everywhere."""
    said = " ".join(run(*words, code=2).stderr.replace("│", " ").split())
    assert says in said


@pytest.mark.parametrize("words", [("verify",), ("verify", "--repair"), ("sync",), ("rebuild",)])
def test_a_tenant_that_there_is_not_is_no_success(
    run: Commands, letters: dict[str, int], words: tuple[str, ...], db: psycopg.Connection
) -> None:
    """What broke: a misspelt tenant was verified without findings, and synced without changes."""
    assert "there is no tenant 'nobody'" in run(*words, "--tenant", "nobody", code=2).stderr
    assert db.execute("SELECT FROM memory_pipeline.verification").fetchall() == []


def test_a_tenant_of_which_only_changes_are_left_is_known(
    run: Commands, pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Its memory was deleted before anything was synced."""
    db.execute("DELETE FROM memory_logs WHERE id = %s", (remember(db, "eve", SECRET),))
    assert run.json("sync", "--tenant", "eve")["pending_changes"] == 0


# ---- replay


def test_memories_are_replayed_and_counted(
    run: Commands, letters: dict[str, int], db: psycopg.Connection
) -> None:
    """By tenant, by time, by id; memories that are enqueued already are counted apart."""
    said = run.json("replay", "--tenant", "ada")
    assert said == {"memories": 1, "enqueued": 1, "waited_already": 0}
    said = run.json("replay", "--since", "1h")
    assert said == {"memories": 2, "enqueued": 1, "waited_already": 1}
    said = run.json("replay", "--ids", f"{letters['ada']},{letters['bob']}", "--ids", "999999")
    assert said == {"memories": 2, "enqueued": 0, "waited_already": 2}
    assert (
        "enqueued 0 of 2 memories; 2 are enqueued already" in run("replay", "--since", "1h").stderr
    )
    assert "no memories match" in run("replay", "--ids", "999999", code=1).stderr
    assert pending(db) == [("ada", letters["ada"], True), ("bob", letters["bob"], True)]


# ---- alerts


def test_people_are_told_of_each_burial_once(
    pipeline: Pipeline, letters: dict[str, int], db: psycopg.Connection
) -> None:
    """Also of one that was replayed without success; and of none that is waived."""
    db.execute("UPDATE memory_pipeline.failure SET waived_at = now() WHERE tenant = 'bob'")
    with webhook() as hook:
        alerts = Alerts(hook.url)
        assert [send_dead_letter_alerts(alerts, pipeline.dead_letters) for _ in range(2)] == [1, 0]
        db.execute("DELETE FROM memory_pipeline.failure")
        db.execute(BURIED, ("ada", letters["ada"]))
        assert send_dead_letter_alerts(alerts, pipeline.dead_letters) == 1
    first, again = hook.taken
    assert first["event"] == "dead_letters"
    assert first["count"] == 1
    [told] = first["dead_letters"]
    assert (told["tenant"], told["memory_id"]) == ("ada", letters["ada"])
    assert (told["class"], told["error"]) == ("embedding", "embedding: [last]")
    assert again["count"] == 1
    assert SECRET not in json.dumps(hook.taken)


def test_what_the_webhook_does_not_take_is_told_later(
    pipeline: Pipeline, letters: dict[str, int]
) -> None:
    """None is left out when the webhook fails, or while it has no address."""
    assert send_dead_letter_alerts(Alerts(None), pipeline.dead_letters) == 0
    with webhook() as hook:
        hook.status = 500
        assert send_dead_letter_alerts(Alerts(hook.url), pipeline.dead_letters) == 0
        hook.status = 200
        assert send_dead_letter_alerts(Alerts(hook.url), pipeline.dead_letters) == 2
    assert [alert["count"] for alert in hook.taken] == [2, 2]


def test_many_at_once_are_one_alert(
    pipeline: Pipeline, letters: dict[str, int], db: psycopg.Connection
) -> None:
    """All are counted, and the first are named."""
    for memory in range(1000, 1050):
        db.execute(BURIED, ("ada", memory))
    with webhook() as hook:
        assert send_dead_letter_alerts(Alerts(hook.url), pipeline.dead_letters) == 52
    [alert] = hook.taken
    assert alert["count"] == 52
    assert len(alert["dead_letters"]) == NAMED_DEAD_LETTERS


def test_a_burial_while_people_are_told_is_told_next(
    pipeline: Pipeline, letters: dict[str, int], db: psycopg.Connection
) -> None:
    """A replay and another burial between reading and recording are not lost."""
    untold = pipeline.dead_letters.unalerted(limit=10)
    db.execute("UPDATE memory_pipeline.failure SET buried_at = now() WHERE tenant = 'ada'")
    pipeline.dead_letters.alerted(untold)
    assert [letter.tenant for letter in pipeline.dead_letters.unalerted(limit=10)] == ["ada"]


def test_a_tenant_may_be_named_in_capitals(
    run: Commands, pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Where the column is a uuid, which Postgres prints in lower case."""
    printed = "3c90c3cc-0d44-4b50-8888-8dd25736052a"
    db.execute("ALTER TABLE memory_logs ALTER user_id TYPE uuid USING user_id::uuid")
    memory = remember(db, printed)
    named = ("--tenant", printed.upper())
    assert run.json("sync", *named)["written"] == 1
    assert [hit["memory_id"] for hit in run.json("search", "a memory", *named)] == [memory]
    assert run.json("verify", *named)["documents"] == 1
    assert run.json("rebuild", *named)["written"] == 1
    assert run.json("replay", *named)["memories"] == 1
    run("dead-letters", "list", *named)
    run("forget", str(memory), *named)
    run("sync", "--tenant", "nobody", code=2)
