"""A worker on private services, and statements as an application sends them. Measures nothing."""

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

# The real model is read from a cold disk; a process that has to be killed has hung.
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
def running_process(
    command: Sequence[str], settings: Settings, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with these settings during the block, its output in a file; then stop it.

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
def running_worker(settings: Settings, log: Path) -> Iterator[None]:
    """Run ``memory-pipeline live`` during the block, from when it is ready.

    Raises:
        RuntimeError: it ended or does not get ready; the message has the end of its log.

    """
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    with (
        running_process(LIVE, settings, log) as process,
        psycopg.connect(url, autocommit=True) as connection,
    ):

        def ready_or_gone() -> bool:
            row = connection.execute(LIVES, (process.pid,)).fetchone()
            return (row is not None and row[0]) or process.poll() is not None

        if not wait_until(ready_or_gone, within=READY_SECONDS) or process.poll() is not None:
            raise RuntimeError(f"the worker is not ready: {tail(log)}")
        yield


def register_tenants(pipeline: Pipeline) -> list[TenantId]:
    """Register every tenant with changes; return all tenants."""
    for pending in pipeline.outbox.pending_tenants():
        pipeline.registry.register_pending(pending.tenant)
    return list(pipeline.registry.keys())


def build_tenants(pipeline: Pipeline) -> list[TenantId]:
    """Rebuild every tenant, also those that have no collection yet; return all tenants."""
    tenants = register_tenants(pipeline)
    wrong = [r for r in pipeline.rebuild().run(RebuildId("bench"), tenants) if r.verdict != "done"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} tenants were not rebuilt: {wrong[0].reason}")
    return tenants


def insert_memory(connection: psycopg.Connection, memory: Memory) -> MemoryId:
    """Insert a memory as an application does; return its id."""
    raw = Jsonb(memory.raw, dumps=str)
    values = (memory.user_id, memory.project_id, raw, memory.embedding)
    row = connection.execute(INSERT, values).fetchone()
    if row is None:
        raise RuntimeError("the INSERT returned no id")
    return MemoryId(row[0])


def update_memory(connection: psycopg.Connection, memory_id: MemoryId, memory: Memory) -> None:
    """Give a memory the content of another, and its vector if that has one."""
    raw = Jsonb(memory.raw, dumps=str)
    connection.execute(UPDATE, (raw, memory.embedding, memory_id))


def delete_memory(connection: psycopg.Connection, memory_id: MemoryId) -> None:
    """Delete a memory as an application does."""
    connection.execute(DELETE, (memory_id,))
