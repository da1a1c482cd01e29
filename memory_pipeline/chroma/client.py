"""One Chroma server over HTTP, with a time limit on every call.

The client library sets no limit (``timeout=None``), and shares one HTTP session among all clients
of a process; so the limit is kept in a context variable and set on each request as it leaves.
"""

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from memory_pipeline.domain.types import Generation
from memory_pipeline.errors import Corrupt, PipelineError
from memory_pipeline.settings import Settings

if TYPE_CHECKING:
    from chromadb.api import ServerAPI
    from chromadb.api.models.Collection import Collection
    from chromadb.config import Settings as ChromaSettings
    from chromadb.types import Collection as CollectionModel

CONNECT_SECONDS = 2.0
# No document has this id, so deleting it is a write that changes nothing.
CONTROL_ID = "memory_log_control"

_deadline: ContextVar[float] = ContextVar("chroma_deadline")
_status: ContextVar[int] = ContextVar("chroma_status", default=0)


class _Connection:
    """One thread's connection and its collections; closed when the thread ends."""

    def __init__(self, server: "ServerAPI") -> None:
        self.server = server
        self.collections: dict[UUID, Collection] = {}
        self.close = weakref.finalize(self, _close, server)
        self.close.atexit = False


class _Local(threading.local):
    """The current thread's connection: an error in one thread closes no other's connection."""

    connection: _Connection | None = None


class ChromaClient:
    """Connections to one server, one per thread; collections are looked up once, by generation.

    Thread-safe. A connection is opened by the first call, so creating a client costs nothing.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self._settings = settings
        self._local = _Local()
        self._lock = threading.Lock()
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()

    @contextmanager
    def call(self, seconds: float, *, generation: UUID | None = None) -> Iterator["ServerAPI"]:
        """Lend the library's client for calls that take ``seconds`` in all.

        Raises:
            ChromaUnavailable, Poison, Corrupt: as ``translated`` decides.

        """
        from memory_pipeline.chroma.errors import translated  # noqa: PLC0415 - chromadb is slow

        limit, status = _deadline.set(time.monotonic() + seconds), _status.set(0)
        try:
            with translated(self.url, generation=generation, status=_status.get):
                yield self._connected().server
        except PipelineError:
            # A broken keep-alive connection (for example after a 413) would fail the next call too.
            self._disconnect()
            raise
        finally:
            _deadline.reset(limit)
            _status.reset(status)

    @contextmanager
    def collection(self, generation: Generation, seconds: float) -> Iterator["Collection"]:
        """Lend a generation's collection, as ``call`` does.

        Raises Corrupt, too, when the collection is gone or is not the one that was created.
        """
        with self.call(seconds, generation=generation.id) as server:
            collections = self._connected().collections
            known = collections.get(generation.id)
            if known is None:
                known = opened(server, server.get_collection(generation.collection))
                if generation.collection_id not in {None, known.id}:
                    raise Corrupt(
                        f"collection {generation.collection} was replaced behind our back",
                        generation=generation.id,
                    )
                collections[generation.id] = known
            yield known

    def close(self) -> None:
        """Close every thread's connection."""
        self._disconnect()
        with self._lock:
            connections = list(self._all)
        for connection in connections:
            connection.close()

    def _connected(self) -> _Connection:
        if self._local.connection is None:
            self._local.connection = _Connection(_connect(self._library_settings))
            with self._lock:
                self._all.add(self._local.connection)
        return self._local.connection

    @cached_property
    def _library_settings(self) -> "ChromaSettings":
        # Shared by all threads: chromadb reads the environment, for 15 ms.
        return _library_settings(self.url, self._settings)

    def _disconnect(self) -> None:
        connection, self._local.connection = self._local.connection, None
        if connection is not None:
            connection.close()


def opened(server: "ServerAPI", model: "CollectionModel") -> "Collection":
    """Wrap a collection without its embedding function: a stranger's could run code here."""
    from chromadb.api.models.Collection import Collection  # noqa: PLC0415

    return Collection(client=server, model=model, embedding_function=None)


def _connect(settings: "ChromaSettings") -> "ServerAPI":
    """Build the library's client. No call is made before the time limit is in place.

    The library's own ``HttpClient`` makes three calls while it is built, none of them limited.
    """
    from chromadb.api import ServerAPI  # noqa: PLC0415 - costs a second or two
    from chromadb.config import System  # noqa: PLC0415

    system = System(settings)
    server: ServerAPI = system.instance(ServerAPI)  # type: ignore[type-abstract]  # as the library does
    _session(server).event_hooks = {"request": [_put_limit], "response": [_record_status]}
    system.start()
    return server


def _library_settings(url: str, settings: Settings) -> "ChromaSettings":
    from chromadb.config import Settings as ChromaSettings  # noqa: PLC0415 - chromadb is slow

    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return ChromaSettings(
        chroma_api_impl="memory_pipeline.chroma.transport.Transport",
        chroma_server_host=parts.hostname,
        chroma_server_http_port=parts.port or (443 if tls else 8000),
        chroma_server_ssl_enabled=tls,
        # By default httpx reads all certificate authorities, 25 ms per connection; False only
        # where there is no TLS to verify.
        chroma_server_ssl_verify=tls,
        chroma_server_headers=_credentials(settings),
        anonymized_telemetry=False,
    )


def _close(server: "ServerAPI") -> None:
    _session(server).close()  # stop() alone leaves the sockets open
    server.stop()


def _session(server: Any) -> httpx.Client:
    return cast("httpx.Client", server._session)  # noqa: SLF001 - no public way to it


def _credentials(settings: Settings) -> dict[str, str]:
    if settings.chroma_token is None:
        return {}
    secret = settings.chroma_token.get_secret_value()
    bearer = settings.chroma_token_header.lower() == "authorization" and " " not in secret
    return {settings.chroma_token_header: f"Bearer {secret}" if bearer else secret}


def _put_limit(request: httpx.Request) -> None:
    # One deadline for all requests of a call: the lease was renewed for it once.
    seconds = _deadline.get(time.monotonic() + CONNECT_SECONDS) - time.monotonic()
    if seconds <= 0:
        raise httpx.PoolTimeout("no time left to send the request", request=request)
    limit = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
    request.extensions["timeout"] = limit.as_dict()


def _record_status(response: httpx.Response) -> None:
    _status.set(response.status_code)
