"""The tests run on a server that is given, and say what a machine lacks."""

import pytest

from memory_pipeline_tests.needs import NOTHING_MAY_LACK, unavailable
from memory_pipeline_tests.servers import GivenPostgres


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (
            "postgresql://u:p%40@h:5433/postgres?sslmode=require",
            "u:p%40@h:5433/a%20b?sslmode=require",
        ),
        ("postgresql://postgres@/postgres?host=/run/p", "postgres@/a%20b?host=/run/p"),
        ("postgresql:///?host=/run/p", "/a%20b?host=/run/p"),
        ("postgresql://h", "h/a%20b"),
        ("postgresql://u@[::1]:5,h/d", "u@[::1]:5,h/a%20b"),
    ],
)
def test_a_database_of_a_given_server_has_its_address(given: str, address: str) -> None:
    """Whatever the address has beside the database's name stays."""
    assert GivenPostgres(given).url("a b") == f"postgresql://{address}"


def test_what_a_machine_lacks_is_skipped_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who runs the tests at home need not have everything."""
    monkeypatch.delenv(NOTHING_MAY_LACK, raising=False)

    with pytest.raises(pytest.skip.Exception, match="no PgBouncer here: apt-get install pgbouncer"):
        unavailable("no PgBouncer here", install="apt-get install pgbouncer")


def test_what_a_machine_lacks_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that never ran must not look like one that passed."""
    monkeypatch.setenv(NOTHING_MAY_LACK, "yes")

    with pytest.raises(pytest.fail.Exception, match="no PgBouncer here: apt-get install pgbouncer"):
        unavailable("no PgBouncer here", install="apt-get install pgbouncer")
