"""What can be wrong with a link, and how what passes over it is cut into pieces."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

PIECE = 65_536

Kind = Literal["pass", "refuse", "deaf", "stall", "slow", "reset", "cut", "lost", "answer"]


@dataclass(frozen=True, slots=True)
class LinkFault:
    """What is wrong with a link.

    refuse: nobody listens. deaf: new connections are accepted and never read. stall: nothing moves
    until the way changes, then all of it arrives. slow: every piece waits ``seconds`` and no more
    than ``bytes_a_second`` pass. reset: connections are reset. cut: a reply breaks off after
    ``bytes``. lost: the request arrives, the reply does not. answer: ``status`` in place of the
    service's. Of the last four, a ``share`` of what passes is hit.
    """

    kind: Kind = "pass"
    share: float = 1.0
    seconds: float = 0.0
    bytes_a_second: float = float("inf")
    bytes: int = 0
    status: int = 500


PASS = LinkFault()


async def pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield what arrives, as it comes."""
    while piece := await reader.read(PIECE):
        yield piece


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield whole HTTP requests; what is none ends the connection."""
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
    """Make an answer in the server's place."""
    body = b'{"error":"%s","message":"as if by the server"}' % error.encode()
    return (
        b"HTTP/1.1 %d Chaos\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
        % (status, len(body), body)
    )
