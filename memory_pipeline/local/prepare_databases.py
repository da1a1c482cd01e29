"""Migrate our database and make Dagster's tables, at the same time: each takes seconds."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name

from memory_pipeline.local.processes import ServiceFailed, tail, wait_until
from memory_pipeline.settings import Settings

PREPARE_SECONDS = 300.0


def prepare_databases(
    settings: Settings,
    migrate: str,
    environment: Mapping[str, str],
    log_file: Path,
    *,
    fail_unfinished: bool,
    cancelled: Callable[[], bool],
) -> None:
    """Run the migrations in a thread and Dagster's in a process; wait for both.

    Args:
        settings: what the migrations are given.
        migrate: what brings the database up to date, as ``module:function``.
        environment: the variables of the process.
        log_file: where the process writes.
        fail_unfinished: close the runs that Dagster's database takes for unfinished.
        cancelled: ends the wait, without an error, when it becomes true.

    Raises:
        PipelineError: the migrations failed.
        ServiceFailed: Dagster's tables cannot be made, or the time is over.

    """
    problems: list[BaseException] = []

    def run_migrations() -> None:
        try:
            resolve_name(migrate)(settings)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the main thread
            problems.append(error)

    thread = threading.Thread(target=run_migrations, daemon=True, name="migrate")
    thread.start()
    process = _start_dagster_storage(environment, log_file, fail_unfinished=fail_unfinished)

    def settled() -> bool:
        both_done = not thread.is_alive() and process.poll() is not None
        return cancelled() or bool(problems) or both_done

    try:
        in_time = wait_until(settled, within=PREPARE_SECONDS)
    finally:
        process.kill()
        process.wait()
    if cancelled():
        return
    if problems:
        raise problems[0]
    if not in_time and thread.is_alive():
        raise ServiceFailed("the migrations of memory_logs do not come to an end")
    if process.returncode != 0:
        raise ServiceFailed(
            f"Dagster's storage cannot be prepared; the end of {log_file}:\n{tail(log_file)}"
        )


def _start_dagster_storage(
    environment: Mapping[str, str], log_file: Path, *, fail_unfinished: bool
) -> subprocess.Popen[bytes]:
    """Start to make or upgrade Dagster's tables; a process, for importing dagster takes seconds."""
    options = ["--fail-unfinished"] if fail_unfinished else []
    with log_file.open("ab") as log:
        return subprocess.Popen(
            (sys.executable, "-P", "-m", "memory_pipeline.defs.prepare_storage", *options),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
