"""A way to a service that can be broken: a TCP proxy with a switch.

A link listens on the loopback interface and forwards to one service. What is wrong with it is
switched while connections stand. On a link that speaks HTTP, requests are forwarded whole, so that
one can be answered in the service's place, and a reply can be lost after the request was applied.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from memory_pipeline.testing.link_faults import (
    PASS,
    PIECE,
    Kind,
    LinkFault,
    answer,
    pieces,
    requests,
)

WAIT_SECONDS = 10.0


class Link:
    """One address that leads to one service."""

    def __init__(
        self,
        name: str,
        upstream: int | Path,
        *,
        http: bool = False,
        refused: bytes | None = None,
        seed: int = 0,
    ) -> None:
        """Forward to a port or a Unix socket; ``refused``: what a request may not hold (HTTP)."""
        self.name = name
        self.port = 0
        self.connections = 0
        self._upstream = upstream
        self._frames = requests if http else pieces
        self._refused = refused
        self._chance = random.Random(seed)  # noqa: S311 - no cryptography
        self._way = PASS
        self._changed = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def way(self) -> LinkFault:
        """What is wrong with it now."""
        return self._way

    async def listen(self) -> None:
        """Begin to accept connections, always at the same port."""
        self._listener = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, limit=PIECE
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def switch(self, way: LinkFault) -> None:
        """Change what is wrong with it."""
        self._way = way
        self._changed.set()
        self._changed = asyncio.Event()
        if way.kind == "refuse" and self._listener is not None:
            listener, self._listener = self._listener, None
            await _stop_accepting(listener)
        if way.kind in {"refuse", "reset"}:
            self._break_all()
        if way.kind != "refuse" and self._listener is None:
            await self.listen()

    async def close(self) -> None:
        """End it, with every connection."""
        await self.switch(LinkFault("refuse"))
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _break_all(self) -> None:
        for writer in self._open.copy():
            _reset(writer)

    def _hits(self, kind: Kind) -> bool:
        return self._way.kind == kind and self._chance.random() < self._way.share

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: cancelled before its first step, it would never close the connection.
        self.connections += 1
        self._open.add(writer)
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service: asyncio.StreamWriter | None = None
        try:
            if self._hits("reset"):
                return
            while self._way.kind == "deaf":
                await self._changed.wait()
            answers, service = await self._connect()
            self._open.add(service)
            both = [
                asyncio.ensure_future(self._forward(reader, writer, service)),
                asyncio.ensure_future(self._return(answers, writer)),
            ]
            try:
                # Where one side has ended, so has the connection.
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        except OSError:
            return  # the service is not there
        finally:
            for end in (writer, service):
                if end is not None:
                    self._open.discard(end)
                    _reset(end)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._upstream, Path):
            return await asyncio.open_unix_connection(str(self._upstream))
        return await asyncio.open_connection("127.0.0.1", self._upstream)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        service: asyncio.StreamWriter,
    ) -> None:
        async for request in self._frames(reader):
            await self._pass(len(request))
            if self._hits("reset"):
                return
            if self._hits("answer"):
                writer.write(answer(self._way.status, "chaos"))
            elif self._refused is not None and self._refused in request:
                writer.write(answer(400, "InvalidArgumentError"))
            else:
                service.write(request)
                await service.drain()

    async def _return(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await answers.read(PIECE):
            if self._hits("lost"):
                return
            if self._hits("cut"):
                writer.write(piece[: self._way.bytes])
                with contextlib.suppress(OSError):
                    await writer.drain()
                return
            await self._pass(len(piece))
            writer.write(piece)
            await writer.drain()

    async def _pass(self, size: int) -> None:
        """Wait as long as so many bytes do on this way."""
        while self._way.kind == "stall":
            await self._changed.wait()
        if self._way.kind == "slow":
            await asyncio.sleep(self._way.seconds + size / self._way.bytes_a_second)


async def _stop_accepting(listener: asyncio.Server) -> None:
    """Close a listener; who is at the door is let in first, else asyncio forgets his socket."""
    for each in listener.sockets:
        asyncio.get_running_loop().remove_reader(each)
    for _ in range(2):  # one step makes the transport, the next one says so
        await asyncio.sleep(0)
    listener.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection off as a machine does that knows nothing of it."""
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is not None:
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    """Runs links in a thread of their own; every method may be called from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._links: list[Link] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for link in self._links:
            self._wait(link.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def add(self, link: Link) -> Link:
        """Open a link; from then on it has a port."""
        self._links.append(link)
        self._wait(link.listen)
        return link

    def switch(self, link: Link, way: LinkFault) -> None:
        """Change what is wrong with a link."""
        self._wait(lambda: link.switch(way))

    def _wait(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(WAIT_SECONDS)
