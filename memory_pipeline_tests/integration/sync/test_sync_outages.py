"""The heart over a real Postgres and a real Chroma: outages, unknown outcomes, lost leases."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import (
    Document,
    Generation,
    Memory,
    MemoryId,
    TenantId,
)
from memory_pipeline.errors import (
    ChromaUnavailable,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.ports import Lease
from memory_pipeline.sync.tenant import Sync
from memory_pipeline_tests.doubles import Killed, around, raises
from memory_pipeline_tests.embedders import CountingEmbedder
from memory_pipeline_tests.integration.sync.words import (
    assert_mirrored,
    settled,
    with_embedder,
    with_index,
)
from memory_pipeline_tests.words import (
    ADA,
    BOB,
    SECONDS,
    change,
    count_of,
    drained,
    drained_due,
    held,
    live,
    one,
    pass_time,
    remember,
)

# ---- outages and unknown outcomes


def test_while_chroma_is_down_everything_waits(
    reopened: Callable[..., Pipeline], pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1, P5: nothing was sent, so nothing is claimed, charged or confirmed; it lands later."""
    remember(db, summary="before")
    drained_due(pipeline)
    remember(db, summary="meanwhile")
    down = reopened(chroma_url="http://127.0.0.1:1", retry_seconds=60.0, retry_max_seconds=60.0)
    [outcome] = drained_due(down)
    assert outcome.verdict == "postponed"
    assert "127.0.0.1:1" in outcome.reason
    assert one(db, "SELECT retry_at > clock_timestamp() FROM memory_pipeline.tenant") is True
    assert count_of(db, "failure") == 0
    assert count_of(db, "change") == 1
    assert count_of(db, "change WHERE claim_token IS NOT NULL OR confirm") == 0
    pass_time(db, 100)
    drained_due(pipeline)
    assert_mirrored(pipeline)


