"""Dagster's three processes: code server, daemon, webserver. Starts them; knows no asset."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path

import psycopg
import yaml

from memory_pipeline.local.child_process import Service, script
from memory_pipeline.local.chroma import PROBE_SECONDS, probe_http
from memory_pipeline.local.processes import ServiceFailed, tail

LOOPBACK = "127.0.0.1"
PREPARE_SECONDS = 300.0
# The daemon writes a heartbeat every 30 s; a busy machine may delay one.
HEARTBEAT_SECONDS = 120.0
DAEMON_STOP_SECONDS = 35.0  # it gives its threads 30 s
# Open pages keep a connection each, and the webserver would wait for all of them.
WEBSERVER_STOP_SECONDS = 5.0


def write_instance(folder: Path, *, code_server_port: int) -> Path:
    """Write Dagster's dagster.yaml, and a workspace that names the code server; return that."""
    folder.mkdir(parents=True, exist_ok=True)
    with as_file(files("memory_pipeline.local") / "dagster.yaml") as source:
        shutil.copyfile(source, folder / "dagster.yaml")
    server = {"host": LOOPBACK, "port": code_server_port, "location_name": "memory_pipeline"}
    workspace = folder / "workspace.yaml"
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    return workspace


def prepare_storage(
    environment: Mapping[str, str], log_file: Path, *, fail_unfinished: bool
) -> subprocess.Popen[bytes]:
    """Begin to make or upgrade Dagster's tables, in a process of its own."""
    module = "memory_pipeline.defs.prepare_storage"
    with log_file.open("ab") as log:
        return subprocess.Popen(
            (
                sys.executable,
                "-P",
                "-m",
                module,
                *(["--fail-unfinished"] if fail_unfinished else []),
            ),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def check_prepared(process: subprocess.Popen[bytes], log_file: Path) -> None:
    """Raise what kept Dagster's storage from being prepared."""
    if process.returncode != 0:
        raise ServiceFailed(
            f"Dagster's storage cannot be prepared; the end of {log_file}:\n{tail(log_file)}"
        )


def code_server(
    definitions: str, environment: Mapping[str, str], log_file: Path, *, port: int
) -> Service:
    """Describe the server of the definitions: one process, on the same port at every restart."""
    return Service(
        name="code-server",
        command=(
            *(*script("dagster"), "api", "grpc"),
            *("--host", LOOPBACK, "--port", str(port), "--module-name", definitions),
            *("--location-name", "memory_pipeline"),
            "--empty-working-directory",
            "--use-python-environment-entry-point",
        ),
        log_file=log_file,
        healthy=lambda _: probe_code_server(port) == "up",
        environment=environment,
        port=port,
    )


def daemon(
    workspace: Path, environment: Mapping[str, str], log_file: Path, *, database_url: str
) -> Service:
    """Describe the daemon: sensors, schedules, backfills and the queue of runs."""
    return Service(
        name="daemon",
        command=(
            *(*script("dagster-daemon"), "run"),
            *("--workspace", str(workspace)),
        ),
        log_file=log_file,
        healthy=lambda service: (
            service.identity is not None
            and (last_heartbeat(database_url) or 0.0) > service.identity.created
        ),
        environment=environment,
        stop_seconds=DAEMON_STOP_SECONDS,
    )


def webserver(
    workspace: Path, environment: Mapping[str, str], log_file: Path, *, port: int
) -> Service:
    """Describe the webserver; it has no login, so it listens on this machine alone."""
    return Service(
        name="webserver",
        command=(
            *script("dagster-webserver"),
            *("--host", LOOPBACK, "--port", str(port), "--workspace", str(workspace)),
        ),
        log_file=log_file,
        healthy=lambda _: probe_http(f"{webserver_url(port)}/server_info") == "up",
        environment=environment,
        port=port,
        stop_seconds=WEBSERVER_STOP_SECONDS,
    )


def webserver_url(port: int | None) -> str:
    """Return the address of the UI."""
    return f"http://{LOOPBACK}:{port}"


def probe_code_server(port: int | None) -> str:
    """Ask the code server for its health: ``up``, ``down`` or ``hangs``."""
    if port is None or not _listens(port):
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
    """Look at the daemon's last heartbeat, without dagster: importing it costs a second."""
    heartbeat = last_heartbeat(database_url)
    # Both times are of this machine's clock: the daemon writes its own into the heartbeat.
    return "up" if heartbeat and time.time() - heartbeat < HEARTBEAT_SECONDS else "hangs"


def last_heartbeat(database_url: str) -> float | None:
    """Return when the sensor daemon last said that it lives; None: never, or nobody to ask."""
    query = "SELECT body FROM daemon_heartbeats WHERE daemon_type = 'SENSOR'"
    with (
        suppress(psycopg.Error, ValueError, KeyError),
        psycopg.connect(database_url, connect_timeout=int(PROBE_SECONDS)) as connection,
    ):
        row = connection.execute(query).fetchone()
        return None if row is None else float(json.loads(row[0])["timestamp"])
    return None


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True
