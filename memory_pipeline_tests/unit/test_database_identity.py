"""Which database wrote a marker: each line of the table in domain/database_identity.py."""

import pytest

from memory_pipeline.domain.database_identity import DatabaseId, WriterFacts, why_foreign

HERE = "71:16401/app"
KNOWN = WriterFacts(epoch_known=True, unmoved=True, same_outbox=True, neighbours={16401: "app"})


def facts(
    *,
    epoch_known: bool = True,
    unmoved: bool | None = True,
    same_outbox: bool | None = True,
    neighbours: dict[int, str] | None = None,
) -> WriterFacts:
    """Return what Postgres knows; everything is as it was but for what is said."""
    return WriterFacts(epoch_known, unmoved, same_outbox, neighbours or {16401: "app"})


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("71:16401/app", DatabaseId("71", 16401, "app")),
        (":16401/app", DatabaseId("", 16401, "app")),
        ("71:1/a/b:2/c", DatabaseId("71", 1, "a/b:2/c")),
        ("71:1/a\nb", DatabaseId("71", 1, "a\nb")),
        ("71/app", DatabaseId("71", None, "app")),
        ("71/a/b", DatabaseId("71", None, "a/b")),
        ("app", DatabaseId("", None, "app")),
        ("a/b", DatabaseId("", None, "a/b")),
    ],
)
def test_an_id_is_read_as_any_version_wrote_it(text: str, read: DatabaseId) -> None:
    """Markers and epochs outlive the version that wrote them."""
    assert DatabaseId.parse(text) == read


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (HERE, facts(epoch_known=False, unmoved=None)),  # a failover, a restore in place
        ("71/app", facts()),  # by the version before
        ("71:16401/before", facts()),  # renamed
        ("71:9/app", facts(same_outbox=False, unmoved=False)),  # dropped, and loaded again
    ],
)
def test_a_marker_of_this_database(written: str, said: WriterFacts) -> None:
    """Nobody has to do anything."""
    assert why_foreign(written, HERE, said) == ""


@pytest.mark.parametrize(
    ("written", "said", "told"),
    [
        ("72:16401/app", facts(), "pg_upgrade"),
        ("72:16401/before", facts(), "pg_upgrade"),
        ("72/app", facts(), "pg_upgrade"),
        ("72:16401/app", facts(same_outbox=False), "into another Postgres server"),
        ("72:16401/app", facts(same_outbox=None), "into another Postgres server"),
        ("72:9/app", facts(), "into another Postgres server"),
        ("72/other", facts(), "into another Postgres server"),
        ("71:9/old", facts(neighbours={9: "old"}), "a copy, and the original, 'old'"),
        ("71:9/old", facts(neighbours={9: "new"}), "a copy, and the original, 'new'"),
        ("71/old", facts(neighbours={9: "old"}), "a copy, and the original, 'old'"),
        # It took the name of the original, which has another one now.
        ("71:9/app", facts(neighbours={9: "app_old"}), "a copy, and the original, 'app_old'"),
        ("71:9/old", facts(), "not on this server any more"),
        ("71/old", facts(), "not on this server any more"),
        ("71:16401/old", facts(epoch_known=False), "older state or a clone"),
        ("71:16401/old", facts(unmoved=False), "older state or a clone"),
        ("71:16401/old", facts(unmoved=None), "older state or a clone"),
    ],
)
def test_a_marker_of_another_database(written: str, said: WriterFacts, told: str) -> None:
    """What happened is said as far as it can be told, and the command that ends it."""
    why = why_foreign(written, HERE, said)
    assert told in why
    assert "migrate --take-over" in why
    assert "'app' on server 71" in why


@pytest.mark.parametrize(
    ("written", "here"), [(":16401/app", HERE), ("app", HERE), (HERE, ":16401/app")]
)
def test_a_role_that_may_not_read_the_server_cannot_tell(written: str, here: str) -> None:
    """Taking over would not end it: the other role's next marker would be refused again."""
    why = why_foreign(written, here, KNOWN)
    assert "GRANT EXECUTE ON FUNCTION pg_control_system()" in why
    assert "take-over" not in why


def test_two_roles_that_may_not_read_it_agree() -> None:
    """By oid and name, as far as they see."""
    assert why_foreign(":16401/app", ":16401/app", KNOWN) == ""
    assert why_foreign("app", ":16401/app", KNOWN) == ""
    assert why_foreign(":9/old", ":16401/app", KNOWN) != ""
