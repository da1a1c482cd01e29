"""kill -9 of a rebuilding process at random points: it resumes, ends, and is true."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg

from memory_pipeline.local.environment import base_environment
from memory_pipeline.pipeline import opened
from memory_pipeline.postgres.database import Database
from memory_pipeline.settings import Settings
from memory_pipeline.testing.benchmarks.rows import Load, fill

COMMAND = Path(sys.executable).with_name("memory-pipeline")
LOAD = Load(rows=3_000, tenants=5)
KILLS = int(os.environ.get("REBUILD_KILLS", "3"))
SEED = int(os.environ.get("REBUILD_SEED", random.randrange(1_000_000)))


def rebuilding(settings: Settings) -> subprocess.Popen[bytes]:
    """Start a rebuild of everything, as a user does."""
    return subprocess.Popen(
        [COMMAND, "rebuild", "--all", "--json"],
        env=base_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_rebuild_survives_kill_9_at_any_point(
    settings: Settings,
    unmarked_chroma: None,
    db: psycopg.Connection,
    wait_until: Callable[..., None],
) -> None:
    """P7: what is done is never done again, what was under way is, and all of it is true."""
    print(f"seed {SEED}")  # noqa: T201 - a failing seed has to be known
    chance = random.Random(SEED)
    settings = settings.model_copy(
        update={
            "lease_seconds": 3.0,
            "request_seconds": 2.0,
            "rebuild_batch_size": 50,
            "rebuild_batch_size_idle": 50,
        }
    )
    db.execute("UPDATE memory_pipeline.installation SET vectors = 'trust'")
    database = Database.from_settings(settings)
    fill(database, LOAD)
    database.close()

    def recorded() -> int:
        row = db.execute("SELECT coalesce(sum(written), 0) FROM memory_pipeline.rebuild").fetchone()
        return 0 if row is None else int(row[0])

    for kill in range(KILLS):
        before = recorded()
        aim = before + chance.randrange(1, max(2, (LOAD.rows - before) // (KILLS - kill + 1)))
        with rebuilding(settings) as process:
            wait_until(lambda p=process, a=aim: recorded() >= a or p.poll() is not None, within=60)
            process.kill()
            process.communicate()
    assert recorded() < LOAD.rows
    with rebuilding(settings) as last:
        _, said = last.communicate(timeout=120)
    assert last.returncode == 0, said.decode()
    assert b"resuming rebuild" in said
    # Each chunk that was recorded was recorded once: at most the one under way was written twice.
    assert recorded() == LOAD.rows
    row = db.execute("SELECT count(DISTINCT id) FROM memory_pipeline.rebuild").fetchone()
    assert row == (1,)
    with opened(settings) as pipeline:
        for tenant in pipeline.registry.keys():  # noqa: SIM118 - a method of ours
            verified = pipeline.verify().run(tenant, sample=None)
            assert verified.findings == ()
            assert verified.documents == verified.memories == LOAD.rows // LOAD.tenants
