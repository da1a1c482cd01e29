"""A small disk for Chroma's data that can be filled: a tmpfs, which only root may mount."""

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
        """Shrink it to its contents: every later write fails.

        Raises:
            ServiceFailed: the contents grew faster than the disk could be shrunk.

        """
        for _ in range(TRIES):
            usage = os.statvfs(self.folder)
            used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
            with suppress(subprocess.CalledProcessError):  # its contents have grown since
                _run("mount", "-o", f"remount,size={used + PAGE_BYTES}", str(self.folder))
                return
        raise ServiceFailed("the disk could not be shrunk to its contents")

    def make_room(self) -> None:
        """Give it its full size again."""
        _run("mount", "-o", f"remount,size={SIZE_BYTES}", str(self.folder))


@contextmanager
def small_disk(folder: Path) -> Iterator[Disk | None]:
    """Mount a disk and unmount it at the end; yield None where mounting is not allowed."""
    folder.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder))
    except (OSError, subprocess.SubprocessError):
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        # Lazy: a process that is still ending may have a file open.
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
