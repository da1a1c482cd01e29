"""The sentence-transformers model: meaning to vectors.

Importing this module loads neither the model nor its libraries: that takes seconds, on first use.
"""

import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from memory_pipeline.domain.types import DIMENSION, Vector
from memory_pipeline.embedding.model_files import WEIGHTS_SHA256, verify_model
from memory_pipeline.errors import DeviceUnusable, EmbedderUnavailable, Poison
from memory_pipeline.logs import get_logger
from memory_pipeline.settings import PREFIX

Precision = Literal["auto", "bf16", "f32"]

MODEL = f"all-mpnet-base-v2@{WEIGHTS_SHA256[:12]}/{DIMENSION}/normalized"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
FAST_BF16 = ("avx512_bf16", "amx_bf16", "bf16")

log = get_logger("memory_pipeline.embedding.sentence")


class _Encoder(Protocol):
    """The part of a SentenceTransformer that is used."""

    def encode(
        self, sentences: list[str], *, batch_size: int, show_progress_bar: bool
    ) -> npt.NDArray[np.float32]: ...


class SentenceEmbedder:
    """Embeds with the real model, read from a local folder on first use; uses no network.

    Thread-safe: passes of the model take turns, so a search waits for a pass or two and not for all
    of a sync's batch. Precision is not part of the fingerprint: vectors of bf16 and f32 have a
    cosine above 0.999.

    Args:
        directory: the folder with the model's files.
        device: ``cpu``, ``cuda``, ``mps`` or ``auto``.
        precision: ``auto`` is bf16 where the device computes it itself, otherwise f32.
        batch_size: the number of texts in one pass of the model.

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
        self._passing = threading.Lock()  # the tokenizer fails if two threads use it at once

    @property
    def loaded(self) -> bool:
        """Whether ``embed`` would start at once."""
        return self._encoder is not None

    def load(self) -> None:
        """Load the model once; takes many seconds the first time.

        Raises:
            ModelMissing: its files are missing or are not the pinned ones.
            DeviceUnusable: torch cannot use the device of the settings.
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
        """Return one unit vector per text, in order: shape (768,), float32.

        Raises:
            Poison: the model refuses a text or has no usable vector for it; the text is not quoted.
            ModelMissing: its files are missing or are not the pinned ones.
            DeviceUnusable: torch cannot use the device of the settings.
            EmbedderUnavailable: it cannot be loaded, is out of memory or returns a wrong shape.

        """
        encoder = self._get()
        # Texts of about the same length in one pass need little padding.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
        for start in range(0, len(order), self._batch_size):
            positions = order[start : start + self._batch_size]
            with self._passing:
                encoded = _encode(encoder, [texts[at] for at in positions])
            vectors[positions] = encoded
        return list(_unit(vectors))


def _encode(encoder: _Encoder, texts: list[str]) -> npt.NDArray[np.float32]:
    """Pass one batch through the model. A failure that no single text causes is the model's."""
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
    """Normalise in float32, whatever the model computed in. Raises Poison for a zero or NaN."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if wrong.size:
        raise Poison(
            f"the model has no usable vector for {wrong.size} of {len(vectors)} texts, "
            f"at {', '.join(str(at) for at in wrong[:20])}"
        )
    return cast("npt.NDArray[np.float32]", (vectors / norms[:, None]).astype(np.float32))


def _open(directory: Path, device: str, precision: Precision) -> _Encoder:
    """Load the model from its folder, and from nowhere else.

    Raises:
        DeviceUnusable: torch cannot use the device, now or later.
        EmbedderUnavailable: any other error, which may have gone by the next attempt.

    """
    started = time.monotonic()
    # Threads that spin between two passes take the processor away from Chroma and Postgres.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with _without_chatter():
            import sentence_transformers  # noqa: PLC0415 - takes seconds
            import torch  # noqa: PLC0415 - takes seconds

            device = _best_device() if device == "auto" else device
            _check_device(device)
            if precision == "auto":
                precision = "bf16" if fast_bf16(device) else "f32"
            encoder = sentence_transformers.SentenceTransformer(
                str(directory), device=device, local_files_only=True
            ).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    except DeviceUnusable:
        raise
    except Exception as exc:  # the libraries raise errors of any class
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


def _check_device(device: str) -> None:
    """Refuse a device that no waiting brings: a typo is no outage.

    A CUDA of which torch sees no device at all is left alone: its driver may come later.
    """
    import torch  # noqa: PLC0415 - takes seconds

    kind, _, number = device.partition(":")
    built = {"cuda": torch.backends.cuda.is_built, "mps": torch.backends.mps.is_built}
    if kind in built and not built[kind]():
        raise DeviceUnusable(
            f"{PREFIX}DEVICE={device!r}: the installed torch is built without {kind}; "
            "allowed are auto and cpu, or another build of torch"
        )
    here = torch.cuda.device_count() if kind == "cuda" else 0
    if number and 0 < here <= int(number):
        raise DeviceUnusable(
            f"{PREFIX}DEVICE={device!r}: torch sees {here} CUDA devices; "
            f"allowed are cuda:0 to cuda:{here - 1}, auto and cpu"
        )


def fast_bf16(device: str) -> bool:
    """Whether the device computes bf16 itself; where it is emulated, f32 is faster."""
    import torch  # noqa: PLC0415 - takes seconds

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device != "cpu":
        return False
    # Older versions of torch have no get_capabilities; f32 is right everywhere.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in FAST_BF16)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Hide the libraries' warnings and progress bars, only while the model loads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils import logging as transformers_logging  # noqa: PLC0415 - seconds

        logs: Any = transformers_logging
        verbosity, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
        logs.set_verbosity_error()
        logs.disable_progress_bar()
        try:
            yield
        finally:
            logs.set_verbosity(verbosity)
            if bars:
                logs.enable_progress_bar()
