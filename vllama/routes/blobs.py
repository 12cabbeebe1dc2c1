"""Files that clients upload to make models of."""

import asyncio
import errno
import shutil
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.bodies import pieces
from vllama.dialects import OLLAMA
from vllama.errors import ApiError
from vllama.framing import HangUp
from vllama.models.blobs import DigestMismatchError, read_digest
from vllama.models.store import Store
from vllama.routes._edge import gateway_of, quote
from vllama.routes.library import store_of

STALL_S = 300.0
"""How long an upload may make no progress."""


async def head(request: Request) -> Response:
    store, digest = _asked(request)
    if not await asyncio.to_thread(store.blobs.has, digest):
        raise ApiError(404, f"blob {quote(digest)} not found")
    return Response()


async def post(request: Request) -> Response:
    """The body is of any size: it goes to the disk as it comes."""
    store, digest = _asked(request)
    try:
        await asyncio.to_thread(_check_space, request, store, digest)
        async with aclosing(pieces(request, STALL_S)) as body:
            created = await store.blobs.add(body, digest)
    except DigestMismatchError as error:
        raise ApiError(400, f"digest mismatch, expected {quote(digest)}, got {quote(error.digest)}") from None
    except OSError as error:
        status = 507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 500
        return HangUp(OLLAMA.response(status, await asyncio.to_thread(_explain, error, request, store)))
    return Response(status_code=201 if created else 200)


def _asked(request: Request) -> tuple[Store, str]:
    digest = read_digest(request.path_params["digest"])
    if digest is None:
        raise ApiError(400, "invalid digest format")
    return store_of(gateway_of(request)), digest


def _check_space(request: Request, store: Store, digest: str) -> None:
    """Raises OSError where the body is known to be larger than the disk's free space."""
    store.root.mkdir(parents=True, exist_ok=True)
    if _length(request) > shutil.disk_usage(store.root).free and not store.blobs.has(digest):
        raise OSError(errno.ENOSPC, "No space left on device")


def _explain(error: OSError, request: Request, store: Store) -> str:
    text = f"{store.root} does not take the upload ({error.strerror})"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}: check its permissions and the disk"
    wanted = f" of {_length(request) / 1e9:.1f} GB" if _length(request) else ""
    free = shutil.disk_usage(store.root).free / 1e9
    return (
        f"there is no room for the upload{wanted}: {free:.1f} GB are free on the disk of {store.root}; free some, or "
        "set VLLAMA_HOME to another disk"
    )


def _length(request: Request) -> int:
    given = request.headers.get("content-length", "")
    return int(given) if given.isdecimal() else 0


routes = [
    Route("/api/blobs/{digest}", head, methods=["HEAD"]),
    Route("/api/blobs/{digest}", post, methods=["POST"]),
]
