"""The read path and the store: late at worst, never wrong."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from pydantic import SecretStr

from memory_pipeline.domain.types import Hit, TenantId
from memory_pipeline.errors import (
    ChromaUnavailable,
    Corrupt,
    InvalidFilter,
    InvalidMemory,
    PostgresUnavailable,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings
from memory_pipeline.store import MemoryStore
from memory_pipeline_tests.words import ADA, BOB, drained, remember

NOBODY_LISTENS = "http://127.0.0.1:1"


def ids(hits: list[Hit]) -> list[int]:
    """Return the memories that were found, nearest first."""
    return [hit.memory_id for hit in hits]


def texts(hits: list[Hit]) -> list[object]:
    """Return the texts of the memories that were found."""
    return [hit.memory["summary"] for hit in hits if isinstance(hit.memory, dict)]


@pytest.fixture
def store(settings: Settings, unmarked_chroma: None) -> Iterator[MemoryStore]:
    """Return what an application calls."""
    with MemoryStore(settings) as opened_store:
        yield opened_store


# ---- what is found


def test_a_search_returns_only_the_tenants_memories_nearest_first(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P3: the same words of another tenant are not found."""
    walk = remember(db, "ada", "a long walk along the river")
    swim = remember(db, "ada", "a short swim in the lake")
    remember(db, "bob", "a long walk along the river")
    drained(pipeline)
    hits = pipeline.search.search(ADA, "a long walk along the river")
    assert ids(hits) == [walk, swim]
    assert hits[0].distance == pytest.approx(0.0, abs=1e-5)
    assert hits[0].distance < hits[1].distance
    assert hits[0].memory == {"summary": "a long walk along the river"}
    assert hits[0].metadata["project_id"] == "apollo"
    assert hits[0].created_at is not None


