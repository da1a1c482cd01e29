"""Faults at the ports of the heart: a crash, a lost reply, a late request, somebody in between."""

import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from uuid import UUID

from memory_pipeline.chroma.index import ChromaIndex
from memory_pipeline.chroma.servers import Servers
from memory_pipeline.domain.types import Document, Generation, MemoryId, Vector
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import (
    ChromaUnavailable,
    EmbedderUnavailable,
    PipelineError,
    Poison,
    PostgresUnavailable,
)
from memory_pipeline.ports import RenewLease
from memory_pipeline_tests.doubles import Around

T = TypeVar("T")

# Of one request; not what a busy machine runs into.
SECONDS = 60.0
POISON = "arsenic"

Kind = Literal[
    "crash before", "crash after",  # the process ends there
    "lost before", "lost after",  # an error; the call was not made, or it was and its reply is lost
    "late", "late and crash",  # a request is on its way and lands at some later time
    "meanwhile",  # the process is frozen there, others act, and then it goes on
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "crash before",
    "crash after",
    "lost before",
    "lost after",
    "late",
    "late and crash",
)


class Crash(BaseException):
    """The process ends here: nothing catches this."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen, and at which call of a port, counted from the start of a step.

    ``call``: calls of this name alone are counted.
    """

    kind: Kind
    at: int
    call: str | None = None


def _nothing() -> None:
    """Let nothing happen."""


@dataclass
class Faults:
    """One fault at most a step; and the requests that are still on their way."""

    plan: Plan | None = None
    meanwhile: Callable[[], None] = _nothing
    calls: int = 0
    flight: list[Callable[[], None]] = field(default_factory=list)
    struck: str = ""

    def arm(self, plan: Plan | None, meanwhile: Callable[[], None] = _nothing) -> None:
        """Plan the next step."""
        self.plan, self.meanwhile, self.calls, self.struck = plan, meanwhile, 0, ""

    def disarm(self) -> None:
        """Let nothing more happen."""
        self.plan = None

    def land(self) -> None:
        """Let every request land; those to collections that are gone by now find nothing."""
        while self.flight:
            with suppress(PipelineError):
                self.flight.pop(0)()

    def call(
        self,
        name: str,
        call: Callable[[], T],
        error: Callable[[str], Exception],
        *,
        send: Callable[[], None] | None = None,
    ) -> T:
        """Make a call of a port, or do to it what is planned.

        Args:
            name: of the call.
            call: makes it.
            error: what is raised where its reply is lost.
            send: readies a request that can land late; None where it is no such request.

        """
        plan = self.plan
        if plan is None or threading.current_thread() is not threading.main_thread():
            return call()
        if plan.call not in {None, name}:
            return call()
        at, self.calls = self.calls, self.calls + 1
        if at != plan.at:
            return call()
        self.plan, self.struck = None, f"{plan.kind} {name}"
        if plan.kind == "meanwhile":
            self.meanwhile()
            return call()
        if plan.kind.startswith("late") and send is not None:
            send()
        elif plan.kind.endswith("after"):
            call()
        if plan.kind.endswith("crash") or plan.kind.startswith("crash"):
            raise Crash(self.struck)
        raise error(self.struck)


class Struck(Around):
    """A port in Postgres whose named calls may be struck; all others pass."""

    def __init__(self, inner: Any, faults: Faults, names: Collection[str]) -> None:
        def struck(name: str) -> Callable[..., Any]:
            return lambda call, *args, **how: faults.call(
                name, lambda: call(*args, **how), PostgresUnavailable
            )

        super().__init__(inner, {name: struck(name) for name in names})
        self._faults = faults


class StruckIndex(ChromaIndex):
    """The real index, whose every request may be struck; notes which generations it wrote."""

    def __init__(self, servers: Servers, faults: Faults, written: set[UUID]) -> None:
        super().__init__(servers)
        self._faults = faults
        self._written = written

    def create(self, generation: Generation, *, memories: int, renew: RenewLease) -> Generation:
        """Create a collection."""
        create = super().create
        return self._faults.call(
            "create", lambda: create(generation, memories=memories, renew=renew), ChromaUnavailable
        )

    def count(self, generation: Generation, *, seconds: float) -> int:
        """Count, which is how a collection is primed, too."""
        count = super().count
        return self._faults.call(
            "count", lambda: count(generation, seconds=seconds), ChromaUnavailable
        )

    def _page(self, generation: Generation, offset: int, *, seconds: float) -> Any:
        page = super()._page
        return self._faults.call(
            "page", lambda: page(generation, offset, seconds=seconds), ChromaUnavailable
        )

    def _send(
        self,
        generation: Generation,
        documents: Sequence[Document],
        renew: RenewLease,
        *,
        add_only: bool = False,
    ) -> None:
        send = super()._send
        self._request(
            "send",
            generation,
            lambda held: send(generation, documents, held, add_only=add_only),
            renew,
        )

    def _delete(self, generation: Generation, ids: Sequence[MemoryId], renew: RenewLease) -> None:
        delete = super()._delete
        self._request("delete", generation, lambda held: delete(generation, ids, held), renew)

    def _request(
        self,
        name: str,
        generation: Generation,
        request: Callable[[RenewLease], None],
        renew: RenewLease,
    ) -> None:
        self._written.add(generation.id)

        def land() -> None:
            self._written.add(generation.id)
            request(lambda: SECONDS)

        def send() -> None:
            renew()
            self._faults.flight.append(land)

        self._faults.call(name, lambda: request(renew), ChromaUnavailable, send=send)


@dataclass
class PickyEmbedder:
    """The stand-in, which refuses one word until it is cured of it."""

    faults: Faults
    cured: bool = False
    model: str = HashingEmbedder.model
    loaded: bool = True

    def load(self) -> None:
        """Do nothing: there is nothing to load."""

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Embed, or refuse all of it."""
        return self.faults.call("embed", lambda: self._embed(texts), EmbedderUnavailable)

    def _embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        if not self.cured and any(POISON in text for text in texts):
            raise Poison("the model refuses a text")
        return HashingEmbedder().embed(texts)
