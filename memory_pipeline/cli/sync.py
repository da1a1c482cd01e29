"""``memory-pipeline sync``: drain the outbox in the foreground."""

from collections.abc import Sequence
from typing import Annotated

import typer

from memory_pipeline.cli.console import AsJson, err, plain, print_json, progress_bar
from memory_pipeline.cli.tenants import check_known, named
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import EXIT_FINDINGS, EXIT_UNAVAILABLE
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings

COUNTED = ("written", "deleted", "embedded", "reused", "failed", "buried")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(sync)


def sync(
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="Only this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Sync all pending changes now, in the foreground."""
    with opened(discover(Settings.load())) as pipeline:
        only = None if tenant is None else set(named(pipeline, [tenant]))
        check_known(pipeline, only or ())
        pipeline.replay_cured()
        outcomes = _drain(pipeline, only)
        # Where no worker runs, no other process compares Postgres with the markers.
        pipeline.restore_watch.watch(seconds=0)
        pending = pipeline.status.totals().pending_changes
    _print(outcomes, pending, as_json=as_json)
    _exit_for(outcomes)


def _drain(pipeline: Pipeline, only: set[TenantId] | None) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with progress_bar("changes") as bar:
        task = bar.add_task("syncing", total=pipeline.status.totals().pending_changes)

        def show(now: Outcome) -> None:
            done = sum(o.written + o.deleted for o in [*outcomes, now])
            bar.update(task, description=now.tenant, completed=done)

        outcomes.extend(pipeline.drain().run(only=only, paused=True, progress=show))
    return outcomes


def _print(outcomes: Sequence[Outcome], pending: int, *, as_json: bool) -> None:
    figures = {name: sum(getattr(o, name) for o in outcomes) for name in COUNTED}
    if as_json:
        print_json({**figures, "pending_changes": pending})
    else:
        counted = "  ".join(f"{name} {value}" for name, value in figures.items())
        err.print(f"{counted}  still pending {pending}")


def _exit_for(outcomes: Sequence[Outcome]) -> None:
    """Exit with the code of each tenant's last outcome; 0 where all of them are in sync."""
    last = {o.tenant: o for o in outcomes}
    stuck = [o for o in last.values() if o.verdict not in {"done", "busy"}]
    for outcome in stuck:
        err.print(plain(f"{outcome.tenant}: {outcome.verdict}: {outcome.reason}"))
    if any(o.verdict == "postponed" for o in stuck):
        raise typer.Exit(EXIT_UNAVAILABLE)
    if stuck or any(o.failed for o in last.values()):
        raise typer.Exit(EXIT_FINDINGS)
