"""Which tenants, memories and dead letters a command is about, as a person names them."""

from collections.abc import Sequence
from typing import Annotated

import typer

from memory_pipeline.cli.durations import duration
from memory_pipeline.domain.dead_letters import KINDS, DeadLetterFilter
from memory_pipeline.domain.outcomes import FailureKind
from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.pipeline import Pipeline

BIGINT = range(-(2**63), 2**63)

Classes = Annotated[
    list[str] | None,
    typer.Option("--class", help=f"Only of this class: {', '.join(KINDS)}; may be repeated."),
]
OlderThan = Annotated[
    str | None, typer.Option(help="Only those that were buried so long ago: 90s, 15m, 2h, 3d.")
]
Ids = Annotated[list[int] | None, typer.Option("--id", help="Only this memory; may be repeated.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter.")]


def which_letters(
    pipeline: Pipeline,
    *,
    tenants: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    older_than: str | None = None,
    memories: Sequence[int] | None = None,
) -> DeadLetterFilter:
    """Read which dead letters are meant. Raises BadParameter."""
    return DeadLetterFilter(
        tenants=registered(pipeline, tenants),
        kinds=[_kind(k) for k in kinds] if kinds else None,
        memory_ids=[memory_id(str(m)) for m in memories] if memories else None,
        older_than_seconds=None if older_than is None else duration(older_than),
    )


def check_said(which: DeadLetterFilter, *, everything: bool) -> None:
    """Refuse to change something of which nobody has said what it is. Raises BadParameter."""
    if (which == DeadLetterFilter()) != everything:
        raise typer.BadParameter("say which: --tenant, --class, --older-than or --id; or --all")


def registered(pipeline: Pipeline, tenants: Sequence[str] | None) -> list[TenantId] | None:
    """Return these tenants, each once; None where none is named. Raises BadParameter."""
    if not tenants:
        return None
    known = pipeline.registry.keys()
    for tenant in tenants:
        if TenantId(tenant) not in known:
            raise typer.BadParameter(f"there is no tenant {tenant!r}")
    return [TenantId(t) for t in dict.fromkeys(tenants)]


def memory_id(said: str) -> MemoryId:
    """Read a memory's id. Raises BadParameter."""
    try:
        number = int(said)
    except ValueError:
        number = BIGINT.stop
    if number not in BIGINT:
        raise typer.BadParameter(f"{said.strip()!r} is no memory's id")
    return MemoryId(number)


def _kind(said: str) -> FailureKind:
    if said not in KINDS:
        raise typer.BadParameter(f"--class {said!r}: allowed are {', '.join(KINDS)}")
    return said
