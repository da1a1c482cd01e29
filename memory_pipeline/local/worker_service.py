"""The worker (`memory-pipeline live`) as a service of this machine."""

from collections.abc import Mapping
from pathlib import Path

from memory_pipeline.local.child_process import Service, script
from memory_pipeline.local.probes import probe_worker
from memory_pipeline.settings import PREFIX

# The worker finishes a batch and still reports to Dagster what it has synced.
STOP_SECONDS = 30.0


def worker_service(environment: Mapping[str, str], log_file: Path, *, port: int) -> Service:
    """Describe the worker; it serves its metrics at ``port``.

    It counts as healthy once it serves them: the model is loaded later, and Chroma may be down.
    """
    return Service(
        name="live",
        command=(*script("memory-pipeline"), "live"),
        log_file=log_file,
        healthy=lambda _: probe_worker(port) == "up",
        environment={**environment, f"{PREFIX}METRICS_PORT": str(port)},
        port=port,
        stop_seconds=STOP_SECONDS,
    )
