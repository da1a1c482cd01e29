"""Translates every error of Chroma into one of the four classes. The texts are those of 1.5.9."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from chromadb.errors import ChromaError, InvalidDimensionException, NotFoundError

from memory_pipeline.errors import ChromaUnavailable, Corrupt, PipelineError, Poison
from memory_pipeline.proxies import ProxyUnusable, through_proxy
from memory_pipeline.redact import without_quotes

# A collection that answers one of these answers it for good: its files or its log are damaged.
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
# Texts of refusals, for errors without a known status.
REFUSALS = (
    "Payload too large",
    "InvalidArgument",
    "Unprocessable",
    "Failed to deserialize",
    "Failed to parse",
)
# How much of an answer is kept: enough to know the kind, too little to hold a document.
QUOTED_CHARACTERS = 160
# A proxy that refuses to open a tunnel has sent nothing on.
UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    ProxyUnusable,
)


@contextmanager
def translated(  # noqa: C901 - one clause per error, nothing nested
    url: str, *, generation: UUID | None = None, status: Callable[[], int] = lambda: 0
) -> Iterator[None]:
    """Turn every error of the client into one of the four classes.

    Args:
        url: the server, for the message.
        generation: the generation whose collection is called.
        status: returns the HTTP status of the last answer, which the client's errors drop.

    Raises:
        ChromaUnavailable: an outage, a timeout, overload, or an unknown answer.
        Poison: the request itself is refused, however often it is sent.
        Corrupt: the collection is damaged or gone.

    """
    try:
        yield
    except PipelineError:
        raise
    except UNSENT as error:
        raise ChromaUnavailable(
            f"Chroma at {_place(url)} cannot be reached: {_quoted(error)}", sent=False
        ) from error
    except httpx.TimeoutException as error:
        raise ChromaUnavailable(f"Chroma at {_place(url)} did not answer in time") from error
    except httpx.HTTPError as error:
        raise ChromaUnavailable(f"Chroma at {_place(url)} broke off: {_quoted(error)}") from error
    except json.JSONDecodeError as error:
        # A proxy's page instead of an answer.
        raise ChromaUnavailable(f"Chroma at {_place(url)} answered with something else") from error
    except NotFoundError as error:
        raise Corrupt(f"Chroma at {url}: {_quoted(error)}", generation=generation) from error
    except InvalidDimensionException as error:
        raise Poison(f"Chroma refuses it: {_quoted(error)}") from error
    except ChromaError as error:
        raise _by_status(url, error, generation, status() or error.code()) from error
    except (ValueError, TypeError) as error:
        # The client's own validation. The value that it quotes stays out of the message.
        reason = _quoted(error).partition(" got ")[0]
        raise Poison(f"Chroma's client refuses it: {reason}") from error
    except Exception as error:
        # The client raises a plain Exception for every error that is not JSON.
        if type(error) is not Exception:
            raise
        raise _by_status(url, error, generation, status()) from error


def _by_status(url: str, error: Exception, generation: UUID | None, status: int) -> PipelineError:
    text = str(error)
    if any(sign in text for sign in DAMAGE):
        return Corrupt(f"Chroma at {url}: {_quoted(error)}", generation=generation)
    if status in REFUSED or (not status and any(sign in text for sign in REFUSALS)):
        return Poison(f"Chroma refuses it: {_quoted(error)}")
    message = f"Chroma at {_place(url)} answers {status or ''}: {_quoted(error)}"
    return ChromaUnavailable(message, answered=True)


def _place(url: str) -> str:
    """Return the server's address, and the proxy between: it may be the proxy that answered."""
    return url + through_proxy(url)


def _quoted(error: BaseException) -> str:
    """Return the beginning of an error's text, without what it quotes: that may be of a memory."""
    text = without_quotes(str(error)) or type(error).__name__
    return text if len(text) <= QUOTED_CHARACTERS else text[:QUOTED_CHARACTERS] + "…"
