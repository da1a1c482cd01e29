"""A private stack to be broken: Postgres, Chroma, live processes, and a proxy on every link.

Nothing of the user's is touched, and nothing of it stays: not its processes, nor its files.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from memory_pipeline.local.chroma import start_chroma
from memory_pipeline.local.chroma_stuck import WriteLockWatch
from memory_pipeline.local.environment import base_environment
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres
from memory_pipeline.local.postgres_location import SOCKET_NAME
from memory_pipeline.local.processes import MARK, ServiceFailed, wait_until
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline.testing.chaos.background import beside
from memory_pipeline.testing.chaos.disk import Disk, small_disk
from memory_pipeline.testing.chaos.failing_embedder import REFUSED
from memory_pipeline.testing.chaos.history import History, Sight, now
from memory_pipeline.testing.chaos.resident import Resident
from memory_pipeline.testing.chaos.supervised_chroma import TendedChroma
from memory_pipeline.testing.proxy import Link, Proxy

PROGRAM = (sys.executable, "-m", "memory_pipeline.testing.chaos.failing_embedder")
DATABASE = "chaos"
# Shorter than usual, so that a run sees many of them end; and long enough for a loaded machine.
LEASE_SECONDS, REQUEST_SECONDS, GRACE_SECONDS = 4.0, 2.5, 1.5
RETRY_SECONDS, RETRY_MAX_SECONDS = 0.5, 5.0
TEND_SECONDS = 0.3
# What the product gives it is ten times that.
LOCKED_SECONDS = 3.0
READY_SECONDS = 60.0
# What it has is thrown away; and one that a full disk has locked never ends by itself.
CHROMA_STOP_SECONDS = 3.0

# Who forgot what under which token, whose it was at that moment, and how long the lease had ended
# when the statement began, as Postgres saw it: one that began in time has locked the lease, and may
# wait for rows. What a flip acks was claimed by nobody: it is covered by what the flip makes live.
RECORD_ACKS = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.acked (
    seq bigint, tenant text, memory_id bigint, applications boolean, covered boolean,
    claim_token bigint, lease_token bigint, late_seconds float8,
    changed float8, acked float8
);
CREATE FUNCTION chaos.record_ack() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.acked
    SELECT OLD.seq, OLD.tenant, OLD.memory_id, NOT (OLD.confirm OR OLD.again),
           OLD.covered_by IS NOT NULL AND OLD.claim_token IS NULL,
           OLD.claim_token, t.lease_token,
           extract(epoch FROM statement_timestamp() - t.lease_until)::float8,
           extract(epoch FROM OLD.changed_at)::float8,
           extract(epoch FROM clock_timestamp())::float8
    FROM (VALUES (OLD.tenant)) AS o (tenant)
    LEFT JOIN memory_pipeline.tenant t ON t.tenant = o.tenant;
    RETURN OLD;
END $$;
CREATE TRIGGER record_ack BEFORE DELETE ON memory_pipeline.change
    FOR EACH ROW EXECUTE FUNCTION chaos.record_ack();
"""


@dataclass(slots=True)
class PrivateStack:
    """What runs, and where."""

    home: Path
    postgres: EmbeddedPostgres
    tended: TendedChroma
    disk: Disk | None
    proxy: Proxy
    to_chroma: Link
    to_postgres: Link
    settings: Settings
    program: tuple[str, ...]
    model_file: Path
    history: History
    residents: list[Resident] = field(default_factory=list)
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    # Tenants whose documents were altered behind the pipeline's back and are not repaired yet.
    tampered: set[str] = field(default_factory=set)

    @property
    def chroma_url(self) -> str:
        """Chroma, around the proxy."""
        return self.tended.chroma.url

    @property
    def url(self) -> str:
        """Postgres, around the proxy: what the application and the observers use."""
        return self.postgres.url(DATABASE)

    def connect(self, name: str) -> psycopg.Connection:
        """Connect around the proxy, under a name by which no fault finds it."""
        return psycopg.connect(self.url, autocommit=True, application_name=name, connect_timeout=5)

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of the product, through the proxy like everything else."""
        log = self.home / "commands.log"
        out = self.home / f"command-{len(self.children)}.out"
        with log.open("ab") as errors, out.open("wb") as output:
            child = subprocess.Popen(
                [*self.program, str(self.model_file), *arguments],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self.children.append(child)
        return child

    def end_commands(self) -> None:
        """End the commands that still run."""
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()

    def said(self, child: subprocess.Popen[bytes]) -> str:
        """Return what a command has printed."""
        out = self.home / f"command-{self.children.index(child)}.out"
        return out.read_text(errors="replace")

    def environment(self) -> dict[str, str]:
        """Return what the processes of this stack find in their environment."""
        return base_environment(self.settings) | {MARK: str(self.home), "PYTHONUNBUFFERED": "1"}


@contextmanager
def private_stack(
    history: History, *, seed: int, lives: int = 2, program: Sequence[str] = PROGRAM
) -> Iterator[PrivateStack]:
    """Start everything, lend it, and take all of it away again."""
    with ExitStack() as ending:
        home = Path(
            ending.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="memory-pipeline-chaos-", ignore_cleanup_errors=True
                )
            )
        )
        home.chmod(0o755)  # Postgres runs as a user of its own where this is root
        # Durable: a killed Postgres must not lose what the application was told is stored.
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
            tended=TendedChroma(chroma),
            disk=disk,
            proxy=proxy,
            to_chroma=to_chroma,
            to_postgres=to_postgres,
            settings=settings,
            program=tuple(program),
            model_file=home / "model-is",
            history=history,
        )
        with stack.connect("chaos-setup") as connection:
            connection.execute(RECORD_ACKS.encode())
        ending.enter_context(_residents(stack, lives))
        ending.enter_context(beside("tending chroma", TEND_SECONDS, stack.tended.tend))
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
        embedder="hashing",
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
def _residents(stack: PrivateStack, lives: int) -> Iterator[None]:
    """Run live processes, and start each again that has ended, as any supervisor would."""
    for number in range(lives):
        command = [*stack.program, str(stack.model_file), "live", "--no-dagster"]
        log = stack.home / f"live-{number}.log"
        stack.residents.append(Resident(f"live-{number}", command, stack.environment(), log))

    def tend() -> None:
        for resident in stack.residents:
            said = resident.tended()
            if said:
                stack.history.note(Sight("process ended by itself", None, None, now(), said))

    try:
        for resident in stack.residents:
            resident.start()
        with beside("tending", TEND_SECONDS, tend):
            _wait_until_ready(stack, lives)
            yield
    finally:
        for resident in stack.residents:
            resident.ask_to_stop()
        for resident in stack.residents:
            resident.end()


def _wait_until_ready(stack: PrivateStack, lives: int) -> None:
    with stack.connect("chaos-setup") as connection:

        def ready() -> bool:
            row = connection.execute("SELECT count(*) FROM memory_pipeline.worker").fetchone()
            return row is not None and row[0] >= lives

        if not wait_until(ready, within=READY_SECONDS):
            raise ServiceFailed(f"the live processes are not ready: {stack.residents[0].tail()}")
