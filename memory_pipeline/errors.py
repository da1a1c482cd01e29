"""What can go wrong: four classes that decide what happens next, and the errors of a caller.

Nothing here retries or logs: the class of an error *is* the decision.

| class     | retry?            | charge an attempt? | then                                   |
|-----------|-------------------|--------------------|----------------------------------------|
| Transient | yes, backing off  | no                 | the changes wait in the outbox         |
| Poison    | a bounded number  | yes                | the memory becomes a dead letter       |
| Fenced    | no                | no                 | another worker has the tenant: stop    |
| Corrupt   | not this one      | no                 | the generation is replaced             |
"""

from uuid import UUID

EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3


class PipelineError(Exception):
    """Base of every error that memory_pipeline raises by itself."""


class Transient(PipelineError):
    """A dependency is down, slow or refuses requests for now; no memory is at fault.

    ``sent``: whether the request may have reached the other side. An error after sending is an
    unknown outcome: the request may still be applied later.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class PostgresUnavailable(Transient):
    """Postgres cannot be reached or refuses connections, or no address of it is known."""


class ChromaUnavailable(Transient):
    """A Chroma server cannot be reached, hangs or reports that it is overloaded.

    ``answered``: the server answered, and refused the request.
    """

    def __init__(self, message: str, *, sent: bool = True, answered: bool = False) -> None:
        super().__init__(message, sent=sent)
        self.answered = answered


class ServerLost(ChromaUnavailable):
    """A registered Chroma server has lost its data, or another server answers at its address.

    Nothing is sent to it; the changes wait until it is back or its collections are rebuilt.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class EmbedderUnavailable(Transient):
    """The embedding model cannot be loaded or fails on every text; no request was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class ReportFailed(Transient):
    """Dagster's storage cannot be reached, or refuses what it is told; no sync waits for it."""


class Poison(PipelineError):
    """The content of a request is refused, and will be each time: a memory cannot be indexed."""


class Fenced(PipelineError):
    """The lease on the tenant is lost: this worker may not write for the tenant any more."""


class Corrupt(PipelineError):
    """A generation is damaged or gone; every request fails until the generation is replaced."""

    def __init__(self, message: str, *, generation: UUID | None = None) -> None:
        super().__init__(message)
        self.generation = generation


class ConfigurationChanged(PipelineError):
    """The tenant's collection was built with another model or other settings than the current."""


class SettingsError(PipelineError):
    """A setting is wrong; the message names the variable, the value and what is allowed."""


class DeviceUnusable(SettingsError, EmbedderUnavailable):
    """The setting of the device names one that torch cannot use.

    A command ends with it as with any wrong setting; for a worker the model is not there, and what
    needs no model is synced.
    """


class ContractError(PipelineError):
    """The database does not fit: columns, grants, versions, publications, or no migrate yet."""


class StillInUse(PipelineError):
    """The pipeline is at work and cannot be removed; the message names the work and its end."""


class MemoriesRemain(PipelineError):
    """A tenant cannot be forgotten while it has memories that nobody asked to delete."""


class InvalidMemory(PipelineError, ValueError):
    """A value of an application cannot be stored in Postgres: as JSON, as text, or as a column."""


class InvalidFilter(PipelineError, ValueError):
    """A search filter is outside the grammar; the message names the place."""


class ModelMissing(PipelineError):
    """The embedding model is not on this machine yet."""


def exit_code(error: PipelineError) -> int:
    """Return the exit code of a process that an error has ended."""
    usage = isinstance(error, SettingsError) or not isinstance(error, Transient)
    return EXIT_USAGE if usage else EXIT_UNAVAILABLE
