"""One stack for all of these tests: Dagster's processes cost seconds each. Order matters."""

import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from memory_pipeline.cli.services import exports
from memory_pipeline.errors import PipelineError
from memory_pipeline.local.daemonize import down, up
from memory_pipeline.local.discovery import discover, running
from memory_pipeline.local.home import Stack, without_own
from memory_pipeline.local.loopback import free_port, loopback_url
from memory_pipeline.local.orphan_processes import stop_marked
from memory_pipeline.local.process_identity import Identity
from memory_pipeline.local.processes import marked_processes
from memory_pipeline.local.service_states import service_states
from memory_pipeline.settings import Settings
from memory_pipeline_tests.http_proxy import behind

Wait = Callable[..., None]

DEFINITIONS = """
import time
import dagster as dg
import psycopg
from memory_pipeline.errors import ContractError

@dg.op
def wait_for_the_end():
    time.sleep(600)

@dg.job
def endless():
    wait_for_the_end()

defs = dg.Definitions(jobs=[endless], executor=dg.in_process_executor)

def migrate(settings):
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS migrated ()")

def refuse(settings):
    raise ContractError("memory_logs does not fit")
"""
LAUNCH = """
mutation { launchRun(executionParams: {mode: "default", runConfigData: {}, selector: {
  repositoryLocationName: "memory_pipeline", repositoryName: "__repository__", jobName: "endless"
}}) { __typename ... on LaunchRunSuccess { run { runId } } } }
"""
RUNS = "{ runsOrError { ... on Runs { results { runId status } } } }"
NAMES = ["chroma", "chroma-2", "code-server", "daemon", "postgres", "webserver"]


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """Make a home that every user may pass through, and definitions for Dagster to load."""
    folder = Path(tempfile.mkdtemp(prefix="memory-pipeline-test-"))
    folder.chmod(0o755)
    (folder / "tiny_definitions.py").write_text(DEFINITIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        # Its migrate makes no tables, so there is nothing that could be kept fresh.
        settings = Settings.load(
            home=folder / "home", embedder="hashing", chroma_servers=2, live="off"
        )
        yield settings
        down(settings, print_line=lambda _: None)
    shutil.rmtree(folder)


def start(settings: Settings) -> list[str]:
    """Start a stack in the background, behind a proxy that refuses; return what it prints."""
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        behind(patch, loopback_url(free_port()))
        up(
            settings,
            detach=True,
            definitions="tiny_definitions",
            migrate="tiny_definitions:migrate",
            print_line=printed.append,
        )
    return printed


@pytest.fixture(scope="module")
def stack(settings: Settings) -> Stack:
    """Start the stack, once."""
    start(settings)
    stack = running(settings)
    assert stack is not None
    return stack


def now(settings: Settings) -> Stack:
    """Return the stack as services.json has it at this moment."""
    stack = running(settings)
    assert stack is not None
    return stack


def test_a_failed_start_leaves_nothing_running(settings: Settings) -> None:
    """The reason is in the message, its kind in the class, and no process stays behind."""
    with pytest.raises(PipelineError, match="memory_logs does not fit"):
        up(
            settings,
            detach=True,
            definitions="tiny_definitions",
            migrate="tiny_definitions:refuse",
        )
    assert marked_processes(settings.home) == []
    assert set(service_states(settings).values()) == {"down"}
    assert not (settings.home / "services.json").exists()


def test_up_returns_when_everything_is_healthy(settings: Settings, stack: Stack) -> None:
    """A command after `up --detach` need not wait for any service."""
    assert service_states(settings) == dict.fromkeys(
        ["postgres", "chroma", "chroma-2", "code-server", "daemon", "webserver"], "up"
    )
    assert sorted(stack.services) == NAMES
    with psycopg.connect(stack.database_url) as connection:
        assert connection.execute("SELECT to_regclass('migrated')::text").fetchone() == (
            "migrated",
        )
    assert stat.S_IMODE((settings.home / "services.json").stat().st_mode) == 0o600


def test_memories_and_logs_are_for_their_owner_alone(settings: Settings, stack: Stack) -> None:
    """What broke: every user of the machine could read them. The home itself stays passable."""
    for name in ("chroma", "chroma-2", "logs"):
        assert stat.S_IMODE((settings.home / name).stat().st_mode) == 0o700, name


def test_everything_listens_on_this_machine_alone(stack: Stack) -> None:
    """Neither Chroma nor Dagster has a login."""
    for name in ("chroma", "chroma-2", "code-server", "webserver"):
        sockets = psutil.Process(stack.services[name].pid).net_connections(kind="tcp")
        listening = {
            s.laddr.ip.removeprefix("::ffff:") for s in sockets if s.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}, name


def test_the_services_reach_one_another_without_a_proxy(
    settings: Settings, stack: Stack, wait_until: Wait
) -> None:
    """What broke: gRPC sent the webserver's requests for the code server to the proxy."""
    names = {name: psutil.Process(service.pid) for name, service in stack.services.items()}
    for name in ("daemon", "webserver", "code-server"):
        variables = names[name].environ()
        assert "http_proxy" in variables
        assert "127.0.0.1" in variables["no_proxy"].split(",")
    query = "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus name"
    query += " locationOrLoadError { __typename } } } } }"

    def loaded() -> bool:
        answer = httpx.post(f"{stack.ui_url}/graphql", json={"query": query}).json()
        (location,) = answer["data"]["workspaceOrError"]["locationEntries"]
        return str(location["locationOrLoadError"]["__typename"]) == "RepositoryLocation"

    wait_until(loaded, within=30)


def test_a_second_up_prints_that_it_runs(settings: Settings, stack: Stack) -> None:
    """It starts nothing and names the process and the address of the UI."""
    (printed,) = start(settings)
    assert str(stack.supervisor.pid) in printed
    assert stack.ui_url in printed
    assert now(settings) == stack


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_clock_that_stepped_hides_no_service(
    settings: Settings, stack: Stack, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """What broke: everything was down to `status`, and `up` found another one that was starting.

    The moments at which processes started move with the clock: the kernel adds their ticks to the
    moment of the boot.
    """
    step(monkeypatch, seconds)
    assert set(service_states(settings).values()) == {"up"}
    (printed,) = start(settings)
    assert printed.startswith(f"already running (pid {stack.supervisor.pid})")
    assert now(settings) == stack
    assert discover(settings).chroma_url == stack.chroma_url


def step(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have every process of the machine, but its ticks, start at another moment."""
    booted = psutil.boot_time()
    patch.setattr("psutil._pslinux.boot_time", lambda: booted + seconds)


def test_more_chroma_servers_need_a_new_start(settings: Settings, stack: Stack) -> None:
    """While the stack runs, `up` prints that and changes nothing."""
    printed = start(settings.model_copy(update={"chroma_servers": 3}))
    assert "memory-pipeline down" in printed[1]
    assert now(settings) == stack
    assert not (settings.home / "chroma-3").exists()


def test_every_chroma_server_has_data_and_log_of_its_own(settings: Settings, stack: Stack) -> None:
    """Two that shared data would be one server under two names."""
    for name in ("chroma", "chroma-2"):
        assert (settings.home / name / "chroma.sqlite3").exists()
        assert stack.services[name].log == str(settings.home / "logs" / f"{name}.log")
    first, second = discover(settings).chroma_addresses()
    collections = "/api/v2/tenants/default_tenant/databases/default_database/collections"
    httpx.post(second + collections, json={"name": "mine"}).raise_for_status()
    assert httpx.get(first + collections).json() == []


def test_addresses_that_are_not_set_are_found(settings: Settings, stack: Stack) -> None:
    """The running services fill in the addresses that the settings leave open, and no others."""
    found = discover(settings)
    assert found.database_url is not None
    assert found.database_url.get_secret_value() == stack.database_url
    assert found.chroma_url == stack.chroma_url
    assert found.chroma_urls == stack.chroma_urls
    assert len(stack.chroma_urls) == 1
    other = settings.model_copy(update={"chroma_url": "http://chroma.example:1"})
    assert discover(other).chroma_addresses() == ("http://chroma.example:1",)
    assert service_states(other)["chroma"] == "external down"


def test_what_env_prints_leads_to_the_services_and_back(settings: Settings, stack: Stack) -> None:
    """A shell that has evaluated it reaches Postgres, and a later `up` there still starts ours."""
    variables = exports(settings)
    keys = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGDATABASE": "dbname"}
    conninfo = make_conninfo(**{key: variables[name] for name, key in keys.items()})
    psycopg.connect(conninfo).close()
    assert variables["DAGSTER_HOME"] == str(settings.home / "dagster")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        evaluated = Settings.load()
        assert evaluated.chroma_addresses() == (stack.chroma_url, *stack.chroma_urls)
        assert service_states(evaluated)["chroma"] == service_states(evaluated)["chroma-2"] == "up"
        assert without_own(evaluated).chroma_addresses() == ()
        assert without_own(evaluated).database_url is None


def test_a_paused_service_hangs(settings: Settings, stack: Stack) -> None:
    """A process that lives and does not answer differs from one that is down."""
    paused = [now(settings).services[name].pid for name in ("chroma", "code-server", "daemon")]
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    states = service_states(settings)
    for pid in paused:
        os.kill(pid, signal.SIGCONT)
    assert [states[n] for n in ("chroma", "code-server", "daemon")] == ["hangs"] * 3


@pytest.mark.parametrize("name", ["chroma", "chroma-2", "postgres"])
def test_a_service_that_dies_is_started_again(
    settings: Settings, stack: Stack, name: str, wait_until: Wait
) -> None:
    """It comes back at its address, and its new process is recorded."""
    before = now(settings).services[name]
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: now(settings).services[name].pid != before.pid, within=30)
    wait_until(lambda: service_states(settings)[name] == "up", within=30)
    assert now(settings).services[name].port == before.port


def test_a_dead_code_server_comes_back_for_the_webserver(
    settings: Settings, stack: Stack, wait_until: Wait
) -> None:
    """It returns at the same port, so the webserver needs no new address."""
    os.kill(now(settings).services["code-server"].pid, signal.SIGKILL)
    wait_until(lambda: service_states(settings)["code-server"] == "down", within=10)
    wait_until(lambda: service_states(settings)["code-server"] == "up", within=60)


def test_up_after_kill_9_cleans_up_first(
    settings: Settings, stack: Stack, wait_until: Wait
) -> None:
    """What broke: the supervisor was killed while a run worked, and its code server after it.

    Not enough: stopping what services.json names; the run's process is in no file and has no
    parent, and its run holds a slot for ever. What must not change: the data and the ports; and a
    server that has data runs, although the settings do not ask for two any more.
    """
    before = now(settings)
    graphql = f"{before.ui_url}/graphql"
    wait_until(
        lambda: "LaunchRunSuccess" in httpx.post(graphql, json={"query": LAUNCH}).text, within=30
    )
    wait_until(lambda: "STARTED" in runs(before).values(), within=60)
    (run,) = runs(before)
    workers = [i for i in marked_processes(settings.home) if _works(i)]
    assert workers
    for pid in (before.supervisor.pid, now(settings).services["code-server"].pid):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running(settings) is None)
    assert discover(settings).chroma_addresses() == (before.chroma_url, *before.chroma_urls)
    start(settings.model_copy(update={"chroma_servers": 1}))
    after = now(settings)
    assert not any(worker.alive() for worker in workers)
    assert {n: s.port for n, s in after.services.items()} == {
        n: s.port for n, s in before.services.items()
    }
    assert runs(after)[run] == "FAILURE"


def runs(stack: Stack) -> dict[str, str]:
    """Return the status of every run in Dagster."""
    answer = httpx.post(f"{stack.ui_url}/graphql", json={"query": RUNS}).raise_for_status()
    return {run["runId"]: run["status"] for run in answer.json()["data"]["runsOrError"]["results"]}


def _works(identity: Identity) -> bool:
    process = identity.process()
    return process is not None and "spawn_main" in " ".join(process.cmdline())


def test_down_leaves_no_process(
    settings: Settings, stack: Stack, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run under way is stopped; no process is left, and a second down prints that.

    What broke: not after the clock had stepped, which it does here.
    """
    before = now(settings)
    graphql = f"{before.ui_url}/graphql"
    assert "LaunchRunSuccess" in httpx.post(graphql, json={"query": LAUNCH}).text
    wait_until(lambda: any(_works(i) for i in marked_processes(settings.home)), within=60)
    step(monkeypatch, -3600.0)
    printed: list[str] = []
    down(settings, print_line=printed.append)
    assert printed == ["stopped"]
    assert marked_processes(settings.home) == []
    assert not before.supervisor.alive()
    assert not any(service.alive() for service in before.services.values())
    assert not (settings.home / "services.json").exists()
    assert discover(settings) == settings
    down(settings, print_line=printed.append)
    assert printed[1] == f"nothing runs in {settings.home}"


def test_down_stops_what_a_killed_supervisor_left(settings: Settings, wait_until: Wait) -> None:
    """Processes are found by their mark, also those that no file names."""
    settings.home.mkdir(exist_ok=True)
    pid = os.posix_spawn(
        shutil.which("sleep") or "sleep",
        ["sleep", "600"],
        {"MEMORY_PIPELINE_STACK": str(settings.home)},
    )
    wait_until(lambda: [i.pid for i in marked_processes(settings.home)] == [pid])
    assert not stop_marked(settings.home / "other")
    printed: list[str] = []
    down(settings, print_line=printed.append)
    assert printed == ["stopped"]
    os.waitpid(pid, 0)
