"""The machine and the versions that figures were measured on, so that they can be compared."""

import os
import platform
import re
import statistics
from collections.abc import Sequence
from importlib.metadata import version

import psutil


def machine() -> dict[str, object]:
    """Return the facts of this machine that figures depend on."""
    return {
        "cores": os.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1m": round(os.getloadavg()[0], 2),
        "system": _system(),
        "python": platform.python_version(),
        "chromadb": version("chromadb"),
        "psycopg": version("psycopg"),
    }


def _system() -> str:
    """Return the system and its release, without a vendor's suffix, which names one machine."""
    release = re.match(r"\d+(\.\d+)?", platform.release())
    return f"{platform.system()} {release[0] if release else ''}".rstrip()


def median(values: Sequence[float]) -> float:
    """Return the median, rounded to three decimals."""
    return round(statistics.median(values), 3)
