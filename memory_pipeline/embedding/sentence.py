"""Texts to vectors: the real model, a lexical stand-in, and a cache before either.

Importing this loads no model and no library of one: that takes seconds and happens on first use.
"""

import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from memory_pipeline.domain.types import DIMENSION, Vector
from memory_pipeline.embedding.download import WEIGHTS_SHA256, verify_model
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import EmbedderUnavailable, Poison, SettingsError
from memory_pipeline.logs import get_logger
from memory_pipeline.ports import Embedder
from memory_pipeline.settings import EMBEDDERS, PREFIX, Settings

__all__ = ["CachedEmbedder", "HashingEmbedder", "SentenceEmbedder", "embedder_from"]

Precision = Literal["auto", "bf16", "f32"]

MODEL = f"all-mpnet-base-v2@{WEIGHTS_SHA256[:12]}/{DIMENSION}/normalized"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
FAST_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
EMBEDDER_PARTS = ("loaded", "load", "model", "embed")

log = get_logger("memory_pipeline.embedding.sentence")


class _Encoder(Protocol):
    """What is used of a SentenceTransformer."""

    def encode(
        self, sentences: list[str], *, batch_size: int, show_progress_bar: bool
    ) -> npt.NDArray[np.float32]: ...


class SentenceEmbedder:
    """The real model, read from a local folder on first use; never touches the network.

    Threads share it: passes of the model take turns, so a query waits for a pass or two, not for
    somebody's whole batch. Precision is not part of the fingerprint: the vectors of both agree to
    three nines.
    """

    model = MODEL

    def __init__(
        self,
        directory: Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int = 32,
    ) -> None:
        self._directory = directory
        self._device = device
        self._precision = precision
        self._batch_size = batch_size
        self._encoder: _Encoder | None = None
        self._loading = threading.Lock()
        self._passing = threading.Lock()  # the tokenizer breaks where two threads use it at once

    @property
    def loaded(self) -> bool:
        """Whether ``embed`` would start at once."""
        return self._encoder is not None

    def load(self) -> None:
        """Load the model once; takes many seconds the first time.

        Raises:
            ModelMissing: its files are not here or not the pinned ones.
            EmbedderUnavailable: it cannot be loaded.

        """
        self._get()

    def _get(self) -> _Encoder:
        with self._loading:
            if self._encoder is None:
                verify_model(self._directory)
                self._encoder = _open(self._directory, self._device, self._precision)
            return self._encoder

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one unit vector a text, in order.

        Raises:
            Poison: the model refuses a text or has no usable vector for it; the text is not named.
            ModelMissing: its files are not here or not the pinned ones.
            EmbedderUnavailable: it cannot be loaded, is out of memory or is not what it should be.

        """
        encoder = self._get()
        # Texts of one length waste nothing on padding.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
        for start in range(0, len(order), self._batch_size):
            positions = order[start : start + self._batch_size]
            with self._passing:
                encoded = _encode(encoder, [texts[at] for at in positions])
            vectors[positions] = encoded
        return list(_unit(vectors))


def _encode(encoder: _Encoder, texts: list[str]) -> npt.NDArray[np.float32]:
    """Pass one batch through the model. What it answers to all texts alike is its own fault."""
    try:
        encoded = encoder.encode(texts, batch_size=len(texts), show_progress_bar=False)
    except MemoryError as exc:
        raise EmbedderUnavailable("the embedding model is out of memory") from exc
    except (RuntimeError, ValueError, TypeError, IndexError) as exc:
        reason = str(exc).lower()
        if any(sign in reason for sign in OUT_OF_MEMORY):
            raise EmbedderUnavailable("the embedding model is out of memory") from exc
        raise Poison(f"the model refuses one of {len(texts)} texts ({type(exc).__name__})") from exc
    shape = np.shape(encoded)
    if shape != (len(texts), DIMENSION):
        raise EmbedderUnavailable(
            f"the model answered {shape} to {len(texts)} texts, not {(len(texts), DIMENSION)}"
        )
    return encoded


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Normalise in float32, whatever the model computed in; refuse what has no direction."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if wrong.size:
        raise Poison(
            f"the model has no usable vector for {wrong.size} of {len(vectors)} texts, "
            f"at {', '.join(str(at) for at in wrong[:20])}"
        )
    return cast("npt.NDArray[np.float32]", (vectors / norms[:, None]).astype(np.float32))


def _open(directory: Path, device: str, precision: Precision) -> _Encoder:
    """Load the model from its folder, and from nowhere else."""
    started = time.monotonic()
    # Threads that spin between two passes would take the processor from Chroma and Postgres.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with _without_chatter():
            import sentence_transformers  # noqa: PLC0415 - takes seconds
            import torch  # noqa: PLC0415 - takes seconds

            device = _best_device() if device == "auto" else device
            if precision == "auto":
                precision = "bf16" if fast_bf16(device) else "f32"
            encoder = sentence_transformers.SentenceTransformer(
                str(directory), device=device, local_files_only=True
            ).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    except Exception as exc:  # the libraries raise whatever their parts raise
        raise EmbedderUnavailable(
            f"the embedding model in {directory} cannot be loaded: {type(exc).__name__}: {exc}"
        ) from exc
    ms = round((time.monotonic() - started) * 1000)
    log.info("model_loaded", device=device, precision=precision, ms=ms)
    return cast("_Encoder", encoder)


def _best_device() -> str:
    import torch  # noqa: PLC0415 - takes seconds

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fast_bf16(device: str) -> bool:
    """Tell whether the device computes bf16 itself; where it is emulated, f32 is faster."""
    import torch  # noqa: PLC0415 - takes seconds

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device != "cpu":
        return False
    # Older versions of torch do not tell; f32 is right everywhere.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in FAST_BF16)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep the libraries' warnings and bars off the screen while the model loads, no longer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as chatter  # noqa: PLC0415 - takes seconds

        said: Any = chatter
        verbosity, bars = said.get_verbosity(), said.is_progress_bar_enabled()
        said.set_verbosity_error()
        said.disable_progress_bar()
        try:
            yield
        finally:
            said.set_verbosity(verbosity)
            if bars:
                said.enable_progress_bar()


class CachedEmbedder:
    """Keeps the newest vectors by text, so that a batch that comes again is not embedded again.

    What is embedded goes to the model in chunks, each kept when it is done: where one is refused,
    only that one is done again. The vectors are shared and therefore read-only.
    """

    def __init__(self, inner: Embedder, capacity: int = 2048, *, chunk: int = 32) -> None:
        self._inner = inner
        self._capacity = capacity
        self._chunk = chunk
        self._kept: OrderedDict[str, Vector] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def loaded(self) -> bool:
        """Whether ``embed`` would start at once."""
        return self._inner.loaded

    @property
    def model(self) -> str:
        """The fingerprint of the model behind it."""
        return self._inner.model

    def load(self) -> None:
        """Load the model behind it."""
        self._inner.load()

    def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return one vector a text, in order. Raises what the model behind it raises."""
        with self._lock:
            found = {text: self._kept[text] for text in texts if text in self._kept}
            for text in found:
                self._kept.move_to_end(text)
        missing = sorted({text for text in texts if text not in found}, key=len)
        for start in range(0, len(missing), self._chunk):
            chunk = missing[start : start + self._chunk]
            found |= self._keep(dict(zip(chunk, self._inner.embed(chunk), strict=True)))
        return [found[text] for text in texts]

    def _keep(self, vectors: dict[str, Vector]) -> dict[str, Vector]:
        # Copies: a row of a matrix would keep the whole matrix in memory.
        copies = {text: vector.copy() for text, vector in vectors.items()}
        for vector in copies.values():
            vector.flags.writeable = False
        with self._lock:
            self._kept |= copies
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return copies


