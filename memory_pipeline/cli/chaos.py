"""``memory-pipeline chaos``: inject faults under load, and check every promise."""

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
    """Add the command of this module."""
    app.command()(chaos)


def chaos(  # noqa: PLR0917 - options, named by typer
    seconds: Annotated[float, typer.Option(min=5, help="Seconds of faults.")] = 60,
    faults: Annotated[int, typer.Option(min=0, help="Faults in that time.")] = 16,
    tenants: Annotated[int, typer.Option(min=1, help="Tenants.")] = 20,
    rate: Annotated[float, typer.Option(min=1, help="Changes a second, in all.")] = 30,
    seed: Annotated[
        int | None,
        typer.Option(help="Chooses the faults and their times; without it, a random one."),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="Only this kind of fault; may be repeated.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write a page of markdown here, and JSON next to it.",
            dir_okay=False,
            writable=True,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Inject random faults into a private stack, and check every promise; exit code 1: broken.

    Your own services are not touched: chaos starts private ones and removes them. As root, it also
    fills Chroma's disk.
    """
    from memory_pipeline.testing.chaos import report as reports  # noqa: PLC0415 - slow to import
    from memory_pipeline.testing.chaos.figures import Options  # noqa: PLC0415
    from memory_pipeline.testing.chaos.run import run_chaos  # noqa: PLC0415

    _check_report(report)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    seed = random.randrange(MOST_SEED) if seed is None else seed  # noqa: S311 - no cryptography
    err.print(f"The seed is {seed}.")
    options = Options(seconds, faults, tenants, rate, seed, kinds=tuple(kind or ()))
    figures = reports.as_json(run_chaos(options, lambda line: err.print(line, markup=False)))
    page = reports.as_page(figures)
    if as_json:
        print_json(figures)
    else:
        out.print(page, markup=False)
    if report is not None:
        report.write_text(page)
        report.with_suffix(".json").write_text(
            json.dumps(figures, indent=1, ensure_ascii=False, default=str)
        )
    if figures["violations"]:
        err.print(f"Promises were broken; the seed was {seed}.")
        raise typer.Exit(EXIT_FINDINGS)


def _check_report(report: Path | None) -> None:
    """Refuse a page that cannot be written, before the run. Raises BadParameter."""
    if report is None:
        return
    if report.suffix == ".json":
        raise typer.BadParameter(
            f"--report {str(report)!r}: the JSON next to the page has that name"
        )
    if not os.access(report.parent, os.W_OK):
        raise typer.BadParameter(f"--report {str(report)!r}: its folder cannot be written")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Clean up as Ctrl-C does, once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
