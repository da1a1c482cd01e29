"""What the commands print with: results to standard output, everything else to standard error."""

import json
import sys
from typing import Any, NoReturn

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

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON value for a program to read."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def fail(message: str, *, code: int) -> NoReturn:
    """Say what is wrong and end with an exit code."""
    err.print(f"memory-pipeline: {message}", markup=False)
    raise SystemExit(code)


class _Speed(ProgressColumn):
    """How many a second, as far as it can be told."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f}/s")


def progress_bar(unit: str, *, speed: bool = False) -> Progress:
    """Return a progress bar that counts ``unit``; it prints nothing where nobody watches."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        *([_Speed()] if speed else []),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
