"""``up`` and ``down``: one supervisor per home, in this process or as a daemon.

Takes the lock of the home. Which services run, and in which order, is in supervisor.py.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from memory_pipeline.errors import EXIT_USAGE, PipelineError, SettingsError, exit_code
from memory_pipeline.local.discovery import running
from memory_pipeline.local.environment import base_environment
from memory_pipeline.local.home import Stack, home_of, private_folder, read_json, write_json
from memory_pipeline.local.orphan_processes import stop_marked, stop_postgres
from memory_pipeline.local.process_identity import Identity, own_identity, read_identity
from memory_pipeline.local.processes import ServiceFailed, stop_all, tail, wait_until
from memory_pipeline.local.supervisor import Supervisor
from memory_pipeline.logs import configure_logging
from memory_pipeline.settings import Settings
from memory_pipeline.terminal import spell_what_is_lacking

__all__ = ["down", "running", "up"]

DEFINITIONS = "memory_pipeline.definitions"
MIGRATE = "memory_pipeline.postgres.migrate:migrate"
# On a slow disk the first start makes two clusters of tables; a later one may recover from a crash.
UP_SECONDS = 600.0
# Chroma alone may take a minute for the requests that it has.
DOWN_SECONDS = 180.0

PrintLine = Callable[[str], None]


class AnotherUp(ServiceFailed):
    """Another supervisor of this home starts or stops its services; nothing was done here."""


def up(
    settings: Settings,
    *,
    detach: bool = False,
    definitions: str = DEFINITIONS,
    migrate: str = MIGRATE,
    print_line: PrintLine = print,
) -> None:
    """Start the stack of the settings' home; if it runs already, print that and change nothing.

    Args:
        settings: the home, and the addresses of servers that are used instead of started.
        detach: return when all services are healthy. Otherwise stay, and stop them at SIGINT or
            SIGTERM.
        definitions: the module that Dagster loads.
        migrate: what brings the database up to date, as ``module:function``.
        print_line: called with each line that a person has to read.

    Raises:
        PipelineError: a service cannot be started; nothing is left running.

    """
    home = home_of(settings)
    stack = running(settings)
    if stack is not None:
        print_line(f"already running (pid {stack.supervisor.pid}); Dagster: {stack.ui_url}")
        if 0 < len(stack.chromas()) < settings.chroma_servers:
            print_line("for more Chroma servers, `memory-pipeline down` comes first")
        return
    _check_home(home)
    start = _up_detached if detach else _up_here
    start(settings, home, definitions=definitions, migrate=migrate, print_line=print_line)


def down(settings: Settings, *, print_line: PrintLine = print) -> None:
    """Stop the stack of the settings' home, and what a killed supervisor has left; print what ran.

    Raises:
        SettingsError: the home cannot be written; nothing is stopped.
        AnotherUp: another `up` has begun meanwhile; it goes on.

    """
    home = home_of(settings)
    if not home.is_dir():
        print_line(f"nothing runs in {home}")
        return
    _check_home(home)
    supervisor = _supervisor(home)
    found = supervisor is not None
    if supervisor is not None:
        stop_all([supervisor], within=DOWN_SECONDS)
    try:
        with FileLock(home / "up.lock", timeout=0):
            found = stop_marked(home) or found
            found = stop_postgres(home) or found
            (home / "services.json").unlink(missing_ok=True)
    except Timeout:
        raise AnotherUp(f"another `up` has just begun in {home}") from None
    print_line("stopped" if found else f"nothing runs in {home}")


def _check_home(home: Path) -> None:
    """Make the home and its lock file: FileLock reports some errors as a taken lock."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "up.lock").touch()
    except OSError as error:
        raise SettingsError(
            f"MEMORY_PIPELINE_HOME={str(home)!r}: {error.strerror}; "
            "allowed is a folder that this user can write"
        ) from error


def _up_here(
    settings: Settings, home: Path, *, definitions: str, migrate: str, print_line: PrintLine
) -> None:
    """Run the supervisor in this process, which holds the lock for as long as it lives."""

    def on_healthy(stack: Stack) -> None:
        if stack.note:
            print_line(stack.note)
        print_line(f"running; Dagster: {stack.ui_url}")

    try:
        with FileLock(home / "up.lock", timeout=0):
            write_json(home / "supervisor.json", own_identity().as_json())
            (home / "services.json").unlink(missing_ok=True)
            stop_marked(home)  # not Postgres: if it survived, it is taken over as it is
            Supervisor(settings, definitions=definitions, migrate=migrate).run(on_healthy)
    except Timeout:
        raise AnotherUp("another `up` is starting or stopping the services here") from None


def _up_detached(
    settings: Settings, home: Path, *, definitions: str, migrate: str, print_line: PrintLine
) -> None:
    """Start the supervisor as a daemon and wait until all services are healthy."""
    log_file = home / "logs" / "up.log"
    arguments = ["--definitions", definitions, "--migrate", migrate]
    daemon = _start_daemon(arguments, base_environment(settings), log_file)

    def settled() -> bool:
        code = daemon.poll()
        # Exit code 0 before all is healthy: another supervisor was first, and is awaited instead.
        return running(settings) is not None or (
            code is not None and (code != 0 or _supervisor(home) is None)
        )

    try:
        in_time = wait_until(settled, within=UP_SECONDS)
    except BaseException:
        daemon.terminate()
        raise
    finally:
        code = daemon.poll()
        # Popen warns when it is deleted while its child runs, which here is the purpose.
        daemon.returncode = code or 0
    stack = running(settings)
    if stack is not None:
        if stack.note:
            print_line(stack.note)
        pid = stack.supervisor.pid
        print_line(f"running in the background (pid {pid}); Dagster: {stack.ui_url}")
        return
    message = f"the services did not start; {log_file} ends:\n{tail(log_file)}"
    if not in_time:
        stop_all([i for i in [_supervisor(home)] if i is not None], within=DOWN_SECONDS)
    raise PipelineError(message) if code == EXIT_USAGE else ServiceFailed(message)


def _start_daemon(
    arguments: list[str], environment: dict[str, str], log_file: Path
) -> subprocess.Popen[bytes]:
    """Start this module in a session of its own; its log is new, the one before it is kept."""
    private_folder(log_file.parent)
    if log_file.exists():
        log_file.replace(log_file.with_name("up.log.1"))
    log_file.touch(mode=0o600)
    with log_file.open("ab") as log:
        return subprocess.Popen(
            (sys.executable, "-P", "-m", "memory_pipeline.local.daemonize", *arguments),
            env=environment | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _supervisor(home: Path) -> Identity | None:
    """Return the living supervisor of this home, from its first moment to its last."""
    content = read_json(home / "supervisor.json")
    with suppress(KeyError, TypeError, ValueError):
        identity = read_identity(content)
        return identity if identity.alive() else None
    return None


def main() -> int:
    """Run the supervisor with the environment's settings; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--definitions", default=DEFINITIONS)
    parser.add_argument("--migrate", default=MIGRATE)
    chosen = parser.parse_args()
    spell_what_is_lacking()
    configure_logging()
    try:
        up(Settings.load(), definitions=chosen.definitions, migrate=chosen.migrate)
    except AnotherUp as error:
        sys.stderr.write(f"{error}\n")  # no failure: `up --detach` waits for the other one
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
