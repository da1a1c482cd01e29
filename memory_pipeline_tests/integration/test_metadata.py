"""Lists, paths and dates, from a memory to a search with a filter; and lists that Chroma leaves."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.content.fields import DOCUMENT_LIST_VALUES
from memory_pipeline.domain.types import Document, Generation, MetadataValue, TenantId
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.maintenance.cleanup import drop_in_batches
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline_tests.fakes import a_document, no_lease
from memory_pipeline_tests.words import ADA, BOB, drained, live, remember

FIELDS = ("date", "labels", "user.name", "scores")


@pytest.fixture
def pipeline(settings: Settings, unmarked_chroma: None) -> Iterator[Pipeline]:
    """Return the parts of an installation with lists, a path and a date to filter by."""
    configured = settings.model_copy(update={"metadata_fields": FIELDS})
    with opened(configured, embedder=HashingEmbedder()) as parts:
        yield parts


def found(pipeline: Pipeline, where: dict[str, Any], tenant: TenantId = ADA) -> set[int]:
    """Return the memories that a search with this filter finds."""
    hits = pipeline.search.search(tenant, "a memory", k=100, where=where)
    return {hit.memory_id for hit in hits}


def test_lists_and_paths_are_found_by_filters(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A list stays one until the memory has none; an object's field has its path."""
    auth = remember(db, labels=["auth", "urgent"], user={"name": "ada"}, scores=[1, 2.5])
    mixed = remember(db, labels=["auth", 7, None], scores=[1, 2])
    single = remember(db, labels="auth", user=[{"name": "ada"}, {"name": "bob"}])
    bare = remember(db, labels=[])
    drained(pipeline)
    assert found(pipeline, {"labels": {"$contains": "auth"}}) == {auth, mixed}
    assert found(pipeline, {"labels": {"$not_contains": "auth"}}) == {single, bare}
    assert found(pipeline, {"labels": {"$contains": "7"}}) == {mixed}
    assert found(pipeline, {"labels": "auth"}) == {single}
    assert found(pipeline, {"labels": ""}) == {bare}
    assert found(pipeline, {"scores": {"$contains": 1}}) == {auth, mixed}
    assert found(pipeline, {"user.name": "ada"}) == {auth}
    assert found(pipeline, {"user.name": {"$contains": "bob"}}) == {single}
    for raw, holds, equals in (
        ({"labels": "auth"}, set(), {auth, single}),
        ({"labels": ["other"]}, set(), {single}),
        ({"labels": ["auth"]}, {auth}, {single}),
        ({}, set(), {single}),
    ):
        db.execute("UPDATE memory_logs SET raw_data = %s WHERE id = %s", (Jsonb(raw), auth))
        drained(pipeline)
        assert found(pipeline, {"labels": {"$contains": "auth"}}) == {mixed, *holds}
        assert found(pipeline, {"labels": "auth"}) == equals
    assert pipeline.verify().run(ADA, sample=None).findings == ()


def test_a_date_that_cannot_be_read_is_at_no_time_and_counted(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Neither before nor after anything; found by its absence, and shown by verify and sync."""
    read = remember(db, date="1:56 pm on 8 May, 2023")
    unread = remember(db, date="05/08/2023")
    none = remember(db)
    [outcome] = drained(pipeline)
    assert outcome.unread_dates == 1
    for where in ({"$lt": 10**11}, {"$gte": -(10**11)}):
        assert found(pipeline, {"date_ts": where}) == {read}
    assert found(pipeline, {"date_ts": 1683554160}) == {read}
    assert found(pipeline, {"date_ts": ""}) == {unread, none}
    assert found(pipeline, {"date_ts": "", "date": {"$ne": ""}}) == {unread}
    verified = pipeline.verify().run(ADA)
    assert (verified.unread_dates, verified.findings) == (1, ())
    pipeline.status.record_verification(verified)
    assert pipeline.status.totals().unread_dates == 1


def test_a_time_that_is_not_known_is_at_no_time(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """An infinite created_at is not the year 1970."""
    memory = remember(db)
    db.execute("UPDATE memory_logs SET created_at = 'infinity'")
    drained(pipeline)
    assert found(pipeline, {"ts": {"$lt": 10**11}}) == set()
    assert found(pipeline, {"ts": ""}) == {memory}
    [hit] = pipeline.search.search(ADA, "a memory")
    assert hit.created_at is None


# ---- what Chroma leaves of lists


def _created(index: ChromaIndex, tenant: TenantId) -> Generation:
    begun = Generation(uuid4(), tenant, index.choose_server(), None, "model", "config", "retired")
    return index.create(begun, memories=0, renew=no_lease)


def _with(document: Document, **metadata: MetadataValue) -> Document:
    return replace(document, metadata={"hash": "any", **metadata})


def _filled(pipeline: Pipeline, **lists: MetadataValue) -> Generation:
    """Return a collection whose rows are the newest of the server."""
    generation = _created(pipeline.index, BOB)
    held = [_with(a_document(n, text=None), **lists) for n in range(1, 31)]
    pipeline.index.write(generation, held, [], renew=no_lease)
    return generation


def test_the_lists_of_a_dropped_collection_are_nobodys(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Chroma shows them under other documents' rows; no filter sees them, and no verify does."""
    drained(pipeline)
    for _ in range(30):
        remember(db, labels="mine")
    lost = _filled(pipeline, labels=["secret"], others=["secret"])
    pipeline.index.drop(lost, seconds=5.0)  # as a damaged one is dropped: unread
    drained(pipeline)
    pages = pipeline.index.pages(live(pipeline), renew=no_lease)
    came_back = [m for page in pages for _, m in page if m.get("others") == ["secret"]]
    assert came_back, "Chroma has changed: the guards can go"
    assert found(pipeline, {"labels": {"$contains": "secret"}}) == set()
    assert len(found(pipeline, {"labels": {"$not_contains": "secret"}})) == 30
    assert pipeline.verify().run(ADA, sample=None).findings == ()


def test_a_collection_with_lists_leaves_none_behind(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """The documents that have one are deleted before it is dropped."""
    drained(pipeline)
    for _ in range(30):
        remember(db)
    retired = _filled(pipeline, others=["secret"])
    assert drop_in_batches(pipeline.index, retired, float("inf"))
    drained(pipeline)
    pages = pipeline.index.pages(live(pipeline), renew=no_lease)
    assert not [m for page in pages for _, m in page if "others" in m]


def test_the_longest_lists_leave_a_collection_writable(pipeline: Pipeline) -> None:
    """One value more than Chroma's 5,461, and no write to the collection ever succeeds again."""
    generation = _created(pipeline.index, ADA)
    longest = _with(a_document(1), labels=["x" * 256] * DOCUMENT_LIST_VALUES)
    pipeline.index.write(generation, [longest], [], renew=no_lease)
    pipeline.index.write(generation, [a_document(2)], [], renew=no_lease)
    assert pipeline.index.count(generation, seconds=5.0) == 2
