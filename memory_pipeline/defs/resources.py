"""The pipeline as a Dagster resource. Connects when it is used, not when it is defined."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TypeVar

import dagster as dg
from pydantic import PrivateAttr

from memory_pipeline.local.discovery import discover
from memory_pipeline.logs import configure_logging
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings

Event = TypeVar("Event")


class PipelineResource(dg.ConfigurableResource[None]):
    """Opens the pipeline from the environment's settings, for as long as a step or a tick lasts."""

    _at_end: ExitStack = PrivateAttr(default_factory=ExitStack)

    @contextmanager
    def opened(self) -> Iterator[Pipeline]:
        """Connect. Raises what ``pipeline.opened`` and ``Settings.load`` raise."""
        settings = discover(Settings.load())
        configure_logging(tenants=settings.log_tenants)
        with opened(settings) as pipeline:
            yield pipeline

    def closed_at_end(self, events: Generator[Event]) -> Generator[Event]:
        """Close a step's generator when the run ends, whatever happens to the step.

        A run that is cancelled while an event is being recorded never returns to the generator, and
        its process would wait until the generator's threads have finished all their work.
        """
        return self._at_end.enter_context(closing(events))

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """Close what is still open at the end of the run."""
        self._at_end.close()
