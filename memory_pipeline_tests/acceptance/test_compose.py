"""The files of docker/ against what they name, without an engine.

What stays unseen here: that the images build, and what only an engine gives: mounts, networks,
limits, a read-only root.
"""

import json
import re
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from memory_pipeline.defs.code_server import MARGIN_SECONDS
from memory_pipeline.local.chroma import OPEN_FILES, STOP_SECONDS, chroma_service
from memory_pipeline.local.dagster_services import (
    CODE_SERVER_CALL_SECONDS,
    DAEMON_STOP_SECONDS,
    code_server,
)
from memory_pipeline.local.postgres_binaries import server_programs
from memory_pipeline.local.worker_service import STOP_SECONDS as LIVE_STOP_SECONDS
from memory_pipeline.settings import PREFIX, Settings
from memory_pipeline_tests.acceptance.compose import (
    DOCKER,
    HERE,
    ONE_SHOT,
    OURS,
    SERVICES,
    VARIABLE,
    VARIABLES,
    composed,
    image_environment,
    image_files,
    last_stage,
    seconds,
    statements,
    words_of,
)
from memory_pipeline_tests.acceptance.conftest import ROOT


def test_compose_yaml_is_what_the_specification_allows(tmp_path: Path) -> None:
    """By the schema of the Compose specification."""
    file = tmp_path / "compose.json"
    file.write_text(json.dumps(composed()))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", VARIABLES)
def test_without_a_password_nothing_starts(name: str) -> None:
    """No default password that somebody would leave."""
    with pytest.raises(KeyError, match=name):
        composed({**VARIABLES, name: ""})


def test_env_example_has_every_variable_with_its_default() -> None:
    """What may be set is found in one place; passwords are empty there."""
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
    """Chroma and Dagster have no login; and nothing leads out of the network inside."""
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
def test_every_service_is_held(name: str) -> None:
    """Little power, a limit of memory, and it comes back after it has ended."""
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
    # Either would keep `--scale` from making a second.
    assert "container_name" not in service
    assert name == "webserver" or "ports" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_what_stays_has_a_health_check_and_what_ends_has_none(name: str) -> None:
    """Others wait for it; and a one-shot would never be healthy."""
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
def test_every_variable_is_one_that_somebody_reads(name: str) -> None:
    """A misspelt setting would be passed over in silence."""
    variables = dict(SERVICES[name].get("environment", {}))
    if name in OURS:
        variables |= image_environment()
    sql = (DOCKER / "databases.sql").read_text()
    general = {"PATH", "HOME", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "SQLITE_TMPDIR"}
    general |= {"NO_PROXY", "no_proxy"}
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
    """Who is broken into gives away no more than they need."""
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
    made = " ".join(said for what, said in last_stage() if what == "RUN")
    for volume in service.get("volumes", []):
        source, target, *_ = volume.split(":")
        assert (DOCKER / source).is_file() if source.startswith("./") else source in declared
        assert name == "postgres" or re.search(rf"install --directory .* {target}\b", made)
    # Every path that is named anywhere is one that the image or a mount has.
    for path in re.findall(rf"{HERE}/[\w./-]+", json.dumps(service)):
        assert image_files()[path].is_file()


def test_ports_agree() -> None:
    """Whoever names another service names the port that it listens on."""
    said = json.dumps(SERVICES) + (DOCKER / "workspace.yaml").read_text()
    named = re.findall(r"(?:@|//)([a-z-]+):(\d+)", said)
    named += re.findall(r"host: ([a-z-]+), port: (\d+)", said)
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


def test_the_figures_are_for_the_network_inside() -> None:
    """What broke: they were served to the container's own loopback, where no Prometheus is."""
    live = SERVICES["live"]
    assert live["environment"][f"{PREFIX}METRICS_ADDRESS"] == "0.0.0.0"  # noqa: S104 - of a container
    assert live["networks"] == ["inside"]
    assert live["expose"] == [live["environment"][f"{PREFIX}METRICS_PORT"]]


def test_dagster_yaml_is_that_of_up_but_for_storage_and_logs() -> None:
    """Limits that were measured once hold in containers too."""
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
    assert seconds(SERVICES["code"]["stop_grace_period"]) > calls + MARGIN_SECONDS
    server = code_server("memory_pipeline.definitions", {}, tmp_path / "log", port=4000)
    ours = " ".join(words_of(SERVICES["code"])[-1]).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    assert ours.removeprefix("python ") == " ".join(server.command[1:])
    assert server.stop_seconds > CODE_SERVER_CALL_SECONDS + MARGIN_SECONDS


@pytest.mark.parametrize("name", ["migrate", "code", "daemon", "webserver", "live"])
def test_no_proxy_of_docker_stands_between_the_services(name: str) -> None:
    """Docker names the proxies of its configuration to every container; gRPC reads `no_proxy`."""
    environment = SERVICES[name]["environment"]
    assert environment["NO_PROXY"] == environment["no_proxy"]
    bypassed = environment["no_proxy"].split(",")
    assert {"127.0.0.1", "::1", "localhost", "postgres", "chroma", "code"} <= set(bypassed)


def test_the_dockerfile_is_sane() -> None:
    """Pinned, without root, without secrets, from files that the builder is given."""
    found = statements()
    assert all(what != "ADD" for what, _ in found)
    assert {said.split()[0] for what, said in found if what == "FROM"} == {
        "python:3.11-slim",
        "build",
    }
    for said in (said for what, said in found if what == "RUN"):
        assert said.count("pip install") == said.count("pip install --constraint constraints.txt")
    order = [what for what, _ in last_stage()]
    assert order.index("USER") < order.index("CMD")
    (user,) = [said for what, said in last_stage() if what == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    secret = re.compile(r"PASSWORD|TOKEN|SECRET|CREDENTIAL|_KEY")
    assert not [said for what, said in found if what in {"ARG", "ENV"} and secret.search(said)]


def test_the_images_own_command_and_health_check_are_those_of_live() -> None:
    """So that a plain `docker run` of the image is watched as well."""
    (command,) = [said for what, said in last_stage() if what == "CMD"]
    assert json.loads(command) == SERVICES["live"]["command"]
    (check,) = [said for what, said in last_stage() if what == "HEALTHCHECK"]
    assert json.loads(check.partition("CMD ")[2]) == SERVICES["live"]["healthcheck"]["test"][1:]


def test_the_builder_is_given_what_is_copied_and_no_secret() -> None:
    """The .dockerignore names what may go, and everything else stays."""
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
        for what, said in statements()
        if what == "COPY" and not said.startswith("--from")
        for source in said.split()[:-1]
    ]
    assert all((ROOT / source).exists() and given(source) for source in copied)
    assert not any(map(given, ["docker/.env", "docker/settings.env", ".git", ".venv", ".env"]))
    ignored = (DOCKER / ".gitignore").read_text().split()
    assert {".env", "settings.env"} <= set(ignored)
