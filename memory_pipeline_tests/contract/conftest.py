"""Every contract of a port of Postgres runs against the fake and against Postgres."""

import os
from collections.abc import Iterator

import pytest

from memory_pipeline.settings import Settings
from memory_pipeline_tests.contract.worlds import ADA, BOB, CHOSEN, FakeSide, RealSide, World
from memory_pipeline_tests.databases import discard, new_database
from memory_pipeline_tests.pgbouncer import PgBouncer, through_pooler
from memory_pipeline_tests.servers import (
    GIVEN,
    POSTGRES_16_PGVECTOR_06,
    POSTGRES_16_PGVECTOR_08,
    PostgresServer,
    server_of,
)

# The fixture of the server of each side that is not the suite's own.
OTHER_SERVERS = {
    "postgres16-pgvector0.8": "postgres_16_pgvector_08",
    "postgres16-pgvector0.6": "postgres_16_pgvector_06",
}
THROUGH_POOLER = "pgbouncer"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of a world on every side; on a server that was given alone, if there is one."""
    if "world" in metafunc.fixturenames:
        others = [THROUGH_POOLER] if os.environ.get(GIVEN) else [*OTHER_SERVERS, THROUGH_POOLER]
        marked = [pytest.param(side, marks=pytest.mark.servers) for side in others]
        metafunc.parametrize("side", ["fake", "real", *marked], indirect=True)


@pytest.fixture(scope="session")
def postgres_16_pgvector_08() -> Iterator[PostgresServer]:
    """Start Postgres 16 with pgvector 0.8."""
    with server_of(POSTGRES_16_PGVECTOR_08) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_16_pgvector_06() -> Iterator[PostgresServer]:
    """Start Postgres 16 with pgvector 0.6."""
    with server_of(POSTGRES_16_PGVECTOR_06) as server:
        yield server


@pytest.fixture
def side(request: pytest.FixtureRequest) -> str:
    """Return the name of what a test runs against."""
    return str(getattr(request, "param", "real"))


@pytest.fixture
def database_url(side: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of a freshly migrated database on the side's server."""
    server: PostgresServer = request.getfixturevalue(OTHER_SERVERS.get(side, "postgres"))
    url = new_database(server)
    yield url
    discard(server, url)


@pytest.fixture
def settings(
    side: str, settings: Settings, database_url: str, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    """Return the settings of the real sides, with the figures that all sides share.

    Behind the pooler, all connections are a neighbour's before, and found as they were after.
    """
    chosen = settings.model_copy(update=CHOSEN)
    if side != THROUGH_POOLER:
        yield chosen
        return
    pooler: PgBouncer = request.getfixturevalue("pooler")
    pooler.seed(database_url)
    yield through_pooler(chosen, pooler)
    assert pooler.left_behind(database_url) == set()


@pytest.fixture
def world(side: str, request: pytest.FixtureRequest) -> World:
    """Return the world of a side, with two tenants registered."""
    found: World
    if side == "fake":
        found = FakeSide(Settings.load(**CHOSEN))
    else:
        found = RealSide(request.getfixturevalue("pipeline"), request.getfixturevalue("db"))
    for tenant in (ADA, BOB):
        found.registry.register(tenant)
    return found
