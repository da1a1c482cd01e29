"""The demo: memories travel from Postgres into Chroma and are searched by meaning."""

import time
from importlib.resources import as_file, files
from typing import Annotated

import typer

from memory_pipeline.cli.console import err, fail, out, progress_bar
from memory_pipeline.cli.memories import hits_table
from memory_pipeline.cli.setup import pull
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import EXIT_UNAVAILABLE
from memory_pipeline.local.daemonize import down, running, up
from memory_pipeline.local.discovery import discover, ui_url
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.store import MemoryStore
from memory_pipeline.transfer.importing import Reading, drafted, import_file
from memory_pipeline.transfer.mapping import ByKeys, Finish

PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.5

QUESTIONS = (
    ("ada", "Why did people pay two times for one order?"),
    ("ben", "What made the battery run flat?"),
    ("elif", "How do we shut out employees who quit?"),
)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(demo)


def demo(
    end: Annotated[bool, typer.Option("--exit", help="Exit after the searches.")] = False,
) -> None:
    """Start all services, sync a sample, and search it by meaning."""
    settings = Settings.load()
    if settings.embedder == "model":
        pull()
    was_running = running(settings)
    if not was_running:
        err.print("starting Postgres, Chroma and Dagster …")
        up(settings, detach=True)
    try:
        _show(discover(settings))
        if not end and not was_running:
            err.print("Ctrl-C ends the demo and stops the services.")
            _wait_for_ctrl_c()
    finally:
        if not was_running:
            down(settings)


def _show(settings: Settings) -> None:
    with opened(settings) as pipeline:
        imported = _import_sample(pipeline)
        err.print(
            f"imported {imported} memories of 5 tenants into memory_logs"
            if imported
            else "the sample is already in memory_logs"
        )
        _wait_for_sync(pipeline, ui_url(settings))
    with MemoryStore(settings) as store:
        for tenant, question in QUESTIONS:
            out.print(f"\n{tenant}: {question}", style="bold", markup=False)
            out.print(hits_table(store.search(tenant, question, k=3)))
    out.print(f"\nDagster shows every tenant: {ui_url(settings)}/assets/memory_index")
    out.print("Try next, in another terminal:")
    for line in (
        'memory-pipeline search --tenant ada "a customer paid two times"',
        'memory-pipeline remember --user ada \'{"summary": "the cat sleeps on the router"}\'',
        "memory-pipeline status",
        "memory-pipeline tenants",
    ):
        out.print(f"  .venv/bin/{line}", markup=False)


def _import_sample(pipeline: Pipeline) -> int:
    sample = files("memory_pipeline.local") / "sample.jsonl"
    with as_file(sample) as path:
        reading = Reading(ByKeys(), Finish())
        tenants = {TenantId(str(memory.user_id)) for memory in drafted(path, reading)}
        held = sum(pipeline.memories.count(tenant) for tenant in tenants)
        return 0 if held else import_file(pipeline.transfer, path, reading).stored.imported


def _wait_for_sync(pipeline: Pipeline, ui: str) -> None:
    """Wait until the worker has emptied the outbox."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    most = waiting = pipeline.status.totals().pending_changes
    err.print(f"embedding and syncing them; Dagster shows every tenant at {ui}")
    with progress_bar("changes") as bar:
        task = bar.add_task("syncing", total=most)
        while waiting:
            if time.monotonic() > deadline:
                fail(
                    f"{waiting} changes are still pending after {PATIENCE_SECONDS:.0f} s; "
                    "`memory-pipeline status` shows why",
                    code=EXIT_UNAVAILABLE,
                )
            time.sleep(POLL_SECONDS)
            waiting = pipeline.status.totals().pending_changes
            most = max(most, waiting)
            bar.update(task, total=most, completed=most - waiting)
    err.print("all memories are in their tenants' collections")


def _wait_for_ctrl_c() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        err.print("stopping …")
