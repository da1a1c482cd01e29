"""The places of a proof of erasure that need no server: tables, and what no delete reaches."""

from collections.abc import Iterator, Sequence

from memory_pipeline.domain.erasure import Place, Traces
from memory_pipeline.domain.types import TenantId

# Each field of Traces: the place, and what was looked for.
TABLES = {
    "memories": ("memory_logs", "the tenant's memories"),
    "changes": ("pending changes", "changes of the tenant"),
    "failures": ("failures and dead letters", "failures of the tenant's memories"),
    "provenance": ("provenance of vectors", "provenance of memories that are gone"),
    "vectors": ("backed-up vectors", "vectors of memories that are gone"),
    "external_ids": ("ids of imports", "the ids under which the tenant's memories were imported"),
    "generations": ("generations", "generations of the tenant"),
    "rebuilds": ("rebuilds", "parts of rebuilds of the tenant"),
    "verifications": ("results of verify", "the tenant's newest result"),
    "freshness": ("freshness", "figures of the tenant"),
    "registrations": ("registry", "the tenant, its lease and its partition key"),
    "erasures": ("unfinished erasures", "the tenant's erasure"),
}
WRITTEN_SINCE = "stop what writes memories of the tenant, and run this again with --delete-memories"
RUN_AGAIN = "run this again"
PURGE = "docs: how-to/forget-a-tenant.md"


class NoHistory:
    """Where no Dagster is set up on this machine."""

    def forget(self, tenant: TenantId) -> Sequence[Place]:
        """Return that Dagster was not asked."""
        del tenant
        return [
            Place(
                "Dagster",
                "the tenant's partition",
                "kept",
                detail="no Dagster is set up here",
                next="where one runs, its sensor deletes the partition once no run is queued",
            )
        ]


def postgres_places(traces: Traces) -> Iterator[Place]:
    """Yield a place for each table."""
    for name, (place, looked_for) in TABLES.items():
        found: int = getattr(traces, name)
        advice = WRITTEN_SINCE if traces.memories else RUN_AGAIN
        yield Place(
            place,
            looked_for,
            "left" if found else "gone",
            found,
            next=advice if found else "",
        )


def reach_of_deletes(log_tenants: str) -> Iterator[Place]:
    """Yield what no delete of the pipeline reaches, and what does."""
    yield Place(
        "Chroma's files",
        "free pages, and folders of dropped collections",
        "kept",
        detail="Chroma frees them and does not overwrite them",
        next=f"stop each server, run `chroma vacuum`, start it again ({PURGE})",
    )
    yield Place(
        "Postgres' files",
        "dead rows, the write-ahead log, replicas and backups",
        "kept",
        detail="Postgres frees them and does not overwrite them",
        next=f"VACUUM the tables; let logs and backups run out ({PURGE})",
    )
    yield Place(
        "logs",
        f"lines of workers and runs (LOG_TENANTS={log_tenants})",
        "kept",
        detail="the pipeline writes logs and does not keep them",
        next="delete those that are older than this",
    )
