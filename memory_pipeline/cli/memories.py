"""Commands that write, delete and search memories."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from memory_pipeline.cli.console import AsJson, err, fail, out, plain, print_json
from memory_pipeline.content.json_text import leaves_of, one_line
from memory_pipeline.content.json_writer import JsonText
from memory_pipeline.domain.types import Hit
from memory_pipeline.errors import EXIT_FINDINGS, InvalidFilter, InvalidMemory
from memory_pipeline.search.query import MOST_RESULTS
from memory_pipeline.store import MemoryStore

Tenant = Annotated[str, typer.Option("--tenant", "-t", help="The tenant of the memories.")]

GIST_CHARACTERS = 200


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (remember, forget, search):
        app.command()(command)


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


def search(
    text: Annotated[str, typer.Argument(help="The words to search for.")],
    tenant: Tenant,
    k: Annotated[
        int, typer.Option("-k", min=1, max=MOST_RESULTS, help="The number of results.")
    ] = 5,
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
    """Return search results as a table."""
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
            f"--where is not JSON: {error.msg} at character {error.pos + 1}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise InvalidFilter(
            "--where has a number that is too long, or is nested too deeply"
        ) from error
    if not isinstance(read, dict):
        raise InvalidFilter('--where must be a JSON object, e.g. {"component": "auth"}')
    return read


def _content(text: str) -> object:
    """Return JSON to be stored as it is written, or a text as a memory."""
    try:
        _JSON.decode(text)
    except json.JSONDecodeError:
        return {"text": text}
    except RecursionError:
        pass  # Postgres parses it
    return JsonText(text)


def _refuse_constant(name: str) -> None:
    raise InvalidMemory(f"{name} is no JSON; write null")


_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)
