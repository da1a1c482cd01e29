"""Docker's health check: exits with 0 if this container's service is healthy, else with 1.

It changes nothing.

healthy.py http URL [LINE]    the page exists, and LINE is a line of it
healthy.py grpc PORT          Dagster's code server serves on this port
healthy.py daemon             Dagster's daemon has written its heartbeat recently
"""  # noqa: INP001 - a script of the image, not of the package

import os
import sys
import urllib.request
from collections.abc import Callable

SECONDS = 5.0


def http(url: str, line: str = "") -> bool:
    """Get a page, ignoring any proxy that Docker has put into the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=SECONDS) as page:
            return not line or line in page.read().decode().splitlines()
    except (OSError, ValueError):
        return False


def grpc(port: str) -> bool:
    """Probe the code server as `memory-pipeline up` does."""
    from memory_pipeline.local.probes import probe_code_server  # noqa: PLC0415 - slow

    return probe_code_server(int(port)) == "up"


def daemon() -> bool:
    """Check the heartbeat as `memory-pipeline status` does."""
    from memory_pipeline.local.probes import probe_daemon  # noqa: PLC0415 - slow

    return probe_daemon(os.environ["MEMORY_PIPELINE_DAGSTER_DATABASE_URL"]) == "up"


CHECKS: dict[str, Callable[..., bool]] = {"http": http, "grpc": grpc, "daemon": daemon}

if __name__ == "__main__":
    sys.exit(0 if CHECKS[sys.argv[1]](*sys.argv[2:]) else 1)
