"""The client of one Chroma server: outages, refusals, threads and connections."""

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from memory_pipeline.chroma.client import ChromaClient
from memory_pipeline.errors import ChromaUnavailable, Corrupt, PipelineError, Poison, Transient
from memory_pipeline.settings import Settings
from memory_pipeline_tests.words import SECONDS


def test_a_server_that_is_down_has_received_nothing(settings: Settings) -> None:
    """Without a listener the outcome is known: nothing was sent."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        client = ChromaClient(f"http://127.0.0.1:{reserved.getsockname()[1]}", settings)
        with pytest.raises(ChromaUnavailable) as found, client.call(SECONDS) as server:
            server.count_collections()
    assert not found.value.sent


def test_a_server_that_hangs_costs_no_more_than_the_limit(settings: Settings) -> None:
    """What broke: the library waits for ever. What was sent to a server that hangs may land."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = ChromaClient(f"http://127.0.0.1:{silent.getsockname()[1]}", settings)
        began = time.monotonic()
        with pytest.raises(ChromaUnavailable) as found, client.call(0.3) as server:
            server.count_collections()
        assert time.monotonic() - began < 2.0
        assert found.value.sent
        client.close()


@dataclass
class Script:
    """The answers of a scripted server, one after the other, and the requests that it got."""

    url: str
    answers: deque[tuple[int, str, str]] = field(default_factory=deque)
    headers: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def scripted() -> Iterator[Script]:
    """Serve HTTP: the scripted answers first, then a Chroma without collections."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.headers.append({k.lower(): v for k, v in self.headers.items()})
            status, kind, body = (
                script.answers.popleft() if script.answers else (200, "application/json", "0")
            )
            sent = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the names of the base class

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    script = Script(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield script
    server.shutdown()
    server.server_close()
    thread.join()


def _said(error: str, message: str) -> str:
    return json.dumps({"error": error, "message": message})


PLAIN, PAGE, JSON = "text/plain", "text/html", "application/json"


@pytest.mark.parametrize(
    ("status", "kind", "body", "expected"),
    [
        (413, PLAIN, "Payload too large", Poison),
        pytest.param(
            413,
            PAGE,
            "<html><h1>413 Request Entity Too Large</h1><hr>nginx</html>",
            Poison,
        ),
        (422, PLAIN, "Failed to deserialize the JSON body into the target type", Poison),
        (400, JSON, _said("InvalidArgumentError", "expecting dimension of 768, got 3"), Poison),
        (429, JSON, _said("RateLimitError", "slow down"), ChromaUnavailable),
        (429, PLAIN, "Too Many Requests", ChromaUnavailable),
        pytest.param(
            503,
            JSON,
            _said("ChromaError", "Service unavailable"),
            ChromaUnavailable,
        ),
        (500, JSON, _said("InternalError", "Error executing plan"), ChromaUnavailable),
        (500, PLAIN, "", ChromaUnavailable),
        (502, PAGE, "<html>502 Bad Gateway</html>", ChromaUnavailable),
        (503, PLAIN, "no healthy upstream", ChromaUnavailable),
        (401, PLAIN, "Unauthorized", ChromaUnavailable),
        (403, JSON, _said("AuthError", "Forbidden"), ChromaUnavailable),
        (404, JSON, _said("NotFoundError", "Collection [x] does not exist"), Corrupt),
        (500, JSON, _said("InternalError", "Failed to apply logs to the hnsw segment"), Corrupt),
        pytest.param(
            200,
            PAGE,
            "<html>down for maintenance</html>",
            ChromaUnavailable,
        ),
    ],
)
def test_an_answer_becomes_its_class_and_the_next_call_works(
    scripted: Script,
    settings: Settings,
    *,
    status: int,
    kind: str,
    body: str,
    expected: type[PipelineError],
) -> None:
    """The answer decides: refused, overloaded or damaged; the client can make another call."""
    client = ChromaClient(scripted.url, settings)
    scripted.answers.append((status, kind, body))
    try:
        with pytest.raises(expected), client.call(SECONDS) as server:
            server.count_collections()
    finally:
        with client.call(SECONDS) as server:
            assert server.count_collections() == 0
        client.close()


def test_a_redirect_to_a_login_page_is_an_outage(scripted: Script, settings: Settings) -> None:
    """A proxy that wants a login has not asked Chroma anything."""
    client = ChromaClient(scripted.url, settings)
    scripted.answers.append((302, PAGE, "<html>log in</html>"))
    with pytest.raises(Transient), client.call(SECONDS) as server:
        server.count_collections()
    client.close()


@pytest.mark.parametrize(
    ("header", "token", "sent"),
    [
        ("Authorization", "secret", "Bearer secret"),
        ("authorization", "secret", "Bearer secret"),
        ("Authorization", "Basic c2VjcmV0", "Basic c2VjcmV0"),
        ("X-Chroma-Token", "secret", "secret"),
    ],
)
def test_the_token_reaches_the_server(
    scripted: Script, settings: Settings, header: str, token: str, sent: str
) -> None:
    """Every call carries the token in the header that the proxy asks for."""
    chosen = Settings.load(
        home=settings.home,
        chroma_url=scripted.url,
        chroma_token=token,
        chroma_token_header=header,
    )
    client = ChromaClient(scripted.url, chosen)
    with client.call(SECONDS) as server:
        server.count_collections()
        server.count_collections()
    assert [h[header.lower()] for h in scripted.headers] == [sent, sent]
    client.close()


def test_without_a_token_no_header_is_sent(scripted: Script, settings: Settings) -> None:
    """Nothing is invented."""
    client = ChromaClient(scripted.url, settings)
    with client.call(SECONDS) as server:
        server.count_collections()
    assert "authorization" not in scripted.headers[0]
    client.close()


def test_a_closed_client_leaves_no_connection_open(scripted: Script, settings: Settings) -> None:
    """Each error opens a new connection, so each close has to end the old one."""
    client = ChromaClient(scripted.url, settings)
    with client.call(SECONDS) as server:
        server.count_collections()
    client.close()
    assert connections_to(scripted.url) == 0


def test_a_thread_that_has_ended_leaves_no_connection_open(
    scripted: Script, settings: Settings
) -> None:
    """What broke: each verify and rebuild left one, until the process had no files left to open."""
    client = ChromaClient(scripted.url, settings)

    def ask() -> None:
        with client.call(SECONDS) as server:
            server.count_collections()
        assert connections_to(scripted.url) == 1

    for _ in range(3):
        with ThreadPoolExecutor(1) as thread:
            thread.submit(ask).result()
    assert connections_to(scripted.url) == 0
    client.close()


def connections_to(url: str) -> int:
    """Count this process's connections to a server."""
    port = int(url.rpartition(":")[2])
    connections = psutil.Process().net_connections(kind="tcp")
    return sum(bool(c.raddr) and c.raddr.port == port for c in connections)


