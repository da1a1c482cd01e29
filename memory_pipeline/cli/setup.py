"""Commands that prepare the database and the model."""

from typing import Annotated

import typer

from memory_pipeline.cli.console import err, out, progress_bar
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import opened
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
    from memory_pipeline.postgres import migrate as migration  # noqa: PLC0415 - alembic is slow

    settings = discover(Settings.load())
    if sql:
        out.print(migration.migration_sql(settings), markup=False)
        return
    if vectors not in {None, "trust", "recompute"}:
        raise typer.BadParameter(f"{vectors!r}; allowed are trust and recompute")
    migration.migrate(settings, vectors=vectors)  # type: ignore[arg-type]  # checked above
    if take_over:
        with opened(settings) as pipeline:
            pipeline.epochs.take_over()
    err.print("migrated: memory_logs is captured")


def pull() -> None:
    """Download the embedding model to this machine and verify its files."""
    from memory_pipeline.embedding.download import pull_model  # noqa: PLC0415 - few commands need it

    settings = Settings.load()
    with progress_bar("bytes") as bar:
        task = bar.add_task("model", total=None)
        where = pull_model(
            settings.model_cache(),
            progress=lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            ),
        )
    err.print(f"model ready in {where}", markup=False)
