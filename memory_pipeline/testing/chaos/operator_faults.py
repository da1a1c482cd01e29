"""Acts of operators on a running installation: rebuild, verify, delete, tamper."""

import json
import random
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.testing.chaos.faults import Fault, fault
from memory_pipeline.testing.chaos.ground_truth import GroundTruth
from memory_pipeline.testing.chaos.history import Anomaly, now
from memory_pipeline.testing.chaos.stack import PrivateStack

COMMAND_SECONDS = 180.0
# Findings that a verify may not report of tenants that were not tampered with.
FALSE_FINDINGS = {"missing", "extra", "stale", "foreign", "vector", "capture"}
FOREIGN_DOCUMENT = "memory_log_999999999999"
TAMPERED = 4


def operator_faults(tenants: Sequence[TenantId]) -> list[Fault]:
    """Return every act of an operator on these tenants."""
    return [
        fault("rebuild killed", "rebuild", (0.5, 5.0), lambda s, c: rebuild_killed(s, c, tenants)),
        fault("dagster run killed", "dagster", (4.0, 12.0), dagster_run_killed),
        fault(
            "verify during faults",
            "verify",
            (1.0, 5.0),
            lambda s, c: verify_during_faults(s, c, tenants),
        ),
        fault(
            "collection deleted",
            "tampering",
            (0.5, 4.0),
            lambda s, c: collection_deleted(s, c, tenants),
        ),
        fault(
            "documents tampered with",
            "tampering",
            (0.5, 4.0),
            lambda s, c: documents_altered(s, c, tenants),
        ),
    ]


def _options(tenants: Sequence[TenantId]) -> list[str]:
    return [part for tenant in tenants for part in ("--tenant", tenant)]


def _choose(
    stack: PrivateStack, chance: random.Random, tenants: Sequence[TenantId], count: int
) -> dict[TenantId, str]:
    """Return up to ``count`` tenants that have a collection, with its generation."""
    with stack.connect("chaos-nemesis") as connection:
        live = GroundTruth(connection, stack.chroma_url).all_live()
    there = [tenant for tenant in tenants if tenant in live]
    chosen = chance.sample(there, min(count, len(there)))
    return {tenant: live[tenant] for tenant in chosen}


@contextmanager
def rebuild_killed(
    stack: PrivateStack, chance: random.Random, tenants: Sequence[TenantId]
) -> Generator[str]:
    """Begin a rebuild of some tenants and kill it."""
    chosen = list(_choose(stack, chance, tenants, 6))
    child = stack.command("rebuild", *_options(chosen))
    try:
        yield f"{len(chosen)} tenants"
    finally:
        ended = child.poll() is not None
        child.kill()
        child.wait()
    if ended and child.returncode not in {0, 1, 3}:
        detail = f"exit code {child.returncode}: {stack.output_of(child)[-300:]}"
        stack.history.append(Anomaly("rebuild broke", None, None, now(), detail))


@contextmanager
def dagster_run_killed(stack: PrivateStack, chance: random.Random) -> Generator[str]:
    """Begin a Dagster run over all tenants and kill its process."""
    job = chance.choice(["incremental_sync", "full_rebuild"])
    child = stack.dagster_run(job)
    try:
        yield job
    finally:
        child.kill()
        child.wait()


@contextmanager
def verify_during_faults(
    stack: PrivateStack, chance: random.Random, tenants: Sequence[TenantId]
) -> Generator[str]:
    """Verify some tenants during other faults: every finding must be true."""
    chosen = list(_choose(stack, chance, tenants, 10))
    child = stack.command("verify", "--json", "--sample", "20", *_options(chosen))
    began = time.monotonic()
    try:
        yield f"{len(chosen)} tenants"
        child.wait(max(1.0, COMMAND_SECONDS - (time.monotonic() - began)))
    except subprocess.TimeoutExpired:
        stack.history.append(Anomaly("verify hangs", None, None, now()))
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
    for finding in _findings(stack.output_of(child)):
        if finding["kind"] in FALSE_FINDINGS and finding["tenant"] not in stack.tampered:
            anomaly = Anomaly(
                f"verify found: {finding['kind']}",
                TenantId(finding["tenant"] or ""),
                finding["memory_id"],
                now(),
                finding["detail"],
            )
            stack.history.append(anomaly)


def _findings(output: str) -> list[dict[str, Any]]:
    lines = output.strip().splitlines()
    found: list[dict[str, Any]] = json.loads(lines[-1])["findings"] if lines else []
    return found


@contextmanager
def collection_deleted(
    stack: PrivateStack, chance: random.Random, tenants: Sequence[TenantId]
) -> Generator[str]:
    """Delete a tenant's collection without the pipeline; then repair it."""

    def delete(collection: Any) -> str:
        collection._client.delete_collection(collection.name)  # noqa: SLF001 - any client would do
        return "deleted"

    with _tampered(stack, chance, tenants, delete) as detail:
        yield detail


@contextmanager
def documents_altered(
    stack: PrivateStack, chance: random.Random, tenants: Sequence[TenantId]
) -> Generator[str]:
    """Delete, alter and add documents without the pipeline; then repair them."""

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
                documents=["foreign"],
                metadatas=[{"hash": "foreign"}],
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
) -> Generator[str]:
    ((tenant, generation),) = _choose(stack, chance, tenants, 1).items()
    with stack.connect("chaos-nemesis") as connection:
        collection = GroundTruth(connection, stack.chroma_url).collection(generation)
    stack.tampered.add(tenant)
    yield f"{tenant}: {tamper(collection)}"
    with suppress(ChromaUnavailable):  # another fault may prevent it; the end of the round repairs
        repair(stack, [tenant])


def repair(stack: PrivateStack, tenants: Sequence[TenantId], *, attempts: int = 1) -> None:
    """Repair tenants; from then on they count as whole.

    Raises:
        ChromaUnavailable: no attempt succeeded; the end of the round tries again.

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
