"""The assets: memory_logs → memory_embeddings → memory_index, a partition a tenant.

One body syncs any number of tenants and streams their materializations as each is done, so a run
that dies half-way loses nothing of what it finished.
"""

from collections.abc import Iterator

import dagster as dg

from memory_pipeline.defs.lineage import materializations, slowest_tenants
from memory_pipeline.defs.partitions import SCOPE_PENDING, SCOPE_TAG, tenants
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.drain import Drain
from memory_pipeline.model import Outcome

OWNERS = ["team:memory_pipeline"]

memory_logs = dg.AssetSpec(
    "memory_logs",
    description="The application's table: the source of truth. Written by applications alone; "
    "each observation carries the number of the tenant's newest change.",
    partitions_def=tenants,
    kinds={"postgres"},
    owners=OWNERS,
    group_name="memories",
    metadata={"dagster/table_name": "public.memory_logs"},
)

memory_embeddings = dg.AssetSpec(
    "memory_embeddings",
    deps=[memory_logs],
    description="The vectors, backed up in memory_logs.embedding, so that no text is embedded "
    "twice and a rebuild needs no model.",
    partitions_def=tenants,
    kinds={"postgres", "huggingface"},
    owners=OWNERS,
    group_name="memories",
    skippable=True,
)

memory_index = dg.AssetSpec(
    "memory_index",
    deps=[memory_embeddings],
    description="The tenant's Chroma collection: what searches go to. Derived; may be lost and "
    "built again at any time.",
    partitions_def=tenants,
    kinds={"chroma"},
    owners=OWNERS,
    group_name="memories",
    skippable=True,
)


@dg.multi_asset(
    name="sync_tenants",
    specs=[memory_embeddings, memory_index],
    backfill_policy=dg.BackfillPolicy.multi_run(100),
    # Tenants wait for an outage inside the pipeline; a retry of the step is for what is left then.
    retry_policy=dg.RetryPolicy(
        max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
    ),
)
def sync_tenants(
    context: dg.AssetExecutionContext, pipeline: PipelineResource
) -> Iterator[dg.AssetMaterialization | dg.AssetObservation]:
    """Sync the run's tenants that have changes; say of the others that they are in sync."""
    with pipeline.opened() as parts:
        mine = set(context.partition_keys)  # asked once: each time costs a query
        wanted = {t: key for t, key in parts.registry.keys().items() if key in mine}
        by_sensor = context.run.tags.get(SCOPE_TAG) == SCOPE_PENDING
        last: dict[str, Outcome] = {}
        drain = Drain(parts.outbox, parts.sync())
        # The sweep's runs, a person's and a retry are for the tenants that pause as well.
        swept = "dagster/schedule_name" in context.run.tags
        paused = context.retry_number > 0 or swept or not by_sensor
        for outcome in drain.run(only=wanted, paused=paused):
            last[outcome.tenant] = outcome
            if outcome.verdict == "done":
                yield from materializations(parts, outcome, wanted[outcome.tenant])
        if not by_sensor:
            for tenant, key in wanted.items():
                if tenant not in last and parts.outbox.pending(tenant) == 0:
                    yield from materializations(parts, Outcome(tenant), key)
        yield from slowest_tenants(list(last.values()))
        stuck = [o for o in last.values() if o.verdict not in {"done", "busy"}]
    if stuck:
        raise dg.Failure(
            f"{len(stuck)} of {len(wanted)} tenants could not be synced; their changes wait: "
            f"{stuck[0].reason}",
            metadata={o.tenant: f"{o.verdict}: {o.reason}" for o in stuck[:50]},
            # Other settings would be needed, not another attempt.
            allow_retries=any(o.verdict != "refused" for o in stuck),
        )
