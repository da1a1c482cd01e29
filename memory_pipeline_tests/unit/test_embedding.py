"""The embedders: the stand-in, the real model behind a stub, the cache, and their settings."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from memory_pipeline.domain.types import DIMENSION
from memory_pipeline.embedding import sentence as embedding
from memory_pipeline.embedding.cache import CachedEmbedder
from memory_pipeline.embedding.factory import embedder_from
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.embedding.sentence import SentenceEmbedder
from memory_pipeline.errors import EmbedderUnavailable, ModelMissing, Poison, SettingsError
from memory_pipeline.local.environment import settings_environment
from memory_pipeline.settings import Settings
from memory_pipeline_tests.embedders import CountingEmbedder, RefusingEmbedder

Matrix = npt.NDArray[np.float32]


class FakeModel:
    """Stands for the library's model: one axis per first letter, or a failure."""

    def __init__(self, broken: Matrix | Exception | None = None) -> None:
        self.broken = broken
        self.batches: list[list[str]] = []

    def encode(self, sentences: list[str], **_: object) -> Matrix:
        """Answer as the library does."""
        self.batches.append(sentences)
        if isinstance(self.broken, Exception):
            raise self.broken
        if self.broken is not None:
            return self.broken
        vectors = np.zeros((len(sentences), DIMENSION), dtype=np.float32)
        for row, text in enumerate(sentences):
            vectors[row, ord(text[0])] = 3.0
            if "nan" in text:
                vectors[row, 0] = np.nan
            if "zero" in text:
                vectors[row] = 0.0
        return vectors


def with_model(model: FakeModel, *, batch_size: int = 2) -> SentenceEmbedder:
    """Return an embedder that has loaded the fake."""
    embedder = SentenceEmbedder(Path("nowhere"), batch_size=batch_size)
    embedder._encoder = model
    return embedder


