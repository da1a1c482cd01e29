"""Dagster's code server, as a program that always ends; its arguments are `dagster api grpc`'s.

A thread of Dagster's own closes the runs whose processes have ended, and at the end tells the
server to stop. When a run ends while Dagster's database is away, that thread ends with an error:
from then on no dead run is closed, each keeps its slot for hours, and at SIGTERM the server waits
for ever, with no run under way. So this program watches over it:

1. that thread has ended with an error: as soon as no run is under way the process ends, and whoever
   started it (`up`, Docker) starts it again
2. SIGTERM or SIGINT: Dagster's server finishes the runs and the calls that it has
3. the time for these calls is over, and no run is under way: the process ends, whatever it waits
   for

As long as a run is under way, the process lives until it is killed.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

from memory_pipeline.logs import get_logger

CLEANUP_THREAD = "grpc-server-cleanup"
# Dagster's variable, in seconds, and its default.
GRACE_VARIABLE, GRACE_SECONDS = "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD", 60.0
# What an orderly end takes after the last call: a tick of that thread, and closing the storage.
MARGIN_SECONDS = 3.0
CHECK_SECONDS = 0.5
# A thread that ends with an error has to be noticed by whoever started this process.
LOST_THREAD = 1

log = get_logger("memory_pipeline.defs.code_server")


class Watch:
    """Ends this process when Dagster cannot, and never while a run is under way."""

    def __init__(self) -> None:
        self._stopping = threading.Event()

    def begin(self) -> None:
        """Install the handlers; Dagster copies that of SIGINT to SIGTERM."""
        signal.signal(signal.SIGINT, self._interrupted)
        threading.excepthook = self._thread_failed

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        """Interrupt the main thread as Python does, and see to the end; a second one is ignored."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        threading.Thread(target=self._end_in_time, name="code-server-end", daemon=True).start()
        raise KeyboardInterrupt

    def _end_in_time(self) -> None:
        """End the process once the calls have had their time; an orderly end comes first."""
        time.sleep(float(os.environ.get(GRACE_VARIABLE, GRACE_SECONDS)) + MARGIN_SECONDS)
        _wait_for_runs()
        log.warning(
            "dagster_code_cut_off",
            service="code-server",
            reason="no run is under way, and Dagster's server has not ended in its time",
            next="the process ends now",
        )
        _end(0)

    def _thread_failed(self, failed: threading.ExceptHookArgs) -> None:
        """Print the error as Python does; end the process if no dead run can be closed any more."""
        threading.__excepthook__(failed)
        if failed.thread is None or failed.thread.name != CLEANUP_THREAD:
            return
        log.warning(
            "dagster_cleanup_lost",
            service="code-server",
            reason=failed.exc_type.__name__,
            next="the process ends once no run is under way, and is started again",
        )
        _wait_for_runs()
        _end(0 if self._stopping.is_set() else LOST_THREAD)


def _wait_for_runs() -> None:
    """Wait until the process of every run has ended; each is a child of this one."""
    while multiprocessing.active_children():
        time.sleep(CHECK_SECONDS)


def _end(code: int) -> NoReturn:
    """End at once: what Python would still wait for is what does not end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Run the server with this process's arguments, until a signal."""
    # While Dagster loads the definitions, it hides the first folder of the module path, which it
    # takes for its command's own. Here that would be one of the user's.
    sys.path.insert(0, os.devnull)
    Watch().begin()
    from dagster._cli import main as dagster  # noqa: PLC0415 - every run imports this module first

    sys.argv[1:1] = ["api", "grpc"]
    dagster()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
