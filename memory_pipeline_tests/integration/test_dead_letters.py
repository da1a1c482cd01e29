"""Dead letters over a real Postgres and a real Chroma: found, shown, tried again, let be."""

from collections.abc import Callable
from dataclasses import fields, replace

import psycopg
import pytest

from memory_pipeline.content.document import compose
from memory_pipeline.domain import dead_letters as letters_module
from memory_pipeline.domain.dead_letters import DeadLetter, DeadLetterFilter
from memory_pipeline.domain.types import MemoryId, RebuildId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.doubles import meddled_index, raises
from memory_pipeline_tests.embedders import RefusingEmbedder
from memory_pipeline_tests.integration.worker.words import Told
from memory_pipeline_tests.words import ADA, BOB, change, drained, held, remember

# Longer than what an error may quote.
POISON, TEA = "a large cup with some arsenic in it", "a cup of tea"


@pytest.fixture
def embedder() -> RefusingEmbedder:
    """Return the model of the test, which refuses arsenic until the test says otherwise."""
    return RefusingEmbedder(quotes=True)


@pytest.fixture
def pipeline(reopened: Callable[..., Pipeline], embedder: RefusingEmbedder) -> Pipeline:
    """Return the parts, with the embedder that refuses."""
    return reopened(embedder)


def settle(pipeline: Pipeline, wait_until: Callable[..., None]) -> None:
    """Bring everything, and wait until nothing at all is pending."""

    def settled() -> bool:
        drained(pipeline)
        return pipeline.status.totals().pending_changes == 0

    wait_until(settled, within=20)


def found(pipeline: Pipeline, text: str) -> list[object]:
    """Search; return what is found."""
    return [
        h.memory["summary"] for h in pipeline.search.search(ADA, text) if isinstance(h.memory, dict)
    ]


def letters(pipeline: Pipeline, which: DeadLetterFilter = DeadLetterFilter()) -> list[DeadLetter]:  # noqa: B008 - frozen
    """Return the dead letters."""
    return list(pipeline.dead_letters.newest(which, limit=100).newest)


def buried(
    pipeline: Pipeline,
    db: psycopg.Connection,
    wait_until: Callable[..., None],
    *,
    first: str | None = None,
) -> int:
    """Bury a memory, which was indexed with other content before if that is given."""
    memory = remember(db, summary=POISON if first is None else first)
    if first is not None:
        settle(pipeline, wait_until)
        change(db, memory, POISON)
    settle(pipeline, wait_until)
    assert [letter.memory_id for letter in letters(pipeline)] == [memory]
    return memory


# ---- burying


def test_one_poison_memory_among_250_is_buried_alone(
    pipeline: Pipeline,
    db: psycopg.Connection,
    embedder: RefusingEmbedder,
    wait_until: Callable[..., None],
) -> None:
    """P5: 249 are searchable after one sync; the other is tried so often and no more."""
    ids = [remember(db, summary=POISON if n == 77 else f"memory {n}") for n in range(250)]
    drained(pipeline)
    assert held(pipeline) == set(ids) - {ids[77]}
    settle(pipeline, wait_until)
    [letter] = letters(pipeline)
    assert (letter.memory_id, letter.attempts) == (ids[77], pipeline.settings.max_attempts)
    assert embedder.refusals == pipeline.settings.max_attempts
    assert held(pipeline) == set(ids) - {ids[77]}
    settle(pipeline, wait_until)
    assert embedder.refusals == pipeline.settings.max_attempts


