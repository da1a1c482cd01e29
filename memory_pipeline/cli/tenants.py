"""What the commands over whole tenants share."""

from collections.abc import Iterable
from typing import Annotated

import typer

from memory_pipeline.cli.console import err
from memory_pipeline.domain.types import TenantId
from memory_pipeline.pipeline import Pipeline

Tenants = Annotated[
    list[str] | None, typer.Option("--tenant", "-t", help="Only this one; may be repeated.")
]


def give_up_lost(pipeline: Pipeline) -> None:
    """Give up the Chroma servers that have lost their data, and say so."""
    for server in pipeline.servers.replace_lost():
        err.print(f"Chroma server {server} has lost its data; what it held is built again")


def known_tenants(pipeline: Pipeline) -> list[TenantId]:
    """Return every tenant that is registered, waits to be, or has memories all the same."""
    for pending in pipeline.outbox.pending_tenants(paused=True):
        if pending.partition_key is None:
            pipeline.registry.register(pending.tenant)
    return list(dict.fromkeys([*pipeline.registry.keys(), *pipeline.memories.sizes()]))


def check_known(pipeline: Pipeline, tenants: Iterable[TenantId]) -> None:
    """Refuse a tenant that is not among all of them. Raises BadParameter."""
    registered = pipeline.registry.keys()
    for tenant in tenants:
        if tenant not in registered and tenant not in known_tenants(pipeline):
            raise typer.BadParameter(f"there is no tenant {tenant!r}")