def test_a_tenant_that_is_new_while_chroma_is_down_lands_later(
    reopened: Callable[..., Pipeline], pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1: the first collection is begun when there is a server to hold it."""
    remember(db)
    [outcome] = drained_due(reopened(chroma_url="http://127.0.0.1:1"))
    assert outcome.verdict == "postponed"
    assert count_of(db, "generation") == 0
    drained(pipeline)
    assert_mirrored(pipeline)


def test_a_server_that_takes_no_writes_is_tried_by_one_tenant(
    reopened: Callable[..., Pipeline], pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A hundred tenants of a server that hangs do not cost a hundred timeouts; all of them wait."""
    users = [f"user-{n}" for n in range(4)]
    for user in users:
        remember(db, user)
    drained_due(pipeline)
    for user in users:
        remember(db, user, "meanwhile")
    tried: list[TenantId] = []

    class Counted(Sync):
        def run(self, tenant: TenantId, **more: Any) -> Outcome:
            tried.append(tenant)
            return super().run(tenant, **more)

    down = reopened(chroma_url="http://127.0.0.1:1", retry_seconds=60.0, retry_max_seconds=60.0)
    counted = Counted(**{f: getattr(down.sync(), f) for f in Sync.__dataclass_fields__})
    outcomes = drained_due(down, counted)
    assert {(o.tenant, o.verdict) for o in outcomes} == {(u, "postponed") for u in users}
    assert len(tried) == 1
    assert count_of(db, "tenant WHERE retry_at > clock_timestamp()") == len(users)
    drained(pipeline)
    for user in users:
        assert_mirrored(pipeline, TenantId(user))


def test_what_was_never_sent_is_given_back(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """A claim whose write never left is unclaimed, and needs no confirm."""
    remember(db)
    refused = ChromaUnavailable("connection refused", sent=False)
    sync = with_index(pipeline, before=raises(refused, times=1))
    [outcome] = drained_due(pipeline, sync)
    assert outcome.verdict == "postponed"
    assert count_of(db, "change WHERE claim_token IS NOT NULL") == 0
    drained(pipeline, sync)
    assert count_of(db, "change") == 0
    assert_mirrored(pipeline)


def test_an_unknown_outcome_is_written_again_and_confirmed(
    pipeline: Pipeline, db: psycopg.Connection, wait_until: Callable[..., None]
) -> None:
    """P1: what may still land late is looked at once more when it no longer can."""
    memory = remember(db)
    timeout = ChromaUnavailable("no answer in time")
    sync = with_index(pipeline, after=raises(timeout, times=1))
    [outcome] = drained_due(pipeline, sync)
    assert outcome.verdict == "postponed"
    assert count_of(db, "change WHERE claim_token IS NOT NULL") > 0
    drained(pipeline, sync)
    assert one(db, "SELECT memory_id FROM memory_pipeline.change WHERE confirm") == memory
    assert pipeline.outbox.pending(ADA) == 1
    assert count_of(db, "failure") == 0
    wait_until(lambda: settled(pipeline, sync), within=15)
    assert_mirrored(pipeline)


def test_a_write_that_lands_after_the_takeover_is_mended_by_the_confirm(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """What broke: a timed-out request lands after a newer one and leaves a stale document behind.

    Nothing would be pending for it: the newer change was acked. The confirm reads the row again.
    """
    memory = remember(db, summary="old")
    late: list[tuple[Generation, Sequence[Document]]] = []

    def write(call: Any, generation: Generation, documents: Any, *more: Any, **how: Any) -> None:
        if documents and not late:
            late.append((generation, documents))
            raise ChromaUnavailable("no answer in time")
        call(generation, documents, *more, **how)

    sync = replace(pipeline.sync(), index=around(pipeline.index, write=write))
    drained_due(pipeline, sync)
    change(db, memory, "new")
    drained(pipeline, sync)
    assert_mirrored(pipeline)
    [(generation, documents)] = late
    pipeline.index.write(generation, documents, (), renew=lambda: SECONDS)
    with pytest.raises(AssertionError):
        assert_mirrored(pipeline)
    assert pipeline.outbox.pending(ADA) > 0
    pass_time(db, 100)
    drained(pipeline, sync)
    assert_mirrored(pipeline)
    assert pipeline.outbox.pending(ADA) == 0


def test_a_kill_between_write_and_ack_is_taken_over(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P1: the lease of the dead runs out, another worker does it again and confirms."""
    memories = {remember(db, summary=f"memory {n}") for n in range(3)}

    def ack(call: Any, *what: Any, landed: Any, **how: Any) -> Any:
        if landed:  # not the reset of the new collection
            raise Killed
        return call(*what, landed=landed, **how)

    with pytest.raises(Killed):
        replace(pipeline.sync(), outbox=around(pipeline.outbox, ack=ack)).run(ADA)
    db.execute("DELETE FROM memory_logs WHERE id = %s", (gone := min(memories),))
    [outcome] = drained_due(pipeline)
    assert outcome.verdict == "busy"
    pass_time(db, pipeline.settings.lease_seconds + 1)
    drained_due(pipeline)
    assert held(pipeline) == memories - {gone}
    assert count_of(db, "change WHERE confirm") == len(memories)
    pass_time(db, 100)
    drained_due(pipeline)
    assert count_of(db, "change") == 0
    assert_mirrored(pipeline)


def test_nothing_is_sent_once_the_lease_is_lost(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """P2: a worker that embedded for too long writes nothing, and the one that took over does."""
    remember(db, summary="before")
    drained_due(pipeline)
    before = held(pipeline)
    late = remember(db, summary="late")
    thieves: list[Lease] = []

    def too_long(_: object) -> None:
        pass_time(db, 100)
        thief = pipeline.outbox.acquire_lease(ADA)
        assert thief is not None
        thieves.append(thief)

    [outcome] = drained_due(pipeline, with_embedder(pipeline, CountingEmbedder(before=too_long)))
    assert outcome.verdict == "fenced"
    assert held(pipeline) == before
    assert pipeline.outbox.pending(ADA) == 1
    pipeline.outbox.release_lease(thieves[0])
    drained_due(pipeline)
    assert held(pipeline) == {*before, late}


def test_a_tenant_in_trouble_does_not_hold_up_the_others(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: one drain goes on with the next tenant."""
    remember(db, "ada")
    drained_due(pipeline)
    remember(db, "ada", "another")
    remember(db, "bob")
    troubled = live(pipeline, ADA).id

    def fail(generation: Generation, _: Collection[MemoryId]) -> None:
        if generation.id == troubled:
            raise ChromaUnavailable("no answer in time")

    outcomes = drained_due(pipeline, with_index(pipeline, before=fail))
    assert {(o.tenant, o.verdict) for o in outcomes} == {(ADA, "postponed"), (BOB, "done")}
    assert_mirrored(pipeline, BOB)


def test_two_workers_at_once_write_everything_once_and_right(
    pipeline: Pipeline, reopened: Callable[..., Pipeline], db: psycopg.Connection
) -> None:
    """P2: leases keep two drains apart, whoever is faster."""
    for n in range(40):
        remember(db, f"tenant {n % 4}", f"memory {n}")
    pipeline.servers.check_identity()
    other = reopened(batch_size=3)
    threads = [threading.Thread(target=drained, args=(p,)) for p in (pipeline, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drained(pipeline)
    for n in range(4):
        assert_mirrored(pipeline, TenantId(f"tenant {n}"))
    assert pipeline.status.totals().pending_changes == 0


# ---- refusals and the model


def test_a_reset_of_a_tenant_that_takes_longer_than_a_lease_is_not_fenced(
    pipeline: Pipeline, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reconciliation renews the lease on its way through a large tenant."""
    for number in range(3):
        remember(db, "ada", f"memory {number}")
    drained_due(pipeline)
    monkeypatch.setattr("memory_pipeline.sync.comparison.MEMORIES_A_RENEWAL", 1)
    db.execute("TRUNCATE memory_pipeline.change")
    db.execute("INSERT INTO memory_pipeline.change (tenant, memory_id) VALUES ('ada', NULL)")
    until = "SELECT lease_until FROM memory_pipeline.tenant WHERE tenant = 'ada'"
    seen: list[object] = []
    walk = pipeline.memories.of_tenant

    def watched(tenant: TenantId) -> Iterator[Memory]:
        for memory in walk(tenant):
            yield memory
            row = db.execute(until).fetchone()
            assert row is not None
            seen.append(row[0])

    monkeypatch.setattr(type(pipeline.memories), "of_tenant", lambda _, tenant: watched(tenant))
    drained_due(pipeline)
    assert len(set(seen)) == 3
