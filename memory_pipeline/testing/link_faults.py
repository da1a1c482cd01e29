"""The faults of a link, and the pieces or HTTP requests into which its traffic is cut."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

PIECE = 65_536

LinkFaultKind = Literal["pass", "refuse", "deaf", "stall", "slow", "reset", "cut", "lost", "answer"]


@dataclass(frozen=True, slots=True)
class LinkFault:
    """One fault of a link, in its kind's parameters.

    refuse: no socket listens. deaf: new connections are accepted and never read. stall: no byte
    moves until the fault changes, then all of them arrive. slow: every piece waits ``seconds``, and
    at most ``bytes_a_second`` pass. reset: connections are reset. cut: a reply breaks off after
    ``bytes``. lost: the request arrives, the reply does not. answer: the proxy replies ``status``
    in the service's place. The last four hit a ``share`` of the traffic.
    """

    kind: LinkFaultKind = "pass"
    share: float = 1.0
    seconds: float = 0.0
    bytes_a_second: float = float("inf")
    bytes: int = 0
    status: int = 500


PASS = LinkFault()


async def pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the bytes as they arrive."""
    while piece := await reader.read(PIECE):
        yield piece


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield whole HTTP requests; anything else ends the connection."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(_fields(head))
            if b"chunked" in fields.get(b"transfer-encoding", b""):
                yield head + await _chunks(reader)
            else:
                yield head + await reader.readexactly(int(fields.get(b"content-length", b"0")))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            return


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    lines = head.split(b"\r\n")[1:]
    return [
        (name.strip().lower(), value.strip().lower())
        for name, _, value in (line.partition(b":") for line in lines if line)
    ]


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = await reader.readuntil(b"\r\n")
        length = int(size.split(b";")[0], 16)
        body += size + await reader.readexactly(length + 2)
        if not length:
            return body


def answer(status: int, error: str) -> bytes:
    """Return an HTTP answer in the server's place."""
    body = b'{"error":"%s","message":"as if by the server"}' % error.encode()
    return (
        b"HTTP/1.1 %d Chaos\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        % (status, len(body), body)
    )
