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

HERE = DatabaseLocation("1/app", 3, 16_401)
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
        (DatabaseLocation("2/app", HERE.timeline, HERE.outbox), "it was at 2/app, and is at 1/app"),
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


def test_both_signs_are_told() -> None:
    """An old dump loaded in place, and Chroma ahead of it."""
    before = DatabaseLocation(HERE.database_id, HERE.timeline, 5)
    assert len(rollback_signs(HERE, before, [stamp(STRANGE)], [])) == 2
