"""Where the embedded Postgres keeps its data and its socket. Opens no folder that is closed.

Postgres refuses to run as root, so another user runs it, and that user has to reach both the
server's files and its data. If a folder above them is closed to others, the data goes elsewhere;
the permissions of folders that are not ours stay as they are.
"""

import hashlib
import os
import pwd
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from memory_pipeline.local.processes import ServiceFailed

SERVER_USER = "pgserver"
SHARED = Path("/var/lib/memory_pipeline")
# The path of a Unix socket has at most 107 bytes on Linux.
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 107


@dataclass(frozen=True, slots=True)
class DataLocation:
    """Where the data is; ``note`` is a line for a person, empty if it is where it was wanted."""

    data: Path
    note: str = ""


def choose_data_location(wanted: Path, shared: Path = SHARED) -> DataLocation:
    """Return where the data is: where it is wanted, else below ``shared``. Makes nothing.

    Raises:
        ServiceFailed: there is data already, in a folder that the server's user cannot reach.

    """
    closed = closed_above(wanted)
    name = hashlib.sha256(str(wanted).encode()).hexdigest()[:12]
    other = shared / name / "postgres"
    moved = DataLocation(other, f"Postgres' data is in {other}: root's own folders stay closed")
    if _has_data(wanted):
        if closed is None:
            return DataLocation(wanted)
        raise ServiceFailed(
            f"Postgres' data is in {wanted}, which the user {SERVER_USER!r} cannot reach: "
            f"{closed} is closed to others; open it (chmod o+x) or choose another home"
        )
    if _has_data(other):
        return moved
    return DataLocation(wanted) if closed is None else moved


def make_folder(folder: Path) -> None:
    """Make a folder of ours that every user may pass through, whatever the umask is."""
    try:
        folder.mkdir(mode=0o755)
    except FileExistsError:
        return
    except OSError as error:
        raise ServiceFailed(f"{folder} cannot be made for Postgres: {error}") from error
    folder.chmod(0o755)


def closed_above(path: Path) -> Path | None:
    """Return the first folder above ``path`` that the server's user cannot pass through."""
    if os.geteuid() != 0:
        return None
    folders = [folder for folder in reversed(path.resolve().parents) if folder.exists()]
    return next((folder for folder in folders if not folder.stat().st_mode & stat.S_IXOTH), None)


def socket_folder(data: Path, user: str | None) -> Path:
    """Return the folder of the socket: the data's own, or one in /tmp if that path is too long."""
    if len(os.fsencode(data / SOCKET_NAME)) <= SOCKET_PATH_BYTES:
        return data
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"memory_pipeline-{name}"
    owner = os.geteuid() if user is None else pwd.getpwnam(user).pw_uid
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid == os.geteuid() != owner and stat.S_ISDIR(found.st_mode):
        os.chown(folder, owner, -1, follow_symlinks=False)
        found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner:
        raise ServiceFailed(f"{folder} belongs to another user; remove it or use a shorter home")
    return folder


def _has_data(data: Path) -> bool:
    return (data / "PG_VERSION").exists()
