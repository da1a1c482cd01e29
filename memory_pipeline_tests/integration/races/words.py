"""Words of the tests of races: changes, leases, documents and vectors."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg

from memory_pipeline.domain.changes import Claim
from memory_pipeline.domain.types import (
    Generation,
    MemoryId,
    Provenance,
    ProvenanceUpdate,
    RebuildId,
    RebuildPart,
    Vector,
    document_id,
)
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.postgres.database import Connection, Database
from memory_pipeline.postgres.lease import PostgresLease
from memory_pipeline.postgres.outbox import PostgresOutbox
from memory_pipeline.postgres.rebuilds import PostgresRebuilds
from memory_pipeline.postgres.registry import PostgresRegistry
from memory_pipeline_tests.words import ADA, live, one

REQUEST_SECONDS, GRACE_SECONDS = 3.0, 2.0
OURS = np.full(768, 0.5, dtype=np.float32)
PROVENANCE = Provenance("text", "model", "vector")
TABLES = ("change", "tenant", "generation", "failure", "provenance", "rebuild", "truncation")

# -- Leases, claims and acks: Postgres alone.


def state(db: psycopg.Connection) -> dict[str, list[str]]:
    """Return every row of the tables of the pipeline."""
    return {
        table: sorted(map(repr, db.execute(f"SELECT * FROM memory_pipeline.{table}")))
        for table in TABLES
    }


def waiting(db: psycopg.Connection) -> list[int | None]:
    """Return the memory of each change, confirms included."""
    return [m for (m,) in db.execute("SELECT memory_id FROM memory_pipeline.change ORDER BY seq")]


def confirms(db: psycopg.Connection) -> dict[int, tuple[datetime, int | None]]:
    """Return the confirms that are scheduled: when, and the token that has claimed them."""
    return {
        memory_id: (not_before, token)
        for memory_id, not_before, token in db.execute(
            "SELECT memory_id, not_before, claim_token FROM memory_pipeline.change WHERE confirm"
        )
    }


def expire(db: psycopg.Connection) -> None:
    """Let ada's lease end, as if its holder had been frozen."""
    db.execute(
        "UPDATE memory_pipeline.tenant SET lease_until = clock_timestamp() - interval '1 s'"
        " WHERE tenant = 'ada'"
    )


def taken(outbox: PostgresOutbox) -> PostgresLease:
    """Take ada's lease, which has to be free."""
    lease = outbox.acquire_lease(ADA)
    assert lease is not None
    return lease


def acked(outbox: PostgresOutbox, lease: PostgresLease, claim: Claim) -> int:
    """Ack everything as landed."""
    return outbox.ack(
        lease,
        claim,
        landed=dict.fromkeys(claim.memory_ids, ProvenanceUpdate(PROVENANCE)),
        failures=[],
        missed=[],
        recheck=[],
    )


def begun(registry: PostgresRegistry) -> Generation:
    """Begin a generation of ada's on a server that is registered, and nothing else."""
    server = uuid4()
    registry.register_server(server, "http://nowhere:1")
    return registry.begin_generation(ADA, server, model="m", config_hash="c", memories=0)


def owned(rebuilds: PostgresRebuilds, rebuild: str = "the rebuild") -> RebuildPart:
    """Ask for a rebuild of ada and become its owner."""
    rebuilds.request(RebuildId(rebuild), [ADA], re_embed=False)
    build = rebuilds.acquire_part(RebuildId(rebuild), ADA)
    assert build is not None
    return build


def one_after_the_other(
    database: Database,
    db: psycopg.Connection,
    first: Callable[[Connection], object],
    second: Callable[[], object],
) -> None:
    """Do the first in a transaction that is committed once the second waits for it."""
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as connection:
            first(connection)
            late = threads.submit(second)
            deadline = time.monotonic() + 5
            while not one(db, waits):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        late.result(timeout=5)


# -- The whole way, with the real Chroma.


def vector_of(pipeline: Pipeline, memory_id: int) -> Vector:
    """Return the vector that Chroma has for a memory of ada's."""
    generation = live(pipeline)
    with pipeline.servers.client(generation.server).collection(generation, 5.0) as collection:
        found: Any = collection.get(ids=[document_id(MemoryId(memory_id))], include=["embeddings"])
    return np.asarray(found["embeddings"][0], dtype=np.float32)


def stored_vector(db: psycopg.Connection, memory_id: int) -> Vector:
    """Return the vector that Postgres has for a memory."""
    text = one(db, "SELECT embedding::text FROM memory_logs WHERE id = %s", memory_id)
    return np.fromstring(text.strip("[]"), dtype=np.float32, sep=",")
