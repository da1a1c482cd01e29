"""``memory-pipeline detach``: take the pipeline off a database again."""

from dataclasses import asdict
from typing import Annotated

import typer

from memory_pipeline.cli.console import err, print_json
from memory_pipeline.cli.memories import EXIT_UNAVAILABLE, AsJson
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command of this room."""
    app.command()(detach)


def detach(
    drop_collections: Annotated[
        bool,
        typer.Option("--drop-collections", help="Drop the collections in Chroma as well."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove triggers, functions and the schema memory_pipeline; memory_logs stays as it is.

    Asks before it does. One that was cut off is run again; `migrate` attaches again.
    """
    with opened(discover(Settings.load())) as pipeline:
        detaching = pipeline.detach()
        goes = detaching.check()
        err.print("this removes from Postgres the schema memory_pipeline, and the triggers")
        for trigger in goes.triggers:
            err.print(f"  {trigger}", markup=False)
        err.print(
            f"and from Chroma {goes.collections} collections on {goes.servers} servers"
            if drop_collections
            else f"and leaves {goes.collections} collections in Chroma, which nobody will know"
        )
        err.print("memory_logs stays as it is, with the vectors in it")
        if not yes:
            typer.confirm("Remove it?", abort=True, err=True)
        removed = detaching.run(drop_collections=drop_collections)
    if as_json:
        print_json(asdict(removed))
    for trouble in removed.unreachable:
        err.print(f"! {trouble}", markup=False)
    if not removed.schema:
        err.print(
            "the triggers are gone, and memory_logs is free. The schema stands, so that it is "
            "known what is left: run this again when the servers are back, or without "
            "--drop-collections"
        )
        raise typer.Exit(EXIT_UNAVAILABLE)
    err.print(f"detached; {removed.collections} collections were dropped")
