"""Reports to a Dagster whose storage fails: nothing is told twice, and somebody learns of it.

What broke: the report of 25 tenants failed with that of one, and began again at the first. Only a
line of the log said so. What must not change: what is stored is not told again, though the answer
was an error; the other tenants are told; `status` names the failure and a command.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from typer.testing import CliRunner

from memory_pipeline.cli import app
from memory_pipeline.defs.instances import open_instance
from memory_pipeline.defs.live_reporter import DagsterReporter
from memory_pipeline.defs.materializations import EMBEDDINGS, INDEX
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ReportFailed
from memory_pipeline.pipeline import Pipeline
from memory_pipeline.worker.metrics import Metrics
from memory_pipeline_tests.dagster.reporting import (
    Breaks,
    assert_shown_fresh,
    materializations,
    observations,
    synced_once,
    tenants_in_sync,
    version,
)
from memory_pipeline_tests.integration.worker.words import Running, living
from memory_pipeline_tests.words import pending, remember

TENANTS = [TenantId("ada"), TenantId("ben")]
ADA, BEN = TENANTS
NOWHERE = """
storage:
  postgres:
    postgres_url: postgresql://dagster:secret@127.0.0.1:9/dagster
"""


def problems() -> list[str]:
    """Return what `memory-pipeline status` says about reports."""
    answer = CliRunner().invoke(app, ["status", "--json"])
    found = json.loads(answer.stdout)["problems"]
    return [problem for problem in found if "Dagster" in problem]


def metric(running: Running, name: str) -> float:
    """Return a figure of a worker."""
    metrics = running.background.metrics
    assert isinstance(metrics, Metrics)
    value = metrics._registry.get_sample_value(f"memory_pipeline_{name}")
    assert value is not None
    return value


@pytest.mark.parametrize("step", Breaks.STEPS)
def test_a_report_that_broke_off_goes_on_where_it_was(
    on_postgres: dg.DagsterInstance,
    pipeline: Pipeline,
    db: psycopg.Connection,
    breaks: Breaks,
    step: str,
) -> None:
    """Whatever step fails, and however often: each event is told once, the other tenant's too."""
    tenants_in_sync(pipeline, db, TENANTS)
    reporter = DagsterReporter(pipeline)
    reporter.report(synced_once(1, *TENANTS))
    with breaks.at(step, ADA):
        with pytest.raises(ReportFailed, match="planted"):
            reporter.report(synced_once(2, *TENANTS))
        assert set(reporter.waiting) == {ADA}
        assert_shown_fresh(on_postgres, BEN)
        # The second attempt finds a materialization that the first has stored; an evaluation is
        # made again.
        found = "once stored" in step and "evaluation" not in step
        with nullcontext() if found else pytest.raises(ReportFailed):
            reporter.report([])
    reporter.report([])
    assert not reporter.waiting
    for tenant in TENANTS:
        for asset in (EMBEDDINGS, INDEX):
            assert [version(r) for r in materializations(on_postgres, tenant, asset)] == [2, 1]
        assert [version(record) for record in observations(on_postgres, tenant)] == [2, 1]
        assert_shown_fresh(on_postgres, tenant)


def test_an_outage_of_dagster_costs_no_report(
    on_postgres: dg.DagsterInstance,
    pipeline: Pipeline,
    db: psycopg.Connection,
    breaks: Breaks,
) -> None:
    """All wait, and the reason names a command; then each is told once."""
    tenants_in_sync(pipeline, db, TENANTS)
    reporter = DagsterReporter(pipeline)
    with breaks.for_all(), pytest.raises(ReportFailed, match="`"):
        reporter.report(synced_once(1, *TENANTS))
    assert set(reporter.waiting) == set(TENANTS)
    reporter.report([])
    for tenant in TENANTS:
        assert len(materializations(on_postgres, tenant)) == 1
        assert_shown_fresh(on_postgres, tenant)


def test_a_database_that_is_not_there_is_named_with_the_command_that_starts_it(
    pipeline: Pipeline, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker may be up before Dagster's storage; what it synced waits."""
    tenants_in_sync(pipeline, db, [ADA])
    (tmp_path / "dagster.yaml").write_text(NOWHERE)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    reporter = DagsterReporter(pipeline)
    with pytest.raises(ReportFailed, match=r"does not answer.*`memory-pipeline up`") as failed:
        reporter.report(synced_once(1, ADA))
    assert "secret" not in str(failed.value)
    assert set(reporter.waiting) == {ADA}


def test_the_first_reports_of_several_processes_make_the_tables_once(
    dagster_home: Path, pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """A stack that starts: whoever is first creates them, and nobody's report is refused."""
    tenants_in_sync(pipeline, db, [ADA])

    def first(number: int) -> None:
        DagsterReporter(pipeline).report(synced_once(number, ADA))

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(first, range(1, 4))) == [None] * 3
    with open_instance() as instance:
        assert sorted(map(version, materializations(instance, ADA))) == [1, 2, 3]
        assert_shown_fresh(instance, ADA)


@pytest.mark.usefixtures("environment")
def test_status_and_metrics_say_that_dagster_cannot_be_told_until_it_can(
    on_postgres: dg.DagsterInstance,
    pipeline: Pipeline,
    db: psycopg.Connection,
    breaks: Breaks,
    wait_until: Callable[..., None],
) -> None:
    """A worker goes on syncing; the failure is named with its command, and gone by itself."""
    with living(pipeline, DagsterReporter(pipeline)) as running:
        with breaks.at("second evaluation, once stored", ADA):
            remember(db, ADA)
            remember(db, BEN)
            wait_until(lambda: problems() != [], within=30)
            (problem,) = problems()
            assert problem.startswith(f"the worker {os.getpid()} on ")
            assert "could not tell Dagster of 1 synced tenants" in problem
            assert "planted" in problem
            assert "dagster instance migrate`" in problem
            assert metric(running, "unreported_tenants") == 1
            assert metric(running, "failed_reports_total") >= 1
            wait_until(lambda: pending(db) == 0)
        wait_until(lambda: problems() == [], within=30)
        assert metric(running, "unreported_tenants") == 0
    for tenant in TENANTS:
        assert len(materializations(on_postgres, tenant)) == 1
        assert_shown_fresh(on_postgres, tenant)
