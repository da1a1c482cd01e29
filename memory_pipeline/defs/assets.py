"""The assets: memory_logs → memory_embeddings → memory_index, a partition a tenant.

One body syncs or rebuilds any number of tenants and streams the materializations of each as it is
done, so a run that dies half-way keeps those of the finished tenants.
"""

from collections.abc import Iterator

import dagster as dg

from memory_pipeline.defs.check_reports import shown_at_end
from memory_pipeline.defs.partitions import MODE_REBUILD, MODE_TAG, tenants
from memory_pipeline.defs.rebuild_run import rebuild_tenants
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.defs.sync_run import sync_of_tenants

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation

OWNERS = ["team:memory_pipeline"]

memory_logs = dg.AssetSpec(
    "memory_logs",
    description="The application's table: the source of truth. Only applications write it; each "
    "observation carries the number of the tenant's newest change.",
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
    description="The tenant's Chroma collection, which searches query. Derived: it may be lost and "
    "rebuilt at any time.",
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
    # The drain waits for outages itself; a retry of the step is for tenants left over then.
    retry_policy=dg.RetryPolicy(
        max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
    ),
)
def sync_tenants(
    context: dg.AssetExecutionContext, pipeline_resource: PipelineResource
) -> Iterator[Event]:
    """Sync the run's tenants that have changes; in rebuild mode, rebuild all of them."""
    with pipeline_resource.opened() as pipeline:
        mine = set(context.partition_keys)  # read once: each read costs a query
        wanted = {t: key for t, key in pipeline.registry.keys().items() if key in mine}
        if context.run.tags.get(MODE_TAG) == MODE_REBUILD:
            events: Iterator[Event] = pipeline_resource.closed_at_end(
                rebuild_tenants(context, pipeline, wanted)
            )
        else:
            events = sync_of_tenants(context, pipeline, wanted)
        yield from shown_at_end(context, pipeline, wanted, events)
