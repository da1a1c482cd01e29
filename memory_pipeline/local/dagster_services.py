"""Dagster's three processes as services: code server, daemon, webserver. Knows no asset."""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

import yaml

from memory_pipeline.clock import StepWatch
from memory_pipeline.local.child_process import Service, script
from memory_pipeline.local.loopback import LOOPBACK, loopback_url
from memory_pipeline.local.probes import last_heartbeat, probe_code_server, probe_webserver
from memory_pipeline.local.processes import ServiceFailed, tail

# For the calls under way, after which the code server takes 3 s at most: it is killed after 15.
CODE_SERVER_CALL_SECONDS = 8
DAEMON_STOP_SECONDS = 35.0  # it gives its threads 30 s
# Dagster measures pauses by the wall clock. A step that is shorter only makes the daemon late.
STEP_SECONDS = 30.0
FORGET_SECONDS = 60.0
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
            *(sys.executable, "-P", "-m", "memory_pipeline.defs.code_server"),
            *("--host", LOOPBACK, "--port", str(port), "--module-name", definitions),
            *("--location-name", "memory_pipeline"),
            "--empty-working-directory",
            "--use-python-environment-entry-point",
        ),
        log_file=log_file,
        healthy=lambda _: probe_code_server(port) == "up",
        environment={
            **environment,
            "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": str(CODE_SERVER_CALL_SECONDS),
        },
        port=port,
    )


def daemon(
    workspace: Path, environment: Mapping[str, str], log_file: Path, *, database_url: str
) -> Service:
    """Describe the daemon: sensors, schedules, backfills and the queue of runs."""
    watched = _DaemonClock(environment, log_file, database_url)
    return Service(
        name="daemon",
        command=(
            *(*script("dagster-daemon"), "run"),
            *("--workspace", str(workspace)),
        ),
        log_file=log_file,
        healthy=lambda _: watched.has_new_heartbeat(),
        environment=environment,
        stop_seconds=DAEMON_STOP_SECONDS,
        before_start=watched.before_start,
        stuck=watched.was_set_back,
    )


@dataclass(slots=True)
class _DaemonClock:
    """What the daemon makes of the wall clock: its first heartbeat, and a clock that is set back.

    The threads of the daemon wait until the clock is where it was, for an hour if that was the
    step; so do its sensors, by the ticks in its database. Neither listens to SIGTERM meanwhile.
    """

    environment: Mapping[str, str]
    log_file: Path
    database_url: str
    _watch: StepWatch = field(default_factory=lambda: StepWatch(STEP_SECONDS))
    _stepped: bool = False
    _heartbeat: float | None = None

    def before_start(self) -> None:
        """Note the last heartbeat of an earlier daemon; forget ticks that lie in the future.

        Raises:
            ServiceFailed: Dagster's database cannot be reached; the next start tries it again.

        """
        if self._stepped:
            self._forget_future_ticks()
            self._stepped = False
        self._heartbeat = last_heartbeat(self.database_url)

    def _forget_future_ticks(self) -> None:
        """Run Dagster in a process of its own: importing it here would cost its memory for good."""
        command = (sys.executable, "-P", "-m", "memory_pipeline.defs.prepare_storage")
        try:
            with self.log_file.open("ab") as log:
                subprocess.run(
                    command,
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=FORGET_SECONDS,
                    check=True,
                )
        except subprocess.SubprocessError as error:
            raise ServiceFailed(
                "the clock was set back, and Dagster's database cannot be told; the end of "
                f"{self.log_file}:\n{tail(self.log_file)}"
            ) from error

    def has_new_heartbeat(self) -> bool:
        """Whether this very daemon has written a heartbeat."""
        return last_heartbeat(self.database_url) not in {None, self._heartbeat}

    def was_set_back(self) -> bool:
        """Whether the clock was set back since the last call."""
        stepped = self._watch.set_back(time.time)
        self._stepped = self._stepped or stepped
        return stepped


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
