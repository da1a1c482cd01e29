"""Commands that report and change nothing: status and tenants."""

from collections.abc import Sequence
from typing import Any

import typer
from rich.table import Table

from memory_pipeline.cli.console import AsJson, err, out, plain, print_json
from memory_pipeline.domain.lags import Lags
from memory_pipeline.domain.status import TenantStatus, WorkerInfo
from memory_pipeline.domain.types import Generation
from memory_pipeline.errors import (
    EXIT_UNAVAILABLE,
    PipelineError,
    PostgresUnavailable,
    Transient,
)
from memory_pipeline.local.discovery import discover
from memory_pipeline.local.service_states import service_states
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings

# While one of these is not 0, the counts of memories and documents may differ.
UNSETTLED = (
    "pending_changes",
    "retrying",
    "damaged_tenants",
    "unproven_tenants",
    "rebuilding_tenants",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (status, tenants):
        app.command()(command)


def status(as_json: AsJson = False) -> None:
    """Show services, index, pending changes and failures."""
    settings = discover(Settings.load())
    figures: dict[str, Any] = {
        "services": service_states(settings),
        "embedder": settings.embedder,
    }
    problems, available = _inspect(settings, figures)
    figures |= {"problems": list(dict.fromkeys(problems)), "settings": settings.shown()}
    if as_json:
        print_json(figures)
    else:
        _print(figures, settings)
    if not available:
        raise typer.Exit(EXIT_UNAVAILABLE)


def tenants(as_json: AsJson = False) -> None:
    """List every tenant: collection, memories, pending changes."""
    with opened(discover(Settings.load())) as pipeline:
        fresh = pipeline.workers.freshness()
        lines = [
            _line(pipeline, tenant) | {"freshness_ms": _milliseconds(fresh.get(tenant.tenant))}
            for tenant in pipeline.status.tenants()
        ]
    if as_json:
        print_json(lines)
        return
    table = Table(box=None, pad_edge=False)
    shown = ("tenant", "memories", "documents", "pending_changes", "dead_letters", "lag_seconds")
    for name in shown:
        table.add_column(name.replace("_", " "), no_wrap=True)
    for line in lines:
        table.add_row(*(plain("?" if line[name] is None else line[name]) for name in shown))
    out.print(table)


def _inspect(settings: Settings, figures: dict[str, Any]) -> tuple[list[str], bool]:
    """Add what Postgres and Chroma report; return the problems, and whether Postgres answers."""
    problems: list[str] = []
    try:
        with opened(settings) as pipeline:
            figures |= _figures(pipeline)
            problems += pipeline.epochs.unproven().problems()
            problems += pipeline.servers.problems()
            figures["servers"] = _servers(pipeline)
            problems += [f"capture is broken: {b}" for b in pipeline.status.broken_capture()]
            problems += pipeline.status.unseen()
            problems += pipeline.status.publications()
            problems += _reports(figures, pipeline.workers.healthy())
            problems += _backup(pipeline)
            problems += _documents(pipeline, figures)
            problems += _impossible(pipeline, figures)
            problems += _damage(figures)
            problems += _erasures(pipeline)
    except PostgresUnavailable as error:
        return [*problems, str(error)], False
    return problems, True


def _figures(pipeline: Pipeline) -> dict[str, Any]:
    totals = pipeline.status.totals()
    return {
        "memories": totals.memories,
        "documents": None,
        "pending_changes": totals.pending_changes,
        "oldest_pending_seconds": round(totals.oldest_pending_seconds, 3),
        "dead_letters": totals.dead_letters,
        "waived_dead_letters": totals.waived_dead_letters,
        "retrying": totals.retrying,
        "tenants": totals.tenants,
        "paused_tenants": totals.paused_tenants,
        "damaged_tenants": totals.damaged_tenants,
        "unproven_tenants": len(pipeline.epochs.unproven().tenants),
        "rebuilding_tenants": totals.rebuilding_tenants,
        "findings_of_last_verify": totals.findings,
        "unread_dates_of_last_verify": totals.unread_dates,
        "memories_without_tenant": totals.memories_without_tenant,
        "freshness_ms": _milliseconds(pipeline.workers.freshness().get(None)),
        "model": pipeline.embedder.model,
    }


def _milliseconds(lags: Lags | None) -> dict[str, float] | None:
    """Return lags in milliseconds; None where nothing was synced recently."""
    return None if lags is None else lags.milliseconds()


def _backup(pipeline: Pipeline) -> list[str]:
    refusal = pipeline.status.backup_refusal()
    if refusal is None or refusal.backup != pipeline.settings.backup:
        return []  # another setting was chosen since
    return [refusal.problem]


def _damage(figures: dict[str, Any]) -> list[str]:
    damaged, found = figures["damaged_tenants"], figures["findings_of_last_verify"]
    problems = []
    if damaged:
        problems.append(f"{damaged} collections are damaged or lost: `memory-pipeline rebuild`")
    if found:
        problems.append(f"the last verify found {found}: `memory-pipeline verify --repair`")
    if unread := figures["unread_dates_of_last_verify"]:
        problems.append(
            f"the last verify saw {unread} memories with a date that cannot be read: no filter by "
            'time finds them; `memory-pipeline search --where \'{"date_ts": ""}\'` does'
        )
    return problems


def _impossible(pipeline: Pipeline, figures: dict[str, Any]) -> list[str]:
    """Return counts that cannot all be right while nothing changes: nothing pending is no proof."""
    documents, memories = figures["documents"], figures["memories"]
    if documents is None or any(figures[name] for name in UNSETTLED):
        return []
    most = memories - figures["memories_without_tenant"]
    least = most - figures["dead_letters"] - figures["waived_dead_letters"]
    now = pipeline.status.totals()  # the documents were counted some time after the memories
    if least <= documents <= most or now.memories != memories or now.pending_changes:
        return []
    problem = (
        f"{most} memories of tenants, {documents} documents, and nothing is pending: the index "
        "differs from the table: `memory-pipeline verify --repair`"
    )
    return [problem]


def _reports(figures: dict[str, Any], workers: Sequence[WorkerInfo]) -> list[str]:
    """Add the workers; return which of them cannot tell Dagster what they synced."""
    figures["workers"] = len(workers)
    figures["unreported_tenants"] = sum(worker.unreported_tenants for worker in workers)
    return [
        f"the worker {worker.pid} on {worker.host} could not tell Dagster of "
        f"{worker.unreported_tenants} synced tenants, for {worker.report_failing_seconds:.0f} s: "
        f"{worker.report_failure}"
        for worker in workers
        if worker.report_failure is not None
    ]


def _erasures(pipeline: Pipeline) -> list[str]:
    """Return a line for each tenant whose forgetting is not finished."""
    return [
        f"tenant {e.tenant} is being forgotten since {e.requested_at:%Y-%m-%d %H:%M} UTC"
        f"{f', which waits: {e.waits_for}' if e.waits_for else ''}: a worker continues, "
        "`memory-pipeline forget-tenant` proves it"
        for e in pipeline.erasures.pending()
    ]


def _servers(pipeline: Pipeline) -> list[dict[str, Any]]:
    return [
        {"id": str(s.id), "url": s.url, "state": s.state, "memories": s.memories}
        for s in pipeline.registry.servers()
    ]


def _documents(pipeline: Pipeline, figures: dict[str, Any]) -> list[str]:
    """Count the documents in Chroma; return the problems of doing so, each once."""
    count, problems = 0, []
    for tenant in pipeline.status.tenants():
        documents, problem = _count(pipeline, tenant)
        count += documents or 0
        if tenant.last_error:
            problems.append(f"tenant {tenant.tenant} waits: {tenant.last_error}")
        if problem:
            problems.append(problem)
            if documents is None:
                return list(dict.fromkeys(problems))
    figures["documents"] = count
    return list(dict.fromkeys(problems))


def _count(pipeline: Pipeline, tenant: TenantStatus) -> tuple[int | None, str]:
    if tenant.generation is None or tenant.server is None:
        return 0, ""
    generation = Generation(
        tenant.generation, tenant.tenant, tenant.server, tenant.collection_id, "", ""
    )
    try:
        return pipeline.index.count(generation, seconds=pipeline.settings.request_seconds), ""
    except Transient as error:
        return None, str(error)
    except PipelineError as error:
        return 0, f"tenant {tenant.tenant}: {error}"


def _line(pipeline: Pipeline, tenant: TenantStatus) -> dict[str, Any]:
    documents, _ = _count(pipeline, tenant)
    return {
        "tenant": tenant.tenant,
        "partition_key": tenant.partition_key,
        "collection": f"memories-{tenant.generation}" if tenant.generation else None,
        "collection_id": str(tenant.collection_id) if tenant.collection_id else None,
        "server": str(tenant.server) if tenant.server else None,
        "generation": str(tenant.generation) if tenant.generation else None,
        "memories": tenant.memories,
        "documents": documents,
        "pending_changes": tenant.pending_changes,
        "dead_letters": tenant.dead_letters,
        "waived_dead_letters": tenant.waived_dead_letters,
        "lag_seconds": round(tenant.lag_seconds, 3),
        "last_synced_at": tenant.last_synced_at.isoformat() if tenant.last_synced_at else None,
        "last_error": tenant.last_error,
    }


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {figure}" for name, figure in value.items())
    return "?" if value is None else str(value)


def _print(figures: dict[str, Any], settings: Settings) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for name, state in figures["services"].items():
        table.add_row(name, state)
    for name, value in figures.items():
        if name not in {"services", "servers", "problems", "embedder", "settings"}:
            table.add_row(name.replace("_", " "), _shown(value))
    for server in figures.get("servers", ()):
        table.add_row(
            f"server {server['state']}", f"{server['url']}: {server['memories']} memories"
        )
    out.print(table)
    if settings.embedder == "hashing":
        err.print(
            "embedder: hashing. A lexical stand-in for tests: searches compare words, not meaning"
        )
    for problem in figures["problems"]:
        err.print(plain(f"! {problem}"))
