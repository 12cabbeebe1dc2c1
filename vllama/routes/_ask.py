"""Questions that the engine answers in one piece, for the routes that translate the answer."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from vllama.errors import ApiError
from vllama.framing import until_client_leaves
from vllama.models.model import Model
from vllama.routes._edge import gateway_of
from vllama.routes._engine import Line
from vllama.routes._failures import engine_failures, refusal, twice
from vllama.translate.duration import parse_keep_alive

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """What the engine is asked.

    body: without `model`. action: what the model is asked to do, for the refusal of one that cannot.
    keep_alive: seconds, None where the client does not say.
    """

    model: Model
    wanted: str
    path: str
    body: Mapping[str, Any]
    action: str
    keep_alive: float | None = None


async def ask(request: Request, question: Question, type_: type[T]) -> tuple[T, int]:
    """The engine's answer, and when (`time.monotonic_ns`) the model was loaded.

    Raises ApiError where the engine refuses, dies, or answers something else, ClientLeft where nobody waits any more.
    """
    data, loaded = await twice(request, lambda: until_client_leaves(request, _ask(request, question)))
    with engine_failures():
        return msgspec.json.decode(data, type=type_), loaded


async def _ask(request: Request, question: Question) -> tuple[bytes, int]:
    async with gateway_of(request).scheduler.acquire(question.model, question.keep_alive) as lease:
        loaded = time.monotonic_ns()
        with engine_failures():
            async with Line(gateway_of(request), lease).post(question.path, question.body) as response:
                data = await response.read()
    if response.status != 200:
        raise refusal(response.status, data, wanted=question.wanted, action=question.action)
    return data, loaded


async def load(request: Request, model: Model, keep_alive: float | None) -> None:
    """Have the model loaded; for a `keep_alive` of 0, which would unload it at once, only have it unloaded."""
    scheduler = gateway_of(request).scheduler
    if keep_alive == 0:
        return scheduler.unload(model)

    async def acquire() -> None:
        async with scheduler.acquire(model, keep_alive):
            pass

    return await until_client_leaves(request, acquire())


def checked_keep_alive(value: Any) -> float | None:
    """A request's `keep_alive` in seconds. Raises ApiError 400 in Ollama's words."""
    try:
        return parse_keep_alive(value)
    except ValueError as error:
        raise ApiError(400, str(error)) from None


def durations(arrived: int, loaded: int) -> dict[str, int]:
    """Nanoseconds since the request's arrival, and until its model was loaded; never 0."""
    return {
        "total_duration": max(1, time.monotonic_ns() - arrived),
        "load_duration": max(1, loaded - arrived),
    }
