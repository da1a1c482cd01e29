"""The least work from a commit to Chroma: a process without guarantees.

It is notified, reads the row, upserts or deletes. It has no outbox and no lease, loses its
notifications when it is killed, and checks nothing afterwards.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from pgvector.psycopg import register_vector

from memory_pipeline.content.document import Recipe, compose, recipe_from
from memory_pipeline.domain.types import Memory, MemoryId, TenantId, Vector, document_id
from memory_pipeline.embedding.factory import embedder_from
from memory_pipeline.local.processes import ServiceFailed, tail, wait_until
from memory_pipeline.ports import Embedder
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.bulk_load import collection_name
from memory_pipeline.testing.benchmarks.worker_process import READY_SECONDS, running_process
from memory_pipeline.testing.chroma_client import connect

# A hint names the tenant, so that a delete needs no read.
HINTS = """
CREATE FUNCTION public.hint_floor() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('floor', json_build_array(coalesce(NEW.user_id, OLD.user_id),
                                                coalesce(NEW.id, OLD.id))::text);
    RETURN NULL;
END $$;
CREATE TRIGGER hint_floor AFTER INSERT OR UPDATE OR DELETE ON public.memory_logs
    FOR EACH ROW EXECUTE FUNCTION public.hint_floor();
"""
READ = (
    "SELECT id, user_id, user_id, project_id, raw_data::text, embedding, created_at, updated_at, ''"
    " FROM public.memory_logs WHERE id = ANY(%s)"
)


def install_hints(url: str) -> None:
    """Replace the pipeline in a copy of its database by the floor's trigger."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA memory_pipeline CASCADE")
        connection.execute(HINTS)


@contextmanager
def running_floor(settings: Settings, log: Path) -> Iterator[None]:
    """Run the floor during the block, from when it is ready.

    Raises:
        ServiceFailed: it does not get ready; the message has the end of its log.

    """
    with running_process((sys.executable, "-m", __name__), settings, log):
        if not wait_until(lambda: "ready" in log.read_text(), within=READY_SECONDS):
            raise ServiceFailed(f"the floor is not ready: {tail(log)}")
        yield


def main() -> None:
    """Run the floor: write each hinted row, all that have arrived in one request a tenant."""
    settings = Settings.load()
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    recipe, embedder = recipe_from(settings), embedder_from(settings)
    embedder.load()
    client = connect(settings.chroma_url or "")
    collections: dict[TenantId, Any] = {}
    with (
        psycopg.connect(url, autocommit=True) as hints,
        psycopg.connect(url, autocommit=True) as reading,
    ):
        register_vector(reading)
        hints.execute("LISTEN floor")
        print("ready", flush=True)  # noqa: T201 - the benchmark waits for it
        while True:
            for tenant, ids in _hinted(hints).items():
                if tenant not in collections:
                    name = collection_name(tenant)
                    collections[tenant] = client.get_collection(name, embedding_function=None)
                rows = reading.execute(READ, (list(ids),), binary=True).fetchall()
                found = [_memory_of(row) for row in rows]
                if gone := ids.difference(memory.id for memory in found):
                    collections[tenant].delete(ids=[document_id(i) for i in gone])
                if found:
                    makes = embedder if settings.embedder == "model" else None
                    _upsert(collections[tenant], found, recipe, makes)


def _hinted(hints: psycopg.Connection) -> Mapping[TenantId, set[MemoryId]]:
    """Wait for a hint; return the ids of all that have arrived, by tenant."""
    hinted: defaultdict[TenantId, set[MemoryId]] = defaultdict(set)
    for hinting in hints.notifies(stop_after=1):
        tenant, memory_id = json.loads(hinting.payload)
        hinted[tenant].add(memory_id)
    return hinted


def _upsert(
    collection: Any, found: Sequence[Memory], recipe: Recipe, embedder: Embedder | None
) -> None:
    """Write memories; without an embedder, with their own vectors."""
    contents = [compose(memory, recipe) for memory in found]
    vectors: list[Vector | None] = [memory.embedding for memory in found]
    if embedder is not None:
        vectors = [*embedder.embed([content.text for content in contents])]
    collection.upsert(
        ids=[document_id(memory.id) for memory in found],
        embeddings=vectors,
        metadatas=[dict(content.metadata) for content in contents],
        documents=[content.document for content in contents],
    )


def _memory_of(row: Sequence[Any]) -> Memory:
    memory = Memory(*row)
    vector: Any = memory.embedding
    return memory if vector is None else replace(memory, embedding=vector.to_numpy())


if __name__ == "__main__":
    main()
