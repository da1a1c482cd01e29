"""The figures for Prometheus: their values, their address, and no tenant's name."""

import socket

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from memory_pipeline.domain.outcomes import Outcome
from memory_pipeline.domain.status import Backlog
from memory_pipeline.domain.types import TenantId
from memory_pipeline.errors import PipelineError
from memory_pipeline.local.loopback import free_port
from memory_pipeline.settings import Settings
from memory_pipeline.sync.freshness import Freshness
from memory_pipeline.worker.metrics import LOOPBACK, Metrics

ADA = TenantId("ada lovelace")


def served(port: int) -> str:
    """Get the figures as Prometheus does."""
    answer = httpx.get(f"http://{LOOPBACK}:{port}/metrics", trust_env=False)
    answer.raise_for_status()
    return answer.text


def figures(text: str) -> dict[str, float]:
    """Read the figures; labels are a part of the name."""
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def labels(text: str) -> set[str]:
    """Return the names of all labels."""
    return {
        label
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label in sample.labels
    }


def test_a_turn_is_counted() -> None:
    """Documents, vectors, turns and their seconds add up."""
    port = free_port()
    metrics = Metrics(Freshness(), port=port)
    metrics.record(
        Outcome(ADA, "done", written=3, deleted=2, embedded=1, reused=2, failed=1, seconds=0.5)
    )
    metrics.record(Outcome(ADA, "done", written=4, reused=4, seconds=0.25))
    metrics.record(Outcome(ADA, "busy"))
    metrics.record(Outcome(ADA, "postponed", error="ChromaUnavailable"))
    metrics.record(Outcome(ADA, written=1, embedded=1, embed_seconds=0.125, write_seconds=0.0625))
    metrics.set_unwritable_servers(1)
    metrics.set_unreported_tenants(2)
    metrics.count_failed_report()
    found = figures(served(port))
    assert found["memory_pipeline_documents_total written"] == 8
    assert found["memory_pipeline_documents_total deleted"] == 2
    assert found["memory_pipeline_documents_total failed"] == 1
    assert found["memory_pipeline_vectors_total embedded"] == 2
    assert found["memory_pipeline_vectors_total reused"] == 6
    assert found["memory_pipeline_turns_total done"] == 3
    assert found["memory_pipeline_errors_total ChromaUnavailable"] == 1
    assert found["memory_pipeline_unwritable_servers"] == 1
    assert found["memory_pipeline_unreported_tenants"] == 2
    assert found["memory_pipeline_failed_reports_total"] == 1
    assert found["memory_pipeline_embed_seconds_sum"] == 0.125
    assert found["memory_pipeline_write_seconds_sum"] == 0.0625
    assert found["memory_pipeline_turns_total busy"] == 1
    assert found["memory_pipeline_turn_seconds_count"] == 5
    assert found["memory_pipeline_turn_seconds_sum"] == 0.75


def test_every_lag_falls_into_its_bucket() -> None:
    """The figures show how many changes were searchable within half a second."""
    port, freshness = free_port(), Freshness()
    Metrics(freshness, port=port)
    freshness.record(ADA, [0.04, 0.4, 0.5])
    freshness.record(ADA, [0.6, 400.0])
    found = figures(served(port))
    assert found["memory_pipeline_lag_seconds_count"] == 5
    assert found["memory_pipeline_lag_seconds_bucket 0.05"] == 1
    assert found["memory_pipeline_lag_seconds_bucket 0.5"] == 3
    assert found["memory_pipeline_lag_seconds_bucket 300.0"] == 4
    assert found["memory_pipeline_lag_seconds_bucket +Inf"] == 5


def test_the_backlog_is_shown() -> None:
    """The backlog, its age and the dead letters, as they were last counted."""
    port = free_port()
    metrics = Metrics(Freshness(), port=port)
    metrics.set_backlog(Backlog(9, 3.5, 2))
    metrics.set_backlog(Backlog(7, 1.5, 1))
    found = figures(served(port))
    assert found["memory_pipeline_pending_changes"] == 7
    assert found["memory_pipeline_oldest_change_seconds"] == 1.5
    assert found["memory_pipeline_dead_letters"] == 1


def test_a_worker_is_ready_only_once_it_syncs() -> None:
    """Programs that wait for the worker wait for this figure."""
    port = free_port()
    metrics = Metrics(Freshness(), port=port)
    assert figures(served(port))["memory_pipeline_worker_ready"] == 0
    metrics.ready()
    assert figures(served(port))["memory_pipeline_worker_ready"] == 1


def test_no_tenants_name_is_served() -> None:
    """Names are personal, and there may be a hundred thousand: no label is a tenant."""
    port, freshness = free_port(), Freshness()
    metrics = Metrics(freshness, port=port)
    freshness.record(ADA, [0.1])
    metrics.record(Outcome(ADA, "postponed", reason=f"the collection of {ADA} is gone"))
    text = served(port)
    assert str(ADA) not in text
    assert "lovelace" not in text
    assert labels(text) == {"how", "verdict", "le"}


def addresses(port: int) -> list[str]:
    """Return the addresses on which this process listens on a port."""
    return [
        connection.laddr.ip
        for connection in psutil.Process().net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]


def test_only_this_machine_can_ask() -> None:
    """The figures are served on the loopback interface, and on 127.0.0.1 alone."""
    port = free_port()
    Metrics(Freshness(), port=port)
    assert addresses(port) == ["127.0.0.1"]
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))  # would answer if it listened everywhere


def test_other_machines_can_ask_where_that_is_set() -> None:
    """What broke: Prometheus outside a container could not read the figures."""
    port = free_port()
    settings = Settings.load(metrics_port=port, metrics_address="0.0.0.0")  # noqa: S104 - as set
    Metrics(Freshness(), port=port, address=settings.metrics_address)
    assert addresses(port) == ["0.0.0.0"]  # noqa: S104


def test_without_a_port_nothing_listens() -> None:
    """Counting takes no socket."""
    before = len(psutil.Process().net_connections(kind="inet"))
    metrics = Metrics(Freshness())
    metrics.record(Outcome(ADA, "done", written=1))
    assert len(psutil.Process().net_connections(kind="inet")) == before


def test_two_workers_have_their_own_figures() -> None:
    """Two of them in one process do not collide: no registry is shared."""
    one, other = free_port(), free_port()
    Metrics(Freshness(), port=one).record(Outcome(ADA, "done", written=1))
    Metrics(Freshness(), port=other)
    assert figures(served(one))["memory_pipeline_documents_total written"] == 1
    assert "memory_pipeline_documents_total written" not in figures(served(other))


def test_a_taken_port_is_a_settings_error() -> None:
    """A second worker with the same settings names the setting to change."""
    port = free_port()
    Metrics(Freshness(), port=port)
    with pytest.raises(PipelineError, match="METRICS_PORT"):
        Metrics(Freshness(), port=port)
