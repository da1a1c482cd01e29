"""Benchmarks on services of their own; nothing of the user's is touched."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from memory_pipeline.cli.console import out, print_json
from memory_pipeline.cli.data import AsJson

app = typer.Typer(help="Measure this machine, each figure beside its limit.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``bench capture`` a command of a group while it is the only one."""


@app.command()
def capture(
    rows: Annotated[int, typer.Option(min=100, help="Rows in one COPY.")] = 50_000,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of runs; the median counts.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure what the capture triggers add to a COPY into memory_logs."""
    from memory_pipeline.benchmarks.capture import bench_capture  # noqa: PLC0415 - few need it

    with tempfile.TemporaryDirectory(prefix="memory-pipeline-bench-") as home:
        figures = bench_capture(Path(home), rows=rows, pairs=pairs)
    if as_json:
        print_json(figures)
    else:
        for name, value in figures.items():
            out.print(f"{name}: {value}", markup=False)
