"""Which proxy an address goes through, and what the services of `up` find in their environment."""

import httpx
import pytest

from memory_pipeline.chroma.errors import translated
from memory_pipeline.errors import ChromaUnavailable
from memory_pipeline.proxies import (
    ProxyUnusable,
    bypassing_loopback,
    http_client,
    is_loopback,
    proxy_of,
    through_proxy,
    through_proxy_of_https,
)
from memory_pipeline_tests.http_proxy import behind

PROXY = "http://grace:hopper@proxy.example:3128"
FAR = "http://chroma.example:8000"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("localhost", True),
        ("LocalHost.", True),
        ("db.localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("chroma.example", False),
        ("127.0.0.1.example", False),
        ("localhost.example", False),
        ("10.0.0.1", False),
        ("::2", False),
        ("", False),
        (None, False),
    ],
)
def test_loopback_is_known_in_every_spelling(host: str | None, *, expected: bool) -> None:
    """All of 127.0.0.0/8 and ::1; a name that only begins like one is another machine."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1/a", "https://[::1]:1"])
def test_loopback_goes_through_no_proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment names, also what httpx cannot use at all."""
    for proxy in (PROXY, "socks5://proxy.example", "ftp://proxy.example", "http://[broken"):
        behind(monkeypatch, proxy)
        with http_client(url, timeout=1.0) as client:
            assert client.trust_env is False
    assert proxy_of(url) is None
    assert through_proxy(url) == ""


def test_an_error_names_the_proxy_without_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """What broke: an error named the server, which answered everybody who looked."""
    behind(monkeypatch, PROXY)
    with http_client(FAR, timeout=1.0) as client:
        assert client.trust_env is True
    assert proxy_of(FAR) == "proxy.example:3128"
    assert through_proxy(FAR) == " through the proxy proxy.example:3128"
    assert through_proxy_of_https() == through_proxy(FAR)
    monkeypatch.setenv("http_proxy", "proxy.example:3128")
    assert proxy_of(FAR) == "proxy.example:3128"
    monkeypatch.setenv("no_proxy", "chroma.example")
    assert through_proxy(FAR) == ""


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("late"),
        httpx.ReadError("broken"),
        httpx.ProxyError("403 Forbidden"),
        Exception("502 Bad Gateway"),
    ],
)
def test_every_error_of_a_far_chroma_names_the_proxy(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the proxy that answered, or that did not."""
    behind(monkeypatch, PROXY)
    with pytest.raises(ChromaUnavailable) as caught, translated(FAR):
        raise error
    assert f"Chroma at {FAR} through the proxy proxy.example:3128 " in str(caught.value)
    assert "hopper" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy", ["socks5://grace:hopper@proxy.example:1080", "ftp://proxy.example"]
)
def test_a_proxy_that_cannot_be_used_is_an_outage(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What broke: an ImportError with a traceback, or an error that charged the memories."""
    behind(monkeypatch, proxy)
    with pytest.raises(ProxyUnusable, match=r"proxy proxy\.example") as caught:
        http_client(FAR, timeout=1.0)
    assert "hopper" not in str(caught.value)
    with pytest.raises(ChromaUnavailable) as outage, translated(FAR):
        raise caught.value
    assert not outage.value.sent


def test_what_is_started_keeps_loopback_out_of_its_proxies() -> None:
    """Hosts that a user names are kept; programs read one spelling or the other, gRPC a third."""
    assert bypassing_loopback({}) == {}
    assert bypassing_loopback({"NO_PROXY": "a"}) == {}
    loopback = "localhost,127.0.0.1,::1"
    both = {"no_proxy": loopback, "NO_PROXY": loopback}
    assert bypassing_loopback({"HTTP_PROXY": PROXY}) == both
    assert bypassing_loopback({"grpc_proxy": PROXY}) == both
    kept = bypassing_loopback({"all_proxy": PROXY, "NO_PROXY": "a.example, ::1"})
    assert kept["no_proxy"] == kept["NO_PROXY"] == "a.example,::1,localhost,127.0.0.1"
    grpc = bypassing_loopback({"http_proxy": PROXY, "no_grpc_proxy": "b.example"})
    assert grpc["no_grpc_proxy"] == f"b.example,{loopback}"
    again = {"HTTP_PROXY": PROXY, **kept}
    assert bypassing_loopback(again) == kept
