"""Bugs to plant, each a guard of the design taken away: the machine has to notice every one."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from memory_pipeline.content.document import compose
from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Failure
from memory_pipeline.domain.types import Hit, Match, Memory, MemoryId, TenantId
from memory_pipeline.errors import ChromaUnavailable, Fenced
from memory_pipeline.postgres.database import queries
from memory_pipeline.postgres.lease import PostgresLease
from memory_pipeline.postgres.memories import PostgresMemories
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.rebuild import chunks as filling
from memory_pipeline.rebuild.proof import Proof, Prover
from memory_pipeline.search.filters import Filter
from memory_pipeline.search.query import Search, _Candidate
from memory_pipeline.sync import batch
from memory_pipeline.sync.generations import Generations
from memory_pipeline.sync.plan import Plan, plan_batch
from memory_pipeline.sync.write import write_documents
from memory_pipeline_tests.stateful.world import World

Plant = Callable[[World, pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Bug:
    """A guard to take away; ``behind``: takes away the guard that stands behind it."""

    plant: Plant
    behind: Plant | None = None


BUGS: dict[str, Bug] = {}


def bug(plant: Plant) -> Plant:
    """Add a bug to the list."""
    BUGS[plant.__name__] = Bug(plant)
    return plant


def _around_ack(
    patch: pytest.MonkeyPatch, ack: Callable[[PostgresOutbox, Any, Claim, Callable[[], int]], int]
) -> None:
    """Put something around every ack of the outbox."""
    real = PostgresOutbox.ack

    def acked(self: PostgresOutbox, lease: Any, claim: Claim, **how: Any) -> int:
        return ack(self, lease, claim, lambda: real(self, lease, claim, **how))

    patch.setattr(PostgresOutbox, "ack", acked)


def _around_claim(patch: pytest.MonkeyPatch, claim: Callable[[Any, Any, Claim], Claim]) -> None:
    """Put something after every claim."""
    real = PostgresOutbox.claim
    patch.setattr(
        PostgresOutbox, "claim", lambda self, lease: claim(self, lease, real(self, lease))
    )


@bug
def ack_before_write(world: World, patch: pytest.MonkeyPatch) -> None:
    """The changes are forgotten when they are claimed."""
    ack = PostgresOutbox.ack

    def forget(self: PostgresOutbox, lease: Any, claim: Claim) -> Claim:
        landed = dict.fromkeys(claim.memory_ids)
        ack(self, lease, claim, landed=landed, failures=[], missed=[], recheck=[])
        return claim

    _around_claim(patch, forget)


@bug
def ack_by_key(world: World, patch: pytest.MonkeyPatch) -> None:
    """An ack forgets what arrived for the same memories since the claim."""

    def ack(_: PostgresOutbox, lease: Any, claim: Claim, real: Callable[[], int]) -> int:
        buried = real()
        world.db.execute(
            "DELETE FROM memory_pipeline.change WHERE tenant = %s AND memory_id = ANY(%s)",
            (lease.tenant, list(claim.memory_ids)),
        )
        return buried

    _around_ack(patch, ack)


@bug
def ack_up_to_a_watermark(world: World, patch: pytest.MonkeyPatch) -> None:
    """An ack forgets everything up to the newest change of its claim."""

    def ack(_: PostgresOutbox, lease: Any, claim: Claim, real: Callable[[], int]) -> int:
        buried = real()
        world.db.execute(
            "DELETE FROM memory_pipeline.change WHERE tenant = %s AND seq <= %s",
            (lease.tenant, claim.changes[-1].seq),
        )
        return buried

    _around_ack(patch, ack)


@bug
def ack_without_a_token(world: World, patch: pytest.MonkeyPatch) -> None:
    """A worker that has lost its lease acks all the same."""

    def ack(_: PostgresOutbox, lease: Any, claim: Claim, real: Callable[[], int]) -> int:
        with suppress(Fenced):
            return real()
        world.db.execute(
            "DELETE FROM memory_pipeline.change WHERE tenant = %s AND seq = ANY(%s)",
            (lease.tenant, [c.seq for c in claim.changes]),
        )
        return 0

    _around_ack(patch, ack)


@bug
def forget_the_old_tenant_of_a_move(world: World, patch: pytest.MonkeyPatch) -> None:
    """A move is a change of the new tenant alone."""
    row = world.db.execute(
        "SELECT pg_get_functiondef('memory_pipeline.capture()'::regprocedure)"
    ).fetchone()
    assert row is not None
    wrong = row[0].replace("IF octet_length(was)", "IF TG_OP = 'DELETE' AND octet_length(was)")
    assert wrong != row[0]
    world.db.execute(wrong)


@bug
def ignore_truncate(world: World, patch: pytest.MonkeyPatch) -> None:
    """A TRUNCATE is captured by nobody."""
    world.db.execute("DROP TRIGGER memory_pipeline_truncate ON memory_logs")


@bug
def no_read_after_the_claim(world: World, patch: pytest.MonkeyPatch) -> None:
    """A batch writes the rows as they were when the lease was taken."""
    take, rows = PostgresOutbox.acquire_lease, dict[MemoryId, Memory]()

    def read_then(self: PostgresOutbox, tenant: TenantId) -> PostgresLease | None:
        rows.clear()
        ids = [MemoryId(i) for (i,) in world.db.execute("SELECT id FROM memory_logs")]
        rows.update(world.plain.memories.read(ids)[0])
        return take(self, tenant)

    def plan(
        tenant: TenantId, ids: Sequence[MemoryId], _: Mapping[MemoryId, Memory], **how: Any
    ) -> Plan:
        return plan_batch(tenant, ids, rows, **how)

    patch.setattr(PostgresOutbox, "acquire_lease", read_then)
    patch.setattr(batch, "plan_batch", plan)


@bug
def no_confirm_after_a_takeover(world: World, patch: pytest.MonkeyPatch) -> None:
    """Nobody looks again when a late request may have landed."""
    patch.setattr(queries(), "schedule_confirms", lambda *_, **__: 0)


@bug
def a_timeout_is_a_success(world: World, patch: pytest.MonkeyPatch) -> None:
    """A write whose reply is lost counts as written."""
    write = Generations.write

    def written(self: Generations, *what: Any) -> list[Failure]:
        try:
            return write(self, *what)
        except ChromaUnavailable as error:
            if not error.sent:
                raise
            return []

    patch.setattr(Generations, "write", written)


@bug
def an_outage_is_charged(world: World, patch: pytest.MonkeyPatch) -> None:
    """Memories are to blame for a Chroma that does not answer."""
    write = Generations.write

    def charged(self: Generations, lease: Any, targets: Any, ready: Any, *more: Any) -> Any:
        try:
            return write(self, lease, targets, ready, *more)
        except ChromaUnavailable:
            return [Failure(d.memory.id, "index: no answer") for d in ready]

    patch.setattr(Generations, "write", charged)


@bug
def a_rebuild_without_double_writes(world: World, patch: pytest.MonkeyPatch) -> None:
    """Batches write the live generation alone."""
    _around_claim(patch, lambda _, __, claim: replace(claim, targets=claim.targets[:1]))


def a_chunk_is_done_though_its_reply_is_lost(world: World, patch: pytest.MonkeyPatch) -> None:
    """A chunk counts as written whatever Chroma says; the verify before the flip is off, too."""

    def written(*what: Any, **how: Any) -> list[Failure]:
        with suppress(ChromaUnavailable):
            return write_documents(*what, **how)
        return []

    patch.setattr(filling, "write_documents", written)


def _no_proof(world: World, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Prover, "prove", lambda *_, **__: Proof())


BUGS[a_chunk_is_done_though_its_reply_is_lost.__name__] = Bug(
    a_chunk_is_done_though_its_reply_is_lost, behind=_no_proof
)


@bug
def the_backup_goes_by_id_alone(world: World, patch: pytest.MonkeyPatch) -> None:
    """A vector is stored whatever has become of the row since it was read."""

    def back_up(self: PostgresMemories, vectors: Any) -> frozenset[MemoryId]:
        with self._database.transaction() as connection:
            connection.execute(
                "SELECT set_config('memory_pipeline.backup', pg_current_xact_id()::text, true)"
            )
            for id_, (_, vector, _) in vectors.items():
                connection.execute(
                    "UPDATE memory_logs SET embedding = %s WHERE id = %s", (vector, id_)
                )
        return frozenset(vectors)

    patch.setattr(PostgresMemories, "back_up", back_up)


@bug
def search_believes_chroma(world: World, patch: pytest.MonkeyPatch) -> None:
    """Whose a memory is by now is not looked up."""

    def confirmed(
        self: Search, tenant: TenantId, matches: list[Match], condition: Filter | None
    ) -> list[Hit]:
        del tenant, condition
        rows, _ = self._memories.read([match.memory_id for match in matches], vectors=False)  # type: ignore[attr-defined]
        found = [(m, rows[m.memory_id]) for m in matches if m.memory_id in rows]
        return [_Candidate(m, row, compose(row, self._recipe)).hit() for m, row in found]

    patch.setattr(Search, "_confirm", confirmed)
