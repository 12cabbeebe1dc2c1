"""/v1/audio: what an engine is handed, and how errors look. The demo models are deaf, so engines are scripted here."""

from dataclasses import replace
from typing import Any

import pytest
from starlette.applications import Starlette

from tests.conftest import Alone
from tests.each import each
from tests.fake_engine import Stream, events, refusal, whole
from vllama.models.model import Model
from vllama.models.names import parse

PATHS = ["/v1/audio/transcriptions", "/v1/audio/translations"]
PATH = PATHS[0]
SOUND = {"file": ("hello.wav", b"RIFF....WAVE", "audio/wav")}


def error(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


@pytest.fixture
def hearing(alone: Alone, empty_app: tuple[Starlette, str], models: dict[str, Model]) -> Alone:
    """A gateway with the model `ears`, which takes sound."""
    demo = models["demo"]
    assert demo.checkpoint is not None
    checkpoint = replace(demo.checkpoint, capabilities=("audio",))
    ears = replace(demo, name=parse("ears"), engine_name="ears:latest", checkpoint=checkpoint)
    empty_app[0].state.gateway.catalogue.put(ears)
    return alone


@pytest.mark.parametrize("path", PATHS)
async def test_the_form_is_handed_on(hearing: Alone, path: str) -> None:
    hearing.engine.script(whole({"text": "Hello!"}))
    fields = {"model": "Ears", "language": "en", "timestamp_granularities[]": ["word", "segment"]}
    response = await hearing.api.post(path, data=fields, files=SOUND)
    assert (response.status_code, response.json()) == (200, {"text": "Hello!"})
    asked = hearing.engine.asked[-1]
    assert (asked.path, asked.headers["Content-Type"].partition(";")[0]) == (path, "multipart/form-data")
    for field, value in [("model", "ears:latest"), ("language", "en"), ("timestamp_granularities[]", "word")]:
        assert f'name="{field}"\r\n\r\n{value}\r\n' in asked.body
    assert "Ears" not in asked.body
    assert 'name="timestamp_granularities[]"\r\n\r\nsegment\r\n' in asked.body
    assert 'Content-Disposition: form-data; name="file"; filename="hello.wav"\r\nContent-Type: audio/wav' in asked.body
    assert "\r\n\r\nRIFF....WAVE\r\n" in asked.body


async def test_a_large_file(hearing: Alone) -> None:
    hearing.engine.script(whole({"text": "Hello!"}))
    sound = b"x" * 3 * 2**20
    response = await hearing.api.post(PATH, data={"model": "ears"}, files={"file": ("a.wav", sound)})
    assert response.status_code == 200
    assert hearing.engine.last_body.count("x" * 2**20) == 3


async def test_text_alone(hearing: Alone) -> None:
    hearing.engine.script(whole({"text": "Hello, señor!", "usage": {"seconds": 1}}))
    response = await hearing.api.post(PATH, data={"model": "ears", "response_format": "text"}, files=SOUND)
    assert (response.text, response.headers["content-type"]) == ("Hello, señor!", "text/plain; charset=utf-8")


async def test_a_stream(hearing: Alone) -> None:
    hearing.engine.script(Stream(*events({"model": "ears:latest", "choices": []}, "[DONE]")))
    fields = {"model": "Ears", "stream": "true", "response_format": "text"}
    response = await hearing.api.post(PATH, data=fields, files=SOUND)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.text == 'data: {"model":"Ears","choices":[]}\n\ndata: [DONE]\n\n'


async def test_the_official_client(hearing: Alone) -> None:
    import openai  # here, as it takes a second

    hearing.engine.script(whole({"text": "Hello!"}))
    async with openai.AsyncOpenAI(base_url=f"{hearing.url}/v1", api_key="any", max_retries=0) as client:
        reply = await client.audio.transcriptions.create(model="ears", file=SOUND["file"])
    assert reply.text == "Hello!"


async def test_the_engines_refusal(hearing: Alone) -> None:
    hearing.engine.script(refusal(400, "Maximum file size exceeded (parameter=audio_filesize_mb, value=26)"))
    response = await hearing.api.post(PATH, data={"model": "ears"}, files=SOUND)
    assert (response.status_code, response.json()) == (400, error("Maximum file size exceeded"))


async def test_an_engine_without_the_route(hearing: Alone) -> None:
    hearing.engine.script(whole({"detail": "Not Found"}, 404))
    response = await hearing.api.post(PATH, data={"model": "ears"}, files=SOUND)
    assert (response.status_code, response.json()) == (400, error('"ears" does not support audio'))


# Refusals, in the order in which they are found


@each(
    ("fields", "files", "status", "expected"),
    [
        ({}, {"other": ("a", b"x")}, 400, error("model is required")),
        ({"model": " "}, SOUND, 400, error("model is required")),
        ({"model": "nope"}, {"other": ("a", b"x")}, 400, error("file is required: http: no such file")),
        ({"model": "nope"}, {"file": ("a.wav", b"")}, 400, error("audio file is empty")),
        ({"model": "nope"}, SOUND, 404, error("model 'nope' not found", "not_found_error")),
        ({"model": "a b"}, SOUND, 400, error("invalid model name")),
        ({"model": "demo"}, SOUND, 400, error("registry.ollama.ai/library/demo:latest does not support audio")),
    ],
)
async def test_refusals(
    alone: Alone, fields: dict[str, str], files: Any, status: int, expected: dict[str, Any]
) -> None:
    response = await alone.api.post(PATH, data=fields, files=files)
    assert (response.status_code, response.json()) == (status, expected)


@pytest.mark.parametrize(
    ("content", "media_type", "text"),
    [
        (b"{}", "application/json", "request Content-Type isn't multipart/form-data"),
        (b"x", "multipart/form-data", "Missing boundary in multipart."),
        (b"nonsense", "multipart/form-data; boundary=x", ""),
    ],
)
async def test_what_is_no_form(alone: Alone, content: bytes, media_type: str, text: str) -> None:
    response = await alone.api.post(PATH, content=content, headers={"Content-Type": media_type})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(f"failed to parse multipart form: {text}")


async def test_a_field_that_is_too_large(alone: Alone) -> None:
    response = await alone.api.post(PATH, data={"model": "demo", "prompt": "x" * 2**21}, files=SOUND)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("failed to parse multipart form: ")


async def test_a_form_that_is_too_large(alone: Alone) -> None:
    alone.gateway.max_body = 2**20
    response = await alone.api.post(PATH, data={"model": "demo"}, files={"file": ("a.wav", b"x" * 2**21)})
    assert response.status_code == 413
    assert response.json()["error"]["message"].startswith("the request's body is larger than 1 MiB: send less, or ")
