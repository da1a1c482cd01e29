"""The heart: bring one tenant's collection up to its memories.

claim → read → embed → write → ack, again until a claim comes back empty. The order is the design:

1. take the tenant's lease: one writer a tenant, under a token that only grows
2. prime the collection
3. claim changes; the claim names the generations to write to
4. read the rows as they stand *now*: what the change once meant does not matter
5. embed what the stored vectors do not cover, and back the new vectors up in Postgres
6. write to Chroma, the lease renewed before each request
7. ack under the token: only now are the changes forgotten

A crash, a timeout or a lost lease anywhere leaves the changes claimed in the outbox; the next claim
takes them over and schedules a confirm, for a request that may still be on its way. No transaction
is open during 5 and 6.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from memory_pipeline.batch import embed_drafts, find_differing, write_documents
from memory_pipeline.content import Recipe
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
from memory_pipeline.model import (
    Claim,
    Generation,
    MemoryId,
    Outcome,
    TenantId,
    Verdict,
)
from memory_pipeline.plan import EmbeddedDraft, plan_batch
from memory_pipeline.ports import Embedder, Index, Lease, Memories, Outbox, Registry

log = get_logger("memory_pipeline.sync")

REPLACEMENTS_AN_HOUR = 3


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

    def run(
        self, tenant: TenantId, *, progress: Callable[[Outcome], None] | None = None
    ) -> Outcome:
        """Drain one tenant's changes.

        Never raises for the tenant's own troubles: the outcome's verdict tells them.

        Raises:
            PostgresUnavailable: nothing can be said about any tenant.
            ModelMissing: the model has to be pulled first.

        """
        while True:
            try:
                return self._under_lease(tenant, progress or (lambda _: None))
            except _ColdModel:
                try:
                    self.embedder.load()
                except EmbedderUnavailable as broken:
                    return self._postpone(tenant, str(broken))

    def _under_lease(self, tenant: TenantId, progress: Callable[[Outcome], None]) -> Outcome:
        began = time.monotonic()
        self.registry.register(tenant)
        lease = self.outbox.take(tenant)
        if lease is None:
            return Outcome(tenant, "busy")
        outcome, claim = Outcome(tenant), Claim((), ())
        error: PipelineError | None = None
        try:
            self.index.prime(self._live(lease), hold=lease.hold)
            while (claim := self.outbox.claim(lease)).changes:
                outcome = self._batch(lease, claim, outcome)
                progress(replace(outcome, seconds=time.monotonic() - began))
        except _ColdModel:
            self.outbox.let_go(lease, claim)
            self.outbox.release(lease)
            raise
        except PipelineError as stopped:
            error = stopped
            outcome = replace(outcome, verdict=self._verdict(lease, claim, stopped))
        if outcome.verdict != "fenced":
            self.outbox.release(lease, error=str(error) if error else None)
        outcome = replace(outcome, seconds=time.monotonic() - began, reason=str(error or ""))
        log.info("synced", token=lease.token, **_figures(outcome))
        return outcome

    def _verdict(self, lease: Lease, claim: Claim, error: PipelineError) -> Verdict:
        """Do what the class of the error says, and name it."""
        match error:
            case Fenced():
                return "fenced"
            case Corrupt():
                return self._replace(lease, error)
            case ConfigurationChanged():
                return "refused"
            case Transient(sent=False):
                self.outbox.let_go(lease, claim)
                return "postponed"
            case Transient() | Poison():  # Poison of a request without a document: charge nobody
                return "postponed"
            case _:
                raise error

    def _live(self, lease: Lease) -> Generation:
        """Return the tenant's live generation, begun now if there is none."""
        generation = self.registry.live(lease.tenant)
        if generation is None:
            memories = self.memories.count(lease.tenant)
            begun = self.registry.begin(
                lease.tenant,
                self.index.place(),
                model=self.embedder.model,
                config_hash=self.recipe.config_hash,
            )
            generation = self.index.create(begun, memories=memories, hold=lease.hold)
            self.registry.go_live(lease, generation)
        self._check(generation)
        return generation

    def _check(self, generation: Generation) -> None:
        """Refuse to mix models or recipes in one collection."""
        for what, built, now in (
            ("model", generation.model, self.embedder.model),
            ("fields and document settings", generation.config_hash, self.recipe.config_hash),
        ):
            if built != now:
                raise ConfigurationChanged(
                    f"the collection was built with another {what} ({built}) than the settings "
                    f"name now ({now}): set them back, or rebuild the tenant"
                )

    def _batch(self, lease: Lease, claim: Claim, so_far: Outcome) -> Outcome:
        """Read, embed, write and ack one claim; the numbers are the order."""
        for generation in claim.targets:
            self._check(generation)
        rows, left_out = self.memories.read(claim.memory_ids)  # 4
        if left_out:
            self.outbox.let_go(lease, claim.only(left_out))
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
        embedded: list[EmbeddedDraft] = []
        stored: set[MemoryId] = set()

        def keep(drafts: Sequence[EmbeddedDraft]) -> None:
            embedded.extend(drafts)
            stored.update(
                self.memories.back_up(
                    {d.memory.id: (d.memory, d.vector, d.provenance) for d in drafts}
                )
            )

        failures = embed_drafts(  # 5
            self.embedder,
            plan.to_embed,
            hold=lease.hold,
            slice_seconds=self.slice_seconds,
            keep=keep,
        )
        ready = [*plan.covered, *(d for d in embedded if d.memory.id in stored)]
        for generation in claim.targets:  # 6
            failures += write_documents(
                self.index, generation, ready, plan.deletes, hold=lease.hold
            )
        failed = {f.memory_id for f in failures}
        missed = [d.memory.id for d in embedded if d.memory.id not in stored]
        # After the write: what this claim has just brought right is not brought right twice.
        differing = (
            find_differing(self.index, self.memories, claim.targets, self.recipe, lease=lease)
            if claim.resets
            else []
        )
        landed = {d.memory.id: d.provenance for d in ready if d.memory.id not in failed}
        buried = self.outbox.ack(  # 7
            lease,
            claim,
            landed={**landed, **dict.fromkeys(plan.deletes)},
            failures=failures,
            missed=missed,
            again=[i for i in differing if i not in failed.union(missed)],
        )
        return replace(
            so_far,
            written=so_far.written + len(landed),
            deleted=so_far.deleted + len(plan.deletes),
            embedded=so_far.embedded + len(stored),
            reused=so_far.reused + len(plan.covered),
            failed=so_far.failed + len(failed),
            buried=so_far.buried + buried,
            newest_change=max(so_far.newest_change, claim.changes[-1].seq),
        )

    def _replace(self, lease: Lease, damage: Corrupt) -> Verdict:
        """Stop using a damaged generation, so that the next sync builds another; capped."""
        try:
            # Where the whole server is lost, this collection is not to blame.
            self.index.recognise()
        except Transient:
            return "postponed"
        if damage.generation is None:
            return "postponed"
        if self.registry.recently_abandoned(lease.tenant) >= REPLACEMENTS_AN_HOUR:
            return "refused"
        try:
            self.registry.abandon(lease, damage.generation)
        except Fenced:
            return "fenced"
        return "replaced"

    def _postpone(self, tenant: TenantId, reason: str) -> Outcome:
        """Let the tenant wait for what it cannot do without."""
        lease = self.outbox.take(tenant)
        if lease is not None:
            self.outbox.release(lease, error=reason)
        return Outcome(tenant, "postponed", reason=reason)


def _figures(outcome: Outcome) -> dict[str, object]:
    return {k: v for k, v in asdict(outcome).items() if v not in {0, ""}}
