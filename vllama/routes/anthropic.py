"""Anthropic's endpoints: messages, and the number of tokens in them."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.dialects import ANTHROPIC, new_request_id
from vllama.engine.client import Response as EngineResponse
from vllama.errors import ApiError
from vllama.framing import STOPPING, JSONResponse, until_client_leaves
from vllama.models.model import Model
from vllama.routes._abilities import check_abilities
from vllama.routes._ask import Question, ask
from vllama.routes._completions import CompletionTranslator, decode
from vllama.routes._edge import find_model, gateway_of, quote
from vllama.routes._engine import Line
from vllama.routes._failures import broken_off, engine_failures, refusal, to_the_end, twice
from vllama.routes._prompt import capped
from vllama.routes._reading import read_body
from vllama.routes._stream import Pipe
from vllama.streams import Stream, begin
from vllama.translate.anthropic import Asked, check_request, message_request, prompt
from vllama.translate.anthropic_reply import MessageReply, encode_event
from vllama.translate.request import EngineRequest, Target
from vllama.wire.anthropic import MessagesRequest
from vllama.wire.embed import EngineTokens
from vllama.wire.openai import Completion

_BUDGET = "thinking_token_budget"


@dataclass(frozen=True)
class _Exchange:
    """A request that the model can answer, and what the engine is asked once it is known which."""

    request: Request
    wanted: str
    model: Model
    translate: Callable[[Model, int | None], EngineRequest]


async def messages(request: Request) -> Response:
    asked, model = await _read(request, counting=False)

    def translate(model: Model, context_length: int | None) -> EngineRequest:
        return message_request(asked, Target.of(model), context_length)

    # What is wrong with the request is said before a model is loaded for it.
    translate(model, None)
    exchange = _Exchange(request, asked.request.wanted, model, translate)

    async def attempt() -> Response:
        reply = MessageReply(asked.request.wanted, asked.request.stop_sequences or (), tools=bool(asked.tools))
        if asked.request.stream:
            return await _stream(exchange, reply)
        return _reply(await until_client_leaves(request, _whole(exchange, reply)))

    return await twice(request, attempt)


async def count_tokens(request: Request) -> Response:
    asked, model = await _read(request, counting=True)
    question = Question(model, asked.request.wanted, "/tokenize", prompt(asked, Target.of(model)), "counting tokens")
    tokens, _ = await ask(request, question, EngineTokens)
    return _reply({"input_tokens": tokens.count})


async def _read(request: Request, *, counting: bool) -> tuple[Asked, Model]:
    """The checked request and a model that can do what it asks for."""
    asked = check_request(await read_body(request, MessagesRequest, empty="EOF"), counting=counting)
    model = await find_model(request, asked.request.wanted)
    if model.lacks("completion"):
        raise ApiError(400, f"{quote(asked.request.wanted)} does not support chat")
    needs = {"tools": asked.tools, "vision": asked.shows_images}
    check_abilities(model, [capability for capability, needed in needs.items() if needed])
    return asked, model


def _reply(content: Any) -> Response:
    return JSONResponse(content, headers={"request-id": new_request_id()})


async def _whole(exchange: _Exchange, reply: MessageReply) -> dict[str, Any]:
    async with _engine_reply(exchange) as response:
        message = reply.whole(decode(await response.read()))
    if not reply.finished:
        raise broken_off()
    return message


async def _stream(exchange: _Exchange, reply: MessageReply) -> Response:
    """A streamed message. The first events are waited for: an error before them still gets a status of its own."""
    stream = to_the_end(_relayed(exchange, reply), lambda error: ANTHROPIC.error_event(error.status, error.message))
    last_words = ANTHROPIC.error_event(503, STOPPING)
    response = await begin(exchange.request, stream, "text/event-stream", last_words)
    response.headers["request-id"] = new_request_id()
    return response


async def _relayed(exchange: _Exchange, reply: MessageReply) -> Stream:
    async with _engine_reply(exchange) as response:
        pipe = Pipe(response, _Events(reply))
        outlet = yield await pipe.first()
        await pipe.rest(outlet)


class _Events(CompletionTranslator):
    """A completion as the events of a message."""

    def __init__(self, message: MessageReply) -> None:
        super().__init__(message.reply, counted=True)
        self._message = message
        self.frames = message.frames

    def add(self, completion: Completion, out: list[bytes]) -> None:
        out += map(encode_event, self._message.feed(completion))

    def end(self, out: list[bytes]) -> None:
        if not self._message.finished:
            raise broken_off()
        out += map(encode_event, self._message.close())


@contextlib.asynccontextmanager
async def _engine_reply(exchange: _Exchange) -> AsyncIterator[EngineResponse]:
    """The engine's successful reply; leaving early aborts the request there.

    Raises ApiError where the engine refuses, or says what cannot be read, EngineGoneError where it is lost.
    """
    gateway = gateway_of(exchange.request)
    async with gateway.scheduler.acquire(exchange.model) as lease:
        asked = exchange.translate(lease.model, lease.context_length)
        with engine_failures():
            line = Line(gateway, lease)
            body = await capped(line, asked)
            async with _post(line, exchange, asked.path, body) as response:
                yield response


@contextlib.asynccontextmanager
async def _post(line: Line, exchange: _Exchange, path: str, body: Mapping[str, Any]) -> AsyncIterator[EngineResponse]:
    async with line.post(path, body) as response:
        if response.status == 200:
            yield response
            return
        data = await response.read()
    if response.status == 400 and _BUDGET in body and _BUDGET.encode() in data:
        # For some models, and servers without a reasoning parser, the engine can limit no thinking. It is only a wish.
        unlimited = {name: value for name, value in body.items() if name != _BUDGET}
        async with _post(line, exchange, path, unlimited) as response:
            yield response
        return
    raise refusal(response.status, data, wanted=exchange.wanted, action="chat")


routes = [
    Route("/v1/messages", messages, methods=["POST"]),
    Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
]
