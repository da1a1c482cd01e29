"""Commands that write and find memories, and get the database and the model ready for it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from memory_pipeline.admin.import_jsonl import import_file
from memory_pipeline.cli.console import err, fail, out, plain, print_json, progress_bar
from memory_pipeline.cli.tenants import check_known
from memory_pipeline.content.json_text import leaves_of, one_line
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import Hit, TenantId
from memory_pipeline.errors import InvalidFilter, InvalidMemory
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings
from memory_pipeline.store import MemoryStore

Tenant = Annotated[str, typer.Option("--tenant", "-t", help="Whose memories.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

EXIT_FINDINGS = 1
EXIT_UNAVAILABLE = 3
GIST_CHARACTERS = 200


def register(app: typer.Typer) -> None:
    """Add the commands of this room."""
    for command in (migrate, remember, forget, sync, search):
        app.command()(command)
    app.command("import")(import_)
    model = typer.Typer(help="The embedding model.", no_args_is_help=True)
    model.command("pull")(pull)
    model.callback()(lambda: None)
    app.add_typer(model, name="model")


def migrate(
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL; change nothing.")] = False,
    vectors: Annotated[
        str | None,
        typer.Option(
            help="What stored vectors are that the pipeline did not write: 'trust' them as the "
            "current model's, or 'recompute' them."
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="This database takes the place of the one that it is a copy of, which is gone: "
            "it may use that one's Chroma servers.",
        ),
    ] = False,
) -> None:
    """Create or update the pipeline's schema and attach it to memory_logs."""
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
    """Get the embedding model onto this machine, whose files are then verified."""
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


def import_(
    file: Annotated[Path, typer.Argument(help="A .jsonl or .jsonl.gz file.", exists=True)],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many lines.")] = None,
    as_json: AsJson = False,
) -> None:
    """Import memories from a file of JSON lines, all or none."""
    with opened(discover(Settings.load())) as pipeline, progress_bar("bytes") as bar:
        task = bar.add_task("importing", total=file.stat().st_size)
        count = import_file(
            pipeline.memories,
            file,
            limit=limit,
            progress=lambda _, done: bar.update(task, completed=done),
        )
    if as_json:
        print_json({"imported": count})
    else:
        err.print(f"imported {count} memories; they are searchable once they are synced")


def remember(
    user: Annotated[str, typer.Option("--user", "-u", help="The memory's user_id.")],
    content: Annotated[str, typer.Argument(help="JSON, or plain text.")],
    project: Annotated[str | None, typer.Option(help="The memory's project_id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Store one memory; works whether or not Chroma is up."""
    with MemoryStore() as store:
        memory_id = store.remember(user, _content(content), project_id=project)
    if as_json:
        print_json({"memory_id": memory_id})
    else:
        out.print(memory_id)


def forget(
    memory_id: Annotated[int, typer.Argument(help="The memory's id.")], tenant: Tenant
) -> None:
    """Delete one memory of a tenant."""
    with MemoryStore() as store:
        if not store.forget(tenant, memory_id):
            fail(f"tenant {tenant!r} has no memory {memory_id}", code=EXIT_FINDINGS)


def sync(
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="Only this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Drain all changes now, in the foreground."""
    outcomes: list[Outcome] = []
    with opened(discover(Settings.load())) as pipeline, progress_bar("changes") as bar:
        only = None if tenant is None else {TenantId(tenant)}
        check_known(pipeline, only or ())
        pipeline.replay_cured()
        before = pipeline.status.totals().pending_changes
        task = bar.add_task("syncing", total=before)
        drain = pipeline.drain()

        def show(now: Outcome) -> None:
            done = sum(o.written + o.deleted for o in [*outcomes, now])
            bar.update(task, description=now.tenant, completed=done)

        outcomes.extend(drain.run(only=only, paused=True, progress=show))
        pipeline.restore_watch.watch(seconds=0)  # where nothing is resident, nobody else does
        left = pipeline.status.totals()
    figures = {
        name: sum(getattr(o, name) for o in outcomes)
        for name in ("written", "deleted", "embedded", "reused", "failed", "buried")
    }
    if as_json:
        print_json({**figures, "pending_changes": left.pending_changes})
    else:
        err.print(
            "  ".join(f"{name} {value}" for name, value in figures.items())
            + f"  still pending {left.pending_changes}"
        )
    _exit_for(outcomes)


def search(
    text: Annotated[str, typer.Argument(help="What to look for, in words.")],
    tenant: Tenant,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many.")] = 5,
    where: Annotated[
        str | None, typer.Option(help='Filter, e.g. \'{"component": "auth"}\'.')
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search a tenant's memories by meaning, nearest first."""
    with MemoryStore() as store:
        hits = store.search(tenant, text, k=k, where=_filter(where))
    if as_json:
        print_json([_shown(hit) for hit in hits])
    elif hits:
        out.print(hits_table(hits))
    else:
        err.print("nothing found")


def hits_table(hits: list[Hit]) -> Table:
    """Lay search results out for a person."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("distance", justify="right", style="cyan", no_wrap=True)
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("date", no_wrap=True)
    table.add_column("memory")
    for hit in hits:
        date = hit.created_at.date().isoformat() if hit.created_at else ""
        table.add_row(f"{hit.distance:.3f}", str(hit.memory_id), date, plain(_gist(hit.memory)))
    return table


def _gist(memory: object) -> str:
    if isinstance(memory, Mapping):
        named = next(
            (memory[k] for k in ("title", "summary", "text", "content") if k in memory), ""
        )
        memory = named or memory
    return one_line(leaves_of(memory), GIST_CHARACTERS) or one_line(
        leaves_of(memory), GIST_CHARACTERS, numbers=True
    )


def _shown(hit: Hit) -> dict[str, Any]:
    return {
        "memory_id": hit.memory_id,
        "distance": hit.distance,
        "metadata": dict(hit.metadata),
        "created_at": hit.created_at.isoformat() if hit.created_at else None,
        "memory": hit.memory,
    }


def _filter(where: str | None) -> Mapping[str, Any] | None:
    if where is None:
        return None
    try:
        read = json.loads(where)
    except json.JSONDecodeError as error:
        raise InvalidFilter(
            f"--where is no JSON: {error.msg} at character {error.pos + 1}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise InvalidFilter("--where is beyond what a filter may be") from error
    if not isinstance(read, dict):
        raise InvalidFilter('--where has to be a JSON object, e.g. {"component": "auth"}')
    return read


def _content(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"text": text}
    except (ValueError, RecursionError) as error:
        raise InvalidMemory(
            "this JSON has a number of thousands of digits or is nested too deeply to be read here"
        ) from error


def _exit_for(outcomes: list[Outcome]) -> None:
    last = {o.tenant: o for o in outcomes}
    stuck = [o for o in last.values() if o.verdict not in {"done", "busy"}]
    for outcome in stuck:
        err.print(plain(f"{outcome.tenant}: {outcome.verdict}: {outcome.reason}"))
    if any(o.verdict == "postponed" for o in stuck):
        raise typer.Exit(EXIT_UNAVAILABLE)
    if stuck or any(o.failed for o in last.values()):
        raise typer.Exit(EXIT_FINDINGS)
