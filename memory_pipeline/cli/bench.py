"""``memory-pipeline bench``: one command a benchmark, each on private services."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from memory_pipeline.cli.console import AsJson, out, print_json

Rows = Annotated[int, typer.Option(min=100, help="Memories in all.")]
Tenants = Annotated[int, typer.Option(min=1, help="Tenants that they are spread over.")]

app = typer.Typer(help="Measure this machine, each figure with its limit.", no_args_is_help=True)


@app.command()
def capture(
    rows: Annotated[int, typer.Option(min=100, help="Rows in one COPY.")] = 50_000,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of runs; the median counts.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure the cost of the capture triggers for a COPY into memory_logs."""
    from memory_pipeline.testing.benchmarks.capture import bench_capture  # noqa: PLC0415 - slow

    _measure(bench_capture, rows=rows, pairs=pairs, as_json=as_json)


@app.command()
def rebuild(  # noqa: PLR0917 - options, named by typer
    rows: Rows = 20_000,
    tenants: Tenants = 20,
    servers: Annotated[int, typer.Option(min=1, max=8, help="Chroma servers.")] = 1,
    document: Annotated[
        str, typer.Option(help="The text that Chroma stores: 'full' or 'none'.")
    ] = "full",
    turns: Annotated[int, typer.Option(min=1, help="Turns; the medians count.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Measure a rebuild from Postgres and Chroma's own limit, in turns."""
    from memory_pipeline.testing.benchmarks.rebuild import bench_rebuild  # noqa: PLC0415 - slow

    _check("--document", document, "full", "none")
    options = {"rows": rows, "tenants": tenants, "servers": servers, "document": document}
    _measure(bench_rebuild, **options, turns=turns, as_json=as_json)


@app.command()
def verify(
    rows: Rows = 20_000,
    tenants: Tenants = 20,
    as_json: AsJson = False,
) -> None:
    """Measure a verify and one plain read of both sides, in turns."""
    from memory_pipeline.testing.benchmarks.verify import bench_verify  # noqa: PLC0415 - slow

    _measure(bench_verify, rows=rows, tenants=tenants, as_json=as_json)


@app.command()
def freshness(
    rate: Annotated[float, typer.Option(min=1, help="Changes a second, in all.")] = 10.0,
    tenants: Tenants = 20,
    seconds: Annotated[float, typer.Option(min=3, help="Seconds of traffic on either side.")] = 60,
    model: Annotated[
        str, typer.Option(help="'none': rows have vectors; 'real': the model computes them.")
    ] = "none",
    as_json: AsJson = False,
) -> None:
    """Measure the time from commit to visible in Chroma, and of a listener without guarantees."""
    from memory_pipeline.testing.benchmarks.freshness import bench_freshness  # noqa: PLC0415 - slow

    _check("--model", model, "real", "none")
    options = {"rate": rate, "tenants": tenants, "seconds": seconds, "model": model}
    _measure(bench_freshness, **options, as_json=as_json)


@app.command()
def sync(
    changes: Annotated[int, typer.Option(min=100, help="Pending changes.")] = 10_000,
    tenants: Tenants = 20,
    as_json: AsJson = False,
) -> None:
    """Measure the speed of a backlog, with Chroma's own limit, and passes over few changes."""
    from memory_pipeline.testing.benchmarks.sync import bench_sync  # noqa: PLC0415 - slow

    _measure(bench_sync, changes=changes, tenants=tenants, as_json=as_json)


@app.command()
def neighbours(
    rate: Annotated[float, typer.Option(min=1, help="Changes a second of the others.")] = 20.0,
    tenants: Tenants = 20,
    seconds: Annotated[float, typer.Option(min=3, help="Seconds of each kind of trouble.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Measure the cost of one tenant's trouble (poison, damage) for the freshness of all others."""
    from memory_pipeline.testing.benchmarks.neighbours import bench_neighbours  # noqa: PLC0415 - slow

    _measure(bench_neighbours, rate=rate, tenants=tenants, seconds=seconds, as_json=as_json)


def _check(option: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise typer.BadParameter(f"{option} {value!r}: allowed are {' and '.join(allowed)}")


def _measure(
    benchmark: Callable[..., Mapping[str, object]], *, as_json: bool, **options: Any
) -> None:
    """Run a benchmark in a home of its own, which is deleted, and print its figures."""
    with tempfile.TemporaryDirectory(prefix="memory-pipeline-bench-") as home:
        figures = benchmark(Path(home), **options)
    if as_json:
        print_json(figures)
    else:
        for name, value in figures.items():
            out.print(f"{name}: {value}", markup=False)
