"""The memories and dead letters of a command, as a person names them on the command line."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from memory_pipeline.cli.durations import duration
from memory_pipeline.cli.tenants import Tenants, registered
from memory_pipeline.domain.dead_letters import KINDS, DeadLetterFilter
from memory_pipeline.domain.outcomes import FailureKind
from memory_pipeline.domain.types import BIGINT, MemoryId
from memory_pipeline.pipeline import Pipeline

P = ParamSpec("P")

Kinds = Annotated[
    list[str] | None,
    typer.Option("--class", help=f"Only this class: {', '.join(KINDS)}; may be repeated."),
]
OlderThan = Annotated[
    str | None, typer.Option(help="Only those buried at least this long ago: 90s, 15m, 2h, 3d.")
]
Ids = Annotated[list[int] | None, typer.Option("--id", help="Only this memory; may be repeated.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter.")]


@dataclass(frozen=True, slots=True)
class Selection:
    """The dead letters of a command, as its options name them."""

    tenants: Sequence[str] | None = None
    kinds: Sequence[str] | None = None
    older_than: str | None = None
    memories: Sequence[int] | None = None

    def read(self, pipeline: Pipeline) -> DeadLetterFilter:
        """Return the options as a filter.

        Raises:
            BadParameter: an option is not what it should be.

        """
        return DeadLetterFilter(
            tenants=registered(pipeline, self.tenants),
            kinds=[_kind(k) for k in self.kinds] if self.kinds else None,
            memory_ids=[memory_id(str(m)) for m in self.memories] if self.memories else None,
            older_than_seconds=None if self.older_than is None else duration(self.older_than),
        )

    def read_explicit(self, pipeline: Pipeline, *, everything: bool) -> DeadLetterFilter:
        """Return the options as a filter; a command that changes something needs one, or --all.

        Raises:
            BadParameter: neither an option nor --all is given, or both are.

        """
        which = self.read(pipeline)
        if (which == DeadLetterFilter()) != everything:
            raise typer.BadParameter(
                "choose with --tenant, --class, --older-than or --id, or use --all"
            )
        return which


def selecting(command: Callable[Concatenate[Selection, P], None]) -> Callable[..., None]:
    """Add the options of a selection to a command, which gets them as its first argument.

    Typer reads a command's parameters from its signature; the wrapper's has those of both.
    """

    def wrapped(
        *args: Any,
        tenant: Tenants = None,
        kind: Kinds = None,
        older_than: OlderThan = None,
        memory: Ids = None,
        **others: Any,
    ) -> None:
        command(Selection(tenant, kind, older_than, memory), *args, **others)

    shared = [p for p in _parameters(wrapped) if p.kind is p.KEYWORD_ONLY]
    positional: list[inspect.Parameter] = []
    keywords: list[inspect.Parameter] = []
    for parameter in _parameters(command)[1:]:
        (keywords if parameter.kind is parameter.KEYWORD_ONLY else positional).append(parameter)
    update_wrapper(wrapped, command)
    parameters = [*positional, *shared, *keywords]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapped


def _parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    return list(inspect.signature(command).parameters.values())


def memory_id(text: str) -> MemoryId:
    """Read a memory's id.

    Raises:
        BadParameter: the text is not a number, or not one of 64 bits.

    """
    try:
        number = int(text)
    except ValueError:
        number = BIGINT.stop
    if number not in BIGINT:
        raise typer.BadParameter(f"{text.strip()!r} is no memory's id")
    return MemoryId(number)


def _kind(text: str) -> FailureKind:
    if text not in KINDS:
        raise typer.BadParameter(f"--class {text!r}: allowed are {', '.join(KINDS)}")
    return text
