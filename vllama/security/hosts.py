"""The names under which the gateway may be asked.

A web page can let its own domain point to 127.0.0.1: to the browser, the gateway then is that page's own server. Its
requests still name that domain.
"""

import asyncio
import functools
import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import psutil
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vllama.security.refusals import Refusals

_WELL_FORMED = re.compile(r"[A-Za-z0-9!$%&'()*+,.:;=\[\]_~-]*")
_LOCAL_DOMAINS = (".localhost", ".local", ".internal")
_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))

_Address = IPv4Address | IPv6Address


class Hosts:
    """Refuses requests for names that are not this machine's, where only this machine can ask; malformed ones always.

    loopback: whether the gateway listens to this machine only. Elsewhere any name can be right.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool) -> None:
        self._app = app
        self._loopback = loopback
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"]
        host = "".join(hosts)
        if len(hosts) > 1 or not _WELL_FORMED.fullmatch(host):
            await PlainTextResponse("400 Bad Request: malformed Host header", 400)(scope, receive, send)
        elif self._loopback and not await names_this_machine(host):
            self._refusals.note(f"refused a request for {host[:200]!r}, which is no name of this machine")
            await Response(status_code=403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def names_this_machine(host: str) -> bool:
    """Whether a `Host` names this machine, or one of its network, in a way that no stranger's domain can."""
    if _is_local(host):
        return True
    name = _without_port(host).lower()
    try:
        address = _address(name)
    except ValueError:
        return name == socket.gethostname().lower()
    return address in await asyncio.to_thread(_own_addresses)


@functools.lru_cache(maxsize=256)
def _is_local(host: str) -> bool:
    """Whether that can be told from the name alone."""
    name = _without_port(host).lower()
    if name in ("", "localhost") or name.endswith(_LOCAL_DOMAINS):
        return True
    try:
        address = _address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or any(address in network for network in _PRIVATE)


def _address(name: str) -> _Address:
    """Raises ValueError."""
    address = ip_address(name)
    return getattr(address, "ipv4_mapped", None) or address


def _without_port(host: str) -> str:
    if bracketed := re.fullmatch(r"\[(.*)\](:.*)?", host):
        return bracketed[1]
    name, _, port = host.partition(":")
    return host if ":" in port else name  # an IPv6 address that lacks its brackets


def _own_addresses() -> set[_Address]:
    """The addresses of this machine's interfaces."""
    found = (entry for entries in psutil.net_if_addrs().values() for entry in entries)
    return {ip_address(entry.address) for entry in found if entry.family in (socket.AF_INET, socket.AF_INET6)}
