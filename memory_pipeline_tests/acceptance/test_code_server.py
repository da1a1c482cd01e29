"""Dagster's code server ends at SIGTERM, whatever became of the database and of its runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from memory_pipeline.local.child_process import Service
from memory_pipeline.local.dagster_services import code_server, write_instance
from memory_pipeline.local.loopback import free_port
from memory_pipeline.local.postgres import EmbeddedPostgres, start_postgres

WaitUntil = Callable[..., None]
DEFINITIONS = """
import os, pathlib, time
import dagster as dg

@dg.op
def wait(context):
    pathlib.Path(os.environ["END"]).with_name(context.run_id).touch()
    while not pathlib.Path(os.environ["END"]).exists():
        time.sleep(0.05)
    os._exit(3)

@dg.job
def endless():
    wait()

@dg.sensor(job=endless)
def slow():
    pathlib.Path(os.environ["TICKED"]).touch()
    time.sleep(600)

defs = dg.Definitions(jobs=[endless], sensors=[slow], executor=dg.in_process_executor)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Start a Postgres of its own, with Dagster's tables."""
    place = tmp_path_factory.mktemp("dagster")
    server = start_postgres(place / "postgres", durable=False)
    server.create_database("dagster")
    write_instance(place, code_server_port=free_port())
    named = {
        "DAGSTER_HOME": str(place),
        "MEMORY_PIPELINE_DAGSTER_DATABASE_URL": server.url("dagster"),
    }
    program = [sys.executable, "-P", "-m", "memory_pipeline.defs.prepare_storage"]
    subprocess.run(program, env={**os.environ, **named}, check=True)
    yield server
    server.remove()


@pytest.fixture
def database(prepared: EmbeddedPostgres) -> EmbeddedPostgres:
    """Return a Postgres that runs, and that a test may stop."""
    prepared.ensure_running()
    return prepared


@pytest.fixture
def environment(
    tmp_path: Path, database: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Return what the server finds in its environment, and find it here as well."""
    (tmp_path / "slow_definitions.py").write_text(DEFINITIONS)
    for name, value in {
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "MEMORY_PIPELINE_DAGSTER_DATABASE_URL": database.url("dagster"),
        "PYTHONPATH": str(tmp_path),
        "END": str(tmp_path / "end"),
        "TICKED": str(tmp_path / "ticked"),
    }.items():
        monkeypatch.setenv(name, value)
    return dict(os.environ)


@pytest.fixture
def server(tmp_path: Path, environment: dict[str, str]) -> Iterator[Service]:
    """Start the code server as `up` does."""
    port = free_port()
    write_instance(tmp_path, code_server_port=port)
    service = code_server("slow_definitions", environment, tmp_path / "code.log", port=port)
    service.start()
    service.wait_until_healthy()
    process = psutil.Process(pid_of(service))
    yield service
    with suppress(psutil.Error):
        for child in process.children(recursive=True):
            child.kill()
    service.stop()


@pytest.fixture
def context(tmp_path: Path, server: Service) -> Iterator[WorkspaceProcessContext]:
    """Return the workspace as the daemon has it."""
    with (
        dg.DagsterInstance.get() as instance,
        WorkspaceProcessContext(
            instance, WorkspaceFileTarget([str(tmp_path / "workspace.yaml")])
        ) as context,
    ):
        yield context


def pid_of(server: Service) -> int:
    """Return the server's process."""
    assert server.identity is not None
    return server.identity.pid


def launched(context: WorkspaceProcessContext, wait_until: WaitUntil) -> str:
    """Start a run that waits for a file; return its id once it is in the middle of it."""
    instance, request = context.instance, context.create_request_context()
    location = request.get_code_location("memory_pipeline")
    (repository,) = location.get_repositories().values()
    job = repository.get_full_job("endless")
    run = instance.create_run_for_job(
        _job(), remote_job_origin=job.get_remote_origin(), job_code_origin=job.get_python_origin()
    )
    instance.launch_run(run.run_id, request)
    wait_until(Path(os.environ["END"]).with_name(run.run_id).exists, within=60)
    return run.run_id


def _job() -> dg.JobDefinition:
    @dg.op(name="wait")
    def wait() -> None: ...

    @dg.job(name="endless", executor_def=dg.in_process_executor)
    def endless() -> None:
        wait()

    return endless


def log_of(server: Service) -> str:
    """Return the server's log."""
    return server.log_file.read_text(errors="replace")


def end(server: Service, wait_until: WaitUntil, *, within: float) -> None:
    """Send SIGTERM and wait for the end."""
    os.kill(pid_of(server), signal.SIGTERM)
    wait_until(lambda: not server.alive(), within=within)


def test_it_ends_in_order_while_nothing_is_under_way(
    server: Service, wait_until: WaitUntil
) -> None:
    """By Dagster's own way, within seconds."""
    end(server, wait_until, within=10)
    assert "Shutting down Dagster code server" in log_of(server)
    assert "dagster_code_cut_off" not in log_of(server)


def test_it_ends_although_a_run_ended_while_the_database_was_away(
    server: Service,
    context: WorkspaceProcessContext,
    database: EmbeddedPostgres,
    environment: dict[str, str],
    wait_until: WaitUntil,
) -> None:
    """What broke: a thread of Dagster had met the outage, and SIGTERM waited for it for ever.

    Not enough: a longer wait. No dead run was closed any more either, and kept its slot for hours.
    What must not change: a run that is under way goes on.
    """
    first, second = launched(context, wait_until), launched(context, wait_until)
    runs = psutil.Process(pid_of(server)).children()
    workers = [run for run in runs if "spawn_main" in " ".join(run.cmdline())]
    assert len(workers) == len({first, second})
    database.stop()
    workers[0].kill()
    wait_until(lambda: "dagster_cleanup_lost" in log_of(server), within=60)
    assert workers[1].is_running()
    assert server.alive()
    os.kill(pid_of(server), signal.SIGTERM)
    assert server.alive()
    Path(environment["END"]).touch()
    wait_until(lambda: not server.alive(), within=15)


def test_it_ends_by_itself_when_it_can_close_no_run_any_more(
    server: Service,
    context: WorkspaceProcessContext,
    database: EmbeddedPostgres,
    environment: dict[str, str],
    wait_until: WaitUntil,
) -> None:
    """Whoever started it sees that it failed, and starts another one, which can."""
    launched(context, wait_until)
    database.stop()
    Path(environment["END"]).touch()
    wait_until(lambda: not server.alive(), within=60)
    assert server._child is not None
    assert server._child.returncode == 1


def test_a_call_that_does_not_end_is_cut_off(
    server: Service,
    context: WorkspaceProcessContext,
    environment: dict[str, str],
    wait_until: WaitUntil,
) -> None:
    """What broke: Python waits for the threads of the calls, also when their time is over."""
    caller = subprocess.Popen(
        [sys.executable, "-c", CALL, Path(environment["DAGSTER_HOME"]) / "workspace.yaml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(Path(environment["TICKED"]).exists, within=60)
        end(server, wait_until, within=server.stop_seconds)
        assert "dagster_code_cut_off" in log_of(server)
    finally:
        caller.kill()
        caller.wait()


CALL = """
import sys
import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
with dg.DagsterInstance.get() as instance:
    with WorkspaceProcessContext(instance, WorkspaceFileTarget([sys.argv[1]])) as context:
        location = context.create_request_context().get_code_location("memory_pipeline")
        (repository,) = location.get_repositories().values()
        location.get_sensor_execution_data(
            instance, repository.handle, "slow", None, None, None, None, None
        )
"""
