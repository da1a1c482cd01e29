"""The errors of Chroma and its client, and the class that each becomes."""

from uuid import uuid4

import httpx
import orjson
import pytest
from chromadb.errors import (
    AuthorizationError,
    BatchSizeExceededError,
    ChromaAuthError,
    ChromaError,
    DuplicateIDError,
    InternalError,
    InvalidArgumentError,
    InvalidDimensionException,
    NotFoundError,
    RateLimitError,
    UniqueConstraintError,
    VersionMismatchError,
)

from memory_pipeline.chroma.errors import QUOTED_CHARACTERS, translated
from memory_pipeline.errors import ChromaUnavailable, Corrupt, Fenced, PipelineError, Poison

URL = "http://127.0.0.1:8000"
GENERATION = uuid4()
SECRET = "the patient told me of a connection that nobody may read about "

DAMAGED = (
    "Error executing plan: Internal error: Error finding id",
    "Error executing plan: Error getting embedding",
    "Error creating hnsw segment reader: Nothing found on disk",
    "Error constructing hnsw segment reader: Error loading hnsw index",
    "Error deserializing pickle file",
    "Failed to apply logs to the hnsw segment writer",
    "Failed to apply logs to the metadata segment",
    "Failed to pull logs from the log store",
    "error returned from database: (code: 11) database disk image is malformed",
)
OUTAGES = (
    "error returned from database: (code: 14) unable to open database file",
    "Too many requests",
    "upstream connect error or disconnect/reset before headers",
    "<html><body>502 Bad Gateway</body></html>",
    "",
)


def _translation(error: BaseException) -> PipelineError:
    with pytest.raises(PipelineError) as found, translated(URL, generation=GENERATION):
        raise error
    return found.value


@pytest.mark.parametrize("text", DAMAGED)
@pytest.mark.parametrize("kind", [InternalError, ChromaError, Exception])
def test_a_damaged_collection_is_corrupt(text: str, kind: type[Exception]) -> None:
    """The answer of a damaged collection never changes: no retry, and the generation is named."""
    found = _translation(kind(text))
    assert isinstance(found, Corrupt)
    assert found.generation == GENERATION


def test_a_collection_that_is_gone_is_corrupt() -> None:
    """A collection that does not exist is to be built again."""
    found = _translation(NotFoundError("Collection [memories-1] does not exist."))
    assert isinstance(found, Corrupt)
    assert found.generation == GENERATION


@pytest.mark.parametrize("text", OUTAGES)
@pytest.mark.parametrize("kind", [InternalError, Exception])
def test_what_nobody_knows_is_an_outage(text: str, kind: type[Exception]) -> None:
    """An answer that is no refusal and no damage charges no memory; the write may have landed."""
    found = _translation(kind(text))
    assert isinstance(found, ChromaUnavailable)
    assert found.sent


@pytest.mark.parametrize(
    "error",
    [
        RateLimitError("slow down"),
        ChromaAuthError("forbidden"),
        AuthorizationError("who are you"),
        VersionMismatchError("another version"),
        UniqueConstraintError("Collection [memories-1] already exists"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_refusal_of_the_caller_charges_no_memory(error: ChromaError) -> None:
    """Overload, a wrong token or another version are no memory's fault."""
    assert isinstance(_translation(error), ChromaUnavailable)


@pytest.mark.parametrize(
    "error",
    [
        InvalidDimensionException("Embedding dimension 3 does not match collection's 768"),
        InvalidArgumentError("Collection expecting embedding with dimension of 768, got 3"),
        DuplicateIDError("Expected IDs to be unique"),
        BatchSizeExceededError("too many"),
        Exception("Payload too large"),
        Exception("Failed to deserialize the JSON body into the target type"),
        ValueError("Expected metadata value to be a str, int, float, bool, or None"),
        TypeError("str is not valid UTF-8: surrogates not allowed"),
    ],
    ids=lambda e: f"{type(e).__name__}-{str(e)[:20]}",
)
def test_what_is_refused_for_what_it_is_is_poison(error: Exception) -> None:
    """A request that can never succeed is not repeated for ever."""
    assert isinstance(_translation(error), Poison)


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("Connection refused"),
        httpx.ConnectTimeout("timed out"),
        httpx.PoolTimeout("timed out"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_never_left_was_not_sent(error: Exception) -> None:
    """A server that cannot be reached has received nothing: no confirm is needed."""
    found = _translation(error)
    assert isinstance(found, ChromaUnavailable)
    assert not found.sent


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadTimeout("timed out"),
        httpx.WriteTimeout("timed out"),
        httpx.ReadError("reset"),
        httpx.WriteError("broken pipe"),
        httpx.RemoteProtocolError("Server disconnected without sending a response."),
    ],
    ids=lambda e: type(e).__name__,
)
def test_what_left_without_an_answer_may_have_landed(error: Exception) -> None:
    """An unknown outcome is neither success nor failure."""
    found = _translation(error)
    assert isinstance(found, ChromaUnavailable)
    assert found.sent


@pytest.mark.parametrize(
    "kind", [InternalError, InvalidArgumentError, NotFoundError, ValueError, TypeError, Exception]
)
def test_no_message_carries_a_document_along(kind: type[Exception]) -> None:
    """What Chroma quotes is cut: no log, no row and no screen shows a memory."""
    found = _translation(kind("bad value: " + SECRET * 1000))
    assert len(str(found)) < QUOTED_CHARACTERS + len(URL) + 60
    assert "\n" not in str(found)


def test_what_the_server_quotes_stays_out_of_the_message() -> None:
    """It is logged, and kept as the tenant's last error; a quote may be a part of a memory."""
    quoted = InternalError(f'near "{SECRET} is what the patient said to the doctor": syntax error')
    found = str(_translation(quoted))
    assert SECRET not in found
    assert "syntax error" in found


def test_a_text_about_connections_is_no_outage() -> None:
    """A refusal stays one whatever words the refused value has in it."""
    refusal = ValueError(f"Expected metadata value to be a str, got {[SECRET]} in upsert.")
    assert isinstance(_translation(refusal), Poison)


def test_an_answer_that_is_no_json_is_an_outage() -> None:
    """A proxy's page instead of an answer proves nothing about any memory."""
    with pytest.raises(orjson.JSONDecodeError) as broken:
        orjson.loads("<html>maintenance</html>")
    assert isinstance(_translation(broken.value), ChromaUnavailable)


def test_errors_of_our_own_pass_unchanged() -> None:
    """A lease that is lost inside a call stays lost."""
    lost = Fenced("the lease is lost")
    assert _translation(lost) is lost


def test_a_mistake_of_ours_is_not_hidden() -> None:
    """A bug is no outage: it comes out as it is."""
    with pytest.raises(KeyError), translated(URL):
        raise KeyError("a bug")
