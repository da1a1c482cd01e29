"""Each fault of a link breaks it, and only while it lasts: against a real server."""

import gc
import http.server
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx
import pytest

from memory_pipeline.testing.link_faults import PASS, LinkFault
from memory_pipeline.testing.proxy import Link, Proxy


@dataclass
class Server:
    """A small HTTP server that remembers the requests."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    """Run a server that answers every POST with the length of its body."""
    known = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            known.requests.append(body)
            answer = str(len(body)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        known.port = listening.server_address[1]
        yield known
        listening.shutdown()
        thread.join()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Run a proxy."""
    with Proxy() as running:
        yield running


@pytest.fixture
def link(proxy: Proxy, server: Server) -> Link:
    """Open a link to the server that refuses a word."""
    return proxy.add(Link("server", server.port, http=True, refused=b"poison"))


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """Return a client that keeps its connection and waits for half a second."""
    with httpx.Client(timeout=0.5, trust_env=False) as connected:
        yield connected


def send(client: httpx.Client, link: Link, body: bytes = b"hello") -> httpx.Response:
    """Send a request through the link."""
    return client.post(f"http://127.0.0.1:{link.port}/", content=body)


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_request_without_a_fault_passes_whole(
    server: Server, link: Link, client: httpx.Client, size: int
) -> None:
    """Whatever its size, several on one connection."""
    for _ in range(3):
        assert send(client, link, b"x" * size).text == str(size)
    assert [len(body) for body in server.requests] == [size] * 3
    assert link.connections == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (LinkFault("refuse"), httpx.ConnectError),
        (LinkFault("reset"), (httpx.NetworkError, httpx.RemoteProtocolError)),
        (LinkFault("stall"), httpx.ReadTimeout),
        (LinkFault("cut", bytes=10), (httpx.ReadError, httpx.RemoteProtocolError)),
        (LinkFault("lost"), (httpx.ReadError, httpx.RemoteProtocolError)),
        (LinkFault("slow", seconds=2.0), httpx.ReadTimeout),
    ],
)
def test_each_fault_breaks_the_link_and_heals(
    proxy: Proxy,
    link: Link,
    client: httpx.Client,
    fault: LinkFault,
    error: type[Exception] | tuple[type[Exception], ...],
) -> None:
    """On an open connection and on a new one; afterwards the link works at the same port."""
    assert send(client, link).text == "5"
    proxy.switch(link, fault)
    for _ in range(2):
        with pytest.raises(error):
            send(client, link)
    proxy.switch(link, PASS)
    assert send(client, link).text == "5"


def test_a_deaf_link_reads_no_new_connection(
    proxy: Proxy, server: Server, link: Link, client: httpx.Client
) -> None:
    """An open connection still works."""
    assert send(client, link).text == "5"
    proxy.switch(link, LinkFault("deaf"))
    assert send(client, link).text == "5"
    with httpx.Client(timeout=0.3, trust_env=False) as other, pytest.raises(httpx.ReadTimeout):
        send(other, link)
    assert len(server.requests) == 2


def test_a_lost_reply_is_of_a_request_that_was_applied(
    proxy: Proxy, server: Server, link: Link, client: httpx.Client
) -> None:
    """The outcome is unknown to the client."""
    proxy.switch(link, LinkFault("lost"))
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        send(client, link, b"applied")
    assert server.requests == [b"applied"]


def test_an_answer_in_the_servers_place_reaches_no_server(
    proxy: Proxy, server: Server, link: Link, client: httpx.Client
) -> None:
    """429, 500, 503: the connection stays open."""
    proxy.switch(link, LinkFault("answer", status=429))
    assert [send(client, link).status_code for _ in range(2)] == [429, 429]
    assert server.requests == []


def test_poison_is_refused_and_nothing_else(
    server: Server, link: Link, client: httpx.Client
) -> None:
    """In any position of the request."""
    assert send(client, link, b"a lot of poison here").status_code == 400
    assert send(client, link).status_code == 200
    assert server.requests == [b"hello"]


def test_a_stalled_request_arrives_when_the_link_is_healed(
    proxy: Proxy, server: Server, link: Link
) -> None:
    """Late, and also where the client no longer waits for it."""
    proxy.switch(link, LinkFault("stall"))
    with httpx.Client(timeout=0.3, trust_env=False) as client, pytest.raises(httpx.ReadTimeout):
        send(client, link, b"late")
    assert server.requests == []
    proxy.switch(link, PASS)
    until = time.monotonic() + 5
    while not server.requests:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert server.requests == [b"late"]


def test_a_share_hits_a_share(proxy: Proxy, link: Link, client: httpx.Client) -> None:
    """Some requests pass while others fail, as in a real overload."""
    proxy.switch(link, LinkFault("answer", status=503, share=0.5))
    answered = [send(client, link).status_code for _ in range(60)]
    assert 10 < answered.count(503) < 50


def test_a_service_that_is_down_ends_the_connection(proxy: Proxy, client: httpx.Client) -> None:
    """And does not end the proxy."""
    nowhere = proxy.add(Link("nowhere", 1, http=True))
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        send(client, nowhere)


def test_the_end_of_a_proxy_leaks_no_connection(server: Server) -> None:
    """Also not one that is being accepted: it would be a warning in a later test."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for clients in range(30):
            with Proxy() as proxy, ExitStack() as stack:
                link = proxy.add(Link("server", server.port, http=True))
                for _ in range(clients % 4 + 1):
                    client = socket.create_connection(("127.0.0.1", link.port))
                    stack.enter_context(client)
                proxy.switch(link, LinkFault("refuse"))
        gc.collect()
    assert [str(warning.message) for warning in warned] == []
