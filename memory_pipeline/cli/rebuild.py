"""``memory-pipeline rebuild``: rebuild collections, here or as a backfill in Dagster."""

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

import typer

from memory_pipeline.cli.console import AsJson, err, plain, print_json, progress_bar
from memory_pipeline.cli.tenants import (
    Tenants,
    check_known,
    known_tenants,
    named,
    print_retired,
)
from memory_pipeline.domain.outcomes import Rebuilt
from memory_pipeline.domain.types import RebuildId, TenantId
from memory_pipeline.errors import EXIT_FINDINGS, EXIT_UNAVAILABLE
from memory_pipeline.local.discovery import discover, ui_url
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings

ALL = "all-"
SOME = "some-"
FOLLOW_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(rebuild)


def rebuild(
    tenant: Tenants = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every tenant.")] = False,
    re_embed: Annotated[
        bool, typer.Option("--re-embed", help="Compute every vector again; reuse none.")
    ] = False,
    dagster: Annotated[
        bool, typer.Option("--dagster", help="Launch a backfill in Dagster, and follow it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild collections from Postgres, verify them, switch to them.

    Searches and syncs continue meanwhile. An interrupted rebuild of all tenants is resumed. Chroma
    servers that have lost their data are retired, and their collections built again.
    """
    if bool(tenant) == everyone:
        raise typer.BadParameter("name tenants with --tenant, or use --all")
    with opened(discover(Settings.load())) as pipeline:
        for server in pipeline.servers.replace_lost():
            print_retired(server)
        tenants = known_tenants(pipeline) if everyone else named(pipeline, tenant)
        check_known(pipeline, tenants)
        if dagster:
            complete = _backfill(pipeline, tenants, re_embed=re_embed, as_json=as_json)
            code = 0 if complete else EXIT_FINDINGS
        else:
            name = _name(pipeline, everyone=everyone, re_embed=re_embed)
            code = _rebuild_here(pipeline, name, tenants, re_embed=re_embed, as_json=as_json)
    if code:
        raise typer.Exit(code)


def _name(pipeline: Pipeline, *, everyone: bool, re_embed: bool) -> RebuildId:
    """Name a new rebuild, or return the name of the interrupted rebuild of all tenants."""
    interrupted = pipeline.rebuilds.unfinished(ALL) if everyone else None
    if interrupted is not None and interrupted[1] == re_embed:
        err.print(f"resuming rebuild {interrupted[0]}, which was interrupted", markup=False)
        return interrupted[0]
    kind = ALL if everyone else SOME
    return RebuildId(f"{kind}{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}")


def _rebuild_here(
    pipeline: Pipeline,
    name: RebuildId,
    tenants: Sequence[TenantId],
    *,
    re_embed: bool,
    as_json: bool,
) -> int:
    """Rebuild in this process; return the exit code."""
    began = time.monotonic()
    rebuilt = _rebuild(pipeline, name, tenants, re_embed=re_embed)
    _print(name, rebuilt, time.monotonic() - began, as_json=as_json)
    verdicts = {r.verdict for r in rebuilt}
    if verdicts & {"failed", "stopped"}:
        return EXIT_FINDINGS
    return EXIT_UNAVAILABLE if "busy" in verdicts else 0  # another process rebuilds it


def _rebuild(
    pipeline: Pipeline, name: RebuildId, tenants: Sequence[TenantId], *, re_embed: bool
) -> list[Rebuilt]:
    sizes = pipeline.memories.sizes()
    rebuilt: list[Rebuilt] = []
    with progress_bar("documents", speed=True) as bar:
        task = bar.add_task("rebuilding", total=sum(sizes.get(t, 0) for t in tenants))
        for one in pipeline.rebuild().run(
            name,
            tenants,
            re_embed=re_embed,
            progress=lambda documents: bar.update(task, advance=documents),
        ):
            rebuilt.append(one)
            if one.verdict == "skipped":
                bar.update(task, advance=sizes.get(one.tenant, 0))
            bar.update(task, description=f"{len(rebuilt)} of {len(tenants)} tenants")
    return rebuilt


def _print(name: RebuildId, rebuilt: Sequence[Rebuilt], seconds: float, *, as_json: bool) -> None:
    counted = {
        verdict: sum(r.verdict == verdict for r in rebuilt)
        for verdict in ("done", "skipped", "busy", "stopped", "failed")
    }
    totals = {
        figure: sum(getattr(r, figure) for r in rebuilt)
        for figure in ("written", "reused", "embedded", "repaired")
    }
    rate = round(totals["written"] / max(seconds, 1e-3), 1)
    troubles = {r.tenant: r.reason for r in rebuilt if r.verdict in {"busy", "failed"}}
    if as_json:
        print_json(
            {
                "rebuild": name,
                **counted,
                **totals,
                "seconds": round(seconds, 3),
                "documents_per_second": rate,
                "troubles": troubles,
            }
        )
        return
    shown = {**{k: v for k, v in counted.items() if v}, **totals, "documents a second": rate}
    err.print(f"rebuilt in {seconds:.1f} s: " + "  ".join(f"{k} {v}" for k, v in shown.items()))
    for tenant, reason in troubles.items():
        err.print(plain(f"! {tenant}: {reason}"))


def _backfill(
    pipeline: Pipeline, tenants: Sequence[TenantId], *, re_embed: bool, as_json: bool
) -> bool:
    """Rebuild in runs of Dagster and follow them; return whether every tenant is done."""
    from memory_pipeline.cli.dagster_backfill import launch_backfill  # noqa: PLC0415 - few need it

    ui = ui_url(pipeline.settings)
    if not ui:
        raise typer.BadParameter("Dagster does not run here: start it with `memory-pipeline up`")
    keys = pipeline.registry.keys()
    backfill = launch_backfill(
        ui,
        # A tenant that no trigger has seen is not registered yet.
        tenants_keys=[keys.get(t) or pipeline.registry.register(t) for t in tenants],
        tags={"memory_pipeline/re_embed": "yes"} if re_embed else {},
    )
    err.print(f"backfill {backfill}: {ui}/runs/b/{backfill}", markup=False)
    figures = _followed(pipeline, ui, backfill, tenants)
    if as_json:
        print_json(figures)
    else:
        err.print("  ".join(f"{k} {v}" for k, v in figures.items()), markup=False)
    return bool(figures["done"] >= len(tenants))


def _followed(
    pipeline: Pipeline, ui: str, backfill: str, tenants: Sequence[TenantId]
) -> dict[str, Any]:
    """Show the progress of a backfill until its end; return its figures."""
    from memory_pipeline.cli.dagster_backfill import backfill_state  # noqa: PLC0415 - few need it

    name = RebuildId(f"dagster-{backfill}")
    sizes = pipeline.memories.sizes()
    began = time.monotonic()
    pause = threading.Event()
    with progress_bar("documents", speed=True) as bar:
        task = bar.add_task("rebuilding", total=sum(sizes.get(t, 0) for t in tenants))
        while not (state := backfill_state(ui, backfill)).finished:
            done = pipeline.rebuilds.progress(name)
            bar.update(
                task,
                completed=done.written,
                description=f"{done.done} of {len(tenants)} tenants",
            )
            pause.wait(FOLLOW_SECONDS)
    return {
        "backfill": backfill,
        "status": state.status,
        **asdict(pipeline.rebuilds.progress(name)),
        "seconds": round(time.monotonic() - began, 3),
    }
