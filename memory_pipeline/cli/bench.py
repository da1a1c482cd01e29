"""Benchmarks on services of their own; nothing of the user's is touched."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from memory_pipeline.cli.console import AsJson, out, print_json

Rows = Annotated[int, typer.Option(min=100, help="Memories in all.")]
Tenants = Annotated[int, typer.Option(min=1, help="Tenants that they are spread over.")]

app = typer.Typer(help="Measure this machine, each figure beside its limit.", no_args_is_help=True)


@app.command()
def capture(
    rows: Annotated[int, typer.Option(min=100, help="Rows in one COPY.")] = 50_000,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of runs; the median counts.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure what the capture triggers add to a COPY into memory_logs."""
    from memory_pipeline.testing.benchmarks.capture import bench_capture  # noqa: PLC0415 - few need it

    with _home() as home:
        figures = bench_capture(home, rows=rows, pairs=pairs)
    _tell(figures, as_json=as_json)


@app.command()
def rebuild(  # noqa: PLR0917 - options, named by typer
    rows: Rows = 20_000,
    tenants: Tenants = 20,
    servers: Annotated[int, typer.Option(min=1, max=8, help="Chroma servers.")] = 1,
    document: Annotated[
        str, typer.Option(help="What Chroma stores of a memory: 'full' or 'none'.")
    ] = "full",
    turns: Annotated[int, typer.Option(min=1, help="Turns; the medians count.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Measure a rebuild from Postgres beside Chroma's own limit, in turns."""
    from memory_pipeline.testing.benchmarks.rebuild import bench_rebuild  # noqa: PLC0415 - few need it

    if document not in {"full", "none"}:
        raise typer.BadParameter(f"--document {document!r}: allowed are full and none")
    with _home() as home:
        figures = bench_rebuild(
            home,
            rows=rows,
            tenants=tenants,
            servers=servers,
            document=document,  # type: ignore[arg-type]  # checked above
            turns=turns,
        )
    _tell(figures, as_json=as_json)


@app.command()
def verify(
    rows: Rows = 20_000,
    tenants: Tenants = 20,
    as_json: AsJson = False,
) -> None:
    """Measure a verify beside one plain read of both sides, in turns."""
    from memory_pipeline.testing.benchmarks.verify import bench_verify  # noqa: PLC0415 - few need it

    with _home() as home:
        figures = bench_verify(home, rows=rows, tenants=tenants)
    _tell(figures, as_json=as_json)


@app.command()
def freshness(
    rate: Annotated[float, typer.Option(min=1, help="Changes a second, in all.")] = 10.0,
    tenants: Tenants = 20,
    seconds: Annotated[float, typer.Option(min=3, help="Seconds of traffic on either side.")] = 60,
    model: Annotated[
        str, typer.Option(help="'none': rows bring their vectors; 'real': the model makes them.")
    ] = "none",
    as_json: AsJson = False,
) -> None:
    """Measure from commit to visible in Chroma, beside a listener without guarantees."""
    from memory_pipeline.testing.benchmarks.freshness import bench_freshness  # noqa: PLC0415 - few need it

    if model not in {"real", "none"}:
        raise typer.BadParameter(f"--model {model!r}: allowed are real and none")
    with _home() as home:
        figures = bench_freshness(
            home,
            rate=rate,
            tenants=tenants,
            seconds=seconds,
            model=model,  # type: ignore[arg-type]  # checked above
        )
    _tell(figures, as_json=as_json)


@app.command()
def sync(
    changes: Annotated[int, typer.Option(min=100, help="Changes that wait.")] = 10_000,
    tenants: Tenants = 20,
    as_json: AsJson = False,
) -> None:
    """Measure draining a backlog beside Chroma's own limit, and passes over few changes."""
    from memory_pipeline.testing.benchmarks.sync import bench_sync  # noqa: PLC0415 - few need it

    with _home() as home:
        figures = bench_sync(home, changes=changes, tenants=tenants)
    _tell(figures, as_json=as_json)


@app.command()
def neighbours(
    rate: Annotated[float, typer.Option(min=1, help="Changes a second of the others.")] = 20.0,
    tenants: Tenants = 20,
    seconds: Annotated[float, typer.Option(min=3, help="Seconds of each kind of trouble.")] = 60,
    as_json: AsJson = False,
) -> None:
    """Measure what one tenant's trouble (poison, damage) costs the freshness of all others."""
    from memory_pipeline.testing.benchmarks.neighbours import bench_neighbours  # noqa: PLC0415 - few need it

    with _home() as home:
        figures = bench_neighbours(home, rate=rate, tenants=tenants, seconds=seconds)
    _tell(figures, as_json=as_json)


@contextmanager
def _home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="memory-pipeline-bench-") as home:
        yield Path(home)


def _tell(figures: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(figures)
    else:
        for name, value in figures.items():
            out.print(f"{name}: {value}", markup=False)
