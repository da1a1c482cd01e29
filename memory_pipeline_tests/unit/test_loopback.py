"""Local services are reached without a proxy, and their ports are free."""

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from memory_pipeline.local.loopback import (
    accepts_connections,
    free_port,
    is_port_free,
    loopback_url,
)
from memory_pipeline.local.probes import probe_http, probe_worker


class Page(BaseHTTPRequestHandler):
    """Answers each request with an empty page."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Serve a page on loopback."""
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_proxy_of_the_environment_does_not_intercept_local_requests(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a company's proxy every service of `up` would look as if it were down."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, loopback_url(free_port()))
    assert probe_worker(port) == "up"
    assert probe_http(f"http://localhost:{port}") == "up"


def test_a_port_is_free_until_a_process_listens_on_it() -> None:
    """Also for a service that is started again right after its end."""
    port = free_port()
    assert is_port_free(port)
    assert not accepts_connections(port, timeout=1.0)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_port_free(port)
        assert accepts_connections(port, timeout=1.0)


def test_a_free_port_is_none_of_those_that_are_taken() -> None:
    """A port that was chosen for another service is not listened on yet."""
    taken: set[int | None] = {free_port() for _ in range(20)}
    assert free_port(but=taken) not in taken
