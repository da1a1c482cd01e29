"""A TCP proxy whose links can be broken: between a client and one service.

A link listens on the loopback interface and forwards to one service. Its fault is switched while
connections are open. A link for HTTP forwards whole requests, so that it can answer a request in
the service's place, or lose a reply after the request was applied.
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
    LinkFault,
    LinkFaultKind,
    answer,
    pieces,
    requests,
)

WAIT_SECONDS = 10.0


class Link:
    """An address that leads to one service, with a fault that can be switched."""

    def __init__(
        self,
        name: str,
        upstream: int | Path,
        *,
        http: bool = False,
        refused: bytes | None = None,
        seed: int = 0,
    ) -> None:
        """Forward to a port or a Unix socket; HTTP requests that hold ``refused`` get a 400."""
        self.name = name
        self.port = 0
        self.connections = 0
        self._upstream = upstream
        self._frames = requests if http else pieces
        self._refused = refused
        self._chance = random.Random(seed)  # noqa: S311 - no cryptography
        self._fault = PASS
        self._changed = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Accept connections, always at the same port."""
        self._listener = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, limit=PIECE
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def switch(self, fault: LinkFault) -> None:
        """Replace the fault."""
        self._fault = fault
        self._changed.set()
        self._changed = asyncio.Event()
        if fault.kind == "refuse" and self._listener is not None:
            listener, self._listener = self._listener, None
            await _stop_accepting(listener)
        if fault.kind in {"refuse", "reset"}:
            self._break_all()
        if fault.kind != "refuse" and self._listener is None:
            await self.listen()

    async def close(self) -> None:
        """Stop listening and end every connection."""
        await self.switch(LinkFault("refuse"))
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _break_all(self) -> None:
        for writer in self._open.copy():
            _reset(writer)

    def _hits(self, kind: LinkFaultKind) -> bool:
        return self._fault.kind == kind and self._chance.random() < self._fault.share

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: one that is cancelled before its first step never closes the connection.
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
            while self._fault.kind == "deaf":
                await self._changed.wait()
            answers, service = await self._connect()
            self._open.add(service)
            both = [
                asyncio.ensure_future(self._forward(reader, writer, service)),
                asyncio.ensure_future(self._return(answers, writer)),
            ]
            try:
                # The connection ends when one of its sides ends.
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        except OSError:
            return  # the service is down
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
                writer.write(answer(self._fault.status, "chaos"))
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
                writer.write(piece[: self._fault.bytes])
                with contextlib.suppress(OSError):
                    await writer.drain()
                return
            await self._pass(len(piece))
            writer.write(piece)
            await writer.drain()

    async def _pass(self, size: int) -> None:
        """Wait as long as the fault delays this many bytes."""
        while self._fault.kind == "stall":
            await self._changed.wait()
        if self._fault.kind == "slow":
            await asyncio.sleep(self._fault.seconds + size / self._fault.bytes_a_second)


async def _stop_accepting(listener: asyncio.Server) -> None:
    """Close a listener; accepted connections get their transport first, or asyncio leaks them."""
    for each in listener.sockets:
        asyncio.get_running_loop().remove_reader(each)
    for _ in range(2):  # one step makes the transport, the next calls _accept
        await asyncio.sleep(0)
    listener.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset a connection, as a machine does that has lost its state."""
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is not None:
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    """Runs links on an event loop in its own thread. Every method is thread-safe."""

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
        """Open a link and return it; it has a port from then on."""
        self._links.append(link)
        self._wait(link.listen)
        return link

    def switch(self, link: Link, fault: LinkFault) -> None:
        """Replace the fault of a link."""
        self._wait(lambda: link.switch(fault))

    def _wait(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self._loop).result(WAIT_SECONDS)
