"""The heart: bring one tenant's collection up to its memories.

claim → read → embed → write → ack, again until all that stood is done. The order is the design:

1. take the tenant's lease: one writer a tenant, under a token that only grows
2. prime the generations that are written
3. claim changes; the claim names the generations to write to
4. read the rows as they stand *now*: what the change once meant does not matter
5. embed what the stored vectors do not cover, and back the new vectors up in Postgres
6. write to Chroma, the lease renewed before each request
7. ack under the token: only now are the changes forgotten

A crash, a timeout or a lost lease anywhere leaves the changes claimed in the outbox; the next claim
takes them over and schedules a confirm, for a request that may still be on its way. No transaction
is open during 5 and 6.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.content.document import Recipe
from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Outcome, Verdict
from memory_pipeline.domain.types import MemoryId, ProvenanceUpdate, TenantId, Token
from memory_pipeline.errors import (
    ConfigurationChanged,
    Corrupt,
    EmbedderUnavailable,
    Fenced,
    PipelineError,
    Poison,
    Transient,
)
from memory_pipeline.logs import get_logger
from memory_pipeline.ports import Embedder, Index, Lease, Memories, Outbox, Registry
from memory_pipeline.sync.batch import embed_and_back_up
from memory_pipeline.sync.damage import Damage
from memory_pipeline.sync.freshness import Freshness
from memory_pipeline.sync.generations import PLACING, Generations
from memory_pipeline.sync.plan import plan_batch

log = get_logger("memory_pipeline.sync.tenant")


# Rewriting documents hides others beside them; each so many changes it is looked which.
CHANGES_A_LOOK = 20


class _ColdModel(Exception):
    """The model has to be loaded first, which takes longer than a lease."""


@dataclass(frozen=True, slots=True)
class Sync:
    """Syncs tenants, one after the other, in one thread."""

    outbox: Outbox
    memories: Memories
    registry: Registry
    index: Index
    embedder: Embedder
    recipe: Recipe
    trust: bool
    slice_seconds: float
    freshness: Freshness = field(default_factory=Freshness)
    clock: Clock = SYSTEM_CLOCK
    placing: AbstractContextManager[object] = PLACING
    # What becomes of the document of a memory whose newest content is refused.
    dead_letter_search: Literal["previous", "hidden"] = "previous"
    # The token under which each tenant was last brought up to date by this very process.
    _last: dict[TenantId, Token] = field(default_factory=dict)

    @property
    def generations(self) -> Generations:
        """What decides which generations are written."""
        return Generations(
            self.registry,
            self.memories,
            self.index,
            self.recipe,
            self.embedder.model,
            self.placing,
        )

    @property
    def damage(self) -> Damage:
        """What decides whether a live collection is damaged."""
        return Damage(self.registry, self.index)

    def run(
        self,
        tenant: TenantId,
        *,
        once: bool = False,
        progress: Callable[[Outcome], None] = lambda _: None,
    ) -> Outcome:
        """Bring all changes that stand; under a steady stream of new ones, those are for the next.

        Never raises for the tenant's own troubles: the outcome's verdict tells them.

        Args:
            tenant: whose changes.
            once: one batch and no more, because other tenants wait for theirs.
            progress: told after each batch.

        Raises:
            PostgresUnavailable: nothing can be said about any tenant.
            ModelMissing: the model has to be pulled first.

        """
        while True:
            try:
                return self._under_lease(tenant, progress, once=once)
            except _ColdModel:
                try:
                    self.embedder.load()
                except EmbedderUnavailable as broken:
                    return self.postpone(tenant, str(broken))

    def _under_lease(
        self, tenant: TenantId, progress: Callable[[Outcome], None], *, once: bool
    ) -> Outcome:
        began = self.clock.monotonic()
        self.registry.register(tenant)
        lease = self.outbox.acquire_lease(tenant)
        if lease is None:
            return Outcome(tenant, "busy")
        outcome, claim = Outcome(tenant), Claim((), ())
        error: PipelineError | None = None
        try:
            self._prepare(lease)
            look, newest = False, None
            while (claim := self.outbox.claim(lease)).changes:
                outcome = self._batch(lease, claim, outcome)
                progress(replace(outcome, seconds=self.clock.monotonic() - began))
                look = look or _is_time_to_look(claim)
                if once or not outcome.more or (newest and claim.changes[0].seq > newest):
                    break
                if newest is None or claim.resets:  # what a reset enqueued belongs to this sync
                    newest = self.outbox.newest_seq(tenant)
            outcome = replace(outcome, more=outcome.more and bool(claim.changes))
            if look and (claim := self._claim_hidden(lease)).changes:
                self._batch(lease, claim, Outcome(tenant))
        except _ColdModel:
            self.outbox.unclaim(lease, claim)
            self.outbox.release_lease(lease)
            raise
        except PipelineError as stopped:
            error = stopped
            verdict = self._verdict(lease, claim, stopped)
            outcome = replace(
                outcome, verdict=verdict, error=type(stopped).__name__, reason=str(stopped)
            )
        if outcome.verdict != "fenced":
            self.outbox.release_lease(lease, error=str(error) if error else None)
        if error is None:
            self._last[tenant] = lease.token
        outcome = replace(outcome, seconds=self.clock.monotonic() - began)
        tell = log.info if outcome.newest_change or error else log.debug
        tell("synced", token=lease.token, **_figures(outcome))
        return outcome

    def _prepare(self, lease: Lease) -> None:
        """Prepare the generations, unless nobody else has had the tenant since we had it."""
        if self._last.pop(lease.tenant, None) != lease.token - 1:
            self.generations.prepare(lease)

    def _claim_hidden(self, lease: Lease) -> Claim:
        """Claim the documents that no search finds any more, to write them again."""
        hidden = self.generations.unreachable_documents(lease)
        self.outbox.enqueue(lease.tenant, hidden)
        return self.outbox.claim(lease) if hidden else Claim((), ())

    def _verdict(self, lease: Lease, claim: Claim, error: PipelineError) -> Verdict:
        """Do what the class of the error says, and name it."""
        match error:
            case Fenced():
                return "fenced"
            case Corrupt():
                return self.damage.condemn(lease, error)
            case ConfigurationChanged():
                return "refused"
            case Transient() | Poison():  # Poison of a request without a document: charge nobody
                if isinstance(error, Transient) and not error.sent:
                    self.outbox.unclaim(lease, claim)
                return self.damage.unless_wedged(lease)
            case _:
                raise error

    def _batch(self, lease: Lease, claim: Claim, so_far: Outcome) -> Outcome:
        """Read, embed, write and ack one claim; the numbers are the order."""
        claimed_at = self.clock.monotonic()
        for generation in claim.targets:
            self.generations.check(generation)
        rows, left_out = self.memories.read(claim.memory_ids)  # 4
        if left_out:
            self.outbox.unclaim(lease, claim.only(left_out))
            claim = claim.without(left_out)
        plan = plan_batch(
            lease.tenant,
            claim.memory_ids,
            rows,
            recipe=self.recipe,
            model=self.embedder.model,
            trust=self.trust,
        )
        if plan.to_embed and not self.embedder.loaded:
            raise _ColdModel
        planned_at = self.clock.monotonic()
        embedded = embed_and_back_up(  # 5
            self.embedder,
            self.memories,
            plan.to_embed,
            renew=lease.renew,
            slice_seconds=self.slice_seconds,
            clock=self.clock,
        )
        embedded_at = self.clock.monotonic()
        ready = [*plan.covered, *embedded.ready]
        failures = [
            *plan.refused,
            *embedded.failures,
            *self.generations.write(lease, claim.targets, ready, plan.deletes),
        ]  # 6
        searchable_at = self.clock.monotonic()
        failed = {f.memory_id for f in failures}
        if failed and self.dead_letter_search == "hidden":
            # Before the ack: until their documents are gone, the changes wait.
            self.generations.write(lease, claim.targets, (), sorted(failed))
        # After the write: what this claim has just brought right is not brought right twice.
        differing = [
            i
            for generation in (claim.targets if claim.resets else ())
            for i in self.generations.differing(lease, generation)
        ]
        landed: dict[MemoryId, ProvenanceUpdate | None] = dict.fromkeys(plan.deletes)
        landed |= {d.memory.id: d.provenance_update for d in ready if d.memory.id not in failed}
        buried = self.outbox.ack(  # 7
            lease,
            claim,
            landed=landed,
            failures=failures,
            missed=embedded.missed,
            recheck=[i for i in differing if i not in failed.union(embedded.missed)],
        )
        waited = searchable_at - claimed_at
        self.freshness.record(
            lease.tenant,
            [c.age + waited for c in claim.changes if c.age is not None and c.memory_id in landed],
        )
        return replace(
            so_far,
            written=so_far.written + len(landed) - len(plan.deletes),
            deleted=so_far.deleted + len(plan.deletes),
            embedded=so_far.embedded + len(embedded.ready),
            reused=so_far.reused + len(plan.covered),
            failed=so_far.failed + len(failed),
            buried=so_far.buried + buried,
            newest_change=max(so_far.newest_change, claim.changes[-1].seq),
            embed_seconds=so_far.embed_seconds + embedded_at - planned_at,
            write_seconds=so_far.write_seconds + searchable_at - embedded_at,
            more=claim.full or claim.resets or bool(left_out),
        )

    def postpone(self, tenant: TenantId, reason: str) -> Outcome:
        """Let the tenant wait for what it cannot do without; nothing is tried."""
        lease = self.outbox.acquire_lease(tenant)
        if lease is not None:
            self.outbox.release_lease(lease, error=reason)
        return Outcome(tenant, "postponed", reason=reason)


def _is_time_to_look(claim: Claim) -> bool:
    # Not at what a look has had written again: in a tight crowd that has no end.
    return claim.resets or any(c.seq % CHANGES_A_LOOK == 0 and not c.recheck for c in claim.changes)


def _figures(outcome: Outcome) -> dict[str, object]:
    return {k: v for k, v in asdict(outcome).items() if v not in {0, ""}}
