"""``memory-pipeline forget-tenant``: erase a tenant, and prove it."""

from dataclasses import asdict
from typing import Annotated

import typer

from memory_pipeline.admin.ports import TenantHistory
from memory_pipeline.cli.console import AsJson, err, out, plain, print_json
from memory_pipeline.cli.services import name_dagster
from memory_pipeline.cli.tenants import named
from memory_pipeline.domain.erasure import Erasure, Place
from memory_pipeline.errors import EXIT_FINDINGS, EXIT_UNAVAILABLE
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings

SIGNS = {"gone": "✓", "left": "!", "unknown": "?", "kept": "·"}


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("forget-tenant")(forget_tenant)


def forget_tenant(
    tenant: Annotated[str, typer.Argument(help="The tenant.", show_default=False)],
    delete_memories: Annotated[
        bool,
        typer.Option("--delete-memories", help="Delete the tenant's memories in memory_logs, too."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a tenant everywhere, and report every place where it was looked for afterwards.

    Its collections on every Chroma server, its changes, dead letters, results, registration and
    Dagster partition are deleted. Exits with 1 where something is left, and with 3 where a place
    could not be looked at; a worker continues then, and the same command proves it. A tenant that
    is written to later is a new one.
    """
    with opened(discover(Settings.load())) as pipeline:
        forget = pipeline.forget(_history(pipeline))
        (named_tenant,) = named(pipeline, [tenant])
        if not yes:
            fate = _fate(forget.count(named_tenant), delete_memories)
            err.print(plain(f"this erases tenant {named_tenant}, and {fate}"))
            typer.confirm("Erase it?", abort=True, err=True)
        erasure = forget.run(named_tenant, delete_memories=delete_memories)
    if as_json:
        print_json({**asdict(erasure), "proven": erasure.proven})
    else:
        _print(erasure)
    if any(place.state == "unknown" for place in erasure.places):
        raise typer.Exit(EXIT_UNAVAILABLE)
    if not erasure.proven:
        raise typer.Exit(EXIT_FINDINGS)


def _fate(memories: int, delete: bool) -> str:
    return f"deletes its {memories} memories in memory_logs" if delete else "no memory"


def _print(erasure: Erasure) -> None:
    for place in erasure.places:
        out.print(plain(_line(place)))
    if erasure.pending:
        err.print(plain(f"not finished: {erasure.pending}; a worker continues, `status` shows it"))
    elif erasure.proven:
        err.print(plain(f"nothing is left of tenant {erasure.tenant} but what is marked · above"))


def _line(place: Place) -> str:
    """Return one place as a line: its sign, what was looked for, what was found, what to do."""
    found = f"{place.found} " if place.found else ""
    words = {"gone": "nothing found", "left": f"{found}left", "unknown": "could not be looked at"}
    said = words.get(place.state, f"{found}kept")
    why = f" ({place.detail})" if place.detail else ""
    advice = f"; {place.next}" if place.next else ""
    return f"{SIGNS[place.state]} {place.name}: {place.looked_for}: {said}{why}{advice}"


def _history(pipeline: Pipeline) -> TenantHistory | None:
    """Return the Dagster of the environment, or of the services here; None where there is none."""
    if not name_dagster(pipeline.settings):
        return None
    from memory_pipeline.defs.tenant_history import DagsterHistory  # noqa: PLC0415 - dagster is slow

    return DagsterHistory(pipeline)
