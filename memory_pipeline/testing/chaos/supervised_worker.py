"""A worker of the stack: started, killed, frozen, and restarted when it has ended by itself."""

import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from memory_pipeline.local.processes import tail

STOP_SECONDS = 30.0
# The command's exit code when a service is unavailable: a supervisor tries again.
UNAVAILABLE = 3


class SupervisedWorker:
    """One process; while a fault holds it, only the fault starts it again. Thread-safe."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.starts = 0
        self._command = list(command)
        self._environment = dict(environment)
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None
        self._held = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start it if it does not run, and allow restarts."""
        with self._lock:
            self._held = False
            self._start()

    def _start(self) -> None:
        if self._child is not None and self._child.poll() is None:
            return
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        with self._lock:
            self._signal(number)

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def kill(self) -> None:
        """Kill it; it stays dead until ``start``."""
        with self._lock:
            self._held = True
            self._signal(signal.SIGKILL)
            if self._child is not None:
                self._child.wait()

    def stop(self) -> int:
        """Stop it in an orderly way and return its exit code; it stays so until ``start``."""
        with self._lock:
            self._held = True
            self._signal(signal.SIGTERM)
            return self._wait()

    def request_stop(self) -> None:
        """Ask it to stop for good, also where it is frozen, without waiting."""
        with self._lock:
            self._held = True
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)

    def wait(self) -> None:
        """Wait for its end; kill it after ``STOP_SECONDS``."""
        with self._lock:
            self._wait()

    def _wait(self) -> int:
        if self._child is None:
            return 0
        try:
            return self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    def restart_if_ended(self) -> str:
        """Restart it if it has ended and no fault holds it.

        Return how it ended, empty unless that was wrong.
        """
        with self._lock:
            child = self._child
            if self._held or child is None or child.poll() is None:
                return ""
            code = child.returncode
            self._start()
        return "" if code == UNAVAILABLE else f"{self.name} ended with {code}: {self.tail()[-500:]}"

    def tail(self) -> str:
        """Return the last lines of its log."""
        return tail(self._log)