def test_no_more_than_k_are_returned(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """As many as asked for, and fewer where there are fewer."""
    for n in range(8):
        remember(db, "ada", f"memory {n}")
    drained(pipeline)
    assert [len(pipeline.search.search(ADA, "memory", k=k)) for k in (1, 5, 8, 1000)] == [
        1,
        5,
        8,
        8,
    ]


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_a_number_out_of_range_is_refused(pipeline: Pipeline, k: int) -> None:
    """What cannot be answered is an error, not a guess."""
    with pytest.raises(ValueError, match="1 to 1000"):
        pipeline.search.search(ADA, "anything", k=k)


def test_an_unknown_tenant_has_nothing(pipeline: Pipeline) -> None:
    """The answer is empty, and no collection is created for it."""
    assert pipeline.search.search(TenantId("nobody"), "anything") == []
    assert pipeline.registry.live(TenantId("nobody")) is None


def test_a_tenant_that_was_never_synced_has_nothing_yet(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A search may be late."""
    remember(db, "ada")
    assert pipeline.search.search(ADA, "a memory") == []


def test_filters_let_through_what_meets_them(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Fields of raw_data, the project and the time can be filtered by, alone and together."""
    walk = remember(db, "ada", "a walk", task="walk", date="2026-01-05", component="legs")
    swim = remember(db, "ada", "a swim", task="swim", date="2026-02-05")
    drained(pipeline)

    def found(where: dict[str, object]) -> set[int]:
        return set(ids(pipeline.search.search(ADA, "a walk", where=where)))

    assert found({"task": "walk"}) == {walk}
    assert found({"task": {"$ne": "walk"}}) == {swim}
    assert found({"component": ""}) == {swim}
    january = int(datetime(2026, 1, 31, tzinfo=UTC).timestamp())
    assert found({"date_ts": {"$lt": january}}) == {walk}
    assert found({"ts": {"$gt": 0}, "project_id": "apollo"}) == {walk, swim}
    assert found({"$or": [{"task": "walk"}, {"date": "2026-02-05"}]}) == {walk, swim}
    assert found({"task": {"$in": ["run", "swim"]}}) == {swim}
    assert found({"task": "run"}) == set()


def test_a_filter_outside_the_grammar_is_refused(pipeline: Pipeline) -> None:
    """The message names what is allowed."""
    with pytest.raises(InvalidFilter, match="task"):
        pipeline.search.search(ADA, "anything", where={"colour": "red"})


# ---- what has changed since the last sync


def test_what_was_deleted_or_moved_is_not_found_even_before_the_sync(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P3, P4: Chroma proposes; Postgres decides."""
    kept, deleted, moved = (remember(db, "ada", f"a walk number {n}") for n in range(3))
    drained(pipeline)
    db.execute("DELETE FROM memory_logs WHERE id = %s", (deleted,))
    db.execute("UPDATE memory_logs SET user_id = 'bob' WHERE id = %s", (moved,))
    assert ids(pipeline.search.search(ADA, "a walk")) == [kept]
    assert pipeline.search.search(BOB, "a walk") == []
    drained(pipeline)
    assert ids(pipeline.search.search(ADA, "a walk")) == [kept]
    assert ids(pipeline.search.search(BOB, "a walk")) == [moved]


def test_what_was_updated_shows_its_new_content_even_before_the_sync(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A memory may be found by old words, and is returned with its current content."""
    memory = remember(db, "ada", "a walk", task="walk")
    drained(pipeline)
    db.execute("""UPDATE memory_logs SET raw_data = '{"summary": "a nap", "task": "rest"}'""")
    [hit] = pipeline.search.search(ADA, "a walk")
    assert (hit.memory_id, hit.memory) == (memory, {"summary": "a nap", "task": "rest"})
    assert hit.metadata["task"] == "rest"


def test_what_no_longer_passes_the_filter_is_dropped_even_before_the_sync(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A filter holds for the memory as it is, not as it was indexed."""
    remember(db, "ada", "a walk", task="walk")
    drained(pipeline)
    db.execute("""UPDATE memory_logs SET raw_data = '{"summary": "a nap", "task": "rest"}'""")
    assert pipeline.search.search(ADA, "a walk", where={"task": "walk"}) == []
    db.execute("UPDATE memory_logs SET project_id = 'gemini'")
    assert pipeline.search.search(ADA, "a walk", where={"project_id": "apollo"}) == []


def test_an_answer_is_full_though_most_of_what_chroma_proposes_is_gone(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """It is asked for more until k are left or there are no more."""
    near = [remember(db, "ada", f"river walk {n}") for n in range(60)]
    far = {remember(db, "ada", f"something quite different {n}") for n in range(8)}
    drained(pipeline)
    db.execute("DELETE FROM memory_logs WHERE id = ANY(%s)", (near,))
    assert len(pipeline.search.search(ADA, "river walk", k=5)) == 5
    assert set(ids(pipeline.search.search(ADA, "river walk", k=20))) == far


def test_an_id_that_is_used_again_never_shows_the_old_text(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P4: TRUNCATE … RESTART IDENTITY; the old document still points at the id for a moment."""
    remember(db, "ada", "a secret that was erased")
    remember(db, "ada", "another secret")
    drained(pipeline)
    with db.transaction():
        db.execute("TRUNCATE memory_logs RESTART IDENTITY")
        remember(db, "ada", "a harmless note")
        remember(db, "bob", "Bob's own note")
    assert texts(pipeline.search.search(ADA, "a secret that was erased")) == ["a harmless note"]
    assert pipeline.search.search(BOB, "another secret") == []
    drained(pipeline)
    assert texts(pipeline.search.search(ADA, "a secret that was erased")) == ["a harmless note"]
    assert texts(pipeline.search.search(BOB, "another secret")) == ["Bob's own note"]


def test_searches_go_to_the_new_collection_as_soon_as_it_is_live(
    pipeline: Pipeline, reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """Another process has replaced the collection; nothing of the old is cached."""
    memory = remember(db, "ada", "a walk")
    drained(pipeline)
    reader = reopened()
    assert ids(reader.search.search(ADA, "a walk")) == [memory]
    old = pipeline.registry.live(ADA)
    assert old is not None
    pipeline.index.drop(old, seconds=5.0)
    with pytest.raises(Corrupt):
        reader.search.search(ADA, "a walk")
    remember(db, "ada", "a swim")
    drained(pipeline)
    drained(pipeline)
    assert len(reader.search.search(ADA, "a walk")) == 2


def test_many_threads_search_at_once(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """An application's threads share one search."""
    memory = remember(db, "ada", "a walk")
    drained(pipeline)
    found: list[list[int]] = []

    def search() -> None:
        found.extend(ids(pipeline.search.search(ADA, "a walk")) for _ in range(5))

    threads = [threading.Thread(target=search) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[memory]] * 30


# ---- outages


def test_without_postgres_a_search_says_so(reopened: Callable[..., Pipeline]) -> None:
    """Nothing is answered that Postgres has not confirmed."""
    nowhere = SecretStr("postgresql://nobody:secret@127.0.0.1:1/nothing")
    with pytest.raises(PostgresUnavailable) as found:
        reopened(database_url=nowhere).search.search(ADA, "anything")
    assert "secret" not in str(found.value)


def test_without_chroma_a_search_says_so(
    pipeline: Pipeline, reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """An outage of the index is no empty answer."""
    remember(db, "ada", "a walk")
    drained(pipeline)
    with pytest.raises(ChromaUnavailable):
        reopened(chroma_url=NOBODY_LISTENS).search.search(ADA, "a walk")


def test_a_server_that_lost_its_data_is_said_to_be_unavailable(
    pipeline: Pipeline, reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """What the docstrings of search and store name is what an application has to catch."""
    remember(db, "ada", "a walk")
    drained(pipeline)
    server = pipeline.index.choose_server()
    with pipeline.servers.client(server).call(5.0) as raw:
        raw.delete_collection("memory-pipeline-marker")
    with pytest.raises(ChromaUnavailable):
        reopened().search.search(ADA, "a walk")


# ---- the store


def test_a_memory_is_remembered_updated_searched_and_forgotten(
    store: MemoryStore, pipeline: Pipeline
) -> None:
    """The round trip of an application."""
    memory = store.remember("ada", {"summary": "a walk", "n": 1.5}, project_id="apollo")
    assert store.get("ada", memory) == {"summary": "a walk", "n": 1.5}
    assert store.search("ada", "a walk") == []
    drained(pipeline)
    assert ids(store.search("ada", "a walk", where={"project_id": "apollo"})) == [memory]
    assert store.update("ada", memory, {"summary": "a swim"})
    assert store.get("ada", memory) == {"summary": "a swim"}
    drained(pipeline)
    [hit] = store.search("ada", "a swim", k=1)
    assert hit.memory == {"summary": "a swim"}
    assert hit.distance == pytest.approx(0.0, abs=1e-5)
    assert store.forget("ada", memory)
    assert store.get("ada", memory) is None
    assert store.search("ada", "a swim") == []
    assert not store.forget("ada", memory)
    assert not store.update("ada", memory, {})


def test_a_memory_may_come_with_its_own_time(store: MemoryStore, pipeline: Pipeline) -> None:
    """An import keeps when it was, and can be filtered by it."""
    when = datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)
    store.remember("ada", {"summary": "an old walk"}, created_at=when)
    drained(pipeline)
    [hit] = store.search("ada", "walk", where={"ts": int(when.timestamp())})
    assert hit.created_at == when


def test_an_id_alone_opens_nothing(store: MemoryStore) -> None:
    """P3: another tenant's memory cannot be read, changed or deleted by guessing its id."""
    memory = store.remember("ada", {"summary": "Ada's own"})
    assert store.get("bob", memory) is None
    assert not store.update("bob", memory, {"summary": "Bob's now"})
    assert not store.forget("bob", memory)
    assert store.get("ada", memory) == {"summary": "Ada's own"}


@pytest.mark.parametrize("raw", [None, True, 1.5, "text", [], ["a", {"b": None}], {}])
def test_every_json_value_is_a_memory(store: MemoryStore, raw: object) -> None:
    """Not only objects can be remembered."""
    assert store.get("ada", store.remember("ada", raw)) == raw


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "raw",
    [
        float("nan"),
        {"a": float("inf")},
        object(),
        {"a": {1, 2}},
        b"bytes",
        "a NUL \0 in a text",
        {"a NUL \0 in a key": 1},
        pytest.param("a lone surrogate \ud800"),
        pytest.param({"\udfff": 1}),
        {("a", "tuple"): 1},
        CIRCLE,
    ],
    ids=lambda raw: type(raw).__name__,
)
def test_what_is_no_json_is_an_invalid_memory(
    store: MemoryStore, db: psycopg.Connection, raw: object
) -> None:
    """It is refused at once, with an error of its own, and nothing is stored."""
    memory = store.remember("ada", {"summary": "as it was"})
    with pytest.raises(InvalidMemory):
        store.remember("ada", raw)
    with pytest.raises(InvalidMemory):
        store.update("ada", memory, raw)
    assert store.get("ada", memory) == {"summary": "as it was"}
    row = db.execute("SELECT count(*) FROM memory_logs").fetchone()
    assert row == (1,)


def test_a_memory_for_nobody_is_invalid(store: MemoryStore) -> None:
    """What the table refuses is the caller's mistake, and the error is of that class."""
    nobody: str = None  # type: ignore[assignment]
    with pytest.raises(InvalidMemory):
        store.remember(nobody, {"summary": "whose?"})


def test_a_tenant_that_no_text_can_hold_is_invalid(store: MemoryStore) -> None:
    """A NUL in a name is refused as a memory is, without a driver's error."""
    with pytest.raises(InvalidMemory):
        store.remember("ada\0", {"summary": "a walk"})


def test_writing_needs_no_chroma(
    settings: Settings, unmarked_chroma: None, db: psycopg.Connection
) -> None:
    """P6: the application's writes know nothing of an outage of the index."""
    with MemoryStore(settings.model_copy(update={"chroma_url": NOBODY_LISTENS})) as store:
        memory = store.remember("ada", {"summary": "a walk"})
        assert store.update("ada", memory, {"summary": "a swim"})
        assert store.get("ada", memory) == {"summary": "a swim"}
        assert store.forget("ada", memory)


def test_without_postgres_every_method_says_so(settings: Settings, unmarked_chroma: None) -> None:
    """There is nothing to write to or read from."""
    nowhere = SecretStr("postgresql://nobody@127.0.0.1:1/nothing")
    with MemoryStore(settings.model_copy(update={"database_url": nowhere})) as store:
        calls: list[Callable[[], object]] = [
            lambda: store.remember("ada", {}),
            lambda: store.update("ada", 1, {}),
            lambda: store.forget("ada", 1),
            lambda: store.get("ada", 1),
            lambda: store.search("ada", "anything"),
        ]
        for call in calls:
            with pytest.raises(PostgresUnavailable):
                call()
