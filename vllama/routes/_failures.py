"""What goes wrong with an engine, as the errors that its clients get."""

import contextlib
from collections.abc import Iterator

import msgspec

from vllama.errors import ApiError, EngineError
from vllama.routes._edge import quote
from vllama.translate.failure import failure_text

DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)


@contextlib.contextmanager
def engine_failures() -> Iterator[None]:
    """Raises ApiError 500 for an engine that goes away, or says what cannot be read."""
    try:
        yield
    except EngineError as error:
        raise ApiError(500, f"{DIED}: {error.message}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> ApiError:
    return ApiError(500, f"the engine's reply cannot be read: {error}")


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
