"""The proxy breaks what it says, and only while it says so: each way against a real server."""

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
    """A small HTTP server that remembers what it was asked."""

    port: int = 0
    asked: list[bytes] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    """Run a server that answers every POST with the length of its body."""
    known = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            known.asked.append(body)
            answer = str(len(body)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

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
    """Open a way to the server that refuses a word."""
    return proxy.add(Link("server", server.port, http=True, refused=b"poison"))


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """Return a client that keeps its connection and waits for half a second."""
    with httpx.Client(timeout=0.5, trust_env=False) as connected:
        yield connected


def ask(client: httpx.Client, link: Link, body: bytes = b"hello") -> httpx.Response:
    """Send a request through the link."""
    return client.post(f"http://127.0.0.1:{link.port}/", content=body)


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_what_passes_passes_whole(
    server: Server, link: Link, client: httpx.Client, size: int
) -> None:
    """Whatever its size, several on one connection."""
    for _ in range(3):
        assert ask(client, link, b"x" * size).text == str(size)
    assert [len(body) for body in server.asked] == [size] * 3
    assert link.connections == 1


@pytest.mark.parametrize(
    ("way", "error"),
    [
        (LinkFault("refuse"), httpx.ConnectError),
        (LinkFault("reset"), (httpx.NetworkError, httpx.RemoteProtocolError)),
        (LinkFault("stall"), httpx.ReadTimeout),
        (LinkFault("cut", bytes=10), (httpx.ReadError, httpx.RemoteProtocolError)),
        (LinkFault("lost"), (httpx.ReadError, httpx.RemoteProtocolError)),
        (LinkFault("slow", seconds=2.0), httpx.ReadTimeout),
    ],
)
def test_each_way_breaks_and_heals(
    proxy: Proxy,
    link: Link,
    client: httpx.Client,
    way: LinkFault,
    error: type[Exception] | tuple[type[Exception], ...],
) -> None:
    """On a connection that stands and on a new one; afterwards all is well at the same port."""
    assert ask(client, link).text == "5"
    proxy.switch(link, way)
    for _ in range(2):
        with pytest.raises(error):
            ask(client, link)
    proxy.switch(link, PASS)
    assert ask(client, link).text == "5"


def test_a_deaf_way_hears_no_new_connection(
    proxy: Proxy, server: Server, link: Link, client: httpx.Client
) -> None:
    """One that stands goes on."""
    assert ask(client, link).text == "5"
    proxy.switch(link, LinkFault("deaf"))
    assert ask(client, link).text == "5"
    with httpx.Client(timeout=0.3, trust_env=False) as other, pytest.raises(httpx.ReadTimeout):
        ask(other, link)
    assert len(server.asked) == 2


def test_a_lost_reply_is_of_a_request_that_was_applied(
    proxy: Proxy, server: Server, link: Link, client: httpx.Client
) -> None:
    """That is what makes it hard."""
    proxy.switch(link, LinkFault("lost"))
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        ask(client, link, b"applied")
    assert server.asked == [b"applied"]


def test_an_answer_in_the_servers_place_reaches_no_server(
    proxy: Proxy, server: Server, link: Link, client: httpx.Client
) -> None:
    """429, 500, 503: the connection stays."""
    proxy.switch(link, LinkFault("answer", status=429))
    assert [ask(client, link).status_code for _ in range(2)] == [429, 429]
    assert server.asked == []


def test_poison_is_refused_and_nothing_else(
    server: Server, link: Link, client: httpx.Client
) -> None:
    """Whatever else is in the request."""
    assert ask(client, link, b"a lot of poison here").status_code == 400
    assert ask(client, link).status_code == 200
    assert server.asked == [b"hello"]


def test_what_stalled_arrives_when_the_way_is_free(
    proxy: Proxy, server: Server, link: Link
) -> None:
    """Late, and whether or not anybody still waits for it."""
    proxy.switch(link, LinkFault("stall"))
    with httpx.Client(timeout=0.3, trust_env=False) as client, pytest.raises(httpx.ReadTimeout):
        ask(client, link, b"late")
    assert server.asked == []
    proxy.switch(link, PASS)
    until = time.monotonic() + 5
    while not server.asked:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert server.asked == [b"late"]


def test_a_share_hits_a_share(proxy: Proxy, link: Link, client: httpx.Client) -> None:
    """Some requests pass while others do not: that is how real overload looks."""
    proxy.switch(link, LinkFault("answer", status=503, share=0.5))
    answered = [ask(client, link).status_code for _ in range(60)]
    assert 10 < answered.count(503) < 50


def test_a_service_that_is_not_there_ends_the_connection(
    proxy: Proxy, client: httpx.Client
) -> None:
    """And does not end the proxy."""
    nowhere = proxy.add(Link("nowhere", 1, http=True))
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        ask(client, nowhere)


def test_the_end_of_a_proxy_forgets_no_connection(server: Server) -> None:
    """Also none that is only just being accepted: it would be a warning in some later test."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for clients in range(30):
            with Proxy() as proxy, ExitStack() as stack:
                link = proxy.add(Link("server", server.port, http=True))
                for _ in range(clients % 4 + 1):
                    client = socket.create_connection(("127.0.0.1", link.port))
                    stack.enter_context(client)
                proxy.switch(link, LinkFault("refuse"))
        gc.collect()
    assert [str(warning.message) for warning in said] == []
