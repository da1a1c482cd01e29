"""What a supervisor that was killed has left behind: found by its mark, ended in good order."""

from collections.abc import Collection
from pathlib import Path

from memory_pipeline.local.postgres import embedded_postgres
from memory_pipeline.local.processes import Identity, marked, stop_all

# Chroma finishes the requests that it has, Dagster's daemon joins its threads.
STOP_SECONDS = 60.0


def end_marked(home: Path, *, but: Collection[Identity] = ()) -> bool:
    """End every process that carries the mark of this home; True where there was one."""
    kept = {identity.pid for identity in but}
    found = [identity for identity in marked(home) if identity.pid not in kept]
    stop_all(found, within=STOP_SECONDS)
    return bool(found)


def end_postgres(home: Path) -> bool:
    """Stop the embedded Postgres of this home; True where it ran."""
    if not (home / "postgres.lock").exists():
        return False
    server = embedded_postgres(home / "postgres")
    ran = server.alive()
    server.stop()
    return ran
