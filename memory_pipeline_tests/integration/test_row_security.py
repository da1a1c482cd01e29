"""Row level security: a row that the role may not see is never taken for one that is gone."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.errors import ContractError
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.postgres.migrate import migrate
from memory_pipeline.settings import Settings
from memory_pipeline.store import MemoryStore
from memory_pipeline_tests.integration.worker.words import living
from memory_pipeline_tests.words import (
    ADA,
    change,
    drained,
    drained_well,
    held,
    one,
    pending,
    remember,
)

GRANTS = """
GRANT USAGE ON SCHEMA memory_pipeline TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA memory_pipeline TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_logs TO {role};
"""
SECURED = {
    "no policy": "",
    "a policy": "CREATE POLICY own ON memory_logs USING (user_id = current_user)",
    "a policy that raises": "CREATE POLICY bad ON memory_logs"
    " USING (current_setting('app.user_id') = user_id)",
}


@pytest.fixture
def role(db: psycopg.Connection) -> Iterator[str]:
    """Return a role that may sync and does not bypass row level security."""
    name = f"sync_{uuid4().hex[:12]}"
    db.execute(f"CREATE ROLE {name} LOGIN".encode())
    psycopg.ClientCursor(db).execute(GRANTS.format(role=name).encode())
    yield name
    db.execute(f"DROP OWNED BY {name}".encode())
    db.execute(f"DROP ROLE {name}".encode())


@pytest.fixture
def of_role(settings: Settings, role: str) -> Settings:
    """Return the settings of a process that connects as that role."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value().replace("postgres@", f"{role}@")
    return settings.model_copy(update={"database_url": SecretStr(url)})


@pytest.fixture
def restricted(of_role: Settings, unmarked_chroma: None) -> Iterator[Pipeline]:
    """Return the parts, connected as that role."""
    with opened(of_role, embedder=HashingEmbedder()) as parts:
        yield parts


def secure(db: psycopg.Connection, policy: str) -> None:
    """Turn row level security on, as a DBA or a managed service does, with this policy."""
    db.execute("ALTER TABLE memory_logs ENABLE ROW LEVEL SECURITY")
    if policy:
        db.execute(policy.encode())


@pytest.mark.parametrize("policy", SECURED.values(), ids=SECURED)
def test_hidden_rows_delete_no_document(
    restricted: Pipeline, role: str, db: psycopg.Connection, policy: str
) -> None:
    """P1. What broke: `sync` deleted the documents of six updated rows, `verify --repair` all."""
    ids = [remember(db, ADA, f"memory {n}") for n in range(6)]
    drained_well(restricted)
    secure(db, policy)
    for memory_id in ids:
        change(db, memory_id, "newer")

    for refused in (
        lambda: drained(restricted),
        lambda: restricted.verify().run(ADA),
        lambda: restricted.repair().run(ADA),
        restricted.status.totals,
        restricted.memories.sizes,
        lambda: restricted.memories.get(ADA, ids),  # type: ignore[arg-type]
    ):
        with pytest.raises(ContractError, match=r"row level security.*BYPASSRLS"):
            refused()

    assert held(restricted) == set(ids)
    assert pending(db) >= len(ids)

    db.execute(f"ALTER ROLE {role} BYPASSRLS".encode())
    drained_well(restricted)

    assert restricted.verify().run(ADA).findings == ()
    hits = restricted.search.search(ADA, "newer", k=6)
    assert [hit.memory for hit in hits] == [{"summary": "newer"}] * 6


def test_a_rebuild_copies_no_part_of_a_tenant(restricted: Pipeline, db: psycopg.Connection) -> None:
    """P7: a rebuild over hidden rows would prove an empty collection and go live with it."""
    memory_id = remember(db, ADA)
    drained_well(restricted)
    secure(db, "")

    with pytest.raises(ContractError, match="row level security"):
        restricted.rebuild_alone(ADA)

    assert held(restricted) == {memory_id}


def test_migrate_attaches_to_no_part_of_a_table(of_role: Settings, db: psycopg.Connection) -> None:
    """Tenants whose rows are hidden would never be registered."""
    secure(db, "")
    db.execute("UPDATE memory_pipeline.installation SET attached_at = NULL")

    with pytest.raises(ContractError, match=r"row level security.*BYPASSRLS"):
        migrate(of_role)


def test_the_tables_of_the_pipeline_are_of_the_kind(
    restricted: Pipeline, db: psycopg.Connection
) -> None:
    """Managed services turn it on for every table: changes that are hidden are not none."""
    remember(db, ADA)
    db.execute("ALTER TABLE memory_pipeline.change ENABLE ROW LEVEL SECURITY")

    with pytest.raises(ContractError, match=r"row level security.*change"):
        restricted.outbox.pending_tenants()


def test_an_application_is_held_to_its_policies(
    of_role: Settings, role: str, db: psycopg.Connection
) -> None:
    """Writes of an application are its own: what its policies let through is written."""
    secure(db, SECURED["a policy"])
    with MemoryStore(of_role) as store:
        memory_id = store.remember(role, {"summary": "mine"})

        assert store.update(role, memory_id, {"summary": "still mine"})
        assert not store.update(ADA, remember(db, ADA), {"summary": "not mine"})
        assert store.forget(role, memory_id)


def test_a_search_says_so_and_is_not_just_empty(
    restricted: Pipeline, db: psycopg.Connection
) -> None:
    """A search that may not see the memories has not found none."""
    remember(db, ADA)
    drained_well(restricted)
    secure(db, "")

    with pytest.raises(ContractError, match="row level security"):
        restricted.search.search(ADA, "memory", k=1)


def test_a_worker_waits_for_the_grant(
    restricted: Pipeline,
    role: str,
    db: psycopg.Connection,
    wait_until: Callable[..., None],
) -> None:
    """A refused read is an outage: nothing is charged, and the grant alone mends it."""
    memory_id = remember(db, ADA)
    drained_well(restricted)
    secure(db, "")
    change(db, memory_id, "newer")
    claims = "SELECT lease_token FROM memory_pipeline.tenant"
    before = one(db, claims)
    with living(restricted):
        wait_until(lambda: one(db, claims) > before)
        db.execute(f"ALTER ROLE {role} BYPASSRLS".encode())
        wait_until(lambda: pending(db) == 0, within=15)

    assert db.execute("SELECT count(*) FROM memory_pipeline.failure").fetchone() == (0,)
