"""Bodies into checked Structs, as Ollama reads those of its own protocol and those of OpenAI's."""

import contextlib
import functools
import json
import re
from typing import Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import Raw
from starlette.requests import Request

from vllama.bodies import read_within
from vllama.errors import ApiError
from vllama.routes._edge import gateway_of
from vllama.routes._engine import refuse_templates

T = TypeVar("T", bound=msgspec.Struct)

Fields = dict[str, Raw]
"""A JSON object of which only the members' names have been looked at."""

_CAPITAL_KEY = re.compile(rb'"([a-z_]*[A-Z][A-Za-z_]*)"\s*:')
_JSON_TYPES = {"str": "string", "int": "integer", "bool": "boolean"}

NULL = Raw(b"null")

_decode_fields = msgspec.json.Decoder(Fields).decode

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bodies that are no JSON, or are nested too deeply."""


async def read_bytes(request: Request) -> bytes:
    """The request's body, unpacked.

    Raises ApiError where it is too large, all bodies together are, or it is packed in a way that is not known.
    """
    gateway = gateway_of(request)
    return await read_within(request, gateway.max_body, gateway.admission.bodies)


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
        if not _has_capitals(body, _member_names(type_)):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                return msgspec.json.decode(body, type=type_ | None) or type_()
        return msgspec.convert(_tidy(first_value(body), type_), type_ | None) or type_()
    except msgspec.ValidationError as error:
        raise ApiError(400, f"invalid request: {explain(error)}") from None
    except (*NOT_JSON, ValueError) as error:
        raise ApiError(400, f"the request's body is not JSON: {error}") from None


def _has_capitals(body: bytes, names: frozenset[str]) -> bool:
    """Whether a member may be there under a name with capitals: a schema's `additionalProperties` is none of ours."""
    return any(key[1].decode().lower() in names for key in _CAPITAL_KEY.finditer(body))


@functools.cache
def _member_names(type_: Any) -> frozenset[str]:
    """The names of all members of a Struct, and of the Structs in it."""
    if not (isinstance(type_, type) and issubclass(type_, msgspec.Struct)):
        return frozenset(name for part in get_args(type_) for name in _member_names(part))
    fields = msgspec.structs.fields(type_)
    inner = (name for field in fields for name in _member_names(field.type))
    return frozenset((*(field.encode_name for field in fields), *inner))


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
            types = _member_types(option)
            named = ((key.lower(), item) for key, item in (value or {}).items() if item is not None)
            return {key: _tidy(item, types[key]) for key, item in named if key in types}
    return value


@functools.cache
def _member_types(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(struct)}


def explain(error: msgspec.ValidationError) -> str:
    """msgspec's "Expected `str`, got `int` - at `$.messages[0].content`" with the field first."""
    text, _, path = str(error).replace("`", "").partition(" - at ")
    text = text[:1].lower() + text[1:].replace(" | null", "")
    text = re.sub(r"\b(str|int|bool)\b", lambda name: _JSON_TYPES[name[0]], text)
    path = path.removeprefix("$").removeprefix(".")
    return f"{path}: {text}" if re.search("[a-z]", path) else text


async def read_fields(request: Request) -> Fields:
    """The members of the body. Raises ApiError 400 where it is no JSON object, or brings a chat template."""
    try:
        fields = _fields(await read_bytes(request))
    except NOT_JSON as error:
        raise ApiError(400, f"the request's body is not JSON: {error}") from None
    refuse_templates(gateway_of(request), fields)
    return fields


async def read_request(request: Request, type_: type[T]) -> tuple[Fields, T]:
    """The members of the body that are not null, and those that the gateway reads.

    Raises ApiError 400 naming the member that is wrong and what was expected.
    """
    body = await read_bytes(request)
    try:
        fields, read = _members(body, type_)
    except NOT_JSON:
        # Halves of characters, and what follows the first value, are forgiven as Ollama forgives them.
        fields, read = _members(_repaired(body), type_)
    refuse_templates(gateway_of(request), fields)
    return fields, read


def _members(body: bytes, type_: type[T]) -> tuple[Fields, T]:
    fields = {name: value for name, value in _fields(body).items() if value != NULL}
    try:
        return fields, msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise ApiError(400, f"invalid request: {explain(error)}") from None


def _repaired(body: bytes) -> bytes:
    try:
        return msgspec.json.encode(first_value(body))
    except (*NOT_JSON, ValueError) as error:
        raise ApiError(400, f"the request's body is not JSON: {error}") from None


def _fields(body: bytes) -> Fields:
    if not body.strip():
        raise ApiError(400, "EOF")
    try:
        return _decode_fields(body)
    except msgspec.ValidationError:
        raise ApiError(400, "the request's body must be a JSON object") from None


def text_field(fields: Fields, name: str) -> str:
    """A member that is a text, "" where it is absent or null. Raises ApiError 400 where it is something else."""
    try:
        return msgspec.json.decode(fields.get(name, b"null"), type=str | None) or ""
    except msgspec.ValidationError:
        raise ApiError(400, f"{name}: expected string") from None
    except UnicodeDecodeError as error:
        raise ApiError(400, f"{name}: {error}") from None
