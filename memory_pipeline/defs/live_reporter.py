"""Reports to Dagster what a worker synced, without a run: one materialization for many batches."""

from collections.abc import Callable, Collection, Sequence

import dagster as dg

from memory_pipeline.defs.instances import add_partitions, open_instance
from memory_pipeline.defs.partitions import tenants
from memory_pipeline.defs.report_failures import as_report_failed
from memory_pipeline.defs.tenant_report import TenantReport
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import PipelineError
from memory_pipeline.pipeline import Pipeline

# One tenant may be at fault; after so many, the storage is taken for down.
MOST_FAILURES = 3


class DagsterReporter:
    """Reports to the instance of DAGSTER_HOME; connects when there is something to report.

    A report that fails half-way waits here and goes on where it was. For one thread.
    """

    def __init__(
        self, pipeline: Pipeline, connect: Callable[[], dg.DagsterInstance] = open_instance
    ) -> None:
        self._pipeline = pipeline
        self._connect = connect
        self._instance: dg.DagsterInstance | None = None
        # The tenants whose last attempt failed are at the end.
        self._waiting: dict[TenantId, TenantReport] = {}

    @property
    def waiting(self) -> Collection[TenantId]:
        """The tenants whose report is not told completely."""
        return self._waiting.keys()

    def report(self, outcomes: Sequence[Outcome]) -> None:
        """Materialize these tenants, after those that wait; a new tenant becomes a partition first.

        A failed rebuild stays red: its check is evaluated again after each materialization. A
        tenant that was forgotten since is not reported: that would bring its name back.

        Raises:
            ReportFailed: some tenants could not be told of; they wait, the others are told.
            PostgresUnavailable: the pipeline's own Postgres is down; the rest waits.

        """
        for outcome in outcomes:
            self._waiting[outcome.tenant] = TenantReport(outcome)
        if not self._waiting:
            return
        try:
            if self._instance is None:
                self._instance = self._connect()
            self._add_partitions(self._instance)
        except PipelineError:
            raise
        except Exception as error:
            raise as_report_failed(error) from error
        self._tell(self._instance)

    def _add_partitions(self, instance: dg.DagsterInstance) -> None:
        """Forget the tenants that are not registered any more; add the partitions of the others."""
        registered = self._pipeline.registry.keys()
        for tenant in self._waiting.keys() - registered.keys():
            del self._waiting[tenant]
        keys = [registered[tenant] for tenant in self._waiting]
        for tenant, report in self._waiting.items():
            report.key = registered[tenant]
        add_partitions(instance, str(tenants.name), keys)

    def _tell(self, instance: dg.DagsterInstance) -> None:
        failures: list[Exception] = []
        for tenant, report in list(self._waiting.items()):
            try:
                report.tell(instance, self._pipeline)
            except PipelineError:
                raise
            except Exception as error:  # noqa: BLE001 - one tenant must not hold up the others
                failures.append(error)
                self._waiting[tenant] = self._waiting.pop(tenant)
            else:
                del self._waiting[tenant]
            if len(failures) == MOST_FAILURES:
                break
        if failures:
            raise as_report_failed(failures[0]) from failures[0]
