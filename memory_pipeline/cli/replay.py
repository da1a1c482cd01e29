"""``memory-pipeline replay``: index memories again from their rows in Postgres."""

from collections.abc import Sequence
from typing import Annotated

import typer

from memory_pipeline.cli.console import AsJson, err, fail, print_json
from memory_pipeline.cli.durations import moment
from memory_pipeline.cli.selection import memory_id
from memory_pipeline.cli.tenants import Tenants, registered
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import EXIT_FINDINGS
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(replay)


def replay(
    *,
    tenant: Tenants = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only memories created or updated since: 2026-01-31, 2h, 3d."),
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--ids", help="Only these memories: 1,2,3; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Enqueue memories again, as if they had just changed.

    Safe at any time and under load. The next sync writes each row as it is then. With --tenant and
    --ids, memories that no longer exist are deleted from the collection again.
    """
    if not (tenant or since or ids):
        raise typer.BadParameter("choose memories with --tenant, --since or --ids")
    chosen = [memory_id(i) for listed in ids for i in listed.split(",")] if ids else None
    when = moment(since) if since is not None else None
    with opened(discover(Settings.load())) as pipeline:
        tenants: Sequence[TenantId | None] = registered(pipeline, tenant) or [None]
        pages = [
            page
            for each in tenants
            for page in pipeline.replay.run(tenant=each, since=when, ids=chosen)
        ]
    found, enqueued = sum(p.found for p in pages), sum(p.enqueued for p in pages)
    if not found:
        fail("no memories match", code=EXIT_FINDINGS)
    if as_json:
        print_json({"memories": found, "enqueued": enqueued, "waited_already": found - enqueued})
    else:
        already = f"; {found - enqueued} are enqueued already" if found > enqueued else ""
        err.print(f"enqueued {enqueued} of {found} memories{already}")
