"""``memory-pipeline rebuild``: build collections anew, here or as a backfill in Dagster."""

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

import typer

from memory_pipeline.cli.console import err, plain, print_json, progress_bar
from memory_pipeline.cli.memories import EXIT_FINDINGS, AsJson
from memory_pipeline.cli.tenants import Tenants, check_known, give_up_lost, known_tenants
from memory_pipeline.domain.outcomes import Rebuilt
from memory_pipeline.domain.types import RebuildId, TenantId
from memory_pipeline.local.discovery import discover, ui_url
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings

ALL = "all-"
FOLLOW_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Add the command of this room."""
    app.command()(rebuild)


def rebuild(
    tenant: Tenants = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every tenant.")] = False,
    re_embed: Annotated[
        bool, typer.Option("--re-embed", help="Compute every vector anew; reuse none.")
    ] = False,
    dagster: Annotated[
        bool, typer.Option("--dagster", help="As a backfill in Dagster, which is followed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build collections anew from Postgres, prove them, and switch searches over to them.

    Searches and syncs go on meanwhile. One that was cut off goes on where it was. Chroma servers
    that have lost their data are given up, and what they held is built again.
    """
    if bool(tenant) == everyone:
        raise typer.BadParameter("name tenants with --tenant, or say --all")
    with opened(discover(Settings.load())) as pipeline:
        give_up_lost(pipeline)
        tenants = (
            known_tenants(pipeline)
            if everyone
            else [TenantId(t) for t in dict.fromkeys(tenant or ())]
        )
        check_known(pipeline, tenants)
        if dagster:
            _backfill(pipeline, tenants, re_embed=re_embed, as_json=as_json)
            return
        name = _name(pipeline, everyone=everyone, re_embed=re_embed)
        began = time.monotonic()
        rebuilt = _rebuild(pipeline, name, tenants, re_embed=re_embed)
        seconds = time.monotonic() - began
    _tell_rebuilt(name, rebuilt, seconds, as_json=as_json)
    if any(r.verdict in {"failed", "busy", "stopped"} for r in rebuilt):
        raise typer.Exit(EXIT_FINDINGS)


def _name(pipeline: Pipeline, *, everyone: bool, re_embed: bool) -> RebuildId:
    """Name a new rebuild, or the one of all that was cut off."""
    cut_off = pipeline.rebuilds.unfinished(ALL) if everyone else None
    if cut_off is not None and cut_off[1] == re_embed:
        err.print(f"going on with rebuild {cut_off[0]}, which was cut off", markup=False)
        return cut_off[0]
    kind = ALL if everyone else "some-"
    return RebuildId(f"{kind}{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:6]}")


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


def _tell_rebuilt(
    name: RebuildId, rebuilt: Sequence[Rebuilt], seconds: float, *, as_json: bool
) -> None:
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
) -> None:
    from memory_pipeline.cli.dagster_backfill import backfill_state, launch_backfill  # noqa: PLC0415

    ui = ui_url(pipeline.settings)
    if not ui:
        raise typer.BadParameter("Dagster does not run here: start it with `memory-pipeline up`")
    keys = pipeline.registry.keys()
    name = launch_backfill(
        ui,
        tenants_keys=[keys[t] for t in tenants],
        tags={"memory_pipeline/re_embed": "yes"} if re_embed else {},
    )
    err.print(f"backfill {name}: {ui}/runs/b/{name}", markup=False)
    sizes = pipeline.memories.sizes()
    began = time.monotonic()
    following = threading.Event()
    with progress_bar("documents", speed=True) as bar:
        task = bar.add_task("rebuilding", total=sum(sizes.get(t, 0) for t in tenants))
        while not (state := backfill_state(ui, name)).finished:
            done = pipeline.rebuilds.progress(RebuildId(f"dagster-{name}"))
            bar.update(
                task,
                completed=done.written,
                description=f"{done.done} of {len(tenants)} tenants",
            )
            following.wait(FOLLOW_SECONDS)
    done = pipeline.rebuilds.progress(RebuildId(f"dagster-{name}"))
    figures = {
        "backfill": name,
        "status": state.status,
        **asdict(done),
        "seconds": round(time.monotonic() - began, 3),
    }
    if as_json:
        print_json(figures)
    else:
        err.print("  ".join(f"{k} {v}" for k, v in figures.items()), markup=False)
    if done.done < len(tenants):
        raise typer.Exit(EXIT_FINDINGS)
