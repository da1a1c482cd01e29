"""``memory-pipeline sync``: drain the outbox in the foreground."""

from collections.abc import Sequence
from typing import Annotated

import typer

from memory_pipeline.cli.console import AsJson, err, plain, print_json, progress_bar
from memory_pipeline.cli.durations import duration
from memory_pipeline.cli.tenants import check_known, named
from memory_pipeline.domain.changes import RemainingChanges
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import EXIT_FINDINGS, EXIT_UNAVAILABLE
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.sync.catch_up import ELSEWHERE, WAIT_SECONDS, CaughtUp

COUNTED = ("written", "deleted", "embedded", "reused", "failed", "buried")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(sync)


def sync(
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="Only this one.")] = None,
    wait: Annotated[
        str,
        typer.Option(help="How long to wait for what other processes are syncing: 0, 30s, 5m."),
    ] = f"{WAIT_SECONDS:.0f}s",
    as_json: AsJson = False,
) -> None:
    """Sync all pending changes now, in the foreground.

    Exit code 0: each change that was pending at the start is synced, here or by another process.
    Exit code 3: some are not yet.
    """
    wait_seconds = duration(wait)
    with opened(discover(Settings.load())) as pipeline:
        only = None if tenant is None else set(named(pipeline, [tenant]))
        check_known(pipeline, only or ())
        pipeline.replay_cured()
        caught_up = _catch_up(pipeline, only, wait_seconds)
        # Where no worker runs, no other process compares Postgres with the markers.
        pipeline.restore_watch.watch(seconds=0)
        pending = pipeline.status.totals().pending_changes
    _print(caught_up, pending, as_json=as_json)
    _exit_for(caught_up)


def _catch_up(pipeline: Pipeline, only: set[TenantId] | None, wait_seconds: float) -> CaughtUp:
    outcomes: dict[TenantId, Outcome] = {}
    with progress_bar("changes") as bar:
        task = bar.add_task("syncing", total=pipeline.status.totals().pending_changes)

        def show(now: Outcome) -> None:
            outcomes[now.tenant] = now
            done = sum(o.written + o.deleted for o in outcomes.values())
            bar.update(task, description=now.tenant, completed=done)

        return pipeline.catch_up().run(only=only, wait_seconds=wait_seconds, progress=show)


def _print(caught_up: CaughtUp, pending: int, *, as_json: bool) -> None:
    figures = {name: sum(getattr(o, name) for o in caught_up.outcomes) for name in COUNTED}
    if as_json:
        unsynced = sum(r.changes for r in caught_up.remaining)
        print_json({**figures, "pending_changes": pending, "unsynced_changes": unsynced})
    else:
        counted = "  ".join(f"{name} {value}" for name, value in figures.items())
        err.print(f"{counted}  still pending {pending}")


def _exit_for(caught_up: CaughtUp) -> None:
    """Exit with the code of each tenant's last outcome; 0 where all of them are in sync."""
    last = {o.tenant: o for o in caught_up.outcomes}
    stuck = [o for o in last.values() if o.verdict not in {"done", *ELSEWHERE}]
    for outcome in stuck:
        err.print(plain(f"{outcome.tenant}: {outcome.verdict}: {outcome.reason}"))
    if caught_up.remaining:
        err.print(plain(_remaining(caught_up.remaining)))
    if caught_up.remaining or any(o.verdict == "postponed" for o in stuck):
        raise typer.Exit(EXIT_UNAVAILABLE)
    if stuck or any(o.failed for o in last.values()):
        raise typer.Exit(EXIT_FINDINGS)


def _remaining(remaining: Sequence[RemainingChanges]) -> str:
    """Return what is not synced, and who has it."""
    held = [r for r in remaining if r.holder is not None]
    free = [r for r in remaining if r.holder is None]
    reasons = []
    if held:
        holders = sorted({(r.holder or "").rpartition(":")[0] for r in held})
        reasons.append(f"process {', '.join(holders)} is syncing {_counted(held)}")
    if free:
        reasons.append(f"{_counted(free)} pause after an error, or wait for a rebuild under way")
    return f"not synced yet: {'; '.join(reasons)}; wait longer with --wait, or run sync again"


def _counted(remaining: Sequence[RemainingChanges]) -> str:
    return f"{sum(r.changes for r in remaining)} changes of {len(remaining)} tenants"
