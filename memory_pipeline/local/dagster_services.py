"""Dagster's three processes as services: code server, daemon, webserver. Knows no asset."""

import shutil
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path

import yaml

from memory_pipeline.local.child_process import Service, script
from memory_pipeline.local.loopback import LOOPBACK, loopback_url
from memory_pipeline.local.probes import last_heartbeat, probe_code_server, probe_webserver

DAEMON_STOP_SECONDS = 35.0  # it gives its threads 30 s
# Open pages keep a connection each, and the webserver would wait for all of them.
WEBSERVER_STOP_SECONDS = 5.0


def write_instance(folder: Path, *, code_server_port: int) -> Path:
    """Write dagster.yaml and a workspace that names the code server; return the workspace."""
    folder.mkdir(parents=True, exist_ok=True)
    with as_file(files("memory_pipeline.local") / "dagster.yaml") as source:
        shutil.copyfile(source, folder / "dagster.yaml")
    server = {"host": LOOPBACK, "port": code_server_port, "location_name": "memory_pipeline"}
    workspace = folder / "workspace.yaml"
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    return workspace


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
        healthy=lambda _: probe_webserver(loopback_url(port)) == "up",
        environment=environment,
        port=port,
        stop_seconds=WEBSERVER_STOP_SECONDS,
    )