def test_limits_of_two_threads_do_not_mix(
    scripted: Script, settings: Settings, wait_until: Callable[..., None]
) -> None:
    """A call's limit is its own: another thread's short one does not cut it off."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = ChromaClient(f"http://127.0.0.1:{silent.getsockname()[1]}", settings)
        ended: list[float] = []

        def patient() -> None:
            with pytest.raises(ChromaUnavailable), hanging.call(1.0) as server:
                server.count_collections()
            ended.append(time.monotonic() - began)

        thread = threading.Thread(target=patient)
        other = ChromaClient(scripted.url, settings)
        with other.call(SECONDS) as server:
            server.count_collections()  # the first call connects, which takes its time
        began = time.monotonic()
        thread.start()
        with other.call(0.2) as server:
            server.count_collections()
        wait_until(lambda: ended, within=5)
        thread.join()
        hanging.close()
        other.close()
    assert 0.9 < ended[0] < 4


def test_an_error_of_one_thread_does_not_break_anothers_call(
    scripted: Script, settings: Settings
) -> None:
    """What broke: an error drops the connection, and an application searches in many threads.

    A call that another thread has under way at that moment ends as it would have.
    """
    client = ChromaClient(scripted.url, settings)

    def fail() -> None:
        scripted.answers.append((503, PLAIN, "overloaded"))
        with pytest.raises(ChromaUnavailable), client.call(SECONDS) as other:
            other.count_collections()

    with client.call(SECONDS) as first, ThreadPoolExecutor(1) as another:
        another.submit(fail).result(timeout=20)
        assert first.count_collections() == 0
    client.close()
