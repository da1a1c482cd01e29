"""A run in rebuild mode: rebuild the collections of its tenants.

The rebuild is named after the backfill, or after the first of the runs that retry each other: a
later run of the same name skips the tenants that are done and resumes the others.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing

import dagster as dg

from memory_pipeline.defs.check_results import (
    LAST_REBUILD,
    SHOWN_TENANTS,
    after_sync,
    failed_rebuilds,
    of_all,
)
from memory_pipeline.defs.materializations import (
    is_about_live_collection,
    newest_materialization,
    rebuilt,
    slowest_tenants,
)
from memory_pipeline.defs.partitions import RE_EMBED_TAG, RE_EMBED_YES
from memory_pipeline.domain.outcomes import Rebuilt
from memory_pipeline.domain.types import RebuildId, TenantId
from memory_pipeline.pipeline import Pipeline

BACKFILL_TAG = "dagster/backfill"

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation


def rebuild_id(run: dg.DagsterRun, instance: dg.DagsterInstance) -> RebuildId:
    """Return the id of the rebuild that a run belongs to.

    A run re-executed after the end of its backfill has lost the backfill's tag; its root run still
    has it.
    """
    root = instance.get_run_by_id(run.root_run_id) if run.root_run_id else None
    first = root or run
    return RebuildId(f"dagster-{first.tags.get(BACKFILL_TAG) or first.run_id}")


def rebuild_tenants(
    context: dg.AssetExecutionContext, pipeline: Pipeline, wanted: Mapping[TenantId, str]
) -> Generator[Event]:
    """Rebuild these tenants; yield the events of each as it ends.

    Raises:
        Failure: some tenants could not be rebuilt. The others stay materialized.

    """
    for server in pipeline.servers.replace_lost():
        context.log.warning("Chroma server %s has lost its data and was retired", server)
    ended: list[Rebuilt] = []
    running = pipeline.rebuild().run(
        rebuild_id(context.run, context.instance),
        list(wanted),
        re_embed=context.run.tags.get(RE_EMBED_TAG) == RE_EMBED_YES,
    )
    # Closing the generator stops its threads.
    with closing(running):
        for one in running:
            ended.append(one)
            yield from _events_of(context.instance, pipeline, one, wanted[one.tenant])
    yield from slowest_tenants(ended)
    yield of_all(LAST_REBUILD, failed_rebuilds(pipeline), tenants=len(pipeline.registry.keys()))
    troubled = [r for r in ended if r.verdict in {"busy", "failed"}]
    if troubled:
        skipped = [r for r in ended if r.verdict == "skipped"]
        yield from _kept_green(context, pipeline, skipped, wanted)
        raise _failure(troubled, len(wanted))


def _events_of(
    instance: dg.DagsterInstance, pipeline: Pipeline, one: Rebuilt, key: str
) -> Iterator[Event]:
    """Yield the events of one tenant; a skipped one was reported unless its run died before."""
    done = one.verdict == "done"
    if one.verdict == "skipped":
        done = not is_about_live_collection(instance, pipeline, one.tenant, key)
    if done:
        yield from rebuilt(pipeline, one, key)
    if done or one.verdict == "failed":
        yield from after_sync(instance, pipeline, one.tenant, key)


def _kept_green(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    skipped: Sequence[Rebuilt],
    wanted: Mapping[TenantId, str],
) -> Iterator[Event]:
    """Materialize again the tenants that an earlier run has rebuilt.

    Dagster shows every partition red that a failed run has not materialized.
    """
    for one in skipped:
        key = wanted[one.tenant]
        newest = newest_materialization(context.instance, key)
        if newest is None or newest.run_id != context.run.run_id:
            yield from rebuilt(pipeline, one, key)
            yield from after_sync(context.instance, pipeline, one.tenant, key)


def _failure(troubled: Sequence[Rebuilt], asked: int) -> dg.Failure:
    return dg.Failure(
        f"{len(troubled)} of {asked} tenants could not be rebuilt: {troubled[0].reason}",
        metadata={r.tenant: f"{r.verdict}: {r.reason}" for r in troubled[:SHOWN_TENANTS]},
        # Another rebuild of the tenant takes longer than the pause before a retry.
        allow_retries=any(r.verdict != "busy" for r in troubled),
    )
