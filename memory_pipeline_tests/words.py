"""Words of the tests: what an application and the pipeline do, what Postgres and Chroma hold.

Words of one theme alone are in the words.py of its folder.
"""

from dataclasses import replace
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from memory_pipeline.domain.dead_letters import Cause
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import Generation, TenantId
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.sync.drain import Drain
from memory_pipeline.sync.tenant import Sync

ADA, BOB = TenantId("ada"), TenantId("bob")
SECONDS = 5.0


# ---- what an application does


def remember(
    db: psycopg.Connection, user_id: str = "ada", summary: str = "a memory", **more: object
) -> int:
    """Insert a memory as an application would; return its id."""
    row = db.execute(
        "INSERT INTO memory_logs (user_id, project_id, raw_data) VALUES (%s, %s, %s) RETURNING id",
        (user_id, "apollo", Jsonb({"summary": summary, **more})),
    ).fetchone()
    assert row is not None
    return int(row[0])


def change(db: psycopg.Connection, memory_id: int, summary: str) -> None:
    """Change a memory as an application would."""
    db.execute(
        "UPDATE memory_logs SET raw_data = %s, updated_at = now() WHERE id = %s",
        (Jsonb({"summary": summary}), memory_id),
    )


# ---- what Postgres holds


def one(db: psycopg.Connection, query: str, *values: object) -> Any:
    """Return the one value of a query."""
    row = db.execute(query.encode(), values or None).fetchone()
    assert row is not None
    return row[0]


def count_of(db: psycopg.Connection, what: str) -> int:
    """Count the rows of a table of the pipeline, or those under a condition."""
    return int(one(db, f"SELECT count(*) FROM memory_pipeline.{what}"))


def pending(db: psycopg.Connection, tenant: str | None = None) -> int:
    """Count the changes, those of one tenant where it is given."""
    query = "SELECT count(*) FROM memory_pipeline.change WHERE %s::text IS NULL OR tenant = %s"
    return int(one(db, query, tenant, tenant))


def pass_time(db: psycopg.Connection, seconds: float) -> None:
    """Move every deadline of the pipeline nearer."""
    db.execute(
        "UPDATE memory_pipeline.change SET not_before = not_before - make_interval(secs => %s)",
        (seconds,),
    )
    db.execute(
        "UPDATE memory_pipeline.tenant SET"
        " lease_until = lease_until - make_interval(secs => %(s)s),"
        " retry_at = retry_at - make_interval(secs => %(s)s)",
        {"s": seconds},
    )


def tried(pipeline: Pipeline, db: psycopg.Connection) -> None:
    """Mark all dead letters as refused under the model and the settings of now."""
    cause = Cause.of_now(pipeline.embedder.model, pipeline.recipe.config_hash).word
    db.execute(
        "UPDATE memory_pipeline.failure SET cause = %(cause)s, tried_under = ARRAY[%(cause)s]",
        {"cause": cause},
    )


# ---- what the pipeline does, and what Chroma then holds


def drained(pipeline: Pipeline, sync: Sync | None = None) -> list[Outcome]:
    """Drain the changes that can be claimed, of tenants in a pause too; return the outcomes."""
    return list(_draining(pipeline, sync).run(paused=True))


def drained_due(pipeline: Pipeline, sync: Sync | None = None) -> list[Outcome]:
    """Drain the changes that are due, but not of tenants in a pause; return the outcomes."""
    return list(_draining(pipeline, sync).run())


def _draining(pipeline: Pipeline, sync: Sync | None) -> Drain:
    return pipeline.drain() if sync is None else replace(pipeline.drain(), sync=sync)


def drained_well(pipeline: Pipeline) -> None:
    """Drain; no tenant may fail, except for a collection that is damaged."""
    for outcome in drained(pipeline):
        assert outcome.verdict in {"done", "damaged"}, outcome


def live(pipeline: Pipeline, tenant: TenantId = ADA) -> Generation:
    """Return the generation that searches of a tenant go to."""
    generation = pipeline.registry.live(tenant)
    assert generation is not None
    return generation


def hashes(pipeline: Pipeline, tenant: TenantId = ADA) -> dict[str, str]:
    """Return document id to content hash of all that a tenant's collection holds."""
    return pipeline.index.hashes(live(pipeline, tenant), renew=lambda: SECONDS)


def held_in(pipeline: Pipeline, generation: Generation) -> set[int]:
    """Return the memories whose documents a generation holds."""
    held = pipeline.index.hashes(generation, renew=lambda: SECONDS)
    return {int(name.removeprefix("memory_log_")) for name in held}


def held(pipeline: Pipeline, tenant: TenantId = ADA) -> set[int]:
    """Return the memories whose documents a tenant's collection holds."""
    return held_in(pipeline, live(pipeline, tenant))
