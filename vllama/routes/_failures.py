"""What goes wrong with an engine, as the errors that its clients get."""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import msgspec
from starlette.requests import Request

from vllama.engine.client import death
from vllama.errors import ApiError, EngineBusyError, EngineError, EngineGoneError, VllamaError
from vllama.framing import ClientLeft
from vllama.overload import BUSY
from vllama.routes._edge import quote
from vllama.streams import Stream, finish
from vllama.translate.failure import failure_text

logger = logging.getLogger("vllama")

T = TypeVar("T")

DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)


@contextlib.contextmanager
def engine_failures() -> Iterator[None]:
    """Raises ApiError 500 for an engine that does not do what it should, or says what cannot be read; 503 for one that
    could not be asked.

    That it is lost is passed on: `twice` and `to_the_end` know what to do.
    """
    try:
        yield
    except EngineGoneError:
        raise
    except EngineBusyError as error:
        raise ApiError(503, f"{BUSY} ({error.message})") from error
    except EngineError as error:
        raise _died(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from error


async def twice(request: Request, attempt: Callable[[], Awaitable[T]]) -> T:
    """What the attempt gives; made once more, and no more, where its engine is lost before anything was sent.

    The attempt acquires an engine: the second one waits for the engine's successor. Raises ClientLeft where nobody
    waits for that: not even the load of a model is to begin then.
    """
    try:
        return await attempt()
    except EngineGoneError as error:
        if await request.is_disconnected():
            raise ClientLeft from error
        logger.info("a request is asked again, as its engine was lost: %s", error.message)
    try:
        return await attempt()
    except EngineGoneError as error:
        raise _died(error) from error


async def to_the_end(stream: Stream, failure: Callable[[ApiError], bytes]) -> Stream:
    """The stream. What goes wrong after its first bytes is written too, as the last thing."""
    async with contextlib.aclosing(stream):
        outlet = yield await anext(stream)
        try:
            await finish(stream, outlet)
        except (ApiError, VllamaError) as error:
            await outlet.put(failure(_as_api_error(error)))


def _as_api_error(error: ApiError | VllamaError) -> ApiError:
    if isinstance(error, ApiError):
        return error
    return _died(error) if isinstance(error, EngineGoneError) else ApiError(500, str(error))


def _died(error: EngineError) -> ApiError:
    return ApiError(500, f"{DIED}: {error.message}")


def failed(event: bytes) -> ApiError | EngineGoneError:
    """What an event in a stream says that is an error."""
    return death(event) or ApiError(*failure_text(500, event))


def unreadable(error: Exception) -> ApiError:
    reason = error if isinstance(error, ValueError | RecursionError) else repr(error)
    return ApiError(500, f"the engine's reply cannot be read: {reason}")


def broken_off() -> ApiError:
    """For a reply that ends before it was brought to an end."""
    return ApiError(500, f"{DIED}: its reply broke off")


def refusal(status: int, body: bytes, *, wanted: str, action: str) -> ApiError:
    """What an engine's error status and body mean for a request. action: what the model `wanted` is asked to do.

    A 404 says that the engine serves no such model (any more), or has no route for what is asked.
    """
    if status != 404:
        return ApiError(*failure_text(status, body))
    if b"does not exist" in body:
        return ApiError(404, f"model '{wanted}' not found")
    return ApiError(400, f"{quote(wanted)} does not support {action}")