def embedder_from(settings: Settings) -> Embedder:
    """Return the embedder that the settings name; loads no model yet.

    ``module:attribute`` is imported here, and the attribute is called with the settings where it
    requires an argument, else without one. Threads share what it returns, so its ``embed`` has to
    be thread-safe.

    Raises:
        SettingsError: ``module:attribute`` names nothing that returns an embedder.

    """
    if settings.embedder == "hashing":
        return CachedEmbedder(HashingEmbedder())
    if settings.embedder != "model":
        return CachedEmbedder(_named_embedder(settings), chunk=settings.embed_batch_size)
    model = SentenceEmbedder(
        settings.model_cache(),
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.embed_batch_size,
    )
    return CachedEmbedder(model, chunk=settings.embed_batch_size)


def _named_embedder(settings: Settings) -> Embedder:
    """Import and call what ``module:attribute`` names. Raises SettingsError."""
    name = settings.embedder
    try:
        make = resolve_name(name)
    except (ImportError, AttributeError) as error:
        raise _wrong_embedder(name, f"it cannot be imported ({error})") from error
    if not callable(make):
        raise _wrong_embedder(name, "it is not callable")
    try:
        arguments = _arguments(make, settings)
    except TypeError as error:
        raise _wrong_embedder(name, f"it cannot be called so ({error})") from error
    embedder: Embedder = make(*arguments)
    if lacking := [part for part in EMBEDDER_PARTS if not hasattr(embedder, part)]:
        returned = f"it returns {type(embedder).__name__}, which lacks {', '.join(lacking)}"
        raise _wrong_embedder(name, returned)
    return embedder


def _arguments(make: Callable[..., object], settings: Settings) -> tuple[Settings, ...]:
    """Return the settings where an argument is required. Raises TypeError where two are."""
    try:
        accepted = signature(make)
    except ValueError:  # written in C, without a signature
        return ()
    positional = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
    required = any(
        p.kind in positional and p.default is Parameter.empty for p in accepted.parameters.values()
    )
    arguments = (settings,) if required else ()
    accepted.bind(*arguments)
    return arguments


def _wrong_embedder(name: str, why: str) -> SettingsError:
    return SettingsError(
        f"{PREFIX}EMBEDDER={name!r}: {why}; allowed are {EMBEDDERS}, where the attribute is a "
        "callable that takes the settings, or nothing, and returns an embedder"
    )
