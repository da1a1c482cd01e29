"""A local Chroma server: ``chroma run`` on loopback, without a log line per request."""

import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from memory_pipeline.local.child_process import Service
from memory_pipeline.local.chroma_stuck import WriteLockWatch
from memory_pipeline.local.environment import child_environment
from memory_pipeline.local.home import chroma_names, home_of, private_folder, usual_port
from memory_pipeline.local.loopback import LOOPBACK, free_port, loopback_url
from memory_pipeline.local.probes import probe_chroma
from memory_pipeline.logs import get_logger
from memory_pipeline.settings import Settings

# A collection holds 4 files open; the usual limit of 1,024 is reached with about 250 tenants.
OPEN_FILES = 65_536
# After SIGTERM the server finishes the requests that it has.
STOP_SECONDS = 60.0

SEGMENT_FOLDER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

log = get_logger("memory_pipeline.local.chroma")

# The engine alone: the console script first imports the whole client, which takes a second of CPU.
RUN = "import sys, chromadb_rust_bindings as chroma; chroma.cli(sys.argv[1:])"


@dataclass(frozen=True, slots=True)
class ChromaProcess:
    """A Chroma server that was started here, and its address."""

    url: str
    service: Service

    @property
    def pid(self) -> int:
        """The server's pid, of its latest start; 0 before the first."""
        identity = self.service.identity
        return 0 if identity is None else identity.pid

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self.service.alive()

    def stop(self) -> None:
        """Stop the server; it may take a minute to finish requests under way."""
        self.service.stop()

    def restart(self) -> None:
        """Start the server again at the same address and wait until it answers."""
        self.service.stop()
        self.service.start()
        self.service.wait_until_healthy()


def start_chroma(data_dir: Path, log_file: Path, port: int = 0) -> ChromaProcess:
    """Start a server on ``data_dir`` and wait until it answers.

    Args:
        data_dir: the folder of its data; made if it does not exist.
        log_file: where its output goes.
        port: where it listens on 127.0.0.1; 0 picks a free one.

    Raises:
        ServiceFailed: the server does not start; the message has the end of its log.

    """
    service = chroma_service(data_dir, log_file, port=port)
    service.start()
    try:
        service.wait_until_healthy()
    except BaseException:
        service.stop()
        raise
    return ChromaProcess(chroma_url(service), service)


def chroma_service(
    data_dir: Path,
    log_file: Path,
    *,
    name: str = "chroma",
    port: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Service:
    """Write the server's configuration and describe the service. Starts nothing."""
    port = port or free_port()
    data_dir = data_dir.absolute()
    private_folder(data_dir)  # Chroma makes its files readable for all, and they hold every memory
    configuration = data_dir.with_name(f"{data_dir.name}.yaml")
    configuration.write_text(
        yaml.safe_dump(
            {
                "port": port,
                "listen_address": LOOPBACK,
                "persist_path": str(data_dir),
                "allow_reset": False,
                "stdout_tracing": False,
            }
        )
    )
    service = Service(
        name=name,
        command=(sys.executable, "-c", RUN, "chroma", "run", str(configuration)),
        log_file=log_file,
        healthy=lambda _: probe_chroma(loopback_url(port)) == "up",
        port=port,
        stop_seconds=STOP_SECONDS,
        open_files=OPEN_FILES,
        before_start=partial(remove_orphan_folders, data_dir),
        stuck=WriteLockWatch(data_dir).stuck,
    )
    # Chroma prefers CHROMA_* of the environment to its configuration file.
    given = os.environ if environment is None else environment
    service.environment = {k: v for k, v in given.items() if not k.startswith("CHROMA_")}
    return service


def chroma_services(settings: Settings, logs: Path) -> list[Service]:
    """Describe the Chroma servers of a home, each with a port of its own."""
    home, environment = home_of(settings), child_environment(settings)
    services: list[Service] = []
    for name in chroma_names(settings):
        taken = {service.port for service in services}
        services.append(
            chroma_service(
                home / name,
                logs / f"{name}.log",
                name=name,
                port=usual_port(home, name, but=taken),
                environment=environment,
            )
        )
    return services


def remove_orphan_folders(data_dir: Path) -> None:
    """Delete the folders of deleted collections, which Chroma 1.5.9 leaves on the disk.

    Otherwise each rebuild would take disk for ever. Only while no server runs on ``data_dir``. The
    name of a folder is the id of a segment; while the database cannot be read, none is deleted.
    """
    database = data_dir / "chroma.sqlite3"
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            known = {str(row[0]) for row in connection.execute("SELECT id FROM segments")}
    except sqlite3.Error as error:
        log.warning(
            "orphan_folders_kept",
            service=data_dir.name,
            reason=str(error),
            next="they are deleted at a start that can read the database",
        )
        return
    orphans = [
        f for f in data_dir.iterdir() if SEGMENT_FOLDER.fullmatch(f.name) and f.name not in known
    ]
    for folder in orphans:
        shutil.rmtree(folder, ignore_errors=True)
    if orphans:
        log.info("orphan_folders_removed", service=data_dir.name, folders=len(orphans))


def chroma_url(service: Service) -> str:
    """Return the address of a local server."""
    return loopback_url(service.port)
