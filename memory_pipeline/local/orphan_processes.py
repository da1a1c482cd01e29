"""Stop what a killed supervisor has left running: find it by its mark, end it in good order."""

from collections.abc import Collection
from pathlib import Path

from memory_pipeline.local.postgres import embedded_postgres
from memory_pipeline.local.process_identity import Identity
from memory_pipeline.local.processes import marked_processes, stop_all

# Chroma finishes the requests that it has, Dagster's daemon joins its threads.
STOP_SECONDS = 60.0


def stop_marked(home: Path, *, but: Collection[Identity] = ()) -> bool:
    """Stop every process that carries the mark of this home; return whether there was one."""
    kept = {identity.pid for identity in but}
    found = [identity for identity in marked_processes(home) if identity.pid not in kept]
    stop_all(found, within=STOP_SECONDS)
    return bool(found)


def stop_postgres(home: Path) -> bool:
    """Stop the embedded Postgres of this home; return whether it ran."""
    if not (home / "postgres.lock").exists():
        return False
    server = embedded_postgres(home / "postgres")
    ran = server.alive()
    server.stop()
    return ran
