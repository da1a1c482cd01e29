"""docker/ without an engine: its files against what they name, and each service as a process.

Not tested here: that the images build, and what only an engine provides: mounts, networks, limits,
a read-only root.
"""

import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from memory_pipeline.local.chroma import OPEN_FILES, STOP_SECONDS, chroma_service
from memory_pipeline.local.dagster_services import DAEMON_STOP_SECONDS, code_server
from memory_pipeline.local.loopback import free_port
from memory_pipeline.local.postgres_binaries import run_program, server_programs, server_user
from memory_pipeline.local.processes import MARK, marked_processes, stop_all, wait_until
from memory_pipeline.local.worker_service import STOP_SECONDS as LIVE_STOP_SECONDS
from memory_pipeline.settings import PREFIX, Settings
from memory_pipeline_tests.acceptance.conftest import ROOT

DOCKER = ROOT / "docker"
VARIABLES = {
    "POSTGRES_PASSWORD": "secret1",
    "PIPELINE_PASSWORD": "secret2",
    "DAGSTER_PASSWORD": "secret3",
}
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<how>:-|:\?)(?P<rest>[^}]*)\}")
ONE_SHOT = {"migrate", "model"}
VENV = "/opt/venv"
HERE = "/opt/memory_pipeline"

# A busy machine starts three Dagster processes at once.
HEALTHY_SECONDS = 240.0
FOUND_SECONDS = 120.0

LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries {
    name locationOrLoadError { __typename }
} } } }
"""
PERMISSIONS = "{ permissions { permission value } }"
UNDER_WAY = """
{ runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) {
    ... on Runs { results { id } }
} }
"""


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Replace the variables, as Compose does; a required one that is absent is a KeyError."""

    def put(found: re.Match[str]) -> str:
        given = variables.get(found["name"])
        if given:
            return given
        if found["how"] == ":?":
            raise KeyError(found["name"])
        return found["rest"]

    if isinstance(value, dict):
        return {key: interpolated(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, variables) for each in value]
    return VARIABLE.sub(put, value) if isinstance(value, str) else value


def composed(variables: Mapping[str, str] = VARIABLES) -> dict[str, Any]:
    """Return compose.yaml as Compose sees it, with anchors and variables replaced."""
    read = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    result: dict[str, Any] = interpolated(read, variables)
    return result


