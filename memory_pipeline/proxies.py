"""HTTP proxies: which one a request goes through, and that none to this machine goes through any.

A proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is for other machines. It cannot reach the loopback
interface of this one: what went there would be answered by it, or by nobody.
"""

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from ssl import SSLContext
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
# gRPC, which Dagster's processes talk among themselves, has a variable of its own; where that is
# set, it reads no other.
NO_GRPC_PROXY = "no_grpc_proxy"
# As httpx has them.
DEFAULT_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)


class ProxyUnusable(httpx.TransportError):
    """A proxy that the environment names cannot be used; nothing was sent."""


def is_loopback(host: str | None) -> bool:
    """Whether a host, as it stands in an address, is this machine's loopback interface."""
    if host is None:
        return False
    name = host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    try:
        address = ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for ``url``, as host:port; None: no proxy.

    Its credentials are left out.
    """
    parts = urlsplit(url)
    if parts.hostname is None or is_loopback(parts.hostname):
        return None
    bypassed = proxy_bypass(parts.netloc.rpartition("@")[2])
    return None if bypassed else _named(parts.scheme)


def through_proxy(url: str) -> str:
    """Return what an error about ``url`` adds: the proxy that was asked; empty without one."""
    proxy = proxy_of(url)
    return "" if proxy is None else f" through the proxy {proxy}"


def through_proxy_of_https() -> str:
    """Return the same for an address that only another program knows, such as pip's index."""
    proxy = _named("https")
    return "" if proxy is None else f" through the proxy {proxy}"


def http_client(
    url: str,
    *,
    timeout: float | None,
    verify: bool = True,
    limits: httpx.Limits = DEFAULT_LIMITS,
) -> httpx.Client:
    """Return a client for ``url``; a proxy of the environment is used for other machines alone.

    Args:
        url: what it will be used for.
        timeout: seconds of a request; None: no limit.
        verify: whether certificates are read, for 25 ms; without TLS there is nothing to verify.
        limits: how many connections are kept, and for how long.

    Raises:
        ProxyUnusable: the environment names a proxy with another kind of address.

    """
    local = is_loopback(urlsplit(url).hostname)
    # Without the environment, httpx would not read SSL_CERT_FILE either.
    trusted: SSLContext | bool = httpx.create_ssl_context() if local and verify else verify
    try:
        return httpx.Client(trust_env=not local, timeout=timeout, verify=trusted, limits=limits)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise ProxyUnusable(
            f"the proxy {proxy_of(url)} of the environment cannot be used, allowed are "
            "http:// and https:// addresses in HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
        ) from error


def bypassing_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep loopback out of the proxies that an environment names.

    Both spellings with the same value, for some programs read one and some the other. Empty where
    no proxy is named.
    """
    found = {
        name.lower(): value
        for name, value in environment.items()
        if name.lower().endswith("_proxy") and value
    }
    if not found.keys() - {"no_proxy", NO_GRPC_PROXY}:
        return {}
    kept = environment.get("no_proxy") or found.get("no_proxy", "")
    variables = {name: _completed(kept) for name in ("no_proxy", "NO_PROXY")}
    if NO_GRPC_PROXY in found:
        variables[NO_GRPC_PROXY] = _completed(found[NO_GRPC_PROXY])
    return variables


def _named(scheme: str) -> str | None:
    """Return the proxy for a scheme without its credentials, whatever host is asked for."""
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy:
        return None
    address = proxy if "://" in proxy else f"http://{proxy}"
    return urlsplit(address).netloc.rpartition("@")[2]


def _completed(hosts: str) -> str:
    named = [host.strip() for host in hosts.split(",") if host.strip()]
    return ",".join([*named, *(name for name in LOOPBACK_NAMES if name not in named)])
