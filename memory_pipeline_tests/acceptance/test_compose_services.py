"""The services of compose.yaml, each as a process, without an engine."""

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from memory_pipeline.local.loopback import free_port
from memory_pipeline.local.postgres_binaries import run_program, server_programs, server_user
from memory_pipeline.local.processes import MARK, marked_processes, stop_all, wait_until
from memory_pipeline.settings import PREFIX
from memory_pipeline_tests.acceptance.compose import (
    DOCKER,
    FOUND_SECONDS,
    HEALTHY_SECONDS,
    HERE,
    LOCATIONS,
    ONE_SHOT,
    OURS,
    PERMISSIONS,
    SERVICES,
    STAYING,
    UNDER_WAY,
    VENV,
    image_environment,
    image_files,
    seconds,
)


@dataclass
class Machine:
    """Runs each service of compose.yaml as a process, with its command and its environment.

    Only what an engine would give is put in: for a service's name, loopback; for each port, a free
    one; for each folder of the image, one of this machine.
    """

    folder: Path
    settings: Mapping[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, dict[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken: set[int] = set()
        for name, service in SERVICES.items():
            named = [*service.get("expose", ())]
            named += [v for k, v in service.get("environment", {}).items() if k.endswith("_PORT")]
            self.ports[name] = {}
            for port in map(int, named):
                while (free := free_port()) in taken:
                    pass
                taken.add(free)
                self.ports[name][port] = free
        for name in SERVICES:
            self._write_files(name)

    def up(self, name: str) -> None:
        """Start a service once what it depends on is healthy or has done its work."""
        if name in self.processes:
            return
        for needed, how in SERVICES[name].get("depends_on", {}).items():
            self.up(needed)
            if how["condition"] == "service_healthy":
                self.wait_until_healthy(needed)
            else:
                assert self.processes[needed].wait(HEALTHY_SECONDS) == 0, self.log(needed)
        if name == "postgres":
            self._up_postgres()
        else:
            command = [self.here(name, word) for word in SERVICES[name]["command"]]
            self._start(name, command, cwd=self.folder / name / "opt")

    def wait_until_healthy(self, name: str) -> None:
        """Wait until the service's own health check says so."""

        def settled() -> bool:
            return self.processes[name].poll() is not None or self.healthy(name)

        assert wait_until(settled, within=HEALTHY_SECONDS), self.log(name)
        assert self.processes[name].poll() is None, self.log(name)

    def healthy(self, name: str) -> bool:
        """Run the health check once."""
        check = SERVICES[name]["healthcheck"]
        try:
            done = self.run(name, *check["test"][1:], within=seconds(check["timeout"]))
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def run(self, name: str, *words: str, within: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker compose exec` does."""
        return subprocess.run(
            [self.here(name, word) for word in words],
            env=self.environment(name),
            cwd=self.folder / name,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )

    def stop(self, name: str) -> None:
        """Ask a service to end, and see that it does in the time that it has."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        try:
            process.wait(seconds(SERVICES[name].get("stop_grace_period", "10s")))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{name} outstays its stop_grace_period: {self.log(name)}")

    def remove(self) -> None:
        """End whatever is left."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        stop_all(marked_processes(self.folder), within=10.0)

    def environment(self, name: str) -> dict[str, str]:
        """Return all that a service finds in its environment, and the mark of this test."""
        service = SERVICES[name]
        found = image_environment() if name in OURS else {}
        if any(file["path"] == "settings.env" for file in service.get("env_file", ())):
            found |= self.settings
        found |= service.get("environment", {})
        if name == "postgres":
            found |= {"PATH": f"{server_programs()}:/usr/bin:/bin", "LANG": "C"}
        return {k: self.here(name, v) for k, v in found.items()} | {MARK: str(self.folder)}

    def here(self, name: str, text: str) -> str:
        """Say in words of this machine what is meant in the service's container."""
        place = self.folder / name
        words = {
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - it is replaced
            VENV: sys.prefix,
            HERE: str(place / "opt"),
            "/tmp": str(place / "tmp"),  # noqa: S108 - it is replaced
            "/var/lib/chroma": str(place / "data"),
        }
        words |= self._mounted(name)
        words |= {str(port): str(free) for port, free in self.ports[name].items()}
        for other, ports in self.ports.items():
            words |= {f"{other}:{port}": f"127.0.0.1:{free}" for port, free in ports.items()}
        longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
        return re.sub(rf"(?<![\w.-])(?:{longest_first})(?![\w-])", lambda m: words[m[0]], text)

    def url(self, name: str) -> str:
        """Return where a service answers."""
        (port,) = self.ports[name].values()
        return f"http://127.0.0.1:{port}"

    def log(self, name: str) -> str:
        """Return what a service has said last."""
        return (self.folder / name / "log").read_text(errors="replace")[-4000:]

    def written(self) -> list[str]:
        """Name the files beside those that the image has, where a container can write none."""
        expected = {Path(path).name for path in image_files()}
        found = [file for name in OURS for file in (self.folder / name / "opt").iterdir()]
        return [str(file) for file in found if file.name not in expected]

    def _mounted(self, name: str) -> dict[str, str]:
        """Return where the files of this folder are that the service has mounted."""
        parts = [volume.split(":") for volume in SERVICES[name].get("volumes", ())]
        return {part[1]: str(DOCKER / part[0]) for part in parts if part[0].startswith("./")}

    def _write_files(self, name: str) -> None:
        for part in ("opt", "tmp"):
            (self.folder / name / part).mkdir(parents=True)
        for path, source in image_files().items() if name in OURS else ():
            target = Path(self.here(name, path))
            if source.suffix == ".yaml":
                read = yaml.safe_load(source.read_text())
                target.write_text(yaml.safe_dump(self._configuration(name, read)))
            else:
                shutil.copyfile(source, target)

    def _configuration(self, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("host") in SERVICES:
                ports = self.ports[value["host"]]
                return value | {"host": "127.0.0.1", "port": ports[value["port"]]}
            return {key: self._configuration(name, each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._configuration(name, each) for each in value]
        if isinstance(value, str):
            return self.here(name, value)
        return self.ports[name].get(value, value) if type(value) is int else value

    def _start(self, name: str, command: list[str], **how: Any) -> None:
        with (self.folder / name / "log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                # As in a container. A shell that runs this in the background ignores SIGINT, and
                # Dagster's code server does with SIGTERM what is done with SIGINT.
                ["env", "--default-signal=INT", *command],
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **how,
            )

    def _up_postgres(self) -> None:
        """Do what the image's entrypoint does: make the cluster, start it, run databases.sql."""
        place, programs, user = self.folder / "postgres", server_programs(), server_user()
        (place / "password").write_text(self.environment("postgres")["POSTGRES_PASSWORD"])
        if user is not None:
            owner = pwd.getpwnam(user)
            for path in (place, place / "tmp", place / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        made = run_program(
            programs / "initdb",
            *("--pgdata", str(place / "data"), "--username", "postgres", "--encoding", "UTF8"),
            *("--pwfile", str(place / "password"), "--no-sync"),
            *("--auth-local", "trust", "--auth-host", "scram-sha-256"),
            user=user,
        )
        assert made is None, made
        program, *options = SERVICES["postgres"]["command"]
        (port,) = self.ports["postgres"].values()
        served = ("-D", str(place / "data"), "-p", str(port), "-k", str(place / "tmp"))
        as_user = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        command = [str(programs / program), *options, *served, "-c", "fsync=off"]
        self._start("postgres", command, cwd="/", **as_user)
        self.wait_until_healthy("postgres")
        (script,) = [target for target in self._mounted("postgres") if target.endswith(".sql")]
        done = self.run(
            "postgres",
            *("psql", "--host", "/tmp", "--port", "5432", "--username", "postgres"),  # noqa: S108
            *("-v", "ON_ERROR_STOP=1", "--no-psqlrc", "--no-password", "--file", script),
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """Start everything, in the order that depends_on names; end whatever a test has left."""
    with tempfile.TemporaryDirectory(prefix="memory-pipeline-compose-") as place:
        # Open for all to pass: Postgres' user has to reach its data.
        Path(place).chmod(0o755)
        machine = Machine(Path(place), {f"{PREFIX}EMBEDDER": "hashing"})
        try:
            for name in STAYING:
                machine.up(name)
            for name in STAYING:
                machine.wait_until_healthy(name)
            yield machine
        finally:
            machine.remove()


def insert(machine: Machine, text: str) -> None:
    """Write a memory as an application does: one INSERT."""
    url = machine.environment("live")[f"{PREFIX}DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO memory_logs (user_id, raw_data) VALUES ('ada', %s)",
            (json.dumps({"summary": text}),),
        )


def found(machine: Machine, text: str) -> bool:
    """Search as a person does: `docker compose exec live memory-pipeline search`."""
    words = ("search", "--tenant", "ada", text, "-k", "1", "--json")
    done = machine.run("live", "memory-pipeline", *words)
    assert done.returncode == 0, done.stderr
    return any(hit["memory"]["summary"] == text for hit in json.loads(done.stdout))


def ask(machine: Machine, name: str, query: str) -> Any:
    """Ask a webserver."""
    url = f"{machine.url(name)}/graphql"
    return httpx.post(url, json={"query": query}, timeout=60).json()["data"]


WaitUntil = Callable[..., None]
slow = pytest.mark.timeout(900)


@slow
def test_every_service_becomes_healthy_by_its_own_check(machine: Machine) -> None:
    """With the passwords, roles and databases of databases.sql, in the order of depends_on."""
    assert [name for name in STAYING if not machine.healthy(name)] == []
    assert machine.processes["migrate"].poll() == 0


@slow
@pytest.mark.parametrize("name", ["webserver", "webserver-readonly"])
def test_a_webserver_shows_the_code_and_the_readonly_one_changes_nothing(
    machine: Machine, name: str
) -> None:
    """The code location is loaded from the service `code`."""
    (location,) = ask(machine, name, LOCATIONS)["workspaceOrError"]["locationEntries"]
    assert location["name"] == "memory_pipeline"
    assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation"
    allowed = {
        p["permission"] for p in ask(machine, name, PERMISSIONS)["permissions"] if p["value"]
    }
    assert ("launch_pipeline_execution" in allowed) == (name == "webserver")
    assert name == "webserver" or not allowed


@slow
def test_a_row_is_found_by_search(machine: Machine, wait_until: WaitUntil) -> None:
    """From an INSERT to a search, with everything at work."""
    insert(machine, "the cat sleeps on the router")
    wait_until(lambda: found(machine, "the cat sleeps on the router"), within=FOUND_SECONDS)


@slow
def test_live_finds_it_without_the_daemon(machine: Machine, wait_until: WaitUntil) -> None:
    """And the daemon stops in its time."""
    machine.stop("daemon")
    insert(machine, "the kettle whistles at noon")
    wait_until(lambda: found(machine, "the kettle whistles at noon"), within=FOUND_SECONDS)


@slow
def test_dagster_finds_it_without_live(machine: Machine, wait_until: WaitUntil) -> None:
    """The daemon has the code server start a run, which reaches Postgres and Chroma."""
    machine.stop("live")
    machine.up("daemon")
    insert(machine, "the violin hangs beside the door")
    wait_until(lambda: found(machine, "the violin hangs beside the door"), within=FOUND_SECONDS)


@slow
def test_everything_stops_in_its_time_and_leaves_nothing(
    machine: Machine, wait_until: WaitUntil
) -> None:
    """In the order of Compose: who depends on somebody ends first. The image stays as it was."""
    assert machine.written() == []
    # The code server waits for its runs as long as it may; then they are cut off, as by any kill.
    wait_until(
        lambda: not ask(machine, "webserver", UNDER_WAY)["runsOrError"]["results"],
        within=FOUND_SECONDS,
    )
    order = list(machine.processes)
    for name in reversed(order):
        if name in ONE_SHOT:
            machine.processes.pop(name)
        else:
            machine.stop(name)
    # A container's end is the end of its runs; here they are processes like others.
    stop_all(marked_processes(machine.folder), within=10.0)
    assert marked_processes(machine.folder) == []
