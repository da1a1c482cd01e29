"""The job that replays dead letters."""

from typing import cast

import dagster as dg
from pydantic import Field

from memory_pipeline.defs.resources import PipelineResource
from memory_pipeline.domain.dead_letters import KINDS, DeadLetterFilter
from memory_pipeline.domain.outcomes import FailureKind
from memory_pipeline.domain.types import MemoryId, TenantId


class ReplayConfig(dg.Config):
    """Which dead letters are replayed; an empty list selects all."""

    tenants: list[str] = Field([], description="Only these tenants.")
    classes: list[str] = Field([], description=f"Only these classes: {', '.join(KINDS)}.")
    memory_ids: list[int] = Field([], description="Only these memories, waived ones too.")


@dg.op(description="Retries dead letters; waived ones only if their memories are named.")
def replay_selected(
    context: dg.OpExecutionContext, config: ReplayConfig, pipeline_resource: PipelineResource
) -> None:
    """Give the chosen dead letters all their attempts again; the next sync retries them."""
    with pipeline_resource.opened() as pipeline:
        tenants = [pipeline.tenants.canonical(TenantId(t)) for t in config.tenants]
        strangers = set(tenants) - pipeline.registry.keys().keys()
        if strangers:
            raise dg.Failure(f"no such tenant: {', '.join(strangers)}", allow_retries=False)
        if unknown := set(config.classes) - set(KINDS):
            raise dg.Failure(
                f"no such class: {', '.join(unknown)}; allowed are {', '.join(KINDS)}",
                allow_retries=False,
            )
        replayed = pipeline.dead_letters.replay(
            DeadLetterFilter(
                tenants=tenants or None,
                kinds=[cast("FailureKind", k) for k in config.classes] or None,
                memory_ids=[MemoryId(i) for i in config.memory_ids] or None,
                waived=None if config.memory_ids else False,
            )
        )
    context.add_output_metadata({"dead letters replayed": replayed})


@dg.job(
    description="Retries buried memories with their current rows in Postgres. The run's config "
    "names tenants, classes or memories; without it, all that are not waived.",
)
def replay_dead_letters() -> None:
    """Replay dead letters."""
    replay_selected()
