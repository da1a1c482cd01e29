"""The pipeline as a Dagster resource. Connects when it is used, not when it is defined."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from memory_pipeline.local.running import discover
from memory_pipeline.logs import configure_logging
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings


class PipelineResource(dg.ConfigurableResource[None]):
    """Opens the pipeline from the environment's settings, for as long as a step or a tick lasts."""

    @contextmanager
    def opened(self) -> Iterator[Pipeline]:
        """Connect; raise what the settings or the services are to blame for."""
        configure_logging()
        with opened(discover(Settings.load())) as pipeline:
            yield pipeline
