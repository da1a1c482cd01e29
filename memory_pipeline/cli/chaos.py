"""``memory-pipeline chaos``: break everything, under load, and see whether the promises hold."""

import json
import os
import random
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from memory_pipeline.cli.console import AsJson, err, out, print_json
from memory_pipeline.errors import EXIT_FINDINGS

MOST_SEED = 1_000_000


def register(app: typer.Typer) -> None:
    """Add the command of this room."""
    app.command()(chaos)


def chaos(  # noqa: PLR0917 - options, named by typer
    seconds: Annotated[float, typer.Option(min=5, help="Seconds of faults.")] = 60,
    faults: Annotated[int, typer.Option(min=0, help="Faults in that time.")] = 16,
    tenants: Annotated[int, typer.Option(min=1, help="Tenants.")] = 20,
    rate: Annotated[float, typer.Option(min=1, help="Changes a second, in all.")] = 30,
    seed: Annotated[
        int | None, typer.Option(help="Chooses what is broken and when; by chance without it.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="Only this kind of fault; may be repeated.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write a page of markdown here, and JSON beside it.", dir_okay=False, writable=True
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Break a private stack at random, under load, and check every promise; exit code 1: broken.

    Nothing of yours is touched: it starts services of its own and removes them. As root, Chroma's
    disk is filled too.
    """
    from memory_pipeline.testing.chaos.figures import Options  # noqa: PLC0415 - few need it
    from memory_pipeline.testing.chaos.report import as_json as figures_of  # noqa: PLC0415
    from memory_pipeline.testing.chaos.report import as_page  # noqa: PLC0415
    from memory_pipeline.testing.chaos.run import chaos as run  # noqa: PLC0415

    _check_report(report)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    seed = random.randrange(MOST_SEED) if seed is None else seed  # noqa: S311 - no cryptography
    err.print(f"seed {seed}")
    options = Options(seconds, faults, tenants, rate, seed, kinds=tuple(kind or ()))
    figures = run(options, lambda said: err.print(said, markup=False))
    page = as_page(figures)
    if as_json:
        print_json(figures_of(figures))
    else:
        out.print(page, markup=False)
    if report is not None:
        report.write_text(page)
        report.with_suffix(".json").write_text(
            json.dumps(figures_of(figures), indent=1, ensure_ascii=False, default=str)
        )
    if figures.violations:
        err.print(f"broken; seed {seed}")
        raise typer.Exit(EXIT_FINDINGS)


def _check_report(report: Path | None) -> None:
    """Refuse a page that cannot be written while nothing is lost by it. Raises BadParameter."""
    if report is None:
        return
    if report.suffix == ".json":
        raise typer.BadParameter(f"--report {str(report)!r}: the JSON beside the page is named so")
    if not os.access(report.parent, os.W_OK):
        raise typer.BadParameter(f"--report {str(report)!r}: its folder cannot be written")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Clean up as Ctrl-C does, and not twice."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
