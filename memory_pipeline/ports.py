"""The protocols that several packages share; each declares in its own ``ports.py`` what it needs.

``postgres/``, ``chroma/`` and ``embedding/`` satisfy all of them, and so do the fakes of the tests,
which the same contract tests check. Only ``pipeline.py`` joins the two sides.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from memory_pipeline.domain.types import TenantId, Token, Vector

RenewLease = Callable[[], float]
"""Renew the lease; return the seconds that the next call may take. Raises Fenced."""


class Lease(Protocol):
    """One worker's exclusive right to write a tenant's collections, for a few seconds."""

    @property
    def tenant(self) -> TenantId:
        """The tenant that the lease is on."""
        ...

    @property
    def token(self) -> Token:
        """The number that each write to Postgres names; it only grows."""
        ...

    @property
    def retries(self) -> int:
        """How many syncs of the tenant have failed in a row."""
        ...

    def renew(self) -> float:
        """Renew; return the seconds that the next call may take. Raises Fenced."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def loaded(self) -> bool:
        """Whether ``embed`` would start at once."""
        ...

    def load(self) -> None:
        """Load the model; may take many seconds.

        Raises:
            ModelMissing: its files are not on this machine.
            EmbedderUnavailable: it cannot be loaded now.
            DeviceUnusable: the settings name a device that torch cannot use.

        """
        ...

    @property
    def model(self) -> str:
        """The fingerprint of the model: name, revision, dimension, normalisation."""
        ...

    def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """Return one vector of shape (768,) a text, in order.

        Raises:
            Poison: the model refuses a text for what it is.
            EmbedderUnavailable: the model cannot be loaded, or fails on every text.

        """
        ...