SERVICES: dict[str, dict[str, Any]] = composed()["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
STAYING = sorted(SERVICES.keys() - ONE_SHOT)


def statements() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions and their arguments, without comments."""
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    return [(w[0], w[2]) for line in joined.splitlines() if (w := line.partition(" "))[0]]


def last_stage() -> list[tuple[str, str]]:
    """Return the instructions of the stage that becomes the image."""
    found = statements()
    at = max(number for number, (what, _) in enumerate(found) if what == "FROM")
    return found[at:]


def image_environment() -> dict[str, str]:
    """Return the environment variables that the image sets."""
    words = [
        word for what, argument in last_stage() if what == "ENV" for word in shlex.split(argument)
    ]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def image_files() -> dict[str, Path]:
    """Return the files of docker/ that the image has, by their path there."""
    found: dict[str, Path] = {}
    for what, argument in last_stage():
        if what == "COPY" and not argument.startswith("--from"):
            *sources, target = argument.split()
            found |= {target + Path(source).name: ROOT / source for source in sources}
    return found


def words_of(service: Mapping[str, Any]) -> list[list[str]]:
    """Return the commands of a service, those of a shell line one by one."""
    command = service["command"]
    if command[:2] == ["sh", "-c"]:
        return [shlex.split(part.removeprefix("exec ")) for part in command[2].split(" && ")]
    return [command]


def seconds(text: str) -> float:
    """Return the seconds of a duration of Compose."""
    assert re.fullmatch(r"\d+s", text)
    return float(text[:-1])


# -- the files


def test_compose_yaml_is_what_the_specification_allows(tmp_path: Path) -> None:
    """It matches the schema of the Compose specification."""
    file = tmp_path / "compose.json"
    file.write_text(json.dumps(composed()))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", VARIABLES)
def test_without_a_password_nothing_starts(name: str) -> None:
    """There is no default password that could be left unchanged."""
    with pytest.raises(KeyError, match=name):
        composed({**VARIABLES, name: ""})


def test_env_example_has_every_variable_with_its_default() -> None:
    """One file lists every variable; passwords are empty there."""
    # A set of pairs: a variable that is used twice has one default.
    used = {
        (found["name"], "" if found["how"] == ":?" else found["rest"])
        for found in VARIABLE.finditer((DOCKER / "compose.yaml").read_text())
    }
    lines = (DOCKER / ".env.example").read_text().splitlines()
    offered = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(offered.items()) == used
    assert {name for name, value in offered.items() if not value} == set(VARIABLES)


def test_only_the_ui_is_published_and_on_loopback() -> None:
    """Chroma and Dagster have no login; and the network inside has no route to others."""
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "webserver": [{"target": 3000, "host_ip": "127.0.0.1", "published": "3000"}]
    }
    networks = composed()["networks"]
    assert {name for name, network in networks.items() if not network.get("internal")} == {
        "outside"
    }
    for name in SERVICES.keys() - {"webserver", "model"}:
        assert "outside" not in SERVICES[name]["networks"]
    assert all("network_mode" not in service for service in SERVICES.values())


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    """Few privileges, a memory limit, and a restart after it has ended."""
    service = SERVICES[name]
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name != "model")
    assert service["logging"]["options"]["max-size"]
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))
    # Either would make `--scale` fail.
    assert "container_name" not in service
    assert name == "webserver" or "ports" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_a_lasting_service_has_a_health_check_and_a_one_shot_has_none(name: str) -> None:
    """Other services wait for it; and a one-shot would never be healthy."""
    check = SERVICES[name]["healthcheck"]
    if name in ONE_SHOT:
        assert check == {"disable": True}
    else:
        assert check["test"][0] == "CMD"
        assert seconds(check["timeout"]) < seconds(check["interval"])
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        ends = needed in ONE_SHOT
        assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy")


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_read_by_its_service(name: str) -> None:
    """A misspelt setting would be ignored without a message."""
    variables = dict(SERVICES[name].get("environment", {}))
    if name in OURS:
        variables |= image_environment()
    sql = (DOCKER / "databases.sql").read_text()
    general = {"PATH", "HOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "SQLITE_TMPDIR"}
    for variable in variables.keys() - general:
        if variable.startswith(PREFIX):
            assert variable.removeprefix(PREFIX).lower() in Settings.model_fields
        elif variable.startswith("DAGSTER_") and name in OURS:
            assert variable in {
                "DAGSTER_HOME",
                "DAGSTER_DISABLE_TELEMETRY",
                "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD",
            }
        else:
            assert variable == "POSTGRES_PASSWORD" or f"\\getenv {variable.lower()}" in sql


def test_dagster_alone_has_its_own_database_and_a_webserver_no_other() -> None:
    """A compromised service exposes no password that it does not need."""
    seen = {name: set(service.get("environment", {})) for name, service in SERVICES.items()}
    pipeline, dagster = f"{PREFIX}DATABASE_URL", f"{PREFIX}DAGSTER_DATABASE_URL"
    assert {name for name, found in seen.items() if pipeline in found} == {
        "migrate",
        "code",
        "live",
    }
    assert {name for name, found in seen.items() if dagster in found} == {
        "code",
        "daemon",
        "live",
        "webserver",
        "webserver-readonly",
    }
    assert {name for name, found in seen.items() if "POSTGRES_PASSWORD" in found} == {"postgres"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_command_and_every_path_exists(name: str) -> None:
    """Programs are installed, files are in the image, mount points belong to its user."""
    service = SERVICES[name]
    commands = [*words_of(service), service["healthcheck"].get("test", ["CMD", "true"])[1:]]
    scripts = Path(sysconfig.get_path("scripts"))
    folder = server_programs() if name == "postgres" else scripts
    for program, *words in commands:
        assert program == "true" or (folder / program).exists()
        for option, value in pairwise(words):
            if option in {"-m", "--module-name"}:
                assert find_spec(value) is not None
    declared = composed()["volumes"]
    made = " ".join(argument for what, argument in last_stage() if what == "RUN")
    for volume in service.get("volumes", []):
        source, target, *_ = volume.split(":")
        assert (DOCKER / source).is_file() if source.startswith("./") else source in declared
        assert name == "postgres" or re.search(rf"install --directory .* {target}\b", made)
    # Every path that is named anywhere is one that the image or a mount has.
    for path in re.findall(rf"{HERE}/[\w./-]+", json.dumps(service)):
        assert image_files()[path].is_file()


def test_ports_agree() -> None:
    """A service that names another one names the port that it listens on."""
    text = json.dumps(SERVICES) + (DOCKER / "workspace.yaml").read_text()
    named = re.findall(r"(?:@|//)([a-z-]+):(\d+)", text)
    named += re.findall(r"host: ([a-z-]+), port: (\d+)", text)
    assert {name for name, _ in named} == {"postgres", "chroma", "code"}
    for name, port in named:
        assert port in SERVICES[name]["expose"]
    chroma = yaml.safe_load((DOCKER / "chroma.yaml").read_text())
    assert [str(chroma["port"])] == SERVICES["chroma"]["expose"]
    for name in ("code", "webserver", "webserver-readonly"):
        (port,) = SERVICES[name]["expose"]
        assert f"--port {port} " in " ".join(" ".join(words) for words in words_of(SERVICES[name]))
    assert (
        image_environment()[f"{PREFIX}METRICS_PORT"]
        == (SERVICES["live"]["environment"][f"{PREFIX}METRICS_PORT"])
    )


def test_the_metrics_are_served_to_the_network_inside() -> None:
    """What broke: they were served on the container's own loopback, where no Prometheus is."""
    live = SERVICES["live"]
    assert live["environment"][f"{PREFIX}METRICS_ADDRESS"] == "0.0.0.0"  # noqa: S104 - of a container
    assert live["networks"] == ["inside"]
    assert live["expose"] == [live["environment"][f"{PREFIX}METRICS_PORT"]]


def test_dagster_yaml_is_that_of_up_but_for_storage_and_logs() -> None:
    """Limits that were measured once apply in containers too."""
    ours = yaml.safe_load((DOCKER / "dagster.yaml").read_text())
    of_up = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    for name in ("compute_logs", "local_artifact_storage"):
        del ours[name]
    assert ours == of_up


def test_chroma_and_the_code_server_are_run_as_up_runs_them(tmp_path: Path) -> None:
    """One way to run each."""
    chroma_service(tmp_path / "data", tmp_path / "chroma.log")
    of_up = yaml.safe_load((tmp_path / "data.yaml").read_text())
    ours = yaml.safe_load((DOCKER / "chroma.yaml").read_text())
    own = {"port", "listen_address", "persist_path"}
    assert ours.keys() == of_up.keys()
    assert {k: v for k, v in ours.items() if k not in own} == (
        {k: v for k, v in of_up.items() if k not in own}
    )
    nofile = SERVICES["chroma"]["ulimits"]["nofile"]
    assert nofile == {"soft": OPEN_FILES, "hard": OPEN_FILES}
    assert seconds(SERVICES["chroma"]["stop_grace_period"]) > STOP_SECONDS
    assert seconds(SERVICES["live"]["stop_grace_period"]) > LIVE_STOP_SECONDS
    assert seconds(SERVICES["daemon"]["stop_grace_period"]) > DAEMON_STOP_SECONDS
    calls = float(SERVICES["code"]["environment"]["DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD"])
    assert seconds(SERVICES["code"]["stop_grace_period"]) > calls
    server = code_server("memory_pipeline.definitions", {}, tmp_path / "log", port=4000)
    ours = " ".join(words_of(SERVICES["code"])[-1]).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    assert ours.removeprefix("dagster ") == " ".join(server.command[2:])


def test_the_dockerfile_is_sane() -> None:
    """Pinned, without root, without secrets, from files that the builder gets."""
    found = statements()
    assert all(what != "ADD" for what, _ in found)
    assert {argument.split()[0] for what, argument in found if what == "FROM"} == {
        "python:3.11-slim",
        "build",
    }
    for argument in (argument for what, argument in found if what == "RUN"):
        assert argument.count("pip install") == argument.count(
            "pip install --constraint constraints.txt"
        )
    order = [what for what, _ in last_stage()]
    assert order.index("USER") < order.index("CMD")
    (user,) = [argument for what, argument in last_stage() if what == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    secret = re.compile(r"PASSWORD|TOKEN|SECRET|CREDENTIAL|_KEY")
    assert not [
        argument for what, argument in found if what in {"ARG", "ENV"} and secret.search(argument)
    ]


def test_the_images_own_command_and_health_check_are_those_of_live() -> None:
    """A plain `docker run` of the image has a health check as well."""
    (command,) = [argument for what, argument in last_stage() if what == "CMD"]
    assert json.loads(command) == SERVICES["live"]["command"]
    (check,) = [argument for what, argument in last_stage() if what == "HEALTHCHECK"]
    assert json.loads(check.partition("CMD ")[2]) == SERVICES["live"]["healthcheck"]["test"][1:]


def test_the_builder_gets_what_is_copied_and_no_secret() -> None:
    """The .dockerignore lists what is sent; everything else is not."""
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"

    def given(path: str) -> bool:
        sent = True
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            if fnmatch(path, pattern) or fnmatch(Path(path).name, pattern):
                sent = rule.startswith("!")
        return sent

    copied = [
        source
        for what, argument in statements()
        if what == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    ]
    assert all((ROOT / source).exists() and given(source) for source in copied)
    assert not any(map(given, ["docker/.env", "docker/settings.env", ".git", ".venv", ".env"]))
    ignored = (DOCKER / ".gitignore").read_text().split()
    assert {".env", "settings.env"} <= set(ignored)


# -- the services


@dataclass
class Machine:
    """Runs each service of compose.yaml as a process, with its command and its environment.

    Only what an engine provides is replaced: a service's name by loopback, each port by a free one,
    each folder of the image by one of this machine.
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
        """Start a service when its dependencies are healthy or have completed."""
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
        """Wait until the service's own health check passes."""

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
        """Signal a service to end; fail the test if it takes longer than its stop_grace_period."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        try:
            process.wait(seconds(SERVICES[name].get("stop_grace_period", "10s")))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{name} outstays its stop_grace_period: {self.log(name)}")

    def remove(self) -> None:
        """Kill every process that is left."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        stop_all(marked_processes(self.folder), within=10.0)

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service, with the mark of this test."""
        service = SERVICES[name]
        found = image_environment() if name in OURS else {}
        if any(file["path"] == "settings.env" for file in service.get("env_file", ())):
            found |= self.settings
        found |= service.get("environment", {})
        if name == "postgres":
            found |= {"PATH": f"{server_programs()}:/usr/bin:/bin", "LANG": "C"}
        return {k: self.here(name, v) for k, v in found.items()} | {MARK: str(self.folder)}

    def here(self, name: str, text: str) -> str:
        """Replace the container's names, paths and ports in a text by those of this machine."""
        folder = self.folder / name
        words = {
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - it is replaced
            VENV: sys.prefix,
            HERE: str(folder / "opt"),
            "/tmp": str(folder / "tmp"),  # noqa: S108 - it is replaced
            "/var/lib/chroma": str(folder / "data"),
        }
        words |= self._mounted(name)
        words |= {str(port): str(free) for port, free in self.ports[name].items()}
        for other, ports in self.ports.items():
            words |= {f"{other}:{port}": f"127.0.0.1:{free}" for port, free in ports.items()}
        longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
        return re.sub(rf"(?<![\w.-])(?:{longest_first})(?![\w-])", lambda m: words[m[0]], text)

    def url(self, name: str) -> str:
        """Return the address of a service."""
        (port,) = self.ports[name].values()
        return f"http://127.0.0.1:{port}"

    def log(self, name: str) -> str:
        """Return the end of a service's log."""
        return (self.folder / name / "log").read_text(errors="replace")[-4000:]

    def written(self) -> list[str]:
        """Return files that the image lacks, in folders that a container cannot write."""
        expected = {Path(path).name for path in image_files()}
        found = [file for name in OURS for file in (self.folder / name / "opt").iterdir()]
        return [str(file) for file in found if file.name not in expected]

    def _mounted(self, name: str) -> dict[str, str]:
        """Return the files of docker/ that the service has mounted, by their path there."""
        volumes = [volume.split(":") for volume in SERVICES[name].get("volumes", ())]
        return {target: str(DOCKER / s) for s, target, *_ in volumes if s.startswith("./")}

    def _write_files(self, name: str) -> None:
        for folder in ("opt", "tmp"):
            (self.folder / name / folder).mkdir(parents=True)
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
        folder, programs, user = self.folder / "postgres", server_programs(), server_user()
        (folder / "password").write_text(self.environment("postgres")["POSTGRES_PASSWORD"])
        if user is not None:
            owner = pwd.getpwnam(user)
            for path in (folder, folder / "tmp", folder / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        made = run_program(
            programs / "initdb",
            *("--pgdata", str(folder / "data"), "--username", "postgres", "--encoding", "UTF8"),
            *("--pwfile", str(folder / "password"), "--no-sync"),
            *("--auth-local", "trust", "--auth-host", "scram-sha-256"),
            user=user,
        )
        assert made is None, made
        program, *options = SERVICES["postgres"]["command"]
        (port,) = self.ports["postgres"].values()
        served = ("-D", str(folder / "data"), "-p", str(port), "-k", str(folder / "tmp"))
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
    """Start all services, in the order of depends_on; kill every process that a test has left."""
    with tempfile.TemporaryDirectory(prefix="memory-pipeline-compose-") as folder:
        # Open for all users: Postgres' user has to reach its data.
        Path(folder).chmod(0o755)
        machine = Machine(Path(folder), {f"{PREFIX}EMBEDDER": "hashing"})
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


def graphql(machine: Machine, name: str, query: str) -> Any:
    """Query a webserver."""
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
    (location,) = graphql(machine, name, LOCATIONS)["workspaceOrError"]["locationEntries"]
    assert location["name"] == "memory_pipeline"
    assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation"
    allowed = {
        p["permission"] for p in graphql(machine, name, PERMISSIONS)["permissions"] if p["value"]
    }
    assert ("launch_pipeline_execution" in allowed) == (name == "webserver")
    assert name == "webserver" or not allowed


@slow
def test_a_row_is_found_by_search(machine: Machine, wait_until: WaitUntil) -> None:
    """From an INSERT to a search, with all services running."""
    insert(machine, "the cat sleeps on the router")
    wait_until(lambda: found(machine, "the cat sleeps on the router"), within=FOUND_SECONDS)


@slow
def test_the_worker_syncs_a_row_without_the_daemon(machine: Machine, wait_until: WaitUntil) -> None:
    """And the daemon stops within its stop_grace_period."""
    machine.stop("daemon")
    insert(machine, "the kettle whistles at noon")
    wait_until(lambda: found(machine, "the kettle whistles at noon"), within=FOUND_SECONDS)


@slow
def test_dagster_syncs_a_row_without_the_worker(machine: Machine, wait_until: WaitUntil) -> None:
    """The daemon has the code server start a run, which reaches Postgres and Chroma."""
    machine.stop("live")
    machine.up("daemon")
    insert(machine, "the violin hangs beside the door")
    wait_until(lambda: found(machine, "the violin hangs beside the door"), within=FOUND_SECONDS)


@slow
def test_every_service_stops_in_its_time_and_leaves_nothing(
    machine: Machine, wait_until: WaitUntil
) -> None:
    """In the order of Compose: a service ends before its dependencies. The image is unchanged."""
    assert machine.written() == []
    # The code server waits for its runs until its time is over; then they are killed.
    wait_until(
        lambda: not graphql(machine, "webserver", UNDER_WAY)["runsOrError"]["results"],
        within=FOUND_SECONDS,
    )
    order = list(machine.processes)
    for name in reversed(order):
        if name in ONE_SHOT:
            machine.processes.pop(name)
        else:
            machine.stop(name)
    # In a container the runs end with it; here they are processes like others.
    stop_all(marked_processes(machine.folder), within=10.0)
    assert marked_processes(machine.folder) == []
