"""The process that holds a stack together: start in order, watch, start again, stop in reverse.

1. Postgres and Chroma
2. the migrations and Dagster's tables, while the code server loads
3. daemon, webserver and the live process
4. services.json, when all of them are healthy; then a service that ends is started again

Services whose address the settings name are somebody else's: they are not touched.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType
from typing import Any

from pydantic import SecretStr

from memory_pipeline.local import dagster_services as dagster
from memory_pipeline.local.child_process import Service
from memory_pipeline.local.chroma import chroma_services, chroma_url
from memory_pipeline.local.environment import child_environment
from memory_pipeline.local.home import (
    Listed,
    Stack,
    home_of,
    is_chroma,
    private_folder,
    url_of,
    usual_port,
    without_own,
)
from memory_pipeline.local.orphan_processes import end_marked
from memory_pipeline.local.postgres import embedded_postgres
from memory_pipeline.local.processes import ServiceFailed, own_identity, wait_until
from memory_pipeline.local.restarts import ManagedPostgres, ManagedService, Watched
from memory_pipeline.local.worker_service import live_service
from memory_pipeline.logs import get_logger
from memory_pipeline.settings import Settings, without_password

WATCH_SECONDS = 0.25
# Runs that are nearly done may end by themselves; the others are told to.
WORKER_GRACE_SECONDS = 3.0
DATABASES = {"database_url": "memory_pipeline", "dagster_database_url": "dagster"}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = get_logger("memory_pipeline.local")


class StopRequested(Exception):
    """The supervisor was told to stop while it was starting."""


class Supervisor:
    """Runs one stack, from start to end."""

    def __init__(self, settings: Settings, *, definitions: str, migrate: str) -> None:
        self._home = home_of(settings)
        self._settings = without_own(settings)
        self._own_databases = [n for n in DATABASES if url_of(self._settings, n) is None]
        self._definitions = definitions
        self._migrate = migrate
        self._watched: list[Watched] = []
        self._stopping = False
        self._note = ""

    def run(self, on_healthy: Callable[[Stack], None]) -> None:
        """Start, say so, watch until a signal says stop, stop.

        Raises:
            PipelineError: something cannot be started; what was started is stopped again.

        """
        with self._signals():
            try:
                self._start()
                on_healthy(self._write())
                written = True
                while not self._stopping:
                    again = [watched.look() for watched in self._watched]
                    if any(again) or not written:
                        written = self._write_again(warn=written)
                    time.sleep(WATCH_SECONDS)
            except StopRequested:
                pass
            finally:
                self._stopping = True
                (self._home / "services.json").unlink(missing_ok=True)
                self._stop()

    def _start(self) -> None:
        logs = self._home / "logs"
        private_folder(logs)
        self._start_stores(logs)
        port = usual_port(self._home, "code-server")
        workspace = dagster.write_instance(self._home / "dagster", code_server_port=port)
        environment = child_environment(self._settings)
        code = dagster.code_server(
            self._definitions, environment, logs / "code-server.log", port=port
        )
        self._begin(code)
        self._prepare(environment, logs / "dagster-storage.log")
        daemon = dagster.daemon(
            workspace,
            environment,
            logs / "daemon.log",
            database_url=self._url("dagster_database_url"),
        )
        webserver = dagster.webserver(
            workspace,
            environment,
            logs / "webserver.log",
            port=self._settings.webserver_port or usual_port(self._home, "webserver"),
        )
        services = [daemon, webserver]
        if self._settings.live == "on":
            live_port = self._settings.metrics_port or usual_port(self._home, "live")
            services.append(live_service(environment, logs / "live.log", port=live_port))
        for service in services:
            self._begin(service)
        for service in (code, *services):
            self._await(service)

    def _start_stores(self, logs: Path) -> None:
        """Start Postgres and Chroma where they are ours; fill in their addresses."""
        found: dict[str, Any] = {}
        chromas = chroma_services(self._settings, logs) if self._settings.chroma_url is None else []
        for chroma in chromas:
            self._begin(chroma)
        if chromas:
            first, *further = map(chroma_url, chromas)
            found["chroma_url"] = first
            found["chroma_urls"] = (*further, *self._settings.chroma_urls)
        if self._own_databases:
            server = embedded_postgres(self._home / "postgres")
            self._note = server.note
            self._begin(ManagedPostgres(server))
            for name in self._own_databases:
                server.create_database(DATABASES[name])
                found[name] = SecretStr(server.url(DATABASES[name]))
        for chroma in chromas:
            self._await(chroma)
        self._settings = self._settings.model_copy(update=found)

    def _prepare(self, environment: dict[str, str], log_file: Path) -> None:
        """Migrate our database and make Dagster's tables, side by side."""
        problems: list[BaseException] = []

        def migrate() -> None:
            try:
                resolve_name(self._migrate)(self._settings)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the main thread
                problems.append(error)

        thread = threading.Thread(target=migrate, daemon=True, name="migrate")
        thread.start()
        # Only in a database of our own is every run ours, and none of them alive now.
        process = dagster.prepare_storage(
            environment, log_file, fail_unfinished="dagster_database_url" in self._own_databases
        )
        try:
            done = wait_until(
                lambda: (
                    self._stopping
                    or bool(problems)
                    or not (thread.is_alive() or process.poll() is None)
                ),
                within=dagster.PREPARE_SECONDS,
            )
        finally:
            process.kill()
            process.wait()
        self._check()
        if problems:
            raise problems[0]
        if not done and thread.is_alive():
            raise ServiceFailed("the migrations of memory_logs do not come to an end")
        dagster.check_prepared(process, log_file)

    def _begin(self, part: ManagedService) -> None:
        self._check()
        self._watched.append(Watched(part))
        part.start()

    def _await(self, service: Service) -> None:
        service.wait_until_healthy(give_up=lambda: self._stopping)
        self._check()

    def _check(self) -> None:
        if self._stopping:
            raise StopRequested

    def _url(self, name: str) -> str:
        return url_of(self._settings, name) or ""

    def _write(self) -> Stack:
        """Write down what runs, passwords left out."""
        services = {}
        for part in (watched.part for watched in self._watched):
            identity = part.identity
            if identity is not None:
                services[part.name] = Listed(
                    identity.pid, identity.created, part.port, str(part.log_file)
                )
        stack = Stack(
            supervisor=own_identity(),
            ui_url=dagster.webserver_url(services["webserver"].port),
            database_url=without_password(self._url("database_url")),
            chroma_url=self._url("chroma_url"),
            chroma_urls=self._settings.chroma_urls,
            dagster_database_url=without_password(self._url("dagster_database_url")),
            services=services,
            note=self._note,
        )
        stack.write(self._home)
        return stack

    def _write_again(self, *, warn: bool) -> bool:
        """Write down what runs now; False where the disk takes nothing, which stops nothing."""
        try:
            self._write()
        except OSError as error:
            if warn:
                log.warning("services not written", home=str(self._home), reason=str(error))
            return False
        return True

    def _stop(self) -> None:
        """Stop in reverse: nothing that still works loses what it works on."""
        parts = {watched.part.name: watched.part for watched in self._watched}
        for name in ("webserver", "daemon", "live"):  # at once: none needs another
            if isinstance(service := parts.get(name), Service):
                service.ask_to_stop()
        if isinstance(code := parts.get("code-server"), Service):
            code.stop_workers(grace_seconds=WORKER_GRACE_SECONDS)
        for name in ("webserver", "daemon", "live", "code-server"):
            if name in parts:
                parts[name].stop()
        chromas = [part for part in parts.values() if is_chroma(part.name)]
        # Workers whose own code server had ended belong to nobody, but they still write.
        end_marked(self._home, but=[c.identity for c in chromas if c.identity is not None])
        for chroma in chromas:  # at once: each finishes the requests that it has
            if isinstance(chroma, Service):
                chroma.ask_to_stop()
        for part in (*chromas, parts.get("postgres")):
            if part is not None:
                part.stop()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Take the signals that mean stop; a second one changes nothing."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stopping = True

        before = {number: signal.signal(number, stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
