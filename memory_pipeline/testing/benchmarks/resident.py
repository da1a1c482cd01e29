"""A resident process on services of its own, and statements as an application would send them.

Nothing here measures.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb

from memory_pipeline.domain.types import Memory, MemoryId, RebuildId, TenantId
from memory_pipeline.local.child_process import script
from memory_pipeline.local.environment import base_environment
from memory_pipeline.local.processes import tail, wait_until
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings

# The real model is read from a cold disk; a process that is killed has hung.
READY_SECONDS = 120.0
STOP_SECONDS = 30.0

LIVE = (*script("memory-pipeline"), "live", "--no-dagster")
INSERT = (
    "INSERT INTO public.memory_logs (user_id, project_id, raw_data, embedding)"
    " VALUES (%s, %s, %s, %s) RETURNING id"
)
UPDATE = (
    "UPDATE public.memory_logs SET raw_data = %s, embedding = coalesce(%s, embedding),"
    " updated_at = now() WHERE id = %s"
)
DELETE = "DELETE FROM public.memory_logs WHERE id = %s"
LIVES = "SELECT EXISTS (SELECT FROM memory_pipeline.worker WHERE pid = %s)"


@contextmanager
def running(
    command: Sequence[str], settings: Settings, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with these settings, its output in a file; end it in an orderly way.

    Raises:
        RuntimeError: it has ended by itself; the message has the end of its log.

    """
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, env=base_environment(settings), stdout=output, stderr=output
        ) as process,
    ):
        try:
            yield process
            if process.poll() is not None:
                raise RuntimeError(f"{command[-1]} has ended by itself: {tail(log)}")
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def living(settings: Settings, log: Path) -> Iterator[None]:
    """Run ``memory-pipeline live`` and lend it once it is ready.

    Raises:
        RuntimeError: it ended or said nothing; the message has the end of its log.

    """
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    with running(LIVE, settings, log) as process, psycopg.connect(url, autocommit=True) as asking:

        def ready_or_gone() -> bool:
            row = asking.execute(LIVES, (process.pid,)).fetchone()
            return (row is not None and row[0]) or process.poll() is not None

        if not wait_until(ready_or_gone, within=READY_SECONDS) or process.poll() is not None:
            raise RuntimeError(f"live is not ready: {tail(log)}")
        yield


def own(settings: Settings, home: Path) -> Settings:
    """Return settings whose home is the benchmark's: nothing that runs in the user's is found."""
    return settings.model_copy(update={"home": home / "home"})


def registered(pipeline: Pipeline) -> list[TenantId]:
    """Register every tenant with changes; return all tenants."""
    for pending in pipeline.outbox.pending_tenants():
        pipeline.registry.register(pending.tenant)
    return list(pipeline.registry.keys())


def rebuilt(pipeline: Pipeline) -> list[TenantId]:
    """Give every tenant with changes a collection, by a rebuild; return all tenants."""
    tenants = registered(pipeline)
    wrong = [r for r in pipeline.rebuild().run(RebuildId("bench"), tenants) if r.verdict != "done"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} tenants were not rebuilt: {wrong[0].reason}")
    return tenants


def insert(connection: psycopg.Connection, memory: Memory) -> MemoryId:
    """Insert a memory as an application would; return the id that it got."""
    raw = Jsonb(memory.raw, dumps=str)
    values = (memory.user_id, memory.project_id, raw, memory.embedding)
    row = connection.execute(INSERT, values).fetchone()
    if row is None:
        raise RuntimeError("the INSERT returned no id")
    return MemoryId(row[0])


def update(connection: psycopg.Connection, memory_id: MemoryId, memory: Memory) -> None:
    """Make a memory say what another one says; its vector stays where that one has none."""
    raw = Jsonb(memory.raw, dumps=str)
    connection.execute(UPDATE, (raw, memory.embedding, memory_id))


def delete(connection: psycopg.Connection, memory_id: MemoryId) -> None:
    """Delete a memory, as an application would."""
    connection.execute(DELETE, (memory_id,))
