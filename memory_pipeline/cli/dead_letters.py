"""``memory-pipeline dead-letters``: what was given up; having it tried again, or letting it be."""

import getpass
from dataclasses import asdict, replace
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from memory_pipeline.cli.console import err, fail, out, plain, print_json
from memory_pipeline.cli.memories import EXIT_FINDINGS, AsJson
from memory_pipeline.cli.selection import All, Classes, Ids, OlderThan, check_said, which_letters
from memory_pipeline.cli.tenants import Tenants
from memory_pipeline.domain.dead_letters import DeadLetter, DeadLetterFilter, DeadLetters
from memory_pipeline.local.discovery import discover
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings

Limit = Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this room."""
    letters = typer.Typer(
        help="Memories that were given up: look at them, have them tried again, let them be.",
        no_args_is_help=True,
    )
    letters.command("list")(list_)
    letters.command("show")(show)
    letters.command("replay")(replay_letters)
    letters.command("waive")(waive)
    letters.command("unwaive")(unwaive)
    app.add_typer(letters, name="dead-letters")


def list_(
    *,
    tenant: Tenants = None,
    kind: Classes = None,
    older_than: OlderThan = None,
    memory: Ids = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first; waived ones too."""
    with opened(discover(Settings.load())) as pipeline:
        which = which_letters(
            pipeline, tenants=tenant, kinds=kind, older_than=older_than, memories=memory
        )
        found = pipeline.dead_letters.newest(which, limit=limit)
    if as_json:
        print_json(_figures(found))
    elif not found.count:
        err.print("no dead letters" if which == DeadLetterFilter() else "no dead letter fits")
    else:
        out.print(_table(found))
        err.print(_counted(found))


def show(
    memories: Annotated[list[int] | None, typer.Argument(help="Ids of memories.")] = None,
    *,
    tenant: Tenants = None,
    kind: Classes = None,
    older_than: OlderThan = None,
    memory: Ids = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of dead letters, but nothing of what the memories say."""
    named = [*(memories or ()), *(memory or ())]
    with opened(discover(Settings.load())) as pipeline:
        which = which_letters(
            pipeline, tenants=tenant, kinds=kind, older_than=older_than, memories=named
        )
        found = pipeline.dead_letters.newest(which, limit=limit)
    _refuse_nothing(found.count)
    if as_json:
        print_json(_figures(found))
        return
    for letter in found.newest:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for name, value in _line(letter).items():
            table.add_row(name.replace("_", " "), _cell(value))
        out.print(table)
    err.print(_counted(found))


def replay_letters(
    *,
    tenant: Tenants = None,
    kind: Classes = None,
    older_than: OlderThan = None,
    memory: Ids = None,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Have dead letters tried again, with all their attempts, from what Postgres has now.

    What is waived is passed over, unless it is named by --id.
    """
    with opened(discover(Settings.load())) as pipeline:
        which = which_letters(
            pipeline, tenants=tenant, kinds=kind, older_than=older_than, memories=memory
        )
        check_said(which, everything=everything)
        which = which if memory else replace(which, waived=False)
        replayed = pipeline.dead_letters.replay(which)
    _tell("replayed", replayed, as_json=as_json)


def waive(
    *,
    because: Annotated[str, typer.Option("--reason", help="Why they are let be.")],
    tenant: Tenants = None,
    kind: Classes = None,
    older_than: OlderThan = None,
    memory: Ids = None,
    everything: All = False,
    by: Annotated[str | None, typer.Option(help="Who says so; default: who runs it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let dead letters be, for as long as their content stays what it is; they stay counted."""
    if not because.strip():
        raise typer.BadParameter("--reason is empty")
    with opened(discover(Settings.load())) as pipeline:
        which = which_letters(
            pipeline, tenants=tenant, kinds=kind, older_than=older_than, memories=memory
        )
        check_said(which, everything=everything)
        waived = pipeline.dead_letters.waive(
            replace(which, waived=False), by=by or _who(), because=because.strip()
        )
    _tell("waived", waived, as_json=as_json)


def unwaive(
    *,
    tenant: Tenants = None,
    kind: Classes = None,
    older_than: OlderThan = None,
    memory: Ids = None,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Take waivers back."""
    with opened(discover(Settings.load())) as pipeline:
        which = which_letters(
            pipeline, tenants=tenant, kinds=kind, older_than=older_than, memories=memory
        )
        check_said(which, everything=everything)
        unwaived = pipeline.dead_letters.unwaive(replace(which, waived=True))
    _tell("unwaived", unwaived, as_json=as_json)


# ---- what is said


def _tell(done: str, number: int, *, as_json: bool) -> None:
    _refuse_nothing(number)
    if as_json:
        print_json({done: number})
    else:
        err.print(f"{done} {number} dead letters")


def _refuse_nothing(number: int) -> None:
    if not number:
        fail("no dead letter fits", code=EXIT_FINDINGS)


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


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"
