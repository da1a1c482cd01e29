"""How commands print: results to standard output, everything else to standard error."""

import re
import sys
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from memory_pipeline.content.json_writer import json_pieces
from memory_pipeline.terminal import shows_everything

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

# Characters that a terminal acts upon instead of showing them; a line break stays one.
CONTROL = re.compile(r"[^\n\x20-\x7e\xa0-\U0010ffff]")


def print_json(value: Any) -> None:
    """Print one JSON value for a program to read; what the output cannot show is escaped."""
    pieces = json_pieces(value, default=str, ascii_only=not shows_everything(sys.stdout))
    sys.stdout.write("".join(pieces) + "\n")


def plain(value: object) -> Text:
    """Return foreign text unchanged but harmless: no markup, and no control characters."""
    return Text(CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value)))


def fail(message: str, *, code: int) -> NoReturn:
    """Print what is wrong and end the process with an exit code."""
    err.print(plain(f"memory-pipeline: {message}"))
    raise SystemExit(code)


class _Description(ProgressColumn):
    """The description of the work, which may be a tenant's name."""

    def render(self, task: Task) -> Text:
        return plain(task.description)


class _Speed(ProgressColumn):
    """The number a second, once it is known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f}/s")


def progress_bar(unit: str, *, speed: bool = False) -> Progress:
    """Return a progress bar that counts ``unit``; it prints nothing without a terminal."""
    return Progress(
        _Description(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        *([_Speed()] if speed else []),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
