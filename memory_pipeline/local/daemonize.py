"""``up`` and ``down``: one stack a home, in this process or as a daemon."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from memory_pipeline.errors import PipelineError, SettingsError, Transient
from memory_pipeline.local.discovery import running
from memory_pipeline.local.environment import base_environment
from memory_pipeline.local.home import Stack, home_of, private_folder, read_json, write_json
from memory_pipeline.local.orphan_processes import end_marked, end_postgres
from memory_pipeline.local.processes import (
    Identity,
    ServiceFailed,
    own_identity,
    stop_all,
    tail,
    wait_until,
)
from memory_pipeline.local.supervisor import Supervisor
from memory_pipeline.logs import configure_logging
from memory_pipeline.settings import Settings

__all__ = ["down", "running", "up"]

DEFINITIONS = "memory_pipeline.definitions"
MIGRATE = "memory_pipeline.postgres.migrate:migrate"
# On a slow disk the first start makes two clusters of tables; then there is crash recovery.
UP_SECONDS = 600.0
# Chroma alone may take a minute for the requests that it has.
DOWN_SECONDS = 180.0
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3

Say = Callable[[str], None]


class AnotherUp(ServiceFailed):
    """Another supervisor of this home starts or stops its services; nothing was done here."""


def up(
    settings: Settings,
    *,
    detach: bool = False,
    definitions: str = DEFINITIONS,
    migrate: str = MIGRATE,
    say: Say = print,
) -> None:
    """Start the stack of the settings' home; where it runs already, say so and leave it alone.

    Args:
        settings: where things are; a server that they name is used, not started.
        detach: return when all is healthy. Otherwise stay, and stop all at SIGINT or SIGTERM.
        definitions: the module that Dagster loads.
        migrate: what brings the database up to date, as ``module:function``.
        say: takes each line that a person wants to read.

    Raises:
        PipelineError: something cannot be started; nothing is left running.

    """
    home = home_of(settings)
    stack = running(settings)
    if stack is not None:
        say(f"already running (pid {stack.supervisor.pid}); Dagster: {stack.ui_url}")
        if 0 < len(stack.chromas()) < settings.chroma_servers:
            say("for more Chroma servers, `memory-pipeline down` comes first")
        return
    _check_home(home)
    if detach:
        _up_detached(settings, home, definitions=definitions, migrate=migrate, say=say)
    else:
        _up_here(settings, home, definitions=definitions, migrate=migrate, say=say)


def down(settings: Settings, *, say: Say = print) -> None:
    """Stop the stack of the settings' home and what a killed one has left; say what was done.

    Raises:
        SettingsError: the home cannot be written; nothing is stopped.
        AnotherUp: one has begun meanwhile; it goes on.

    """
    home = home_of(settings)
    if not home.is_dir():
        say(f"nothing runs in {home}")
        return
    _check_home(home)
    supervisor = _supervisor(home)
    found = supervisor is not None
    if supervisor is not None:
        stop_all([supervisor], within=DOWN_SECONDS)
    try:
        with FileLock(home / "up.lock", timeout=0):
            found = end_marked(home) or found
            found = end_postgres(home) or found
            (home / "services.json").unlink(missing_ok=True)
    except Timeout:
        raise AnotherUp(f"another `up` has just begun in {home}") from None
    say("stopped" if found else f"nothing runs in {home}")


def _check_home(home: Path) -> None:
    """Make the home where there is none, and its lock: FileLock calls some errors a taken lock."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "up.lock").touch()
    except OSError as error:
        raise SettingsError(
            f"MEMORY_PIPELINE_HOME={str(home)!r}: {error.strerror}; "
            "allowed is a folder that this user can write"
        ) from error


def _up_here(settings: Settings, home: Path, *, definitions: str, migrate: str, say: Say) -> None:
    """Be the supervisor. The lock is held for as long as this process lives, and no longer."""

    def healthy(stack: Stack) -> None:
        if stack.note:
            say(stack.note)
        say(f"running; Dagster: {stack.ui_url}")

    try:
        with FileLock(home / "up.lock", timeout=0):
            write_json(home / "supervisor.json", own_identity().as_json())
            (home / "services.json").unlink(missing_ok=True)
            end_marked(home)  # Postgres, if it survived, is taken over as it is
            Supervisor(settings, definitions=definitions, migrate=migrate).run(healthy)
    except Timeout:
        raise AnotherUp("another `up` is starting or stopping the services here") from None


def _up_detached(
    settings: Settings, home: Path, *, definitions: str, migrate: str, say: Say
) -> None:
    """Start the supervisor as a daemon and wait for its word."""
    log_file = home / "logs" / "up.log"
    private_folder(log_file.parent)
    if log_file.exists():
        log_file.replace(log_file.with_name("up.log.1"))
    arguments = ["--definitions", definitions, "--migrate", migrate]
    daemon = _spawn(
        [sys.executable, "-P", "-m", "memory_pipeline.local.daemonize", *arguments],
        base_environment(settings) | {"PYTHONUNBUFFERED": "1"},
        log_file,
    )
    codes: list[int] = []

    def settled() -> bool:
        if not codes:
            pid, status = os.waitpid(daemon, os.WNOHANG)
            codes.extend([os.waitstatus_to_exitcode(status)] if pid else [])
        # Exit code 0 before all is healthy: another supervisor was first, and is awaited instead.
        return running(settings) is not None or (
            bool(codes) and (codes[0] != 0 or _supervisor(home) is None)
        )

    try:
        in_time = wait_until(settled, within=UP_SECONDS)
    except BaseException:
        if not codes:
            os.kill(daemon, signal.SIGTERM)
        raise
    stack = running(settings)
    if stack is not None:
        if stack.note:
            say(stack.note)
        say(f"running in the background (pid {stack.supervisor.pid}); Dagster: {stack.ui_url}")
        return
    message = f"the services did not start; {log_file} ends:\n{tail(log_file)}"
    if not in_time:
        stop_all([i for i in [_supervisor(home)] if i is not None], within=DOWN_SECONDS)
    raise PipelineError(message) if codes[:1] == [EXIT_USAGE] else ServiceFailed(message)


def _spawn(command: list[str], environment: dict[str, str], log_file: Path) -> int:
    """Start a process in a session of its own that nobody here has to wait for."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        command[0],
        command,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log_file), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _supervisor(home: Path) -> Identity | None:
    """Return the living supervisor of this home, from its first moment to its last."""
    said = read_json(home / "supervisor.json")
    with suppress(KeyError, TypeError, ValueError):
        identity = Identity(int(said["pid"]), float(said["created"]))
        return identity if identity.alive() else None
    return None


def main() -> int:
    """Be the supervisor of the environment's settings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--definitions", default=DEFINITIONS)
    parser.add_argument("--migrate", default=MIGRATE)
    chosen = parser.parse_args()
    configure_logging()
    try:
        up(Settings.load(), definitions=chosen.definitions, migrate=chosen.migrate)
    except AnotherUp as error:
        sys.stderr.write(f"{error}\n")  # for `up --detach` no failure: it waits for that one
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_UNAVAILABLE if isinstance(error, Transient) else EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
