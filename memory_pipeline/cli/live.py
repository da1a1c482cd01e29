"""``memory-pipeline live``: run a worker, the resident process that syncs every change."""

import signal
from types import FrameType
from typing import Annotated

import typer

from memory_pipeline.cli.console import err
from memory_pipeline.cli.services import name_dagster
from memory_pipeline.domain.types import TenantId
from memory_pipeline.local.discovery import discover
from memory_pipeline.logs import configure_logging
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline.worker.ports import Reporter


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(live)


def live(
    dagster: Annotated[
        bool, typer.Option(help="Report syncs to Dagster, where there is one.")
    ] = True,
) -> None:
    """Run a worker, which syncs every change within half a second.

    It ends at SIGTERM. Any number of workers may run, on any machines.
    """
    from memory_pipeline.worker.metrics import Metrics  # noqa: PLC0415 - only a worker needs it

    settings = discover(Settings.load())
    configure_logging(tenants=settings.log_tenants)
    with opened(settings) as pipeline:
        metrics = Metrics(
            pipeline.freshness, port=settings.metrics_port, address=settings.metrics_address
        )
        reporter = _reporter(pipeline) if dagster else _NoReporter()
        worker = pipeline.worker(pipeline.background(metrics=metrics, reporter=reporter))

        def stop(_number: int, _frame: FrameType | None) -> None:
            worker.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        worker.run()
    err.print("stopped")


class _NoReporter:
    """Reports to no one, where there is no Dagster."""

    waiting: frozenset[TenantId] = frozenset()

    def report(self, outcomes: object) -> None:
        """Do nothing."""


def _reporter(pipeline: Pipeline) -> Reporter:
    """Return a reporter to the Dagster of the environment, or of the services here."""
    if not name_dagster(pipeline.settings):
        return _NoReporter()
    from memory_pipeline.defs.live_reporter import DagsterReporter  # noqa: PLC0415 - dagster is slow

    return DagsterReporter(pipeline)
