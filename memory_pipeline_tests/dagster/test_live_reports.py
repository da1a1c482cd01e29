"""What a worker reports to Dagster without a run, on the storages that Dagster has.

What broke: on a stored instance the second report of a tenant was refused, for ever, and each try
told its materialization once more. Why a fresh run id alone is not enough: Dagster shows the
evaluation whose row is the newest, and a run's evaluations fill rows that are older. What must not
change: a tenant's page is right after any number of reports, and a report that broke off half-way
repeats nothing.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dagster as dg
import psycopg
import pytest

from memory_pipeline.defs.live_reporter import DagsterReporter
from memory_pipeline.domain.outcomes import Verified
from memory_pipeline.domain.types import TenantId
from memory_pipeline.local.postgres import EmbeddedPostgres
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.settings import Settings
from memory_pipeline.verify.tenant import Verify
from memory_pipeline_tests.dagster import reporting
from memory_pipeline_tests.dagster.reporting import (
    CHECKS,
    assert_shown_fresh,
    count_errors,
    evaluations_of,
    materializations,
    observations,
    synced_once,
    tenants_in_sync,
    version,
)
from memory_pipeline_tests.dagster.running import execute, green, over, passes, red
from memory_pipeline_tests.embedders import CountingEmbedder
from memory_pipeline_tests.words import remember

# The full measurement takes about half an hour: REPORT_TENANTS=50 REPORT_ROUNDS=100, with -s and
# --timeout=0.
MANY = [TenantId(f"user-{n:02d}") for n in range(int(os.environ.get("REPORT_TENANTS", "5")))]
ROUNDS = int(os.environ.get("REPORT_ROUNDS", "6"))
TENANTS = [TenantId("ada"), TenantId("ben")]
ADA, BEN = TENANTS

BURY = """
    INSERT INTO memory_pipeline.failure
        (tenant, memory_id, attempts, first_error, last_error, buried_at)
    VALUES (%s, 1, 5, 'refused', 'refused', now())
"""


def test_a_tenant_is_shown_fresh_after_any_number_of_reports(
    stored: dg.DagsterInstance,
    pipeline: Pipeline,
    db: psycopg.Connection,
    postgres: EmbeddedPostgres,
) -> None:
    """As many materializations as reports, one evaluation of each check, no error in the log."""
    tenants_in_sync(pipeline, db, MANY)
    before = count_errors(postgres)
    reporter, began = DagsterReporter(pipeline), time.monotonic()
    for number in range(1, ROUNDS + 1):
        reporter.report(synced_once(number, *MANY))
        assert not reporter.waiting
    seconds = (time.monotonic() - began) / (ROUNDS * len(MANY))
    print(f"{ROUNDS} reports of {len(MANY)} tenants, {seconds:.3f} s each")  # noqa: T201 - with -s
    for tenant in MANY:
        for told in (materializations(stored, tenant), observations(stored, tenant)):
            assert [version(record) for record in told] == list(range(ROUNDS, 0, -1))
        assert_shown_fresh(stored, tenant)
        for check in CHECKS:
            assert len(evaluations_of(stored, check, tenant)) == 1
    for check in CHECKS:
        assert green(stored, check) == MANY
    assert count_errors(postgres) == before


def test_a_report_shows_what_has_become_of_a_tenant(
    on_postgres: dg.DagsterInstance, pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """Red while memories are dead letters, and green again; the others stay as they are."""
    tenants_in_sync(pipeline, db, TENANTS)
    reporter = DagsterReporter(pipeline)
    reporter.report(synced_once(1, *TENANTS))
    db.execute(BURY, (BEN,))
    reporter.report(synced_once(2, *TENANTS))
    assert red(on_postgres, "dead_letters") == [BEN]
    db.execute("DELETE FROM memory_pipeline.failure")
    reporter.report(synced_once(3, *TENANTS))
    assert green(on_postgres, "dead_letters") == TENANTS


def test_reports_and_verifies_show_the_later_of_both(
    environment: Settings,
    on_postgres: dg.DagsterInstance,
    pipeline: Pipeline,
    db: psycopg.Connection,
) -> None:
    """A run's evaluations follow a report's, and the other way round."""
    tenants_in_sync(pipeline, db, TENANTS)
    reporter, verify = DagsterReporter(pipeline), over(TENANTS[0], TENANTS[-1])
    for number in (1, 3):
        reporter.report(synced_once(number, *TENANTS))
        db.execute(BURY, (BEN,))
        execute(on_postgres, verify, job="verify_index")
        assert red(on_postgres, "dead_letters") == [BEN]
        assert green(on_postgres, "parity") == TENANTS
        db.execute("DELETE FROM memory_pipeline.failure")
        reporter.report(synced_once(number + 1, *TENANTS))
        assert green(on_postgres, "dead_letters") == TENANTS
    for tenant in TENANTS:
        assert len(materializations(on_postgres, tenant)) == 4
        assert_shown_fresh(on_postgres, tenant)


def test_a_verify_shows_what_it_found_though_a_worker_reported_meanwhile(
    environment: Settings,
    on_postgres: dg.DagsterInstance,
    pipeline: Pipeline,
    db: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run fills in what it had planned before the report, and that row is never shown."""
    tenants_in_sync(pipeline, db, TENANTS)
    reporter, verify = DagsterReporter(pipeline), Verify.run
    reporter.report(synced_once(1, *TENANTS))
    db.execute(BURY, (ADA,))

    def report_while_it_is_green(self: Verify, tenant: TenantId, **how: Any) -> Verified:
        db.execute("DELETE FROM memory_pipeline.failure")
        reporter.report(synced_once(2, tenant))
        assert green(on_postgres, "dead_letters") != []
        db.execute(BURY, (ADA,))
        return verify(self, tenant, **how)

    monkeypatch.setattr(Verify, "run", report_while_it_is_green)
    execute(on_postgres, over(ADA, ADA), job="verify_index")
    assert red(on_postgres, "dead_letters") == [ADA]
    assert_shown_fresh(on_postgres, ADA)


