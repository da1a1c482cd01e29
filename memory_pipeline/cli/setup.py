"""Commands that prepare the database and the model."""

from typing import Annotated

import typer

from memory_pipeline import pipeline
from memory_pipeline.cli.console import err, out, plain, progress_bar
from memory_pipeline.local.discovery import discover
from memory_pipeline.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(migrate)
    model = typer.Typer(help="The embedding model.", no_args_is_help=True)
    model.command("pull")(pull)
    model.callback()(lambda: None)
    app.add_typer(model, name="model")


def migrate(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL; change nothing.")] = False,
    vectors: Annotated[
        str | None,
        typer.Option(
            help="Vectors in memory_logs that the pipeline did not write: 'trust' them as vectors "
            "of the current model, or 'recompute' them."
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="This database is a copy and replaces the original, which is gone: use the "
            "original's Chroma servers.",
        ),
    ] = False,
) -> None:
    """Create or update the pipeline's schema; attach it to memory_logs."""
    settings = discover(Settings.load())
    if sql:
        out.print(pipeline.migration_sql(settings), markup=False)
        return
    if vectors not in {None, "trust", "recompute"}:
        raise typer.BadParameter(f"{vectors!r}; allowed are trust and recompute")
    advice = pipeline.migrate(settings, vectors=vectors)  # type: ignore[arg-type]  # checked above
    if take_over:
        with pipeline.opened(settings) as opened:
            opened.epochs.take_over()
    err.print("migrated: memory_logs is captured")
    for sentence in advice:
        err.print(plain(f"! {sentence}"))


def pull() -> None:
    """Download the embedding model to this machine and verify its files."""
    settings = Settings.load()
    with progress_bar("bytes") as bar:
        task = bar.add_task("model", total=None)
        where = pipeline.pull_model(
            settings,
            progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
        )
    err.print(f"model ready in {where}", markup=False)
