"""Which tenants need a sync run now: shared by the sensor and the sweep."""

from collections.abc import Sequence

import dagster as dg

from memory_pipeline.defs.run_requests import run_requests, under_way
from memory_pipeline.defs.runs import left_to_rebuilds, unfinished
from memory_pipeline.domain.changes import PendingTenant
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ServerLost
from memory_pipeline.pipeline import Pipeline


def identify_servers(pipeline: Pipeline) -> None:
    """Probe the Chroma servers; retire lost ones if ON_SERVER_LOSS is rebuild."""
    rebuilds = pipeline.settings.on_server_loss == "rebuild"
    try:
        pipeline.servers.check_identity()
    except ServerLost:
        if not rebuilds:
            raise
    pipeline.restore_watch.watch()
    if rebuilds and any(s.state == "lost" for s in pipeline.registry.servers()):
        pipeline.servers.replace_lost()
        pipeline.servers.check_identity()


def left_to_runs(pipeline: Pipeline, pending: Sequence[PendingTenant]) -> list[PendingTenant]:
    """Leave recent changes to the workers, while one is healthy; return the others."""
    grace = pipeline.settings.run_takeover_seconds if pipeline.workers.healthy() else 0.0
    return [p for p in pending if p.waits_seconds >= grace]


def sync_requests(
    instance: dg.DagsterInstance,
    pipeline: Pipeline,
    pending: Sequence[PendingTenant],
    registered: dict[TenantId, str],
    keys: list[str],
) -> list[dg.RunRequest]:
    """Request runs for the tenants with changes and for those with a damaged collection."""
    dirty = {registered[p.tenant] for p in pending if p.tenant in registered}
    damaged = set(pipeline.registry.damaged().values())
    rebuilding = left_to_rebuilds(instance, pipeline, pending)
    covered = under_way(unfinished(instance, job="incremental_sync"), keys) | rebuilding
    return run_requests(dirty | damaged, keys, covered)


def skip_reason_of(pending: int) -> str:
    """Explain why no run is requested; changes left to the workers are not counted."""
    if pending:
        return f"{pending} tenants have changes; runs for them are under way"
    return "no changes"
