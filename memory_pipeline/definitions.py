"""What Dagster loads. Wires only; kept light, because every run and every tick imports it."""

import dagster as dg

from memory_pipeline.defs.assets import memory_logs, sync_tenants
from memory_pipeline.defs.checks import verify_tenants
from memory_pipeline.defs.dead_letters import replay_dead_letters
from memory_pipeline.defs.jobs import full_rebuild, incremental_sync, verify_index
from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.defs.schedules import nightly_verify, sync_sweep
from memory_pipeline.defs.sensors import dead_letter_alerts, memory_changes, run_failure_alerts

defs = dg.Definitions(
    assets=[memory_logs, sync_tenants],
    asset_checks=[verify_tenants],
    jobs=[incremental_sync, full_rebuild, verify_index, replay_dead_letters],
    sensors=[memory_changes, dead_letter_alerts, run_failure_alerts],
    schedules=[sync_sweep, nightly_verify],
    resources={"pipeline_resource": PipelineResource()},
    # One step a run: another process for it would cost seconds and bring nothing.
    executor=dg.in_process_executor,
)
