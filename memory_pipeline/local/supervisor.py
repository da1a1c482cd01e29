"""The process that starts the services of `up`, restarts those that end, and stops them in reverse.

1. Postgres and Chroma
2. the migrations and Dagster's tables, while the code server loads
3. daemon, webserver and worker
4. services.json, when all of them are healthy; then a service that ends is started again

A service whose address the settings name belongs to the user: it is neither started nor stopped.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import SecretStr

from memory_pipeline.clock import SYSTEM_CLOCK, Clock
from memory_pipeline.local import dagster_services as dagster
from memory_pipeline.local.child_process import Service
from memory_pipeline.local.chroma import chroma_services, chroma_url
from memory_pipeline.local.environment import child_environment
from memory_pipeline.local.home import (
    Stack,
    home_of,
    is_chroma,
    private_folder,
    url_of,
    usual_port,
    without_own,
)
from memory_pipeline.local.loopback import loopback_url
from memory_pipeline.local.orphan_processes import stop_marked
from memory_pipeline.local.postgres import embedded_postgres
from memory_pipeline.local.prepare_databases import prepare_databases
from memory_pipeline.local.process_identity import own_identity
from memory_pipeline.local.restarts import ManagedPostgres, ManagedService, WatchedService
from memory_pipeline.local.worker_service import worker_service
from memory_pipeline.logs import get_logger
from memory_pipeline.redact import without_password
from memory_pipeline.settings import Settings

WATCH_SECONDS = 0.25
# A run that is nearly done may end by itself; then it is sent SIGTERM.
RUN_GRACE_SECONDS = 3.0
DATABASES = {"database_url": "memory_pipeline", "dagster_database_url": "dagster"}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

log = get_logger("memory_pipeline.local")


class StopRequested(Exception):
    """The supervisor was asked to stop while it was starting."""


class Supervisor:
    """Runs one stack, from start to end."""

    def __init__(
        self, settings: Settings, *, definitions: str, migrate: str, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._home = home_of(settings)
        self._settings = without_own(settings)
        self._own_databases = [n for n in DATABASES if url_of(self._settings, n) is None]
        self._definitions = definitions
        self._migrate = migrate
        self._clock = clock
        self._watched: list[WatchedService] = []
        self._stopping = False
        self._note = ""

    def run(self, on_healthy: Callable[[Stack], None]) -> None:
        """Start all services, call ``on_healthy``, watch until a signal, stop all services.

        Raises:
            PipelineError: a service cannot be started; those that were started are stopped again.

        """
        with self._signals():
            try:
                self._start()
                on_healthy(self._write())
                written = True
                while not self._stopping:
                    restarted = [watched.restart_if_ended() for watched in self._watched]
                    if any(restarted) or not written:
                        written = self._write_again(warn=written)
                    self._clock.sleep(WATCH_SECONDS)
            except StopRequested:
                pass
            finally:
                self._stopping = True
                (self._home / "services.json").unlink(missing_ok=True)
                self._stop()

    def request_stop(self) -> None:
        """End ``run`` soon; safe in a signal handler, and a second call changes nothing."""
        self._stopping = True

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
        prepare_databases(
            self._settings,
            self._migrate,
            environment,
            logs / "dagster-storage.log",
            # Only in a database of our own is every run ours, and none of them alive now.
            fail_unfinished="dagster_database_url" in self._own_databases,
            cancelled=lambda: self._stopping,
        )
        self._check()
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
            metrics_port = self._settings.metrics_port or usual_port(self._home, "live")
            services.append(worker_service(environment, logs / "live.log", port=metrics_port))
        for service in services:
            self._begin(service)
        for service in (code, *services):
            self._await(service)

    def _start_stores(self, logs: Path) -> None:
        """Start Postgres and Chroma unless the settings name them; fill in their addresses."""
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

    def _begin(self, service: ManagedService) -> None:
        self._check()
        self._watched.append(WatchedService(service, self._clock))
        service.start()

    def _await(self, service: Service) -> None:
        service.wait_until_healthy(cancelled=lambda: self._stopping)
        self._check()

    def _check(self) -> None:
        if self._stopping:
            raise StopRequested

    def _url(self, name: str) -> str:
        return url_of(self._settings, name) or ""

    def _write(self) -> Stack:
        """Write services.json, without passwords."""
        services = {
            watched.service.name: listed
            for watched in self._watched
            if (listed := watched.listed()) is not None
        }
        stack = Stack(
            supervisor=own_identity(),
            ui_url=loopback_url(services["webserver"].port),
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
        """Write services.json again; return False, and stop nothing, when the disk is full."""
        try:
            self._write()
        except OSError as error:
            if warn:
                log.warning(
                    "services_file_not_written",
                    service="supervisor",
                    home=str(self._home),
                    reason=str(error),
                    next="the services go on; the file is written as soon as the disk takes it",
                )
            return False
        return True

    def _stop(self) -> None:
        """Stop in reverse: no service loses another that it still works with."""
        services = {watched.service.name: watched.service for watched in self._watched}
        for name in ("webserver", "daemon", "live"):  # at once: none needs another
            if isinstance(service := services.get(name), Service):
                service.terminate()
        if isinstance(code := services.get("code-server"), Service):
            code.stop_descendants(grace_seconds=RUN_GRACE_SECONDS)
        for name in ("webserver", "daemon", "live", "code-server"):
            if name in services:
                services[name].stop()
        chromas = [service for service in services.values() if is_chroma(service.name)]
        # A run whose code server was killed is no descendant of ours, and still writes to Chroma.
        stop_marked(self._home, but=[c.identity for c in chromas if c.identity is not None])
        for chroma in chromas:  # at once: each finishes the requests that it has
            if isinstance(chroma, Service):
                chroma.terminate()
        for store in (*chromas, services.get("postgres")):
            if store is not None:
                store.stop()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop at SIGINT, SIGTERM and SIGHUP; a second signal changes nothing."""

        def stop(_number: int, _frame: FrameType | None) -> None:
            self.request_stop()

        before = {number: signal.signal(number, stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
