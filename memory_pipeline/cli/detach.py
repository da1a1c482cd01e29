"""``memory-pipeline detach``: remove the pipeline from a database."""

from dataclasses import asdict
from typing import Annotated

import typer

from memory_pipeline.admin.detach import Removal
from memory_pipeline.cli.console import AsJson, err, print_json
from memory_pipeline.errors import EXIT_UNAVAILABLE
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(detach)


def detach(
    drop_collections: Annotated[
        bool,
        typer.Option("--drop-collections", help="Drop the collections in Chroma as well."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the pipeline from Postgres; memory_logs is not changed.

    Drops the triggers, the functions and the schema memory_pipeline. Asks for confirmation. After
    an interruption, run it again; `migrate` attaches again.
    """
    with opened(discover(Settings.load())) as pipeline:
        detaching = pipeline.detach()
        _announce(detaching.check(), drop_collections=drop_collections)
        if not yes:
            typer.confirm("Remove it?", abort=True, err=True)
        removed = detaching.run(drop_collections=drop_collections)
    if as_json:
        print_json(asdict(removed))
    for trouble in removed.unreachable:
        err.print(f"! {trouble}", markup=False)
    if not removed.schema:
        err.print(
            "the triggers were removed, and memory_logs is free. The schema was kept because it "
            "records which collections are left to drop. Run this again when the servers are "
            "reachable, or without --drop-collections"
        )
        raise typer.Exit(EXIT_UNAVAILABLE)
    err.print(f"detached; {removed.collections} collections were dropped")


def _announce(removal: Removal, *, drop_collections: bool) -> None:
    """Print what will be removed, and what will not."""
    err.print("this removes from Postgres the schema memory_pipeline, and the triggers")
    for trigger in removal.triggers:
        err.print(f"  {trigger}", markup=False)
    err.print(
        f"and from Chroma {removal.collections} collections on {removal.servers} servers"
        if drop_collections
        else f"and leaves {removal.collections} collections in Chroma that nothing will track "
        "any more"
    )
    err.print("memory_logs is not changed and keeps its vectors")
    if removal.vectors:
        err.print(
            f"{removal.vectors} vectors in the pipeline's own table (MEMORY_PIPELINE_BACKUP=table) "
            "go with the schema: whoever attaches again computes them again"
        )
