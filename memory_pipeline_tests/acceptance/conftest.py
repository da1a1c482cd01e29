"""The product as a user has it: the installed command, and one stack that it has started."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

COMMAND = Path(sys.executable).with_name("memory-pipeline")
ROOT = Path(__file__).parents[2]


PARTITIONS = """
query Partitions($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode { partitionStats { numMaterialized numPartitions numFailed } }
  }
}
"""


@dataclass(frozen=True, slots=True)
class Cli:
    """Runs memory-pipeline with one home and the settings of a test."""

    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the environment that the command sees: this machine's settings are not in it."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MEMORY_PIPELINE_")}
        ours = {"HOME": str(self.home), "EMBEDDER": "hashing", **self.settings}
        return {**kept, **{f"MEMORY_PIPELINE_{name}": value for name, value in ours.items()}}

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command and expect an exit code."""
        done = subprocess.run(
            [str(COMMAND), *words],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *words: str) -> Any:
        """Run a command with --json and return what it prints."""
        return json.loads(self(*words, "--json").stdout)

    def with_settings(self, **settings: str) -> "Cli":
        """Return the same command with other settings."""
        return Cli(self.home, {**self.settings, **settings})


@pytest.fixture(scope="session")
def stack() -> Iterator[Cli]:
    """Start all services except the worker, once; stop them at the end."""
    with started(SENSOR_SECONDS="1", LIVE="off") as cli:
        yield cli


@contextmanager
def started(**settings: str) -> Iterator[Cli]:
    """Start the services as a user does; stop them at the end."""
    # Open for all users, unlike pytest's own folders: else root's data would go elsewhere.
    folder = Path(tempfile.mkdtemp(prefix="memory-pipeline-"))
    folder.chmod(0o755)
    cli = Cli(folder / "home", settings)
    try:
        cli("up", "--detach")
        yield cli
    finally:
        cli("down")
        shutil.rmtree(folder)


def partitions(cli: Cli) -> dict[str, int]:
    """Query the webserver for the number of tenants, by the state of their partitions."""
    ui = json.loads((cli.home / "services.json").read_text())["ui_url"]
    answer = httpx.post(
        f"{ui}/graphql",
        json={"query": PARTITIONS, "variables": {"key": {"path": ["memory_index"]}}},
        timeout=30,
    ).json()
    found: dict[str, int] = answer["data"]["assetNodeOrError"]["partitionStats"]
    return found


@pytest.fixture
def lonely(tmp_path: Path) -> Cli:
    """Return the command in a home where nothing runs."""
    return Cli(tmp_path / "home")
