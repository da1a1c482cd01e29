"""What the commands print with: results to standard output, everything else to standard error."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
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

# What a terminal would act upon instead of showing it; a line break stays one.
CONTROL = re.compile(r"[^\n\x20-\x7e\xa0-\U0010ffff]")


def print_json(value: Any) -> None:
    """Print one JSON value for a program to read."""
    try:
        printed = json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:  # a memory may be nested as deeply as Postgres lets it
        printed = "".join(_pieces(value))
    sys.stdout.write(printed + "\n")


class _Sign(str):
    """A piece of JSON that is written as it stands."""

    __slots__ = ()


def _pieces(value: object) -> Iterator[str]:
    """Write JSON as json.dumps does, without recursion."""
    waiting: list[object] = [value]
    while waiting:
        node = waiting.pop()
        parts: list[object] = []
        if isinstance(node, _Sign):
            yield node
        elif isinstance(node, Mapping):
            for key, child in node.items():
                parts += [_Sign(f"{', ' if parts else ''}{json.dumps(key, ensure_ascii=False)}: ")]
                parts += [child]
            waiting += reversed([_Sign("{"), *parts, _Sign("}")])
        elif isinstance(node, list | tuple):
            for child in node:
                parts += [_Sign(", "), child] if parts else [child]
            waiting += reversed([_Sign("["), *parts, _Sign("]")])
        else:
            yield json.dumps(node, ensure_ascii=False, default=str)


def plain(value: object) -> Text:
    """Show a stranger's text as it stands: nothing in it is markup, or moves the cursor."""
    return Text(CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value)))


def fail(message: str, *, code: int) -> NoReturn:
    """Say what is wrong and end with an exit code."""
    err.print(plain(f"memory-pipeline: {message}"))
    raise SystemExit(code)


class _Description(ProgressColumn):
    """What is done; it may be a tenant's name."""

    def render(self, task: Task) -> Text:
        return plain(task.description)


class _Speed(ProgressColumn):
    """How many a second, as far as it can be told."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f}/s")


def progress_bar(unit: str, *, speed: bool = False) -> Progress:
    """Return a progress bar that counts ``unit``; it prints nothing where nobody watches."""
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
