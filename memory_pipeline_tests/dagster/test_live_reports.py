"""What a worker reports to Dagster without a run, on the storages that Dagster has.

What broke: on a stored instance the second report of a tenant was refused, for ever, and each try
told its materialization once more. Why a fresh run id alone is not enough: Dagster shows the
evaluation that was stored last, and a run's evaluations are stored where the run has planned them.
What must not change: a tenant's page is right after any number of reports, and a report that broke
off half-way repeats nothing.
"""

import dagster as dg
import psycopg

from memory_pipeline.defs.live_reporter import DagsterReporter
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId
from memory_pipeline.local.postgres import EmbeddedPostgres
from memory_pipeline.pipeline import Pipeline
from memory_pipeline_tests.dagster.reporting import (
    CHECKS,
    assert_shown_fresh,
    count_errors,
    evaluations_of,
    materializations,
    tenants_in_sync,
)
from memory_pipeline_tests.dagster.running import green

TENANTS = [TenantId(f"user-{n}") for n in range(5)]


def told(number: int, *tenants: TenantId) -> list[Outcome]:
    """Return what one sync of each tenant has done; its newest change has this number."""
    return [Outcome(tenant, written=1, newest_change=number) for tenant in tenants]


def test_a_tenant_is_shown_fresh_after_any_number_of_reports(
    stored: dg.DagsterInstance,
    pipeline: Pipeline,
    db: psycopg.Connection,
    postgres: EmbeddedPostgres,
) -> None:
    """As many materializations as reports, one evaluation of each check, and no error in the log."""
    tenants_in_sync(pipeline, db, TENANTS)
    before = count_errors(postgres)
    reporter = DagsterReporter(pipeline)
    for number in range(1, 21):
        reporter.report(told(number, *TENANTS))
    for tenant in TENANTS:
        assert len(materializations(stored, tenant)) == 20
        assert_shown_fresh(stored, tenant)
        for check in CHECKS:
            assert len(evaluations_of(stored, check, tenant)) == 1
    for check in CHECKS:
        assert green(stored, check) == TENANTS
    assert count_errors(postgres) == before
