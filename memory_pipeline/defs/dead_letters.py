"""Dead letters in Dagster: the job that replays them, and the sensors that tell people."""

from typing import cast

import dagster as dg
from pydantic import Field

from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.domain.dead_letters import KINDS, DeadLetterFilter
from memory_pipeline.domain.outcomes import FailureKind
from memory_pipeline.domain.types import MemoryId, TenantId
from memory_pipeline.maintenance.alerts import Alerts, send_dead_letter_alerts
from memory_pipeline.settings import PREFIX, Settings

ALERT_SECONDS = 30
SAID_LENGTH = 500
NO_ADDRESS = f"{PREFIX}ALERT_URL is not set"


class ReplayConfig(dg.Config):
    """Which dead letters are replayed; an empty list is no limit."""

    tenants: list[str] = Field([], description="Only these tenants.")
    classes: list[str] = Field([], description=f"Only these classes: {', '.join(KINDS)}.")
    memory_ids: list[int] = Field([], description="Only these memories, waived ones too.")


@dg.op(description="Has dead letters tried again; those that are waived only if they are named.")
def replay_letters(
    context: dg.OpExecutionContext, config: ReplayConfig, pipeline: PipelineResource
) -> None:
    """Give the chosen dead letters all their attempts again; whoever syncs then tries them."""
    with pipeline.opened() as parts:
        wrong = [
            *(set(config.tenants) - parts.registry.keys().keys()),
            *(set(config.classes) - set(KINDS)),
        ]
        if wrong:
            raise dg.Failure(f"there is no {', '.join(wrong)}", allow_retries=False)
        replayed = parts.dead_letters.replay(
            DeadLetterFilter(
                tenants=[TenantId(t) for t in config.tenants] or None,
                kinds=[cast("FailureKind", k) for k in config.classes] or None,
                memory_ids=[MemoryId(i) for i in config.memory_ids] or None,
                waived=None if config.memory_ids else False,
            )
        )
    context.add_output_metadata({"dead letters replayed": replayed})


@dg.job(
    description="Has memories that were given up tried again, from what Postgres has now. The "
    "run's config names tenants, classes or memories; without it, all that are not waived.",
)
def replay_dead_letters() -> None:
    """Replay dead letters."""
    replay_letters()


@dg.sensor(
    minimum_interval_seconds=ALERT_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of new dead letters, once each, where a webhook is set.",
)
def dead_letter_alerts(
    context: dg.SensorEvaluationContext,  # noqa: ARG001 - Dagster wants it
    pipeline: PipelineResource,
) -> dg.SkipReason:
    """Tell of what nobody was told of yet."""
    alerts = Alerts.from_settings(Settings.load())
    if alerts.url is None:
        return dg.SkipReason(NO_ADDRESS)
    with pipeline.opened() as parts:
        told = send_dead_letter_alerts(alerts, parts.dead_letters)
    return dg.SkipReason(f"told of {told} dead letters" if told else "nothing to tell")


@dg.run_failure_sensor(
    minimum_interval_seconds=ALERT_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of runs that have failed, where a webhook is set.",
)
def run_failure_alerts(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
    """Tell of one failed run."""
    alerts = Alerts.from_settings(Settings.load())
    if alerts.url is None:
        return dg.SkipReason(NO_ADDRESS)
    run = context.dagster_run
    alerts.send(
        "run_failed",
        {
            "job": run.job_name,
            "run_id": run.run_id,
            "tags": dict(run.tags),
            "message": (context.failure_event.message or "")[:SAID_LENGTH],
        },
    )
    return None
