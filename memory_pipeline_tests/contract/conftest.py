"""Every contract of a port of Postgres runs against the fake, Postgres, and a pooler before it."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.pipeline import opened
from memory_pipeline.settings import Settings
from memory_pipeline_tests.contract.worlds import ADA, BOB, CHOSEN, FakeSide, RealSide, World
from memory_pipeline_tests.pgbouncer import through_pooler


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return the settings of the real side, with the figures that both sides share."""
    return settings.model_copy(update=CHOSEN)


@pytest.fixture(params=["fake", "real", "pooled"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Return each world, with two tenants registered."""
    side: World
    with ExitStack() as stack:
        if request.param == "fake":
            side = FakeSide(Settings.load(**CHOSEN))
        elif request.param == "real":
            side = RealSide(request.getfixturevalue("pipeline"), request.getfixturevalue("db"))
        else:
            request.getfixturevalue("unmarked_chroma")
            pooled = through_pooler(
                request.getfixturevalue("settings"), request.getfixturevalue("pooler")
            )
            parts = stack.enter_context(opened(pooled, embedder=HashingEmbedder()))
            side = RealSide(parts, request.getfixturevalue("db"))
        for tenant in (ADA, BOB):
            side.registry.register(tenant)
        yield side
