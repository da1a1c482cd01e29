"""A proxy in the environment: Chroma on this machine without it, Chroma elsewhere through it."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from memory_pipeline.embedding.hashing import HashingEmbedder
from memory_pipeline.local.chroma import ChromaProcess
from memory_pipeline.maintenance.alerts import Alerts
from memory_pipeline.pipeline import Pipeline, opened
from memory_pipeline.settings import Settings
from memory_pipeline_tests.http_proxy import Proxy, behind, http_proxy
from memory_pipeline_tests.webhook import webhook
from memory_pipeline_tests.words import drained, held, remember

FAR = "chroma.example"


@pytest.fixture
def proxy(chroma: ChromaProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Run a proxy that knows Chroma under the name of another machine, and name it to the test."""
    port = urlsplit(chroma.url).port
    assert port is not None
    with http_proxy({FAR: port}) as proxy:
        behind(monkeypatch, proxy.url)
        yield proxy


def test_chroma_on_this_machine_is_synced_and_searched(
    proxy: Proxy, pipeline: Pipeline, db: psycopg.Connection
) -> None:
    """P2. What broke: `up` reported that everything ran, and nothing ever reached Chroma."""
    memory = remember(db)
    assert [outcome.verdict for outcome in drained(pipeline)] == ["done"]
    assert held(pipeline) == {memory}
    assert proxy.asked == []


def test_chroma_elsewhere_is_reached_through_the_proxy(
    proxy: Proxy, settings: Settings, db: psycopg.Connection, unmarked_chroma: None
) -> None:
    """That may be the only way to it."""
    far = settings.model_copy(update={"chroma_url": f"http://{FAR}:8000"})
    memory = remember(db)
    with opened(far, embedder=HashingEmbedder()) as pipeline:
        assert [outcome.verdict for outcome in drained(pipeline)] == ["done"]
        assert held(pipeline) == {memory}
    assert set(proxy.asked) == {FAR}


def test_an_outage_behind_a_proxy_names_the_proxy(
    proxy: Proxy, settings: Settings, db: psycopg.Connection
) -> None:
    """And charges no memory."""
    far = settings.model_copy(update={"chroma_url": "http://gone.example:8000"})
    remember(db)
    with opened(far, embedder=HashingEmbedder()) as pipeline:
        (outcome,) = drained(pipeline)
        assert f"http://gone.example:8000 through the proxy {proxy.host}" in outcome.reason
        assert "hopper" not in outcome.reason
        assert pipeline.workers.backlog().dead_letters == 0
    assert set(proxy.asked) == {"gone.example"}


def test_a_webhook_on_this_machine_receives_its_alerts(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Elsewhere through the proxy, whose name is in the log; its credentials are not."""
    with webhook() as hook:
        assert Alerts(hook.url).send("test", {})
        assert proxy.asked == []
    assert not Alerts("http://hooks.example/secret").send("test", {})
    assert proxy.asked == ["hooks.example"]
    assert f"proxy={proxy.host}" in caplog.text
    assert "hopper" not in caplog.text
    assert "secret" not in caplog.text
