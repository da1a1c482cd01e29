"""A webhook for tests: a real HTTP server on this machine that keeps what it receives."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Webhook(HTTPServer):
    """Keeps every alert that it receives, and answers with ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taker)
        self.taken: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.status = 200
        self.waits_seconds = 0.0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}/hooks/secret"


class _Taker(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        """Take an alert."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.waits_seconds)
        self.server.taken.append(json.loads(body))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.bodies.append(body)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def webhook() -> Iterator[Webhook]:
    """Run one for as long as it is needed."""
    with Webhook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
