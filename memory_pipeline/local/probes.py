"""One probe per kind of service: ``up``, ``down``, or ``hangs`` (it takes a request, no answer).

No probe raises, starts or stops anything. Each takes about ``PROBE_SECONDS`` at most.
"""

import json
import time
from contextlib import suppress

import httpx
import psycopg

from memory_pipeline.local.loopback import (
    LOOPBACK,
    accepts_connections,
    loopback_url,
)
from memory_pipeline.proxies import http_client

PROBE_SECONDS = 2.0
# The daemon writes a heartbeat every 30 s; a busy machine may delay one.
HEARTBEAT_SECONDS = 120.0


def probe_http(url: str) -> str:
    """Get a page; a refusal for want of a token counts as ``up``."""
    try:
        with http_client(url, timeout=PROBE_SECONDS, verify=url.startswith("https:")) as client:
            return "down" if client.get(url).is_server_error else "up"
    except httpx.TimeoutException:
        return "hangs"
    except httpx.HTTPError:
        return "down"


def probe_postgres(url: str) -> str:
    """Connect and run an empty query."""
    seconds = int(PROBE_SECONDS)
    try:
        with psycopg.connect(url, connect_timeout=seconds, autocommit=True) as connection:
            connection.execute("SELECT 1")
    except psycopg.errors.ConnectionTimeout:
        return "hangs"
    except psycopg.Error:
        return "down"
    return "up"


def probe_chroma(url: str) -> str:
    """Get a Chroma server's heartbeat."""
    return probe_http(f"{url}/api/v2/heartbeat")


def probe_worker(port: int | None) -> str:
    """Get a worker's metrics; without a port it is ``down``."""
    return "down" if port is None else probe_http(f"{loopback_url(port)}/metrics")


def probe_webserver(url: str) -> str:
    """Get a page of Dagster's webserver that needs no database."""
    return probe_http(f"{url}/server_info")


def probe_code_server(port: int | None) -> str:
    """Query the health of Dagster's code server; without a port it is ``down``."""
    if port is None or not accepts_connections(port, timeout=PROBE_SECONDS):
        return "down"
    # A fifth of a second that most commands do without.
    import grpc  # type: ignore[import-untyped]  # noqa: PLC0415
    from grpc_health.v1 import (  # type: ignore[import-untyped]  # noqa: PLC0415
        health_pb2,
        health_pb2_grpc,
    )

    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=options) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service="DagsterApi")
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            return "hangs" if late else "down"
    return "up" if answer.status == health_pb2.HealthCheckResponse.SERVING else "down"


def probe_daemon(database_url: str) -> str:
    """Read the age of the daemon's last heartbeat, without importing dagster, which takes 1 s.

    A heartbeat from the future was written before the clock was set back: until the clock is there
    again, the daemon writes no other and starts nothing.
    """
    heartbeat = last_heartbeat(database_url)
    # Both times are of this machine's clock: the daemon writes its own into the heartbeat.
    return "up" if heartbeat and abs(time.time() - heartbeat) < HEARTBEAT_SECONDS else "hangs"


def last_heartbeat(database_url: str) -> float | None:
    """Return when the sensor daemon last wrote its heartbeat; None: never, or no database."""
    query = "SELECT body FROM daemon_heartbeats WHERE daemon_type = 'SENSOR'"
    with (
        suppress(psycopg.Error, ValueError, KeyError),
        psycopg.connect(database_url, connect_timeout=int(PROBE_SECONDS)) as connection,
    ):
        row = connection.execute(query).fetchone()
        return None if row is None else float(json.loads(row[0])["timestamp"])
    return None
