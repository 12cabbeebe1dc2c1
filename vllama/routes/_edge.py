"""Where requests enter: bodies into checked Structs, names into models."""

import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vllama.errors import ApiError
from vllama.gateway import Gateway
from vllama.models.catalogue import Model
from vllama.models.names import InvalidName, parse
from vllama.routes._body import read_within

T = TypeVar("T", bound=msgspec.Struct)

_CAPITAL_KEY = re.compile(rb'"[a-z_]*[A-Z][A-Za-z_]*"\s*:')
_JSON_TYPES = {"str": "string", "int": "integer", "bool": "boolean"}

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bodies that are no JSON, or are nested too deeply."""


DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)


def get(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
    """A route for GET alone: Starlette adds HEAD by itself, which Ollama has for some paths only."""
    route = Route(path, endpoint, methods=["GET"])
    route.methods = {"GET"}
    return route


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def read_bytes(request: Request) -> bytes:
    """The request's body, unpacked. Raises ApiError where it is too large, or packed in a way that is not known."""
    return await read_within(request, gateway_of(request).max_body)


async def read_body(request: Request, type_: type[T], *, empty: str = "missing request body") -> T:
    """The request's body, read as Go's decoder does.

    Its Content-Type is not looked at, `null` is an empty object and an absent member, keys match in any case, and what
    follows the first JSON value is ignored. empty: what is said of a body of nothing. Raises ApiError 400 naming the
    field that is wrong and what was expected.
    """
    body = await read_bytes(request)
    if not body.strip():
        raise ApiError(400, empty)
    try:
        if not _CAPITAL_KEY.search(body):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                return msgspec.json.decode(body, type=type_ | None) or type_()
        return msgspec.convert(_tidy(first_value(body), type_), type_ | None) or type_()
    except msgspec.ValidationError as error:
        raise ApiError(400, f"invalid request: {explain(error)}") from None
    except (*NOT_JSON, ValueError) as error:
        raise ApiError(400, f"the request's body is not JSON: {error}") from None


def first_value(body: bytes) -> Any:
    """Bytes that are no UTF-8, and halves of characters that a client cut in two, become U+FFFD."""
    text = body.decode("utf-8", "replace").lstrip()
    value, end = json.JSONDecoder().raw_decode(text)
    written = json.dumps(value, ensure_ascii=False)
    whole = written.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return msgspec.json.decode(text[:end] if whole == written else whole)  # which is stricter: no NaN


def _tidy(value: Any, type_: Any) -> Any:
    """The value with its keys as the Structs of `type_` name them, and without the members that are null.

    A null where a list of objects has one is an empty object.
    """
    for option in (type_, *get_args(type_)):
        if isinstance(value, list) and get_origin(option) is list:
            return [_tidy(item, get_args(option)[0]) for item in value]
        if isinstance(option, type) and issubclass(option, msgspec.Struct) and isinstance(value, dict | None):
            types = {field.encode_name: field.type for field in msgspec.structs.fields(option)}
            named = ((key.lower(), item) for key, item in (value or {}).items() if item is not None)
            return {key: _tidy(item, types[key]) for key, item in named if key in types}
    return value


def explain(error: msgspec.ValidationError) -> str:
    """msgspec's "Expected `str`, got `int` - at `$.messages[0].content`" with the field first."""
    text, _, path = str(error).replace("`", "").partition(" - at ")
    text = text[:1].lower() + text[1:].replace(" | null", "")
    text = re.sub(r"\b(str|int|bool)\b", lambda name: _JSON_TYPES[name[0]], text)
    path = path.removeprefix("$").removeprefix(".")
    return f"{path}: {text}" if re.search("[a-z]", path) else text


async def find_model(
    request: Request,
    wanted: str,
    *,
    unknown: str = "model '{}' not found",
    remote: str = "remote model is unavailable",
) -> Model:
    """The model a client names.

    Raises ApiError 400 for an invalid name, 403 with the text `remote` for one of Ollama's cloud, 404 with the text
    `unknown` else, in which `{}` is the name as it came and `{short}` the whole of it.
    """
    if not wanted.strip():
        raise ApiError(404, unknown.format("", short=""))
    try:
        name = parse(wanted)
    except InvalidName as error:
        raise ApiError(400, str(error)) from None
    if name.is_remote:
        raise cloud_disabled(remote)
    if (model := await gateway_of(request).find(name)) is None:
        raise ApiError(404, unknown.format(wanted, short=name.short))
    return model


def cloud_disabled(consequence: str) -> ApiError:
    """What Ollama answers where its cloud is switched off. There is none behind this server."""
    return ApiError(403, f"ollama cloud is disabled: {consequence}")


def missing_in_engine(wanted: str, body: bytes, action: str) -> ApiError:
    """What an engine's 404 means: it serves no such model (any more), or has no route for what is asked."""
    if b"does not exist" in body:
        return ApiError(404, f"model '{wanted}' not found")
    return ApiError(400, f"{quote(wanted)} does not support {action}")


def quote(text: str) -> str:
    """Quoted as Go's %q does, for error texts that clients match on."""
    return json.dumps(text, ensure_ascii=False)


def timestamp() -> str:
    """Now, in UTC, as Go writes RFC 3339 with nanoseconds: trailing zeros trimmed."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"
