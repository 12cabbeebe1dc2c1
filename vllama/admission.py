"""How many requests are worked on at once. What comes on top is told so before its body is read."""

import logging
import sys
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from vllama.bodies import SMALL, BodyMemory
from vllama.descriptors import MORE_FILES, most_connections, most_requests
from vllama.dialects import dialect_of
from vllama.framing import HangUp, Unread
from vllama.overload import Bound

MOST = 4096
"""By default: two engines at their own bound, each of which answers a few hundred requests at a time and lets the
others wait. Some hundred megabytes hold as many requests, and open files are enough on most machines.
"""
_QUICK = frozenset(("/api/show", "/api/copy", "/api/me", "/api/signout"))
"""What is posted and yet takes neither an engine nor the network."""
_BODIES = 4
"""Of the largest size, that are held at once: one that is unpacked counts as two."""

logger = logging.getLogger("vllama")


class Admission:
    """requests: a bound on those that take work. in_flight: as many are there. bodies: what those of all requests hold.

    connections: most of them with clients, whatever they do.
    """

    def __init__(self, most: int = MOST, bodies: BodyMemory | None = None, connections: int = sys.maxsize) -> None:
        self.requests = Bound(most, "max_requests")
        self.in_flight = 0
        self.bodies = bodies or BodyMemory()
        self.connections = connections


def make_admission(wanted: int | None, max_body: int, files: int) -> Admission:
    """As the settings want it, within what so many open files allow. wanted: requests, None for as many as is good."""
    possible = most_requests(files)
    if wanted is not None and wanted > possible:
        logger.warning("max_requests is %d, not %d, as %d files may be open: %s", possible, wanted, files, MORE_FILES)
    most = min(wanted or MOST, possible)
    return Admission(most, BodyMemory(_BODIES * max_body), most_connections(files, most))


class Entrance:
    """Lets requests in as long as there are not too many, and counts them for as long as they take.

    What looks, and what ends something, is always let in: it is needed most where there is too much to do.
    """

    def __init__(self, app: ASGIApp, admission: Callable[[], Admission]) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        admission, work = self._admission(), _takes_work(scope)
        if work and admission.in_flight >= admission.requests.most:
            await _refuse(admission.requests, scope, receive, send)
            return
        admission.in_flight += work
        try:
            await self._app(scope, receive, send)
        finally:
            admission.in_flight -= work
            admission.bodies.give_back(scope)


def _takes_work(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] not in _QUICK


async def _refuse(bound: Bound, scope: Scope, receive: Receive, send: Send) -> None:
    refusal = bound.refusal()
    response = dialect_of(scope["path"]).response(refusal.status, refusal.message)
    reply = Unread(response) if _comes_soon(scope) else HangUp(response)
    await reply(scope, receive, send)


def _comes_soon(scope: Scope) -> bool:
    """Whether the request's body is so small that it is there, or on its way: its connection can be used again."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers or b"expect" in headers:
        return False
    length = headers.get(b"content-length", b"0")
    return length.isdigit() and int(length) <= SMALL
