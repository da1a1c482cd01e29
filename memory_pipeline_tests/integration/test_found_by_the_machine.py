"""What the stateful machine has found, each as short as it can be told."""

from dataclasses import replace

import psycopg

from memory_pipeline.domain.types import TenantId
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.builders import remember
from memory_pipeline_tests.stateful.faults import POISON, Faults, PickyEmbedder

ADA = TenantId("ada")


def drained(pipeline: Pipeline) -> None:
    """Drain until nothing is pending, with an embedder that refuses one word."""
    drain = replace(
        pipeline.drain(), sync=replace(pipeline.sync(), embedder=PickyEmbedder(Faults()))
    )
    for _ in range(pipeline.settings.max_attempts + 1):
        list(drain.run(paused=True))
        with pipeline.database.transaction() as connection:
            connection.execute("UPDATE memory_pipeline.change SET not_before = NULL")
    assert pipeline.status.totals().pending_changes == 0


def test_a_truncate_takes_the_dead_letters_along(
    pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P5: a dead letter had no document, so comparing documents does not see that it went."""
    remember(db, "ada", f"a pinch of {POISON}")
    drained(pipeline)
    assert pipeline.dead_letters.of_tenants()[ADA].count == 1
    db.execute("TRUNCATE memory_logs")
    kept = remember(db, "ada", f"another pinch of {POISON}")
    drained(pipeline)
    rows = db.execute("SELECT tenant, memory_id FROM memory_pipeline.failure").fetchall()
    assert rows == [("ada", kept)]
