"""``memory-pipeline dead-letters``: list, show, replay and waive abandoned memories."""

import getpass
from dataclasses import asdict, replace
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from memory_pipeline.cli.console import AsJson, err, fail, out, plain, print_json
from memory_pipeline.cli.selection import All, Selection, selecting
from memory_pipeline.domain.dead_letters import DeadLetter, DeadLetterFilter, DeadLetters
from memory_pipeline.errors import EXIT_FINDINGS
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Show at most this many.")]
NO_MATCH = "no dead letters match"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    letters = typer.Typer(
        help="Memories that cannot be indexed: inspect, retry, waive.",
        no_args_is_help=True,
    )
    letters.command("list")(list_)
    letters.command("show")(show)
    letters.command("replay")(replay_letters)
    letters.command("waive")(waive)
    letters.command("unwaive")(unwaive)
    app.add_typer(letters, name="dead-letters")


@selecting
def list_(selection: Selection, *, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List dead letters, newest first, waived ones included."""
    with opened(discover(Settings.load())) as pipeline:
        which = selection.read(pipeline)
        found = pipeline.dead_letters.newest(which, limit=limit)
    if as_json:
        print_json(_figures(found))
    elif not found.count:
        err.print("no dead letters" if which == DeadLetterFilter() else NO_MATCH)
    else:
        out.print(_table(found))
        err.print(_counted(found))


@selecting
def show(
    selection: Selection,
    memories: Annotated[list[int] | None, typer.Argument(help="Ids of memories.")] = None,
    *,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Show everything stored about dead letters; the text of the memories is not."""
    selection = replace(selection, memories=[*(memories or ()), *(selection.memories or ())])
    with opened(discover(Settings.load())) as pipeline:
        found = pipeline.dead_letters.newest(selection.read(pipeline), limit=limit)
    _refuse_nothing(found.count)
    if as_json:
        print_json(_figures(found))
        return
    for letter in found.newest:
        out.print(_details(letter))
    err.print(_counted(found))


@selecting
def replay_letters(
    selection: Selection, *, everything: All = False, as_json: AsJson = False
) -> None:
    """Retry dead letters with all their attempts, from the current rows in Postgres.

    A waived dead letter is retried only if it is named by --id.
    """
    with opened(discover(Settings.load())) as pipeline:
        which = selection.read_explicit(pipeline, everything=everything)
        which = which if selection.memories else replace(which, waived=False)
        replayed = pipeline.dead_letters.replay(which)
    _print_done("replayed", replayed, as_json=as_json)


@selecting
def waive(
    selection: Selection,
    *,
    because: Annotated[str, typer.Option("--reason", help="Why they are accepted.")],
    everything: All = False,
    by: Annotated[
        str | None, typer.Option(help="Who decided; default: the user who runs the command.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Accept dead letters for as long as their content stays the same; they stay counted."""
    if not because.strip():
        raise typer.BadParameter("--reason is empty")
    with opened(discover(Settings.load())) as pipeline:
        which = selection.read_explicit(pipeline, everything=everything)
        waived = pipeline.dead_letters.waive(
            replace(which, waived=False), by=by or _user(), because=because.strip()
        )
    _print_done("waived", waived, as_json=as_json)


@selecting
def unwaive(selection: Selection, *, everything: All = False, as_json: AsJson = False) -> None:
    """Revoke waivers."""
    with opened(discover(Settings.load())) as pipeline:
        which = selection.read_explicit(pipeline, everything=everything)
        unwaived = pipeline.dead_letters.unwaive(replace(which, waived=True))
    _print_done("unwaived", unwaived, as_json=as_json)


# ---- output


def _print_done(done: str, number: int, *, as_json: bool) -> None:
    _refuse_nothing(number)
    if as_json:
        print_json({done: number})
    else:
        err.print(f"{done} {number} dead letters")


def _refuse_nothing(number: int) -> None:
    if not number:
        fail(NO_MATCH, code=EXIT_FINDINGS)


def _figures(found: DeadLetters) -> dict[str, Any]:
    return {
        "dead_letters": found.count,
        "waived": found.waived,
        "shown": [_line(letter) for letter in found.newest],
    }


def _line(letter: DeadLetter) -> dict[str, Any]:
    line = asdict(letter)
    return {
        "tenant": line.pop("tenant"),
        "memory_id": line.pop("memory_id"),
        "class": line.pop("kind"),
        **{k: v.isoformat() if isinstance(v, datetime) else v for k, v in line.items()},
    }


def _details(letter: DeadLetter) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in _line(letter).items():
        table.add_row(name.replace("_", " "), _cell(value))
    return table


def _table(found: DeadLetters) -> Table:
    table = Table(box=None, pad_edge=False)
    waivers = any(letter.waived_at for letter in found.newest)
    shown = ("tenant", "memory", "class", "attempts", "buried", *(["waived by"] if waivers else []))
    for name in shown:
        table.add_column(name, no_wrap=True)
    table.add_column("last error", overflow="fold")
    for letter in found.newest:
        line: list[object] = [letter.tenant, letter.memory_id, letter.kind, letter.attempts]
        line += [f"{letter.buried_at:%Y-%m-%d %H:%M}", *([letter.waived_by] if waivers else [])]
        table.add_row(*map(_cell, [*line, letter.last_error]))
    return table


def _counted(found: DeadLetters) -> str:
    waived = f", {found.waived} of them waived" if found.waived else ""
    more = found.count - len(found.newest)
    return f"{found.count} dead letters{waived}" + (f"; {more} not shown" if more else "")


def _cell(value: object) -> Text:
    return plain("" if value is None else value)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"
