"""A private stack for faults: Postgres, Chroma, workers, and a proxy on every link.

The user's own services are not touched, and no process or file of the stack remains.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from memory_pipeline.local.child_process import script
from memory_pipeline.local.chroma import start_chroma
from memory_pipeline.local.chroma_stuck import WriteLockWatch
from memory_pipeline.local.environment import base_environment
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres
from memory_pipeline.local.postgres_location import SOCKET_NAME
from memory_pipeline.local.processes import MARK, ServiceFailed, wait_until
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline.testing.chaos.ack_record import install_ack_record
from memory_pipeline.testing.chaos.background import repeating
from memory_pipeline.testing.chaos.disk import Disk, small_disk
from memory_pipeline.testing.chaos.failing_embedder import EMBEDDER, MODEL_FILE_VARIABLE
from memory_pipeline.testing.chaos.history import Anomaly, History, now
from memory_pipeline.testing.chaos.payloads import REFUSED
from memory_pipeline.testing.chaos.supervised_chroma import SupervisedChroma
from memory_pipeline.testing.chaos.supervised_worker import SupervisedWorker
from memory_pipeline.testing.proxy import Link, Proxy

PROGRAM = script("memory-pipeline")
DAGSTER_RUN = (sys.executable, "-m", "memory_pipeline.testing.chaos.dagster_run")
DATABASE = "chaos"
# Shorter than the defaults, so that many end during a run, and long enough for a loaded machine.
LEASE_SECONDS, REQUEST_SECONDS, GRACE_SECONDS = 4.0, 2.5, 1.5
RETRY_SECONDS, RETRY_MAX_SECONDS = 0.5, 5.0
RESTART_SECONDS = 0.3
# `up` waits ten times as long before it restarts a Chroma whose write lock is held.
LOCKED_SECONDS = 3.0
READY_SECONDS = 60.0
# Its files are thrown away; and a Chroma that a full disk has locked never ends by itself.
CHROMA_STOP_SECONDS = 3.0


@dataclass(slots=True)
class PrivateStack:
    """The services of a run, their addresses, and the state that faults share."""

    home: Path
    postgres: EmbeddedPostgres
    chroma: SupervisedChroma
    disk: Disk | None
    proxy: Proxy
    to_chroma: Link
    to_postgres: Link
    settings: Settings
    program: tuple[str, ...]
    model_file: Path
    history: History
    workers: list[SupervisedWorker] = field(default_factory=list)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    # Tenants with tampered documents that are not repaired yet.
    tampered: set[str] = field(default_factory=set)

    @property
    def chroma_url(self) -> str:
        """The address of Chroma, around the proxy."""
        return self.chroma.server.url

    @property
    def url(self) -> str:
        """The address of Postgres, around the proxy: for the application and the observers."""
        return self.postgres.url(DATABASE)

    def connect(self, name: str) -> psycopg.Connection:
        """Connect around the proxy, under a name that no fault targets."""
        return psycopg.connect(self.url, autocommit=True, application_name=name, connect_timeout=5)

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of the product; its services are behind the proxy."""
        return self._start(*self.program, *arguments)

    def dagster_run(self, job: str) -> subprocess.Popen[bytes]:
        """Start a Dagster run in a process of its own."""
        return self._start(*DAGSTER_RUN, job)

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        log = self.home / "commands.log"
        out = self.home / f"command-{len(self.children)}.out"
        with log.open("ab") as errors, out.open("wb") as output:
            child = subprocess.Popen(
                command,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self.children.append(child)
        return child

    def end_commands(self) -> None:
        """Kill the commands that still run, and wait for their ends."""
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()

    def output_of(self, child: subprocess.Popen[bytes]) -> str:
        """Return the standard output of a command."""
        out = self.home / f"command-{self.children.index(child)}.out"
        return out.read_text(errors="replace")

    def environment(self) -> dict[str, str]:
        """Return the environment of the stack's processes."""
        return base_environment(self.settings) | {
            MARK: str(self.home),
            MODEL_FILE_VARIABLE: str(self.model_file),
            "PYTHONUNBUFFERED": "1",
        }


@contextmanager
def private_stack(
    history: History, *, seed: int, workers: int = 2, program: Sequence[str] = PROGRAM
) -> Iterator[PrivateStack]:
    """Start everything, yield it, and remove all of it at the end."""
    with ExitStack() as ending:
        home = Path(
            ending.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="memory-pipeline-chaos-", ignore_cleanup_errors=True
                )
            )
        )
        home.chmod(0o755)  # Postgres runs as a user of its own where this is root
        # Durable: a killed Postgres must not lose a committed write.
        postgres = start_postgres(home / "postgres")
        ending.callback(postgres.remove)
        postgres.create_database(DATABASE)
        disk = ending.enter_context(small_disk(home / "disk"))
        place = disk.folder if disk is not None else home
        chroma = start_chroma(place / "chroma", home / "chroma.log")
        chroma.service.stop_seconds = CHROMA_STOP_SECONDS
        chroma.service.stuck = WriteLockWatch(place / "chroma", LOCKED_SECONDS).stuck
        ending.callback(chroma.service.stop)
        proxy = ending.enter_context(Proxy())
        to_chroma = proxy.add(
            Link("chroma", chroma.service.port or 0, http=True, refused=REFUSED.encode(), seed=seed)
        )
        to_postgres = proxy.add(Link("postgres", postgres.sockets / SOCKET_NAME, seed=seed + 1))
        settings = _settings(home, to_postgres.port, to_chroma.port)
        migrate(settings, vectors="trust")
        stack = PrivateStack(
            home=home,
            postgres=postgres,
            chroma=SupervisedChroma(chroma),
            disk=disk,
            proxy=proxy,
            to_chroma=to_chroma,
            to_postgres=to_postgres,
            settings=settings,
            program=tuple(program),
            model_file=home / "model-fault",
            history=history,
        )
        with stack.connect("chaos-setup") as connection:
            install_ack_record(connection)
        ending.enter_context(_running_workers(stack, workers))
        ending.enter_context(
            repeating("restart-chroma", RESTART_SECONDS, stack.chroma.restart_if_needed)
        )
        ending.callback(stack.end_commands)
        yield stack


