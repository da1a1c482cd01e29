"""The report of one synced tenant, step by step: a step that Dagster has stored is not repeated."""

from collections.abc import Iterator

import dagster as dg
from dagster._core.instance.utils import RUNLESS_RUN_ID  # not public

from memory_pipeline.defs.check_reports import report_checks
from memory_pipeline.defs.materializations import observed, synced
from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.pipeline import Pipeline

DATA_VERSION = "dagster/data_version"
# Other processes report the tenant too: what was stored may not be the newest any more.
RECENT = 20

Event = dg.AssetObservation | dg.AssetMaterialization


class TenantReport:
    """What Dagster is told of one outcome. It survives an error and goes on where that was.

    1. the observation of the tenant's memories
    2. the materialization of its embeddings
    3. that of its index
    4. the evaluations of its checks, which are about what stands then

    An error in a step is an unknown outcome: the event may be stored. So the next attempt asks
    Dagster for it. The number of the newest change identifies it: one outcome alone has it.
    """

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._version = str(outcome.newest_change)
        self._stored: set[dg.AssetKey] = set()
        self._attempted = False
        self.key = ""  # the partition key, which the reporter looks up for each attempt

    def tell(self, instance: dg.DagsterInstance, pipeline: Pipeline) -> None:
        """Tell what is not stored yet. Raises what Dagster's storage raises."""
        key = self.key
        for event in self._events(pipeline, key):
            if event.asset_key in self._stored:
                continue
            if not (self._attempted and self._is_stored(instance, event, key)):
                self._attempted = True
                instance.report_runless_asset_event(event)
            self._stored.add(event.asset_key)
        report_checks(instance, pipeline, self._outcome.tenant, key)

    def _events(self, pipeline: Pipeline, key: str) -> Iterator[Event]:
        outcome = self._outcome
        yield observed(outcome.tenant, key, newest=outcome.newest_change)
        yield from synced(pipeline, outcome, key)

    def _is_stored(self, instance: dg.DagsterInstance, event: Event, key: str) -> bool:
        """Whether Dagster has the event of this outcome already."""
        observation = isinstance(event, dg.AssetObservation)
        fetch = instance.fetch_observations if observation else instance.fetch_materializations
        wanted = dg.AssetRecordsFilter(asset_key=event.asset_key, asset_partitions=[key])
        return any(
            record.run_id == RUNLESS_RUN_ID
            and record.asset_event is not None
            and (record.asset_event.tags or {}).get(DATA_VERSION) == self._version
            for record in fetch(wanted, limit=RECENT).records
        )
