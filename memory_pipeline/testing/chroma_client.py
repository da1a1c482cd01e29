"""Chroma's own client with a time limit, without the product's code between it and Chroma."""

from typing import Any
from urllib.parse import urlsplit

# A benchmark that waits longer than this for one batch measures something else.
REQUEST_SECONDS = 120.0


def connect(url: str, *, seconds: float = REQUEST_SECONDS) -> Any:
    """Return a client of which no request takes longer than ``seconds``."""
    import chromadb  # noqa: PLC0415 - slow, and the process that measures the rebuild needs none
    from chromadb.config import Settings  # noqa: PLC0415

    parts = urlsplit(url)
    client: Any = chromadb.HttpClient(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 8000,
        settings=Settings(anonymized_telemetry=False),
    )
    client._server._session.timeout = seconds  # noqa: SLF001 - the library sets none
    return client
