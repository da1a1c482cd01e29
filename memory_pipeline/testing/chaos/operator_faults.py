"""What people do to a running installation: rebuild, verify, delete, tamper."""

import json
import random
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.testing.chaos.failing_embedder import RUN
from memory_pipeline.testing.chaos.faults import Fault, fault
from memory_pipeline.testing.chaos.ground_truth import Eyes
from memory_pipeline.testing.chaos.history import Sight, now
from memory_pipeline.testing.chaos.stack import PrivateStack

Broken = Generator[str]
COMMAND_SECONDS = 180.0
# What a verify may not find while nothing is wrong but what is on its way.
FALSE = {"missing", "extra", "stale", "foreign", "vector", "capture"}
FOREIGN_DOCUMENT = "memory_log_999999999999"
TAMPERED = 4


def operators(tenants: Sequence[TenantId]) -> list[Fault]:
    """List what people do to these tenants."""
    return [
        fault("rebuild killed", "rebuild", (0.5, 5.0), lambda s, c: rebuild_killed(s, c, tenants)),
        fault("dagster run killed", "dagster", (4.0, 12.0), run_killed),
        fault("verify beside", "verify", (1.0, 5.0), lambda s, c: verify_beside(s, c, tenants)),
        fault("collection deleted", "tampering", (0.5, 4.0), lambda s, c: deleted(s, c, tenants)),
        fault(
            "documents tampered with", "tampering", (0.5, 4.0), lambda s, c: altered(s, c, tenants)
        ),
    ]


def _options(tenants: Sequence[TenantId]) -> list[str]:
    return [part for tenant in tenants for part in ("--tenant", tenant)]


def _known(
    stack: PrivateStack, chance: random.Random, tenants: Sequence[TenantId], count: int
) -> Any:
    """Choose tenants that have a collection, with its generation."""
    with stack.connect("chaos-nemesis") as connection:
        live = Eyes(connection, stack.chroma_url).all_live()
    there = [tenant for tenant in tenants if tenant in live]
    chosen = chance.sample(there, min(count, len(there)))
    return {tenant: live[tenant] for tenant in chosen}


@contextmanager
def rebuild_killed(
    stack: PrivateStack, chance: random.Random, tenants: Sequence[TenantId]
) -> Broken:
    """Begin a rebuild of some tenants and kill it."""
    chosen = list(_known(stack, chance, tenants, 6))
    child = stack.command("rebuild", *_options(chosen))
    try:
        yield f"{len(chosen)} tenants"
    finally:
        ended = child.poll() is not None
        child.kill()
        child.wait()
    if ended and child.returncode not in {0, 1, 3}:
        said = stack.said(child)[-300:]
        stack.history.note(Sight("rebuild broke", None, None, now(), f"{child.returncode} {said}"))


@contextmanager
def run_killed(stack: PrivateStack, chance: random.Random) -> Broken:
    """Begin a run of Dagster over all tenants and kill its process."""
    job = chance.choice(["incremental_sync", "full_rebuild"])
    child = stack.command(RUN, job)
    try:
        yield job
    finally:
        child.kill()
        child.wait()


@contextmanager
def verify_beside(
    stack: PrivateStack, chance: random.Random, tenants: Sequence[TenantId]
) -> Broken:
    """Verify some tenants while things are broken: nothing may be found that is not so."""
    chosen = list(_known(stack, chance, tenants, 10))
    child = stack.command("verify", "--json", "--sample", "20", *_options(chosen))
    began = time.monotonic()
    try:
        yield f"{len(chosen)} tenants"
        child.wait(max(1.0, COMMAND_SECONDS - (time.monotonic() - began)))
    except subprocess.TimeoutExpired:
        stack.history.note(Sight("verify hangs", None, None, now()))
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
    for found in _findings(stack.said(child)):
        if found["kind"] in FALSE and found["tenant"] not in stack.tampered:
            sight = Sight(
                f"verify found: {found['kind']}",
                TenantId(found["tenant"] or ""),
                found["memory_id"],
                now(),
                found["detail"],
            )
            stack.history.note(sight)


def _findings(said: str) -> list[dict[str, Any]]:
    lines = said.strip().splitlines()
    found: list[dict[str, Any]] = json.loads(lines[-1])["findings"] if lines else []
    return found


@contextmanager
def deleted(stack: PrivateStack, chance: random.Random, tenants: Sequence[TenantId]) -> Broken:
    """Delete a tenant's collection behind the pipeline's back; then repair it."""

    def delete(collection: Any) -> str:
        collection._client.delete_collection(collection.name)  # noqa: SLF001 - any client would do
        return "deleted"

    with _tampered(stack, chance, tenants, delete) as detail:
        yield detail


@contextmanager
def altered(stack: PrivateStack, chance: random.Random, tenants: Sequence[TenantId]) -> Broken:
    """Delete, alter and add documents behind the pipeline's back; then repair them."""

    def alter(collection: Any) -> str:
        got = collection.get(limit=3 * TAMPERED, include=["embeddings"])
        names = list(got["ids"])
        gone, changed = names[:TAMPERED], names[TAMPERED:]
        if gone:
            collection.delete(ids=gone)
        if changed:
            collection.update(
                ids=changed,
                embeddings=got["embeddings"][TAMPERED:],
                documents=["tampered with"] * len(changed),
                metadatas=[{"hash": "tampered"}] * len(changed),
            )
        if names:
            collection.upsert(
                ids=[FOREIGN_DOCUMENT],
                embeddings=[got["embeddings"][0]],
                documents=["nobody's"],
                metadatas=[{"hash": "nobody's"}],
            )
        return f"{len(gone)} deleted, {len(changed)} altered, 1 added"

    with _tampered(stack, chance, tenants, alter) as detail:
        yield detail


@contextmanager
def _tampered(
    stack: PrivateStack,
    chance: random.Random,
    tenants: Sequence[TenantId],
    tamper: Callable[[Any], str],
) -> Broken:
    ((tenant, generation),) = _known(stack, chance, tenants, 1).items()
    with stack.connect("chaos-nemesis") as connection:
        collection = Eyes(connection, stack.chroma_url).collection(generation)
    stack.tampered.add(tenant)
    yield f"{tenant}: {tamper(collection)}"
    with suppress(ChromaUnavailable):  # what else is broken may keep it until the round's end
        repaired(stack, [tenant])


def repaired(stack: PrivateStack, tenants: Sequence[TenantId], *, attempts: int = 1) -> None:
    """Repair tenants; then they are whole again.

    Raises:
        ChromaUnavailable: it was not possible; the end of the round tries again.

    """
    for _ in range(attempts):
        child = stack.command("verify", "--repair", "--json", "--sample", "all", *_options(tenants))
        try:
            child.wait(COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.returncode == 0:
            stack.tampered.difference_update(tenants)
            return
    raise ChromaUnavailable("tampered documents could not be repaired yet", sent=False)