def test_importing_the_module_loads_no_model_library() -> None:
    """Nothing that does not embed pays the seconds that torch takes to import."""
    code = (
        "import sys, memory_pipeline.embedding.sentence, memory_pipeline.embedding.download;"
        "print({'torch', 'transformers', 'sentence_transformers', 'huggingface_hub'}"
        " & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("text", ["a cat", "", "   ", "!?", "日本語", "a\ud800b", "x" * 100_000])
def test_the_stand_in_has_a_unit_vector_for_every_text(text: str) -> None:
    """No text is without a direction, the empty one included."""
    (vector,) = HashingEmbedder().embed([text])
    assert vector.shape == (DIMENSION,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_the_stand_in_puts_texts_that_share_words_near() -> None:
    """Shared words are near, shared parts of words a little, anything else is far."""
    query, same, alike, other = HashingEmbedder().embed(
        ["the red bicycle", "a bicycle that is red", "two bicycles", "quarterly tax report"]
    )
    assert query @ same > query @ alike > query @ other
    assert query @ same > 0.5
    assert abs(query @ other) < 0.2


def test_the_stand_in_gives_the_same_vector_in_every_process() -> None:
    """Vectors of yesterday's process and of today's can be compared."""
    code = (
        "import hashlib; from memory_pipeline.embedding.hashing import HashingEmbedder;"
        "(v,) = HashingEmbedder().embed(['a cat on a mat']);"
        "print(hashlib.sha256(v.tobytes()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_the_stand_in_gives_a_text_the_same_vector_in_any_company() -> None:
    """A vector depends on its text alone."""
    alone = HashingEmbedder().embed(["a cat"])[0]
    assert np.array_equal(alone, HashingEmbedder().embed(["a dog", "a cat", ""])[1])


def test_the_fingerprint_is_known_without_the_model() -> None:
    """A tenant's collection can be compared with the model before anything is loaded."""
    embedder = SentenceEmbedder(Path("nowhere"))
    assert embedder.model == "all-mpnet-base-v2@78c0197b6159/768/normalized"
    assert not embedder.loaded


def test_a_missing_model_says_what_to_run(tmp_path: Path) -> None:
    """The error names the command that downloads the model."""
    with pytest.raises(ModelMissing, match="run: memory-pipeline model pull"):
        SentenceEmbedder(tmp_path).load()


def test_the_model_is_loaded_once_by_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that embed at the same time share one model."""
    opened: list[FakeModel] = []
    inside = threading.Barrier(4)

    def open_model(*_: object) -> FakeModel:
        opened.append(FakeModel())
        time.sleep(0.05)  # long enough for the others to come
        return opened[-1]

    monkeypatch.setattr(embedding, "verify_model", lambda _: None)
    monkeypatch.setattr(embedding, "_open", open_model)
    embedder = SentenceEmbedder(Path("nowhere"))

    def embed() -> None:
        inside.wait(timeout=5)
        embedder.embed(["a"])

    threads = [threading.Thread(target=embed) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=5)
    assert len(opened) == 1
    assert embedder.loaded


def test_texts_are_embedded_by_length_and_come_back_in_order() -> None:
    """Batches need little padding, and the caller does not see that they were sorted."""
    model = FakeModel()
    vectors = with_model(model).embed(["ccccc", "a", "bbb", "dd"])
    assert model.batches == [["a", "dd"], ["bbb", "ccccc"]]
    assert [int(vector.argmax()) for vector in vectors] == [ord(letter) for letter in "cabd"]


def test_vectors_are_normalised_whatever_the_model_returns() -> None:
    """Distances mean the same for every vector."""
    for vector in with_model(FakeModel()).embed(["a", "b", "c"]):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        assert vector.dtype == np.float32


def test_no_texts_are_no_work() -> None:
    """An empty batch asks nothing of the model."""
    model = FakeModel()
    assert with_model(model).embed([]) == []
    assert model.batches == []


@pytest.mark.parametrize("text", ["nan here", "zero here"])
def test_a_vector_without_a_direction_is_poison(text: str) -> None:
    """A text that the model cannot place is refused, by number and position, never by its words."""
    with pytest.raises(Poison, match="1 of 3 texts, at 1") as refusal:
        with_model(FakeModel()).embed(["a", text, "b"])
    assert "here" not in str(refusal.value)


@pytest.mark.parametrize("shape", [(1, DIMENSION), (3, DIMENSION), (2, 384), (2,), (0,)])
def test_a_wrong_number_of_vectors_or_floats_is_an_outage(shape: tuple[int, ...]) -> None:
    """A model that answers in another shape is broken as a whole; no memory is to blame."""
    with pytest.raises(EmbedderUnavailable, match="the model answered"):
        with_model(FakeModel(np.ones(shape, dtype=np.float32))).embed(["a", "b"])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_running_out_of_memory_is_an_outage(error: Exception) -> None:
    """A machine that is too full charges no memory."""
    with pytest.raises(EmbedderUnavailable, match="out of memory"):
        with_model(FakeModel(error)).embed(["a"])


@pytest.mark.parametrize("error", [RuntimeError("bad index"), TypeError("TextEncodeInput")])
def test_a_text_that_the_model_refuses_is_poison(error: Exception) -> None:
    """What the libraries raise over a text is the text's fault until a control text fails too."""
    with pytest.raises(Poison):
        with_model(FakeModel(error)).embed(["a"])


def test_two_threads_never_use_the_model_at_once() -> None:
    """Passes of the model take turns: its tokenizer is not made for sharing."""
    inside: list[str] = []
    overlaps: list[str] = []

    class WatchedModel(FakeModel):
        def encode(self, sentences: list[str], **_kwargs: object) -> Matrix:
            inside.extend(sentences)
            time.sleep(0.01)  # as long as a pass takes, for the other thread to come
            overlaps.extend(inside[1:])
            inside.clear()
            return super().encode(sentences)

    embedder = with_model(WatchedModel(), batch_size=1)
    other = threading.Thread(target=embedder.embed, args=(["a", "b", "c", "d"],))
    other.start()
    embedder.embed(["e", "f", "g", "h"])
    other.join(timeout=10)
    assert overlaps == []


def test_a_text_that_comes_again_is_not_embedded_again() -> None:
    """A batch that is retried, or halved, costs the model nothing."""
    inner = CountingEmbedder()
    cached = CachedEmbedder(inner)
    first = cached.embed(["a", "bb", "a"])
    again = cached.embed(["bb", "ccc", "a"])
    assert inner.texts == ["a", "bb", "ccc"]
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(again[0], first[1])
    assert np.array_equal(again[2], first[0])


def test_what_was_embedded_before_a_refusal_is_kept() -> None:
    """Singling out a bad text embeds again only the chunk that it was in."""
    inner = RefusingEmbedder(word="bad!!")
    cached = CachedEmbedder(inner, chunk=2)
    with pytest.raises(Poison):
        cached.embed(["bad!!", "a", "bb"])
    cached.embed(["bb", "a"])
    assert inner.texts == ["a", "bb", "bad!!"]


def test_the_cache_forgets_the_text_that_was_not_used_for_longest() -> None:
    """The cache has an upper bound, and the newest texts are in it."""
    inner = CountingEmbedder()
    cached = CachedEmbedder(inner, capacity=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        cached.embed([text])
    assert inner.texts == ["a", "b", "c", "b"]


def test_a_batch_larger_than_the_cache_is_complete() -> None:
    """The cache may be too small for a batch; the answer is whole all the same."""
    texts = [f"text {number}" for number in range(100)]
    cached = CachedEmbedder(HashingEmbedder(), capacity=3)
    assert np.array_equal(cached.embed(texts), HashingEmbedder().embed(texts))


def test_a_caller_cannot_change_a_cached_vector() -> None:
    """A vector that is shared cannot be written to."""
    cached = CachedEmbedder(HashingEmbedder())
    with pytest.raises(ValueError, match="read-only"):
        cached.embed(["a"])[0][0] = 7.0


def test_the_cache_has_the_fingerprint_of_the_model_behind_it() -> None:
    """Whether vectors are cached makes no difference to what they are."""
    assert CachedEmbedder(HashingEmbedder()).model == "hashing-768-v1"
    assert CachedEmbedder(HashingEmbedder()).loaded


def test_the_settings_name_the_embedder(tmp_path: Path) -> None:
    """The stand-in is used only if the settings name it, and choosing loads nothing."""
    assert embedder_from(Settings.load(embedder="hashing")).model == "hashing-768-v1"
    real = embedder_from(Settings.load(model_dir=tmp_path))
    assert real.model.startswith("all-mpnet-base-v2@")
    assert not real.loaded


THIS_MODULE = __name__
NO_EMBEDDER = "a text is not callable"


class EmbedderOfMyOwn(HashingEmbedder):
    """An embedder of an application, with a fingerprint of its own."""

    model = "my-own-768"


def embedder_of_my_own(settings: Settings) -> EmbedderOfMyOwn:
    """Make one from the settings."""
    made = EmbedderOfMyOwn()
    made.model = f"my-own-768@{settings.device}"
    return made


def embedder_that_fails() -> EmbedderOfMyOwn:
    """Fail as an embedder does whose service is not configured."""
    raise KeyError("API_KEY")


@pytest.mark.parametrize(
    ("attribute", "model"),
    [("EmbedderOfMyOwn", "my-own-768"), ("embedder_of_my_own", "my-own-768@cpu")],
)
def test_an_embedder_of_ones_own_is_named_by_module_and_attribute(
    attribute: str, model: str
) -> None:
    """A class without arguments or a function of the settings; its vectors are its own."""
    settings = Settings.load(embedder=f"{THIS_MODULE}:{attribute}", device="cpu")
    embedder = embedder_from(settings)
    assert embedder.model == model
    assert embedder.loaded
    np.testing.assert_array_equal(
        embedder.embed(["hello"])[0], HashingEmbedder().embed(["hello"])[0]
    )


def test_child_processes_get_the_name_of_the_embedder() -> None:
    """`up` starts its services with the settings of the stack in their environment."""
    named = f"{THIS_MODULE}:EmbedderOfMyOwn"
    environment = settings_environment(Settings.load(embedder=named))
    assert environment["MEMORY_PIPELINE_EMBEDDER"] == named


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_module:Embedder", "No module named 'no_such_module'"),
        (f"{THIS_MODULE}:NoSuchEmbedder", "has no attribute 'NoSuchEmbedder'"),
        (f"{THIS_MODULE}:NO_EMBEDDER", "it is not callable"),
        (f"{THIS_MODULE}:CachedEmbedder.embed", "missing a required argument: 'texts'"),
        (f"{THIS_MODULE}:embedder_that_fails", "it raises KeyError: 'API_KEY'"),
        ("builtins:dict", "it returns dict, which lacks loaded, load, model, embed"),
        (f"{THIS_MODULE}:FakeModel", "it returns FakeModel, which lacks loaded, load, model"),
    ],
)
def test_a_wrong_name_of_an_embedder_is_refused_when_it_is_built(name: str, why: str) -> None:
    """With the variable, the value, the reason and what is allowed; settings import nothing."""
    settings = Settings.load(embedder=name)
    with pytest.raises(SettingsError) as refused:
        embedder_from(settings)
    assert str(refused.value).startswith(f"MEMORY_PIPELINE_EMBEDDER={name!r}: ")
    assert why in str(refused.value)
    assert "allowed are model, hashing, or module:attribute" in str(refused.value)


@pytest.mark.parametrize("name", ["modle", "", "a:", ":b", "a b:c", "a:b:c", "a/b.py:c", "1:2"])
def test_a_name_of_another_form_is_refused_at_once(name: str) -> None:
    """What broke is a typing error of `model` or `hashing`: it names no module."""
    with pytest.raises(SettingsError, match="allowed are model, hashing, or module:attribute"):
        Settings.load(embedder=name)
