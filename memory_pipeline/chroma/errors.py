"""What Chroma says, translated once into the four classes. The texts are those of version 1.5.9."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from chromadb.errors import ChromaError, InvalidDimensionException, NotFoundError

from memory_pipeline.errors import ChromaUnavailable, Corrupt, PipelineError, Poison
from memory_pipeline.redact import without_quotes

# A collection that says one of these says it for ever: its files or its log are damaged.
DAMAGE = (
    "Error finding id",
    "Error getting embedding",
    "Nothing found on disk",
    "Error loading hnsw index",
    "deserializing pickle",
    "Failed to apply logs",
    "Failed to pull logs",
    "disk image is malformed",
)
REFUSED = frozenset({400, 413, 422})
# What the refusals say, where no status is known.
REFUSALS = (
    "Payload too large",
    "InvalidArgument",
    "Unprocessable",
    "Failed to deserialize",
    "Failed to parse",
)
# How much of an answer is kept: enough to know the kind, too little to carry a document along.
SAID_LENGTH = 160


@contextmanager
def translated(  # noqa: C901 - one clause an error, nothing nested
    url: str, *, generation: UUID | None = None, status: Callable[[], int] = lambda: 0
) -> Iterator[None]:
    """Turn every error of the client into one of the four classes.

    Args:
        url: the server, for the message.
        generation: whose collection is spoken to.
        status: tells the HTTP status of the last answer, which the client's errors drop.

    Raises:
        ChromaUnavailable: outage, timeout, overload, or an answer nobody knows.
        Poison: the request itself is refused, whatever is retried.
        Corrupt: the collection is damaged or gone.

    """
    try:
        yield
    except PipelineError:
        raise
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise ChromaUnavailable(
            f"Chroma at {url} cannot be reached: {_said(error)}", sent=False
        ) from error
    except httpx.TimeoutException as error:
        raise ChromaUnavailable(f"Chroma at {url} did not answer in time") from error
    except httpx.HTTPError as error:
        raise ChromaUnavailable(f"Chroma at {url} broke off: {_said(error)}") from error
    except json.JSONDecodeError as error:
        # A proxy's page in place of an answer.
        raise ChromaUnavailable(f"Chroma at {url} answered with something else") from error
    except NotFoundError as error:
        raise Corrupt(f"Chroma at {url}: {_said(error)}", generation=generation) from error
    except InvalidDimensionException as error:
        raise Poison(f"Chroma refuses it: {_said(error)}") from error
    except ChromaError as error:
        raise _by_status(url, error, generation, status() or error.code()) from error
    except (ValueError, TypeError) as error:
        # The client's own validation. What it quotes of the value stays out of the message.
        said = _said(error).partition(" got ")[0]
        raise Poison(f"Chroma's client refuses it: {said}") from error
    except Exception as error:
        # The client raises a bare Exception for every answer whose error is not JSON.
        if type(error) is not Exception:
            raise
        raise _by_status(url, error, generation, status()) from error


def _by_status(url: str, error: Exception, generation: UUID | None, status: int) -> PipelineError:
    text = str(error)
    if any(sign in text for sign in DAMAGE):
        return Corrupt(f"Chroma at {url}: {_said(error)}", generation=generation)
    if status in REFUSED or (not status and any(sign in text for sign in REFUSALS)):
        return Poison(f"Chroma refuses it: {_said(error)}")
    said = f"Chroma at {url} answers {status or ''}: {_said(error)}"
    return ChromaUnavailable(said, answered=True)


def _said(error: BaseException) -> str:
    text = without_quotes(str(error)) or type(error).__name__  # a quote may be of a memory
    return text if len(text) <= SAID_LENGTH else text[:SAID_LENGTH] + "…"