def test_a_dead_letter_says_what_was_refused_under_what(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """All that a person needs to find the cause, and nothing of the text."""
    memory = buried(pipeline, db, wait_until)
    [letter] = letters(pipeline)
    assert letter.tenant == ADA
    assert letter.kind == "embedding"
    assert letter.first_error == letter.last_error
    assert letter.last_error.startswith("embedding: the model refuses a text")
    assert "arsenic" not in letter.last_error
    assert letter.first_at <= letter.last_at <= letter.buried_at
    row = pipeline.memories.get(ADA, [MemoryId(memory)])[MemoryId(memory)]
    assert letter.content_hash == compose(row, pipeline.recipe).content_hash
    assert (letter.model, letter.config_hash) == (
        HashingEmbedder.model,
        pipeline.recipe.config_hash,
    )
    assert letter.version
    assert letter.waived_at is None


def test_dead_letters_are_chosen_by_tenant_class_age_and_id(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """All that is asked for has to fit; the newest come first, and all are counted."""
    mine, other = remember(db, "ada", POISON), remember(db, "bob", POISON)
    settle(pipeline, wait_until)
    db.execute(
        "UPDATE memory_pipeline.failure SET buried_at = now() - interval '1 hour', kind = 'index'"
        " WHERE tenant = 'bob'"
    )
    for which, expected in (
        (DeadLetterFilter(), [mine, other]),
        (DeadLetterFilter(tenants=[BOB]), [other]),
        (DeadLetterFilter(tenants=[ADA, BOB]), [mine, other]),
        (DeadLetterFilter(kinds=["index"]), [other]),
        (DeadLetterFilter(kinds=["content"]), []),
        (DeadLetterFilter(older_than_seconds=1800), [other]),
        (DeadLetterFilter(older_than_seconds=7200), []),
        (DeadLetterFilter(memory_ids=[MemoryId(mine)]), [mine]),
        (DeadLetterFilter(tenants=[BOB], memory_ids=[MemoryId(mine)]), []),
        (DeadLetterFilter(waived=True), []),
    ):
        assert [letter.memory_id for letter in letters(pipeline, which)] == expected, which
    first = pipeline.dead_letters.newest(DeadLetterFilter(), limit=1)
    assert (first.count, len(first.newest)) == (2, 1)


def test_a_truncate_takes_the_dead_letters_along(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P5: a dead letter had no document, so comparing documents does not see that it went."""
    buried(pipeline, db, wait_until)
    assert pipeline.dead_letters.of_tenants()[ADA].count == 1
    db.execute("TRUNCATE memory_logs")
    kept = remember(db, "ada", f"another {POISON}")
    settle(pipeline, wait_until)
    rows = db.execute("SELECT tenant, memory_id FROM memory_pipeline.failure").fetchall()
    assert rows == [("ada", kept)]


# ---- replaying


def test_a_replay_after_the_cause_is_gone_makes_it_searchable(
    pipeline: Pipeline,
    db: psycopg.Connection,
    embedder: RefusingEmbedder,
    wait_until: Callable[..., None],
) -> None:
    """The model was mended, and nobody touched the memory."""
    buried(pipeline, db, wait_until)
    embedder.word = ""
    settle(pipeline, wait_until)
    assert letters(pipeline)  # by itself nothing happens: nobody can know
    assert pipeline.dead_letters.replay(DeadLetterFilter()) == 1
    settle(pipeline, wait_until)
    assert letters(pipeline) == []
    assert found(pipeline, POISON) == [POISON]


@pytest.mark.parametrize("meanwhile", ["updated", "deleted", "moved"])
def test_an_old_replay_never_brings_old_content_back(
    pipeline: Pipeline,
    db: psycopg.Connection,
    embedder: RefusingEmbedder,
    wait_until: Callable[..., None],
    meanwhile: str,
) -> None:
    """A replay names a key; what the batch then reads is what stands in Postgres."""
    memory = buried(pipeline, db, wait_until)
    assert pipeline.dead_letters.replay(DeadLetterFilter()) == 1
    embedder.word = ""
    if meanwhile == "updated":
        change(db, memory, TEA)
    elif meanwhile == "deleted":
        db.execute("DELETE FROM memory_logs WHERE id = %s", (memory,))
    else:
        db.execute("UPDATE memory_logs SET user_id = 'bob' WHERE id = %s", (memory,))
    settle(pipeline, wait_until)
    assert found(pipeline, POISON) == ([TEA] if meanwhile == "updated" else [])
    assert held(pipeline) == ({memory} if meanwhile == "updated" else set())
    assert letters(pipeline) == []
    if meanwhile == "moved":
        assert held(pipeline, BOB) == {memory}


def test_a_new_version_tries_again_by_itself_and_once(
    pipeline: Pipeline,
    db: psycopg.Connection,
    embedder: RefusingEmbedder,
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the old one could not do, the new one may; if not, it is buried again and left."""
    buried(pipeline, db, wait_until)
    assert pipeline.replay_cured() == 0
    monkeypatch.setattr(letters_module, "_version", lambda: "99.0")
    assert pipeline.replay_cured() == 1
    settle(pipeline, wait_until)
    assert [letter.version for letter in letters(pipeline)] == ["99.0"]
    assert pipeline.replay_cured() == 0
    monkeypatch.setattr(letters_module, "_version", lambda: "99.1")
    embedder.word = ""
    assert pipeline.replay_cured() == 1
    settle(pipeline, wait_until)
    assert letters(pipeline) == []
    assert found(pipeline, POISON) == [POISON]


def test_a_new_model_tries_again_by_itself(
    pipeline: Pipeline,
    db: psycopg.Connection,
    reopened: Callable[..., Pipeline],
    wait_until: Callable[..., None],
) -> None:
    """The rebuild that a new model needs tries what the old one refused."""
    memory = buried(pipeline, db, wait_until)
    newer = reopened(RefusingEmbedder(word="", model="a newer model"))
    assert newer.replay_cured() == 0  # the old collection takes nothing of the new model
    assert newer.rebuild_alone(ADA).verdict == "done"
    settle(newer, wait_until)
    assert letters(newer) == []
    assert held(newer) == {memory}


def test_a_new_model_that_refuses_it_too_leaves_it_buried(
    pipeline: Pipeline,
    db: psycopg.Connection,
    reopened: Callable[..., Pipeline],
    wait_until: Callable[..., None],
) -> None:
    """Tried under the new model so often and no more, and shown with it."""
    buried(pipeline, db, wait_until)
    refusing = RefusingEmbedder(model="a newer model")
    newer = reopened(refusing)
    assert newer.rebuild_alone(ADA).verdict == "done"
    newer.replay_cured()
    settle(newer, wait_until)
    assert [letter.model for letter in letters(newer)] == ["a newer model"]
    tries = refusing.refusals
    assert newer.replay_cured() == 0
    settle(newer, wait_until)
    assert refusing.refusals == tries


def test_sync_and_the_live_process_s_mending_replay_by_themselves(
    pipeline: Pipeline,
    db: psycopg.Connection,
    embedder: RefusingEmbedder,
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has to know that there was a cause."""
    from memory_pipeline.worker.metrics import Metrics

    buried(pipeline, db, wait_until)
    monkeypatch.setattr(letters_module, "_version", lambda: "99.0")
    embedder.word = ""
    metrics = Metrics(pipeline.freshness)
    pipeline.background(metrics=metrics, reporter=Told())._repair()
    settle(pipeline, wait_until)
    assert letters(pipeline) == []


# ---- waiving


def test_a_waived_memory_is_counted_everywhere_and_verify_lets_it_be(
    pipeline: Pipeline,
    db: psycopg.Connection,
    wait_until: Callable[..., None],
    embedder: RefusingEmbedder,
) -> None:
    """Neither repaired nor hidden: no finding, and named as waived."""
    memory = buried(pipeline, db, wait_until)
    remember(db, summary=TEA)
    settle(pipeline, wait_until)
    assert (
        pipeline.dead_letters.waive(DeadLetterFilter(), by="grace", because="known to be poison")
        == 1
    )
    verified = pipeline.verify().run(ADA)
    assert (verified.findings, verified.buried, verified.waived) == ((), 1, 1)
    refusals = embedder.refusals
    repaired = pipeline.repair().run(ADA)
    assert (repaired.before.findings, repaired.after.findings) == ((), ())
    assert repaired.after.waived == 1
    assert embedder.refusals == refusals
    [letter] = letters(pipeline)
    assert (letter.memory_id, letter.waived_by) == (memory, "grace")
    assert letter.waived_because == "known to be poison"
    totals = pipeline.status.totals()
    assert (totals.dead_letters, totals.waived_dead_letters) == (1, 1)
    [ada] = pipeline.status.tenants()
    assert (ada.dead_letters, ada.waived_dead_letters) == (1, 1)


def test_new_content_of_a_waived_memory_is_tried_again(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """The waiver was for the old content: the new is indexed, or is a dead letter of its own."""
    memory = buried(pipeline, db, wait_until)
    pipeline.dead_letters.waive(DeadLetterFilter(), by="grace", because="known")
    change(db, memory, POISON + " in another cup")
    settle(pipeline, wait_until)
    assert [letter.waived_at for letter in letters(pipeline)] == [None]
    change(db, memory, TEA)
    settle(pipeline, wait_until)
    assert letters(pipeline) == []
    assert found(pipeline, TEA) == [TEA]


def test_a_rebuild_keeps_a_waiver(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """It tries every memory; the same content refused again is still let be."""
    buried(pipeline, db, wait_until)
    pipeline.dead_letters.waive(DeadLetterFilter(), by="grace", because="known")
    rebuilt = list(pipeline.rebuild().run(RebuildId("r"), [ADA]))
    assert [r.verdict for r in rebuilt] == ["done"]
    settle(pipeline, wait_until)
    assert [letter.waived_by for letter in letters(pipeline)] == ["grace"]


def test_a_truncate_leaves_no_dead_letter(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """Nothing is left of what is gone, though no change names it."""
    buried(pipeline, db, wait_until)
    pipeline.dead_letters.waive(DeadLetterFilter(), by="grace", because="known")
    db.execute("TRUNCATE memory_logs")
    settle(pipeline, wait_until)
    assert letters(pipeline) == []


# ---- what a search shows


def test_a_buried_memory_is_found_by_its_older_vector_and_shown_as_it_is(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """The default: late, never wrong. The older text is never shown."""
    memory = buried(pipeline, db, wait_until, first=TEA)
    assert held(pipeline) == {memory}
    assert found(pipeline, TEA) == [POISON]
    verified = pipeline.verify().run(ADA)
    assert (verified.findings, verified.buried) == ((), 1)


def test_with_nothing_a_buried_memory_is_not_found(
    db: psycopg.Connection,
    reopened: Callable[..., Pipeline],
    embedder: RefusingEmbedder,
    wait_until: Callable[..., None],
) -> None:
    """Its older document is gone; once the content is mended it is found again."""
    pipeline = reopened(embedder, dead_letter_search="hidden")
    other = remember(db, summary="a mug of tea")
    memory = buried(pipeline, db, wait_until, first=TEA)
    assert held(pipeline) == {other}
    assert found(pipeline, TEA) == ["a mug of tea"]
    verified = pipeline.verify().run(ADA)
    assert (verified.findings, verified.buried) == ((), 1)
    change(db, memory, TEA)
    settle(pipeline, wait_until)
    assert held(pipeline) == {memory, other}


def test_with_nothing_a_search_drops_what_still_stands_in_the_index(
    pipeline: Pipeline,
    db: psycopg.Connection,
    reopened: Callable[..., Pipeline],
    wait_until: Callable[..., None],
) -> None:
    """The setting was changed after the burial, or a lost request has landed late."""
    memory = buried(pipeline, db, wait_until, first=TEA)
    strict = reopened(RefusingEmbedder(), dead_letter_search="hidden")
    assert held(strict) == {memory}
    assert found(strict, TEA) == []
    change(db, memory, "a cup of coffee")  # not synced yet: still a dead letter
    assert found(strict, TEA) == []
    settle(strict, wait_until)
    assert found(strict, TEA) == ["a cup of coffee"]


def test_a_document_that_cannot_be_withdrawn_leaves_its_change_pending(
    db: psycopg.Connection,
    reopened: Callable[..., Pipeline],
    embedder: RefusingEmbedder,
    wait_until: Callable[..., None],
) -> None:
    """P1: it is not buried before its older document is gone, whatever happens in between."""
    pipeline = reopened(embedder, dead_letter_search="hidden", max_attempts=1)
    memory = remember(db, summary=TEA)
    settle(pipeline, wait_until)
    change(db, memory, POISON)

    down = raises(ChromaUnavailable("Chroma went away"))
    sync = replace(pipeline.sync(), index=meddled_index(pipeline.index, before=down))
    assert sync.run(ADA).verdict == "postponed"
    assert letters(pipeline) == []
    assert pipeline.outbox.pending(ADA) == 1
    settle(pipeline, wait_until)
    assert [letter.memory_id for letter in letters(pipeline)] == [memory]
    assert held(pipeline) == set()


def test_a_dead_letter_has_no_field_for_a_text() -> None:
    """What is shown is listed here, so that nobody adds the content by the way."""
    assert {f.name for f in fields(DeadLetter)} == {
        "tenant", "memory_id", "kind", "first_error", "last_error", "attempts", "first_at",
        "last_at", "buried_at", "content_hash", "model", "config_hash", "version", "waived_at",
        "waived_by", "waived_because",
    }  # fmt: skip
