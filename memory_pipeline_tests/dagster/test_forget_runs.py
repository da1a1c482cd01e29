"""Dagster's partition of a tenant that was forgotten: when it goes, and what its history keeps."""

from collections.abc import Iterator

import dagster as dg
import psycopg
import pytest

from memory_pipeline.defs.live_reporter import DagsterReporter
from memory_pipeline.defs.tenant_history import DagsterHistory
from memory_pipeline.domain.erasure import Erasure, Place
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline_tests.dagster.running import GREEN, status, synced, tick
from memory_pipeline_tests.words import ADA, BOB, remember


@pytest.fixture
def known(
    environment: Settings, instance: dg.DagsterInstance, db: psycopg.Connection
) -> Iterator[Pipeline]:
    """Return the parts of an installation whose two tenants Dagster knows and has synced."""
    remember(db)
    remember(db, "bob")
    synced(instance)
    with opened(environment, embedder=HashingEmbedder()) as pipeline:
        yield pipeline


def forgotten(pipeline: Pipeline, instance: dg.DagsterInstance) -> Erasure:
    """Forget ada with this Dagster."""
    return pipeline.forget(DagsterHistory(pipeline, instance)).run(ADA, delete_memories=True)


def dagsters(erasure: Erasure) -> list[Place]:
    """Return the places in Dagster."""
    return [place for place in erasure.places if place.name.startswith("Dagster")]


def running(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """Begin a run over both tenants."""
    return instance.add_run(
        dg.DagsterRun(
            job_name="incremental_sync",
            status=dg.DagsterRunStatus.STARTED,
            tags={
                "dagster/asset_partition_range_start": "ada",
                "dagster/asset_partition_range_end": "bob",
            },
        )
    )


def test_the_partition_goes_and_the_history_is_reported(
    known: Pipeline, instance: dg.DagsterInstance
) -> None:
    """No API of Dagster deletes the events of one partition, so the proof counts them."""
    erasure = forgotten(known, instance)
    partition, history = dagsters(erasure)
    assert erasure.proven
    assert partition.state == "gone"
    assert (history.state, history.found > 0) == ("kept", True)
    assert instance.get_dynamic_partitions("tenants") == ["bob"]
    assert status(instance, "bob") == [GREEN]


def test_while_a_run_is_queued_the_partition_stays_and_the_sensor_deletes_it_later(
    known: Pipeline, instance: dg.DagsterInstance
) -> None:
    """Ranges are positional: a queued run whose end was deleted would fail, or sync others."""
    run = running(instance)
    partition, _ = dagsters(forgotten(known, instance))
    assert (partition.state, partition.found) == ("left", 1)
    tick(instance)
    assert instance.get_dynamic_partitions("tenants") == ["ada", "bob"]
    instance.report_run_canceled(run)
    tick(instance)
    assert instance.get_dynamic_partitions("tenants") == ["bob"]
    assert dagsters(known.forget(DagsterHistory(known, instance)).prove(ADA))[0].state == "gone"


def test_while_postgres_is_unproven_no_partition_goes(
    known: Pipeline, instance: dg.DagsterInstance, db: psycopg.Connection
) -> None:
    """After a restore the registry is not the last word: a tenant may come back."""
    db.execute(
        "INSERT INTO memory_pipeline.change (tenant, not_before, unproven)"
        " VALUES ('bob', now() + interval '1 hour', true)"
    )
    instance.add_dynamic_partitions("tenants", ["restored"])
    tick(instance)
    assert "restored" in instance.get_dynamic_partitions("tenants")
    db.execute("DELETE FROM memory_pipeline.change")
    tick(instance)
    assert "restored" not in instance.get_dynamic_partitions("tenants")


def test_a_report_that_comes_too_late_brings_no_partition_back(
    known: Pipeline, instance: dg.DagsterInstance
) -> None:
    """A worker reports minutes after a sync: by then the tenant may be forgotten."""
    forgotten(known, instance)
    reporter = DagsterReporter(known)
    reporter._instance = instance
    reporter.report([Outcome(ADA, newest_change=1), Outcome(BOB, newest_change=2)])
    assert instance.get_dynamic_partitions("tenants") == ["bob"]
    assert ADA not in known.registry.keys()  # noqa: SIM118 - no dict


def test_a_tenant_that_comes_back_gets_its_partition_back(
    known: Pipeline, instance: dg.DagsterInstance, db: psycopg.Connection
) -> None:
    """At the end of the list, as a new one."""
    forgotten(known, instance)
    remember(db)
    synced(instance)
    assert instance.get_dynamic_partitions("tenants") == ["bob", "ada"]
    assert status(instance, "ada") == [GREEN]
