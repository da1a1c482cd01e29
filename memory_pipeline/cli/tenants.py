"""The tenants of a command: the option that names them, and which tenants there are."""

from collections.abc import Iterable, Sequence
from typing import Annotated
from uuid import UUID

import typer

from memory_pipeline.cli.console import err
from memory_pipeline.domain.types import TenantId
from memory_pipeline.pipeline import Pipeline

Tenants = Annotated[
    list[str] | None, typer.Option("--tenant", "-t", help="Only this tenant; may be repeated.")
]


def named(pipeline: Pipeline, tenants: Sequence[str] | None) -> list[TenantId]:
    """Return the tenants that a person has named, as Postgres prints them, each once."""
    return list(dict.fromkeys(pipeline.tenants.canonical(TenantId(t)) for t in tenants or ()))


def registered(pipeline: Pipeline, tenants: Sequence[str] | None) -> list[TenantId] | None:
    """Return the named tenants, each once; None where none is named.

    Raises:
        BadParameter: a tenant is not registered.

    """
    if not tenants:
        return None
    printed = named(pipeline, tenants)
    _check_among(pipeline.registry.keys(), printed)
    return printed


def known_tenants(pipeline: Pipeline) -> list[TenantId]:
    """Return all tenants: registered, with changes, or with memories. Registers the second kind."""
    for pending in pipeline.outbox.pending_tenants(paused=True):
        if pending.partition_key is None:
            pipeline.registry.register_pending(pending.tenant)
    return list(dict.fromkeys([*pipeline.registry.keys(), *pipeline.memories.sizes()]))


def check_known(pipeline: Pipeline, tenants: Iterable[TenantId]) -> None:
    """Refuse a tenant that has neither memories nor changes and is not registered.

    Raises:
        BadParameter: there is no such tenant.

    """
    registered_keys = pipeline.registry.keys()
    unregistered = [t for t in tenants if t not in registered_keys]
    if unregistered:
        _check_among(known_tenants(pipeline), unregistered)


def print_retired(server: UUID) -> None:
    """Print that a lost Chroma server was retired."""
    err.print(f"Chroma server {server} has lost its data; its collections are built again")


def _check_among(known: Iterable[TenantId], tenants: Iterable[TenantId]) -> None:
    among = set(known)
    for tenant in tenants:
        if tenant not in among:
            raise typer.BadParameter(f"there is no tenant {tenant!r}")