def test_a_verify_of_all_is_told_any_number_of_times(
    environment: Settings,
    on_postgres: dg.DagsterInstance,
    pipeline: Pipeline,
    db: psycopg.Connection,
    postgres: EmbeddedPostgres,
) -> None:
    """What it says of all tenants has no run and no partition, and is not refused either."""
    tenants_in_sync(pipeline, db, TENANTS)
    DagsterReporter(pipeline).report(synced_once(1, *TENANTS))
    before = count_errors(postgres)
    for count in (0, 1, 0):
        db.execute("DELETE FROM memory_pipeline.failure")
        if count:
            db.execute(BURY, (BEN,))
        execute(on_postgres, dg.RunRequest(), job="verify_index")
        assert red(on_postgres, "dead_letters") == [BEN] * count
        assert passes(on_postgres, "dead_letters") is not bool(count)
    assert count_errors(postgres) == before


def test_a_run_that_syncs_a_tenant_twice_shows_the_second_time(
    environment: Settings,
    on_postgres: dg.DagsterInstance,
    pipeline: Pipeline,
    db: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its second evaluation fills the row of the first, and a report's row is newer than that."""
    tenants_in_sync(pipeline, db, TENANTS)
    reporter = DagsterReporter(pipeline)
    reporter.report(synced_once(1, *TENANTS))
    remember(db, ADA)
    remember(db, BEN, "act now")

    def report_and_write(texts: Sequence[str]) -> None:
        if any("act now" in text for text in texts):
            assert len(materializations(on_postgres, ADA)) == 2
            reporter.report(synced_once(3, ADA))
            remember(db, ADA, "once more")

    acting = CountingEmbedder(before=report_and_write)
    monkeypatch.setattr(reporting, "embedder", lambda _: acting, raising=False)
    monkeypatch.setenv("MEMORY_PIPELINE_EMBEDDER", f"{reporting.__name__}:embedder")
    execute(on_postgres, over(TENANTS[0], TENANTS[-1]))
    assert len(materializations(on_postgres, ADA)) == 4
    assert green(on_postgres, "freshness") == TENANTS
    assert_shown_fresh(on_postgres, ADA)


def test_two_workers_report_the_same_tenants_at_once(
    stored: dg.DagsterInstance,
    pipeline: Pipeline,
    db: psycopg.Connection,
    postgres: EmbeddedPostgres,
) -> None:
    """Neither is refused, each materialization is told, and the newest is the one evaluated."""
    tenants_in_sync(pipeline, db, TENANTS)
    before = count_errors(postgres)

    def work(worker: int) -> None:
        reporter = DagsterReporter(pipeline)
        for number in range(worker, 7, 2):
            reporter.report(synced_once(number, *TENANTS))

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(work, (1, 2))) == [None, None]
    for tenant in TENANTS:
        assert sorted(map(version, materializations(stored, tenant))) == [1, 2, 3, 4, 5, 6]
        assert_shown_fresh(stored, tenant)
    assert count_errors(postgres) == before
