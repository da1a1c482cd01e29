"""docker/ as Compose and the builder read it."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

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
    """Put the variables in, as Compose does; one that is required and absent is a KeyError."""

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
    """Return compose.yaml as Compose sees it once anchors and variables are in their places."""
    read = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    result: dict[str, Any] = interpolated(read, variables)
    return result


SERVICES: dict[str, dict[str, Any]] = composed()["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
STAYING = sorted(SERVICES.keys() - ONE_SHOT)


def statements() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions and what each says, comments and line ends taken out."""
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
    """Return what the image sets."""
    words = [word for what, said in last_stage() if what == "ENV" for word in shlex.split(said)]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def image_files() -> dict[str, Path]:
    """Return the files of this folder that the image has, by the path that they have there."""
    found: dict[str, Path] = {}
    for what, said in last_stage():
        if what == "COPY" and not said.startswith("--from"):
            *sources, target = said.split()
            found |= {target + Path(source).name: ROOT / source for source in sources}
    return found


def words_of(service: Mapping[str, Any]) -> list[list[str]]:
    """Return the commands of a service, those of a shell line one by one."""
    command = service["command"]
    if command[:2] == ["sh", "-c"]:
        return [shlex.split(part.removeprefix("exec ")) for part in command[2].split(" && ")]
    return [command]


def seconds(text: str) -> float:
    """Read a duration of Compose."""
    assert re.fullmatch(r"\d+s", text)
    return float(text[:-1])
