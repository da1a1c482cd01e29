"""An HTTP proxy as companies have one: it forwards to the hosts that it knows, and no others."""

import http.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

import pytest

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass
class Proxy:
    """A proxy at ``host``, and the hosts that it was asked for."""

    host: str
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address as users write it, with their credentials."""
        return f"http://grace:hopper@{self.host}"


def behind(patch: pytest.MonkeyPatch, url: str) -> None:
    """Name a proxy in the environment, in every spelling; name no host that is to bypass it."""
    for name in VARIABLES:
        patch.setenv(name, url)
        patch.setenv(name.lower(), url)
    for name in ("NO_PROXY", "no_proxy"):
        patch.delenv(name, raising=False)


@contextmanager
def http_proxy(known: Mapping[str, int]) -> Iterator[Proxy]:
    """Run a proxy that forwards ``known`` hosts to ports of this machine."""
    proxy = Proxy("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target = urlsplit(self.path)
            proxy.asked.append(target.hostname or self.path)
            port = known.get(target.hostname or "")
            if port is None:
                self.send_error(502, "Bad Gateway")
                return
            length = int(self.headers.get("content-length", 0))
            connection = http.client.HTTPConnection("127.0.0.1", port)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "proxy-authorization"}
            path = f"{target.path}?{target.query}" if target.query else target.path
            connection.request(self.command, path, self.rfile.read(length), headers)
            answer = connection.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            connection.close()

        # The base class looks for these names.
        do_POST = do_PUT = do_DELETE = do_PATCH = do_CONNECT = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        proxy.host = f"127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield proxy
        server.shutdown()
