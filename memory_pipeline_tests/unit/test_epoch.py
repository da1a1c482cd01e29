"""Has Postgres gone back in time: each line of the table in domain/epoch.py, without a database."""

from uuid import UUID, uuid4

import pytest

from memory_pipeline.domain.epoch import (
    AHEAD,
    DatabaseLocation,
    EpochStamp,
    RollbackSign,
    rollback_signs,
)

HERE = DatabaseLocation("1:5/app", 3, 16_401)
OLD, NEW, STRANGE, OTHER = uuid4(), uuid4(), uuid4(), uuid4()


def stamp(nonce: UUID) -> EpochStamp:
    """Return the stamp of a marker."""
    return EpochStamp(HERE.database_id, nonce)


def test_at_the_beginning_nothing_is_known_and_nothing_is_wrong() -> None:
    """A database that begins, and servers that were just marked."""
    assert rollback_signs(HERE, None, [], []) == []


def test_before_its_first_epoch_a_marker_tells_of_a_later_state() -> None:
    """A dump from before the first epoch was loaded."""
    assert rollback_signs(HERE, None, [stamp(NEW)], []) == [RollbackSign(AHEAD, NEW)]


def test_a_marker_that_lags_is_no_setback() -> None:
    """A server that was away, a crash between the two writes, two that wrote at once."""
    assert rollback_signs(HERE, HERE, [stamp(OLD), stamp(NEW)], [OLD, NEW]) == []


def test_without_any_marker_the_place_alone_tells() -> None:
    """Chroma is down: nothing is invented, and nothing is missed that Postgres shows by itself."""
    assert rollback_signs(HERE, HERE, [], []) == []
    assert (
        len(rollback_signs(HERE, DatabaseLocation(HERE.database_id, 2, HERE.outbox), [], [])) == 1
    )


def test_a_nonce_that_postgres_does_not_know_is_of_a_later_state() -> None:
    """From whichever server; another server that lags changes nothing."""
    assert rollback_signs(HERE, HERE, [stamp(OLD), stamp(STRANGE)], [OLD]) == [
        RollbackSign(AHEAD, STRANGE)
    ]


def test_a_nonce_counts_once_however_many_servers_say_it() -> None:
    """And two that are strange are two signs."""
    found = rollback_signs(HERE, HERE, [stamp(STRANGE), stamp(STRANGE), stamp(OTHER)], [])
    assert {s.nonce for s in found} == {STRANGE, OTHER}
    assert len(found) == 2


@pytest.mark.parametrize(
    ("before", "says"),
    [
        (DatabaseLocation(HERE.database_id, 2, HERE.outbox), "timeline 2, and is on 3"),
        (DatabaseLocation(HERE.database_id, HERE.timeline, 16_399), "loaded in place"),
        (DatabaseLocation("1:4/app", HERE.timeline, HERE.outbox), "loaded in place"),
        (DatabaseLocation("1:4/old", HERE.timeline, HERE.outbox), "'old' on server 1, and is at"),
        (DatabaseLocation("1/old", HERE.timeline, HERE.outbox), "loaded elsewhere"),
        (DatabaseLocation("2:5/app", HERE.timeline, 7), "'app' on server 2, and is at 'app' on"),
        (DatabaseLocation("2:5/app", 1, HERE.outbox), "pg_upgrade"),
        (DatabaseLocation("2/app", 1, 7), "loaded elsewhere"),
    ],
)
def test_another_place_is_a_setback_although_the_nonce_is_known(
    before: DatabaseLocation, says: str
) -> None:
    """A dump has its own nonces in it; where it was loaded is not in it."""
    (found,) = rollback_signs(HERE, before, [stamp(NEW)], [NEW])
    assert says in found.reason
    assert found.nonce is None


@pytest.mark.parametrize(
    "before",
    [
        DatabaseLocation("1:5/before", HERE.timeline, HERE.outbox),
        DatabaseLocation("1/app", HERE.timeline, HERE.outbox),  # by the version before
        DatabaseLocation(":5/app", 0, HERE.outbox),  # by a role that may not read more
    ],
)
def test_another_name_of_one_place_is_no_setback(before: DatabaseLocation) -> None:
    """It was renamed, or seen by another role, or by another version."""
    assert rollback_signs(HERE, before, [stamp(NEW)], [NEW]) == []
    assert rollback_signs(before, HERE, [stamp(NEW)], [NEW]) == []


def test_both_signs_are_told() -> None:
    """An old dump loaded in place, and Chroma ahead of it."""
    before = DatabaseLocation(HERE.database_id, HERE.timeline, 5)
    assert len(rollback_signs(HERE, before, [stamp(STRANGE)], [])) == 2
