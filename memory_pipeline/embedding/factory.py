"""The embedder that the settings name."""

from collections.abc import Callable
from inspect import Parameter, signature
from pkgutil import resolve_name

from memory_pipeline.embedding.cache import CachedEmbedder
from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.embedding.sentence import SentenceEmbedder
from memory_pipeline.errors import PipelineError, SettingsError
from memory_pipeline.ports import Embedder
from memory_pipeline.settings import EMBEDDERS, PREFIX, Settings

EMBEDDER_PARTS = ("loaded", "load", "model", "embed")


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
    try:
        embedder: Embedder = make(*arguments)
    except PipelineError:
        raise
    except Exception as error:  # it is the user's: of any class
        raise _wrong_embedder(name, f"it raises {type(error).__name__}: {error}") from error
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
