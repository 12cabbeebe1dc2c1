"""The one way on which a request's body goes to an engine.

Our own engines render every chat template that they are sent, as a Modelfile's TEMPLATE is. One from a client is a
program of a stranger's: only a model's own goes through here, unless the server's owner trusts its clients with it.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from vllama.engine.client import Response as EngineResponse
from vllama.engine.client import death
from vllama.engine.form import Form
from vllama.errors import ApiError, EngineError, EngineGoneError
from vllama.gateway import Gateway
from vllama.scheduling.scheduler import Lease
from vllama.translate.failure import UNTRUSTED_TEMPLATE

Body = Mapping[str, Any] | Form

_FATE_S = 2.0
"""Within which it is known whether an engine that broke a request off lives."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class Line:
    """The way of a request to the engine that was leased for it."""

    gateway: Gateway
    lease: Lease

    @contextlib.asynccontextmanager
    async def post(self, path: str, body: Body) -> AsyncIterator[EngineResponse]:
        """The engine's reply to a body in the name of the leased model; leaving early aborts the request there.

        `model` is set here, but for a form. Raises ApiError 400 for a chat template that is not the model's own,
        EngineGoneError with the cause where the engine is lost or cannot be reached, EngineError for what else goes
        wrong; always the latter for a server that somebody else runs.
        """
        client, model = self.lease.client, self.lease.model
        if not isinstance(body, Form):
            refuse_templates(self.gateway, body, own=model.modelfile.template)
        data = body if isinstance(body, Form) else _encode({**body, "model": model.engine_name})
        try:
            async with client.request("POST", path, data) as response:
                await _check_alive(response)
                yield response
        except EngineGoneError as error:
            if self.gateway.attached is not None:
                raise EngineError(error.message) from error
            raise EngineGoneError(await client.fate.learn(_FATE_S) or error.message) from error


async def _check_alive(response: EngineResponse) -> None:
    if response.status == 500 and (gone := death(await response.read())):
        raise gone


def refuse_templates(gateway: Gateway, body: Mapping[str, Any], *, own: str | None = None) -> None:
    """Raises ApiError 400, in the engine's words, where a body brings a chat template that may not be rendered.

    A server that somebody else runs decides for itself.
    """
    if gateway.trusts_templates or gateway.attached is not None:
        return
    if any(template not in (None, own) for template in _templates(body)):
        raise ApiError(400, UNTRUSTED_TEMPLATE)


def _templates(body: Mapping[str, Any]) -> Iterator[Any]:
    """Where the engine would find one: as a member, and among the template's variables."""
    yield _read(body.get("chat_template"))
    variables = _read(body.get("chat_template_kwargs"))
    if isinstance(variables, Mapping):
        yield variables.get("chat_template")


def _read(value: Any) -> Any:
    try:
        return _decode(value) if isinstance(value, Raw) else value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the request's body is not JSON: {error}") from None
