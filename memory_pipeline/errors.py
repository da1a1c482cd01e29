"""What can go wrong, as four classes that say what to do next, and the errors of a caller.

Nothing here retries or logs: the class of an error *is* the decision.

| class     | retry?            | charge an attempt? | then                                   |
|-----------|-------------------|--------------------|----------------------------------------|
| Transient | yes, backing off  | no                 | the changes wait in the outbox         |
| Poison    | a bounded number  | yes                | the memory becomes a dead letter       |
| Fenced    | no                | no                 | another worker has the tenant: stop    |
| Corrupt   | not this one      | no                 | the generation is replaced             |
"""

from uuid import UUID


class PipelineError(Exception):
    """Base of every error that memory_pipeline raises by itself."""


class Transient(PipelineError):
    """A dependency is down, slow or refuses for now; nothing is wrong with any memory.

    ``sent`` says whether the request may have reached the other side: an error after sending is an
    unknown outcome, and what it carried may still land later.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class PostgresUnavailable(Transient):
    """Postgres cannot be reached or refuses connections."""


class ChromaUnavailable(Transient):
    """A Chroma server cannot be reached, hangs or answers that it is overloaded.

    ``answered``: it gave an answer, and the answer was no.
    """

    def __init__(self, message: str, *, sent: bool = True, answered: bool = False) -> None:
        super().__init__(message, sent=sent)
        self.answered = answered


class ServerLost(ChromaUnavailable):
    """A registered Chroma server has lost its data, or a stranger answers in its place.

    Nothing is sent to it; the changes wait until it is back or its collections are rebuilt.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class EmbedderUnavailable(Transient):
    """The embedding model cannot be loaded or fails on everything; nothing was sent anywhere."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class Poison(PipelineError):
    """What was sent is refused for what it is: a memory that cannot be indexed as it stands."""


class Fenced(PipelineError):
    """The lease on the tenant is lost: whatever this worker still holds is no longer its own."""


class Corrupt(PipelineError):
    """A generation is damaged or gone and answers nothing but errors until it is replaced."""

    def __init__(self, message: str, *, generation: UUID | None = None) -> None:
        super().__init__(message)
        self.generation = generation


class ConfigurationChanged(PipelineError):
    """The settings or the model are not those that the tenant's collection was built with."""


class SettingsError(PipelineError):
    """A setting is wrong; the message names the variable, the value and what is allowed."""


class ContractError(PipelineError):
    """The database is not as the pipeline needs it: columns, grants, versions or publications."""


class StillInUse(PipelineError):
    """Something goes on with what is to be removed; the message says what, and how to end it."""


class InvalidMemory(PipelineError, ValueError):
    """A memory that an application handed over cannot be stored as JSON in Postgres."""


class InvalidFilter(PipelineError, ValueError):
    """A search filter is outside the grammar; the message says where."""


class ModelMissing(PipelineError):
    """The embedding model is not on this machine yet."""
