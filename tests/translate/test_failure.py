"""The engine's refusals in Ollama's words."""

import json

import pytest

from vllama.translate.failure import CONTEXT_EXCEEDED, failure_text

BUSY = "server busy, please try again.  maximum pending requests exceeded"
FAILED = "an error was encountered while running the model: "


def error(message, code=None, **more):
    return json.dumps({"error": {"message": message, "type": "BadRequestError", "param": None, "code": code, **more}})


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens, "
        "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.",
        "This model's maximum context length is 64 tokens. However, your prompt contains 9000 characters (more than "
        "640 characters, which is the upper bound for 64 input tokens). Please reduce the length of the input prompt.",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that "
        "`max_model_len` is no smaller than the number of text tokens.",
        "The decoder prompt (length 4096) plus the number of requested output tokens (at least 1) is longer than the "
        "maximum model length of 4096. Make sure that `max_model_len` is no smaller than the number of text tokens.",
    ],
)
@pytest.mark.parametrize("status", [400, 500])
def test_prompts_that_are_too_long(status, message):
    assert failure_text(status, error(message, status).encode()) == (400, CONTEXT_EXCEEDED)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(400, error("bad grammar", 400), (400, "bad grammar"), id="refused"),
        pytest.param(500, error("bad grammar", 400), (400, "bad grammar"), id="the error's own code wins"),
        pytest.param(500, error("x", 503), (503, BUSY), id="overloaded in a stream"),
        pytest.param(429, error("x"), (503, BUSY), id="too many"),
        pytest.param(503, "", (503, BUSY), id="unavailable"),
        pytest.param(500, error("it broke", 500), (500, FAILED + "it broke"), id="broken"),
        pytest.param(404, error("no such model", 404), (500, FAILED + "no such model"), id="engine's 404"),
        pytest.param(401, '{"error": "Unauthorized"}', (500, FAILED + "Unauthorized"), id="error as text"),
        pytest.param(500, '{"detail": "Not Found"}', (500, FAILED + "Not Found"), id="detail as text"),
        pytest.param(422, '{"detail": [{"loc": ["a"]}]}', (500, FAILED + '[{"loc":["a"]}]'), id="detail as list"),
        pytest.param(400, '{"message": "m", "code": 400}', (400, "m"), id="bare object"),
        pytest.param(400, '{"error": {"a": 1}}', (400, '{"a":1}'), id="no message"),
        pytest.param(400, '{"error": null}', (400, "no reason given"), id="null"),
        pytest.param(400, error("m", 200), (400, "m"), id="code that is no error"),
        pytest.param(400, error("m", "400"), (400, "m"), id="code as text"),
        pytest.param(400, error("m", True), (400, "m"), id="code as boolean"),
        pytest.param(502, "<html>Bad Gateway</html>\n", (500, FAILED + "<html>Bad Gateway</html>"), id="no JSON"),
        pytest.param(500, "", (500, FAILED + "no reason given"), id="empty"),
        pytest.param(500, "[1]", (500, FAILED + "[1]"), id="list"),
    ],
)
def test_texts(status, body, expected):
    assert failure_text(status, body.encode()) == expected


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 100_000, b'{"error": ' * 100_000, b"x" * 100_000])
def test_anything_is_answered_in_short(body):
    status, text = failure_text(500, body)
    assert status == 500
    assert text.startswith(FAILED)
    assert len(text) < 2100
