"""The real model, where it was pulled: ready offline, and its vectors mean what texts mean."""

import socket
import warnings
from pathlib import Path

import numpy as np
import pytest

from memory_pipeline.embedding import sentence as embedding
from memory_pipeline.embedding.download import pull_model
from memory_pipeline.embedding.model_files import model_ready
from memory_pipeline.embedding.sentence import SentenceEmbedder, fast_bf16
from memory_pipeline.errors import EmbedderUnavailable, Poison
from memory_pipeline.settings import Settings

pytestmark = [pytest.mark.model, pytest.mark.timeout(1200)]

TEXTS = [
    "cat on a mat",
    "a kitten lies on a rug",
    "the quarterly tax report is due on Friday",
    "",
    "Fix the retry loop: a timeout after send is an unknown outcome. " * 20,
    "日本語のメモ 🎉",
]


@pytest.fixture(scope="module")
def directory() -> Path:
    """Return the folder of the real model, pulled if it is not there."""
    return pull_model(Settings.load().model_cache(), progress=lambda *_: None)


@pytest.fixture(scope="module")
def embedder(directory: Path) -> SentenceEmbedder:
    """Return the model as it is used by default."""
    return SentenceEmbedder(directory)


def test_the_model_is_ready_after_a_pull(directory: Path) -> None:
    """What was pulled is found cheaply the next time."""
    assert model_ready(directory)


def test_loading_touches_no_network_and_says_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The model loads on a machine without a network, under the strictest warnings."""
    tried: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: tried.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: tried.append(args))
    model = SentenceEmbedder(directory)
    filters = list(warnings.filters)
    model.load()
    assert model.loaded
    assert tried == []
    assert "Loading weights" not in "".join(capfd.readouterr())
    assert warnings.filters == filters


def test_a_model_that_cannot_be_loaded_is_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken files charge no memory: the changes wait."""
    monkeypatch.setattr(embedding, "verify_model", lambda _: None)
    model = SentenceEmbedder(tmp_path, device="cpu")
    with pytest.raises(EmbedderUnavailable, match="cannot be loaded"):
        model.load()
    assert not model.loaded


def test_vectors_have_768_floats_and_length_one(embedder: SentenceEmbedder) -> None:
    """Every text, the empty one included, has a unit vector of the contract's size."""
    for vector in embedder.embed(TEXTS):
        assert vector.shape == (768,)
        assert vector.dtype == np.float32
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)


def test_texts_that_mean_the_same_are_nearer(embedder: SentenceEmbedder) -> None:
    """The model knows that a kitten is a cat."""
    cat, kitten, tax = embedder.embed(TEXTS[:3])
    assert cat @ kitten > cat @ tax + 0.3


def test_vectors_come_back_in_the_order_of_the_texts(embedder: SentenceEmbedder) -> None:
    """Each vector belongs to the text at its place, however the batches were cut."""
    together = embedder.embed(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        (alone,) = embedder.embed([text])
        assert max(range(len(TEXTS)), key=lambda at: float(alone @ together[at])) == TEXTS.index(
            text
        )
        assert alone @ vector >= 0.999


def test_bf16_agrees_with_f32(directory: Path) -> None:
    """Vectors of either precision can stand in one collection."""
    if not fast_bf16("cpu"):
        pytest.skip("bf16 is not used on this CPU")
    half = SentenceEmbedder(directory, device="cpu", precision="bf16").embed(TEXTS)
    full = SentenceEmbedder(directory, device="cpu", precision="f32").embed(TEXTS)
    for a, b in zip(half, full, strict=True):
        assert a @ b >= 0.999


def test_a_text_that_is_no_text_is_poison(embedder: SentenceEmbedder) -> None:
    """Half a surrogate pair cannot be tokenized; the other texts are not to blame."""
    with pytest.raises(Poison):
        embedder.embed(["fine", "\ud800"])
    assert len(embedder.embed(["fine"])) == 1
