"""OpenAI's transcriptions and translations of sound: the form is handed on to the engine."""

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive

from vllama.bodies import STALL_S, BodyTooLargeError, receive
from vllama.engine.form import Form
from vllama.errors import ApiError
from vllama.models.model import Model
from vllama.routes._abilities import check_abilities
from vllama.routes._edge import find_model, gateway_of
from vllama.routes._engine import Line
from vllama.routes._relay import Handover, hand_over
from vllama.translate.openai_reply import Renamed

MAX_FIELD_BYTES = 2**20
"""Of a form's field that is no file."""


class _Transcript(msgspec.Struct):
    text: str = ""


async def listen(request: Request) -> Response:
    form = await _read_form(request)
    try:
        return await _hand_on(request, form)
    finally:
        await form.close()


async def _read_form(request: Request) -> FormData:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        raise ApiError(400, "failed to parse multipart form: request Content-Type isn't multipart/form-data")
    bounded = Request(request.scope, _bounded(request))
    try:
        return await bounded.form(max_files=8, max_fields=256, max_part_size=MAX_FIELD_BYTES)
    except HTTPException as error:
        raise ApiError(400, f"failed to parse multipart form: {error.detail}") from None


def _bounded(request: Request) -> Receive:
    """The request's body as it comes, as long as it is not too large. Long parts of it wait in files on disk."""
    gateway = gateway_of(request)
    taken, limit = 0, gateway.max_body

    async def receive_more() -> Message:
        nonlocal taken
        message = await receive(request, STALL_S)
        size = len(message.get("body", b""))
        taken += size
        if taken > limit:
            raise BodyTooLargeError(limit)
        gateway.admission.bodies.take(request.scope, size)
        return message

    return receive_more


async def _hand_on(request: Request, form: FormData) -> Response:
    wanted = form.get("model")
    if not isinstance(wanted, str) or not wanted.strip():
        raise ApiError(400, "model is required")
    sound = form.get("file")
    if not isinstance(sound, UploadFile):
        raise ApiError(400, "file is required: http: no such file")
    if not sound.size:
        raise ApiError(400, "audio file is empty")
    model = await find_model(request, wanted)
    check_abilities(model, {"audio"})

    async def engine_form(line: Line) -> Form:
        check_abilities(line.lease.model, {"audio"})
        return _copy(form, line.lease.model)

    handover = Handover(model, wanted, request.scope["path"], engine_form, Renamed(wanted), action="audio")
    reply = await hand_over(request, handover)
    return _as_text(reply) if form.get("response_format") == "text" else reply


def _as_text(reply: Response) -> Response:
    """The text alone, which the engine wraps in an object whatever it is asked for; a stream stays what it is."""
    if reply.media_type != "application/json":
        return reply
    return PlainTextResponse(msgspec.json.decode(reply.body, type=_Transcript).text)


def _copy(form: FormData, model: Model) -> Form:
    """The form under the engine's name for the model. Its files are read where they lie, without blocking."""
    copy = Form()
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            kind = value.content_type or "application/octet-stream"
            copy.add_file(name, value, value.size or 0, filename=value.filename or name, content_type=kind)
        elif name != "model":
            copy.add(name, value)
    copy.add("model", model.engine_name)
    return copy


routes = [
    Route("/v1/audio/transcriptions", listen, methods=["POST"]),
    Route("/v1/audio/translations", listen, methods=["POST"]),
]
