"""What a run in rebuild mode does: build the collections of its tenants anew.

The rebuild is named after the backfill, or after the first of the runs that retry each other: so
whoever comes again skips the tenants that are done and goes on with the others where they are.
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
    newest_materialization,
    rebuilt,
    slowest_tenants,
    tells_of_live,
)
from memory_pipeline.defs.partitions import RE_EMBED_TAG, RE_EMBED_YES
from memory_pipeline.domain.outcomes import Rebuilt
from memory_pipeline.domain.types import RebuildId, TenantId
from memory_pipeline.pipeline import Pipeline

BACKFILL_TAG = "dagster/backfill"

Event = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation


def rebuild_id(run: dg.DagsterRun, instance: dg.DagsterInstance) -> RebuildId:
    """Name the rebuild that a run is a part of.

    A run that a person re-executes after the end of its backfill bears the backfill's tag no more,
    but the first of its line does.
    """
    root = instance.get_run_by_id(run.root_run_id) if run.root_run_id else None
    first = root or run
    return RebuildId(f"dagster-{first.tags.get(BACKFILL_TAG) or first.run_id}")


def rebuild_tenants(
    context: dg.AssetExecutionContext, parts: Pipeline, wanted: Mapping[TenantId, str]
) -> Generator[Event]:
    """Rebuild these tenants; yield what is to be said of each as it ends.

    Raises:
        Failure: some could not be rebuilt. The others stay materialized.

    """
    for server in parts.servers.replace_lost():
        context.log.warning("Chroma server %s has lost its data, and was given up", server)
    ended: list[Rebuilt] = []
    running = parts.rebuild().run(
        rebuild_id(context.run, context.instance),
        list(wanted),
        re_embed=context.run.tags.get(RE_EMBED_TAG) == RE_EMBED_YES,
    )
    # Closed, it stops its threads.
    with closing(running):
        for one in running:
            ended.append(one)
            yield from _told(context.instance, parts, one, wanted[one.tenant])
    yield from slowest_tenants(ended)
    yield of_all(LAST_REBUILD, failed_rebuilds(parts), tenants=len(parts.registry.keys()))
    troubled = [r for r in ended if r.verdict in {"busy", "failed"}]
    if troubled:
        skipped = [r for r in ended if r.verdict == "skipped"]
        yield from _kept_green(context, parts, skipped, wanted)
        raise _failure(troubled, len(wanted))


def _told(instance: dg.DagsterInstance, parts: Pipeline, one: Rebuilt, key: str) -> Iterator[Event]:
    """Tell of one tenant. What was done before is told again only if nobody has told of it."""
    done = one.verdict == "done"
    if one.verdict == "skipped":
        done = not tells_of_live(instance, parts, one.tenant, key)
    if done:
        yield from rebuilt(parts, one, key)
    if done or one.verdict == "failed":
        yield from after_sync(instance, parts, one.tenant, key)


def _kept_green(
    context: dg.AssetExecutionContext,
    parts: Pipeline,
    skipped: Sequence[Rebuilt],
    wanted: Mapping[TenantId, str],
) -> Iterator[Event]:
    """Tell again of those that an earlier run has done.

    A run that fails paints every partition red that it has not materialized itself.
    """
    for one in skipped:
        key = wanted[one.tenant]
        newest = newest_materialization(context.instance, key)
        if newest is None or newest.run_id != context.run.run_id:
            yield from rebuilt(parts, one, key)
            yield from after_sync(context.instance, parts, one.tenant, key)


def _failure(troubled: Sequence[Rebuilt], asked: int) -> dg.Failure:
    return dg.Failure(
        f"{len(troubled)} of {asked} tenants could not be rebuilt: {troubled[0].reason}",
        metadata={r.tenant: f"{r.verdict}: {r.reason}" for r in troubled[:SHOWN_TENANTS]},
        # Another rebuild of a tenant takes longer than the pause before an attempt.
        allow_retries=any(r.verdict != "busy" for r in troubled),
    )
