"""Runs of verify_index in process, against the real Postgres and Chroma."""

from collections import Counter

import dagster as dg
import psycopg
import pytest

from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings
from memory_pipeline_tests.dagster.running import (
    evaluations,
    execute,
    green,
    over,
    passes,
    red,
    synced,
)
from memory_pipeline_tests.fakes import no_lease
from memory_pipeline_tests.words import remember

USERS = ("ada", "ben", "chloe")
CHECKS = ("parity", "reachability", "dead_letters", "last_rebuild", "freshness")
LOGS = dg.AssetKey("memory_logs")
BURIED = """
    INSERT INTO memory_pipeline.failure
        (tenant, memory_id, attempts, first_error, last_error, buried_at)
    VALUES ('chloe', 1, 5, 'refused', 'refused', now())
"""
ELSEWHERE = """
    WITH elsewhere AS (
        INSERT INTO memory_pipeline.server (id, url)
        VALUES (gen_random_uuid(), 'http://127.0.0.1:9') RETURNING id
    )
    UPDATE memory_pipeline.generation SET server = elsewhere.id FROM elsewhere
    WHERE tenant IN ('ada', 'ben')
"""


@pytest.fixture(autouse=True)
def memories(
    environment: Settings, instance: dg.DagsterInstance, db: psycopg.Connection
) -> list[MemoryId]:
    """Give three tenants a memory each, in sync; return them."""
    ids = [MemoryId(remember(db, user)) for user in USERS]
    synced(instance)
    return ids


def verify(instance: dg.DagsterInstance, *, raise_on_error: bool = True) -> list[str]:
    """Run verify_index over all tenants; return check and partition of each evaluation."""
    result = execute(
        instance, over("ada", "chloe"), job="verify_index", raise_on_error=raise_on_error
    )
    return [f"{e.check_name} {e.partition}" for e in evaluations(result)]


def forget(pipeline: Pipeline, tenant: str, memory: MemoryId) -> None:
    """Delete a document from Chroma behind the pipeline's back."""
    live = pipeline.registry.live(TenantId(tenant))
    assert live is not None
    pipeline.index.write(live, [], [memory], renew=no_lease)


def test_each_tenant_gets_an_evaluation_of_each_check_and_all_get_one(
    instance: dg.DagsterInstance, db: psycopg.Connection
) -> None:
    """Of a range run too, by which Dagster itself records only the latter."""
    said = Counter(verify(instance))
    assert said == {
        **{f"{check} {user}": 1 for check in CHECKS for user in (*USERS, None)},
        "capture None": 1,
    }
    for check in CHECKS:
        assert green(instance, check) == list(USERS)
        assert passes(instance, check)
    assert passes(instance, "capture", LOGS)
    noted = db.execute("SELECT tenant, found FROM memory_pipeline.verification ORDER BY 1")
    assert noted.fetchall() == [(user, 0) for user in USERS]


def test_a_missing_document_is_found_in_exactly_that_tenant(
    instance: dg.DagsterInstance, pipeline: Pipeline, memories: list[MemoryId]
) -> None:
    """The evaluation names the memory, and never what stands in it."""
    forget(pipeline, "ben", memories[1])
    result = execute(instance, over("ada", "chloe"), job="verify_index")
    assert red(instance, "parity") == ["ben"]
    assert not passes(instance, "parity")
    assert red(instance, "reachability") == []
    (said,) = [
        e for e in evaluations(result) if e.check_name == "parity" and not e.passed and e.partition
    ]
    assert said.severity is dg.AssetCheckSeverity.ERROR
    assert said.description == "1 missing"
    assert said.metadata["findings"].value == [{"kind": "missing", "memory": memories[1]}]


def test_many_findings_are_counted_and_the_first_shown(
    instance: dg.DagsterInstance, pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Metadata stays small, whatever has happened."""
    ids = [MemoryId(remember(db, "ada")) for _ in range(25)]
    synced(instance)
    for memory in ids:
        forget(pipeline, "ada", memory)
    result = execute(instance, over("ada", "ada"), job="verify_index")
    said = next(e for e in evaluations(result) if e.check_name == "parity")
    assert said.description == "25 missing"
    assert len(said.metadata["findings"].value) == 20  # type: ignore[arg-type]
    assert said.metadata["findings not shown"].value == 5


def test_what_another_run_has_found_stays_in_what_is_said_of_all(
    instance: dg.DagsterInstance, pipeline: Pipeline, memories: list[MemoryId]
) -> None:
    """A night's verify is several runs, and the last one speaks for all of them."""
    forget(pipeline, "ada", memories[0])
    execute(instance, over("ada", "ada"), job="verify_index")
    execute(instance, over("ben", "chloe"), job="verify_index")
    assert red(instance, "parity") == ["ada"]
    assert not passes(instance, "parity")


def test_a_run_without_partitions_is_about_all_tenants(
    instance: dg.DagsterInstance, pipeline: Pipeline, memories: list[MemoryId]
) -> None:
    """What a person gets who presses Launch; and the catalog shows all, not the last tenant."""
    forget(pipeline, "ada", memories[0])
    execute(instance, dg.RunRequest(), job="verify_index")
    assert red(instance, "parity") == ["ada"]
    assert green(instance, "parity") == ["ben", "chloe"]
    assert not passes(instance, "parity")
    assert passes(instance, "reachability")


def test_dead_letters_warn(instance: dg.DagsterInstance, db: psycopg.Connection) -> None:
    """They are known, and wait for a person; nothing else of the tenant is wrong."""
    db.execute(BURIED)
    result = execute(instance, over("ada", "chloe"), job="verify_index")
    said = [e for e in evaluations(result) if e.check_name == "dead_letters" and not e.passed]
    assert [e.partition for e in said] == ["chloe", None]
    assert {e.severity for e in said} == {dg.AssetCheckSeverity.WARN}


def test_a_broken_trigger_fails_the_check_of_the_table(
    instance: dg.DagsterInstance, db: psycopg.Connection
) -> None:
    """Nothing that is written from then on would ever be indexed."""
    triggers = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'memory_logs'::regclass"
    (name, *_) = [name for (name,) in db.execute(triggers)]
    db.execute(
        psycopg.sql.SQL("ALTER TABLE memory_logs DISABLE TRIGGER {}").format(
            psycopg.sql.Identifier(name)
        )
    )
    verify(instance)
    assert not passes(instance, "capture", LOGS)


def test_a_server_that_is_down_fails_the_run_for_its_tenants_alone(
    instance: dg.DagsterInstance, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are verified; of those, what Postgres knows is said all the same."""
    monkeypatch.setenv("MEMORY_PIPELINE_CHROMA_URLS", "http://127.0.0.1:9")
    db.execute(ELSEWHERE)
    result = execute(instance, over("ada", "chloe"), job="verify_index", raise_on_error=False)
    assert not result.success
    assert "2 of 3 tenants could not be verified" in str(
        result.failure_data_for_node("verify_tenants")
    )
    assert green(instance, "parity") == ["chloe"]
    assert not passes(instance, "parity")
    assert green(instance, "last_rebuild") == list(USERS)


def test_a_tenant_that_is_unproven_is_neither_in_parity_nor_fresh(
    instance: dg.DagsterInstance, db: psycopg.Connection
) -> None:
    """Postgres went back in time: what waits excuses everything, and says nothing good."""
    db.execute("INSERT INTO memory_pipeline.change (tenant, unproven) VALUES ('ben', true)")
    verify(instance)
    assert red(instance, "parity") == red(instance, "freshness") == ["ben"]
    synced(instance)
    verify(instance)
    assert red(instance, "parity") == red(instance, "freshness") == []
