"""This machine's loopback interface: addresses and ports.

Neither Chroma nor Dagster has a login, so the services of `up` listen here and nowhere else.
"""

import socket
from collections.abc import Collection

LOOPBACK = "127.0.0.1"


def loopback_url(port: int | None) -> str:
    """Return the address of a local service, without a slash at the end."""
    return f"http://{LOOPBACK}:{port}"


def free_port(*, but: Collection[int | None] = ()) -> int:
    """Return a port that no process listens on, and that is not in ``but``."""
    while True:
        with socket.socket() as listener:
            listener.bind((LOOPBACK, 0))
            port: int = listener.getsockname()[1]
        if port not in but:
            return port


def is_port_free(port: int) -> bool:
    """Whether a service could listen on a port now."""
    with socket.socket() as listener:
        # As servers do: connections that have just ended do not hold the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def accepts_connections(port: int, *, timeout: float) -> bool:
    """Whether a process listens on a port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=timeout).close()
    except OSError:
        return False
    return True
