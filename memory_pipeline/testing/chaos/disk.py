"""A small disk for Chroma's data that can be full: a tmpfs, which only root may mount."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from memory_pipeline.local.processes import ServiceFailed

SIZE_BYTES = 3_000_000_000
MOUNT_SECONDS = 10.0
PAGE_BYTES = 4096
TRIES = 20


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted file system."""

    folder: Path

    def fill(self) -> None:
        """Leave no room: what is written from now on fails.

        Raises:
            ServiceFailed: it was written faster than it could be made smaller.

        """
        for _ in range(TRIES):
            usage = os.statvfs(self.folder)
            used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
            with suppress(subprocess.CalledProcessError):  # no smaller than what is in use by now
                _run("mount", "-o", f"remount,size={used + PAGE_BYTES}", str(self.folder))
                return
        raise ServiceFailed("the disk could not be made as small as what is on it")

    def make_room(self) -> None:
        """Be as large as before."""
        _run("mount", "-o", f"remount,size={SIZE_BYTES}", str(self.folder))


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk | None]:
    """Mount a disk and take it away again; None where that is not allowed."""
    folder.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder))
    except (OSError, subprocess.SubprocessError):
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        # Lazily: a process that is just ending may still have a file open.
        _run("umount", "--lazy", str(folder))


def _run(*command: str) -> None:
    subprocess.run(
        command,
        check=True,
        timeout=MOUNT_SECONDS,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
