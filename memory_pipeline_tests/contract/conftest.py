"""Every contract of a port of Postgres runs against the fake and against Postgres."""

import pytest

from memory_pipeline.settings import Settings
from memory_pipeline_tests.contract.worlds import ADA, BOB, CHOSEN, FakeSide, RealSide, World


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return the settings of the real side, with the figures that both sides share."""
    return settings.model_copy(update=CHOSEN)


@pytest.fixture(params=["fake", "real"])
def world(request: pytest.FixtureRequest) -> World:
    """Return either world, with two tenants registered."""
    side: World
    if request.param == "fake":
        side = FakeSide(Settings.load(**CHOSEN))
    else:
        side = RealSide(request.getfixturevalue("pipeline"), request.getfixturevalue("db"))
    for tenant in (ADA, BOB):
        side.registry.register(tenant)
    return side
