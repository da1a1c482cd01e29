"""The live process as a service of this machine."""

from collections.abc import Mapping
from pathlib import Path

from memory_pipeline.local.child_process import Service, script
from memory_pipeline.local.chroma import probe_http
from memory_pipeline.settings import PREFIX

# A batch is finished, and what was synced is still shown in Dagster.
STOP_SECONDS = 30.0


def live_service(environment: Mapping[str, str], log_file: Path, *, port: int) -> Service:
    """Describe the live process; ``port`` is where it serves its figures.

    Well as soon as it serves them: the model is loaded after that, and Chroma may come later.
    """
    return Service(
        name="live",
        command=(*script("memory-pipeline"), "live"),
        log_file=log_file,
        healthy=lambda _: probe_live(port) == "up",
        environment={**environment, f"{PREFIX}METRICS_PORT": str(port)},
        port=port,
        stop_seconds=STOP_SECONDS,
    )


def probe_live(port: int | None) -> str:
    """Ask a live process for its figures: ``up``, ``down`` or ``hangs``."""
    return "down" if port is None else probe_http(f"http://127.0.0.1:{port}/metrics")
