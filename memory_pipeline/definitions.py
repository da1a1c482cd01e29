"""What Dagster loads. Wires only; kept light, because every run and every tick imports it."""

import dagster as dg

from memory_pipeline.defs.assets import memory_logs, sync_tenants
from memory_pipeline.defs.automation import incremental_sync, memory_changes, sync_sweep
from memory_pipeline.defs.resources import PipelineResource

defs = dg.Definitions(
    assets=[memory_logs, sync_tenants],
    jobs=[incremental_sync],
    sensors=[memory_changes],
    schedules=[sync_sweep],
    resources={"pipeline": PipelineResource()},
    # One step a run: another process for it would cost seconds and bring nothing.
    executor=dg.in_process_executor,
)
