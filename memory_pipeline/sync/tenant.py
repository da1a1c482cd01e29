"""Sync one tenant: bring its collection up to date with its memories. The order is the design.

1. acquire the tenant's lease: one writer a tenant, under a token that only grows. A new tenant is
   registered first, by its pending changes alone: what a worker remembers brings none back
2. prepare the generations to write
3. claim changes; the claim names the generations to write
4. read the rows as they are *now*, whatever the change once meant
5. embed the texts without a stored vector; back the new vectors up in Postgres
6. write to Chroma; the lease is renewed before each request
7. ack under the token: only now are the changes deleted
8. release the lease

Steps 3 to 7 are a batch; they repeat until every change that existed at the start is synced. After
a crash, a timeout or a lost lease the changes are still claimed in the outbox: the next claim takes
them over and schedules a confirm, because a request may still reach Chroma. No transaction is open
during 5 and 6.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from memory_pipeline.clock import SYSTEM_CLOCK, Clock, Stopwatch
from memory_pipeline.content.document import Recipe
from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.outcomes import Outcome, Verdict
from memory_pipeline.domain.types import TenantId, Token
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
from memory_pipeline.ports import Embedder, Lease
from memory_pipeline.sync.batch import Batch, ColdModel
from memory_pipeline.sync.damage import Damage
from memory_pipeline.sync.freshness import Freshness
from memory_pipeline.sync.generations import PLACING, Generations
from memory_pipeline.sync.ports import Index, Memories, Outbox, Registry

log = get_logger("memory_pipeline.sync.tenant")

# A write can make other documents of the collection unreachable: checked after so many changes.
CHANGES_PER_REACHABILITY_CHECK = 20
NOTHING = Claim((), ())


@dataclass(slots=True)
class _Run:
    """One sync under one lease: the newest claim, and the outcome so far."""

    lease: Lease
    outcome: Outcome
    claim: Claim = NOTHING


@dataclass(frozen=True, slots=True)
class Sync:
    """Syncs tenants, one after the other. Thread-safe for different tenants.

    Attributes:
        trust: whether a vector that the application stored may be used.
        slice_seconds: how long one call of the model may take.
        placing: held while a server is chosen for a new generation.
        dead_letter_search: whether a memory with refused content stays searchable by its previous
            vector.

    """

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
    dead_letter_search: Literal["previous", "hidden"] = "previous"
    # The token under which this process last synced each tenant without an error.
    _last: dict[TenantId, Token] = field(default_factory=dict)

    @property
    def generations(self) -> Generations:
        """The rules for which generations are written."""
        return Generations(
            self.registry,
            self.memories,
            self.index,
            self.recipe,
            self.embedder.model,
            self.placing,
        )

    @property
    def batch(self) -> Batch:
        """Steps 4 to 7."""
        return Batch(
            outbox=self.outbox,
            memories=self.memories,
            embedder=self.embedder,
            recipe=self.recipe,
            trust=self.trust,
            slice_seconds=self.slice_seconds,
            generations=self.generations,
            freshness=self.freshness,
            clock=self.clock,
            dead_letter_search=self.dead_letter_search,
        )

    @property
    def damage(self) -> Damage:
        """The rules for when a live collection is damaged."""
        return Damage(self.registry, self.index)

    def run(
        self,
        tenant: TenantId,
        *,
        once: bool = False,
        progress: Callable[[Outcome], None] = lambda _: None,
    ) -> Outcome:
        """Sync the changes that exist now; newer ones, under a steady stream, are left.

        Never raises for the tenant's own errors: the outcome's verdict names them.

        Args:
            tenant: whose changes.
            once: one batch and no more, because other tenants wait for theirs.
            progress: called with the outcome so far after each batch.

        Raises:
            PostgresUnavailable: no tenant can be synced.
            ModelMissing: the model has to be downloaded first.

        """
        while True:
            try:
                return self._under_lease(tenant, progress, once=once)
            except ColdModel:
                try:
                    self.embedder.load()
                except EmbedderUnavailable as broken:
                    return self.postpone(tenant, str(broken))

    def postpone(self, tenant: TenantId, reason: str) -> Outcome:
        """Let the tenant pause as after an error; nothing is tried."""
        lease = self.outbox.acquire_lease(tenant)
        if lease is not None:
            self.outbox.release_lease(lease, error=reason)
        return Outcome(tenant, "postponed", reason=reason)

    # ---- the lease around the batches

    def _under_lease(
        self, tenant: TenantId, progress: Callable[[Outcome], None], *, once: bool
    ) -> Outcome:
        stopwatch = Stopwatch(self.clock)
        lease = self.outbox.acquire_lease(tenant)  # 1
        if lease is None and self.registry.register_pending(tenant):
            lease = self.outbox.acquire_lease(tenant)
        if lease is None:
            return Outcome(tenant, "busy")
        run, check_due = _Run(lease, Outcome(tenant)), False
        with self._released(run):  # 8
            self._prepare(lease)  # 2
            for claim in self._batches(run, once=once):  # 3 to 7
                progress(replace(run.outcome, seconds=stopwatch.total()))
                check_due = check_due or _reachability_check_due(claim)
            if check_due:
                self._rewrite_unreachable(run)
        outcome = replace(run.outcome, seconds=stopwatch.total())
        level = logging.INFO if outcome.newest_change or outcome.error else logging.DEBUG
        log.log(level, "synced", token=lease.token, **_figures(outcome))
        return outcome

    @contextmanager
    def _released(self, run: _Run) -> Iterator[None]:
        """Turn an error of the block into the run's verdict; release the lease at the end."""
        error: str | None = None
        try:
            yield
        except ColdModel:
            self.outbox.unclaim(run.lease, run.claim)
            self.outbox.release_lease(run.lease)
            raise
        except PipelineError as stopped:
            error = str(stopped)
            verdict = self._verdict(run.lease, run.claim, stopped)
            run.outcome = replace(
                run.outcome, verdict=verdict, error=type(stopped).__name__, reason=error
            )
        if run.outcome.verdict != "fenced":
            self.outbox.release_lease(run.lease, error=error)
        if not run.outcome.error:
            self._last[run.lease.tenant] = run.lease.token

    def _verdict(self, lease: Lease, claim: Claim, error: PipelineError) -> Verdict:
        """Act on the class of the error; return the verdict that names it."""
        match error:
            case Fenced():
                return "fenced"
            case Corrupt():
                return self.damage.condemn(lease, error)
            case ConfigurationChanged():
                return "refused"
            case Transient() | Poison():  # Poison of a request without a document: no memory's
                if isinstance(error, Transient) and not error.sent:
                    self.outbox.unclaim(lease, claim)
                return self.damage.unless_wedged(lease)
            case _:
                raise error

    def _prepare(self, lease: Lease) -> None:
        """Prepare the generations, unless no other worker has had the tenant since this one."""
        if self._last.pop(lease.tenant, None) != lease.token - 1:
            self.generations.prepare(lease)

    def _batches(self, run: _Run, *, once: bool) -> Iterator[Claim]:
        """Sync one batch after the other; yield the claim of each.

        Stops after the newest change that existed when the first batch was done.
        """
        stop_after_seq: int | None = None
        while True:
            run.claim = self.outbox.claim(run.lease)  # 3
            if not run.claim.changes:
                run.outcome = replace(run.outcome, more=False)
                return
            run.outcome = run.outcome.plus(self.batch.run(run.lease, run.claim))
            yield run.claim
            newer = stop_after_seq and run.claim.changes[0].seq > stop_after_seq
            if once or newer or not run.outcome.more:
                return
            if stop_after_seq is None or run.claim.resets:  # a reset's rechecks belong to this sync
                stop_after_seq = self.outbox.newest_seq(run.lease.tenant)

    def _rewrite_unreachable(self, run: _Run) -> None:
        """Write the documents that no search finds once more, in a batch that is not counted."""
        unreachable = self.generations.unreachable_documents(run.lease)
        self.outbox.enqueue(run.lease.tenant, unreachable)
        run.claim = self.outbox.claim(run.lease) if unreachable else NOTHING
        if run.claim.changes:
            self.batch.run(run.lease, run.claim)


def _reachability_check_due(claim: Claim) -> bool:
    # Rechecks do not count: among very similar vectors each rewrite hides others, without end.
    return claim.resets or any(
        c.seq % CHANGES_PER_REACHABILITY_CHECK == 0 and not c.recheck for c in claim.changes
    )


def _figures(outcome: Outcome) -> dict[str, object]:
    return {k: v for k, v in asdict(outcome).items() if v not in {0, ""}}
