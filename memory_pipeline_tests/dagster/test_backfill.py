"""A rebuild of all, launched through a webserver that knows the definitions; no daemon runs it."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import httpx
import pytest
from dagster._core.execution.backfill import BulkActionStatus

from memory_pipeline.cli.dagster_backfill import BackfillState, backfill_state, launch_backfill
from memory_pipeline.errors import PipelineError, Transient
from memory_pipeline.local.child_process import Service
from memory_pipeline.local.loopback import free_port

WORKSPACE = """
load_from:
  - python_module: {module_name: memory_pipeline.definitions, location_name: memory_pipeline}
"""
# Most are new; the first is not, nor is it the first by its name.
KEYS = ["zoe", *(f"tenant-{n:03}" for n in range(150)), "adam"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the home of an instance with two partitions, which are not in alphabetical order."""
    folder = tmp_path_factory.mktemp("dagster")
    (folder / "workspace.yaml").write_text(WORKSPACE)
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        instance.add_dynamic_partitions("tenants", ["zoe", "other"])
    return folder


@pytest.fixture(scope="module")
def ui(home: Path) -> Iterator[str]:
    """Start a webserver on that home."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    service = Service(
        name="webserver",
        command=(
            str(Path(sysconfig.get_path("scripts")) / "dagster-webserver"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--workspace", str(home / "workspace.yaml")),
        ),
        log_file=home / "webserver.log",
        healthy=lambda _: _answers(url),
        environment={**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "yes"},
        port=port,
    )
    service.start()
    try:
        service.wait_until_healthy()
        yield url
    finally:
        service.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/server_info", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def test_a_backfill_is_launched_over_partitions_that_dagster_does_not_know_yet(
    ui: str, home: Path
) -> None:
    """They are added first, and named in Dagster's own order, by which it goes on."""
    name = launch_backfill(ui, tenants_keys=KEYS, tags={"memory_pipeline/re_embed": "yes"})
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        assert instance.get_dynamic_partitions("tenants") == ["zoe", "other", *KEYS[1:]]
        backfill = instance.get_backfill(name)
        assert backfill is not None
        assert backfill.partition_names == KEYS
        assert backfill.tags["memory_pipeline/re_embed"] == "yes"
        assert backfill_state(ui, name) == BackfillState("REQUESTED", finished=False, failed_runs=0)
        instance.update_backfill(backfill._replace(status=BulkActionStatus.COMPLETED_FAILED))
        for more in ({}, {"dagster/auto_retry_run_id": "1" * 8}):
            instance.add_run(
                dg.DagsterRun(
                    job_name="full_rebuild",
                    tags={"dagster/backfill": name, **more},
                    status=dg.DagsterRunStatus.FAILURE,
                )
            )
        assert backfill_state(ui, name) == BackfillState(
            "COMPLETED_FAILED", finished=True, failed_runs=1
        )


def test_what_dagster_refuses_is_one_line(ui: str) -> None:
    """A traceback of somebody else's program helps nobody."""
    with pytest.raises(PipelineError, match="refuses") as refused:
        backfill_state(ui, "unknown1")
    assert "\n" not in str(refused.value)


def test_without_a_webserver_it_is_transient() -> None:
    """Nothing is wrong with what was asked."""
    with pytest.raises(Transient, match="does not answer"):
        launch_backfill(f"http://127.0.0.1:{free_port()}", tenants_keys=["ada"], tags={})