def _settings(home: Path, postgres_port: int, chroma_port: int) -> Settings:
    return Settings.load(
        home=home / "home",
        database_url=(
            f"postgresql://postgres@127.0.0.1:{postgres_port}/{DATABASE}"
            "?sslmode=disable&gssencmode=disable"
        ),
        chroma_url=f"http://127.0.0.1:{chroma_port}",
        chroma_urls="",
        embedder=EMBEDDER,
        tenant_by="user_id",
        document="full",
        lease_seconds=LEASE_SECONDS,
        request_seconds=REQUEST_SECONDS,
        grace_seconds=GRACE_SECONDS,
        retry_seconds=RETRY_SECONDS,
        retry_max_seconds=RETRY_MAX_SECONDS,
        retire_seconds=10.0,
        metrics_port=None,
    )


@contextmanager
def _running_workers(stack: PrivateStack, count: int) -> Iterator[None]:
    """Run workers, and restart each that has ended, as any supervisor would."""
    for number in range(count):
        name, command = f"worker-{number}", [*stack.program, "live", "--no-dagster"]
        log = stack.home / f"{name}.log"
        stack.workers.append(SupervisedWorker(name, command, stack.environment(), log))

    def restart_ended() -> None:
        for worker in stack.workers:
            if detail := worker.restart_if_ended():
                anomaly = Anomaly("process ended by itself", None, None, now(), detail)
                stack.history.append(anomaly)

    try:
        for worker in stack.workers:
            worker.start()
        with repeating("restart-workers", RESTART_SECONDS, restart_ended):
            _wait_until_ready(stack, count)
            yield
    finally:
        for worker in stack.workers:
            worker.request_stop()
        for worker in stack.workers:
            worker.wait()


def _wait_until_ready(stack: PrivateStack, workers: int) -> None:
    with stack.connect("chaos-setup") as connection:

        def ready() -> bool:
            row = connection.execute("SELECT count(*) FROM memory_pipeline.worker").fetchone()
            return row is not None and row[0] >= workers

        if not wait_until(ready, within=READY_SECONDS):
            raise ServiceFailed(f"the workers are not ready: {stack.workers[0].tail()}")
