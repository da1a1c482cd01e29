"""Reports to Dagster what a worker synced, without a run: one materialization for many batches."""

from collections.abc import Sequence

import dagster as dg

from memory_pipeline.defs.check_results import after_sync
from memory_pipeline.defs.materializations import observed, synced
from memory_pipeline.defs.partitions import tenants
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.pipeline import Pipeline


class DagsterReporter:
    """Reports to the instance of DAGSTER_HOME; connects when there is something to report."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._instance: dg.DagsterInstance | None = None

    def report(self, outcomes: Sequence[Outcome]) -> None:
        """Materialize these tenants; a new tenant becomes a partition first.

        A failed rebuild stays red: its check is evaluated again after each materialization. Raises
        what Dagster's storage raises; tenants reported by then stay reported, which is harmless.
        """
        if self._instance is None:
            self._instance = dg.DagsterInstance.get()
        registered = self._pipeline.registry.keys()
        # A tenant that was forgotten since gets no report: it would bring its name back.
        outcomes = [o for o in outcomes if o.tenant in registered]
        keys = {o.tenant: registered[o.tenant] for o in outcomes}
        self._instance.add_dynamic_partitions(str(tenants.name), list(keys.values()))
        for outcome in outcomes:
            key = keys[outcome.tenant]
            self._instance.report_runless_asset_event(
                observed(outcome.tenant, key, newest=outcome.newest_change)
            )
            for event in synced(self._pipeline, outcome, key):
                self._instance.report_runless_asset_event(event)
            for check in after_sync(self._instance, self._pipeline, outcome.tenant, key):
                self._instance.report_runless_asset_event(check)
