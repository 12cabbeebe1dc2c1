"""The engine's refusals in Ollama's words."""

import json

import pytest

from tests.each import each
from vllama.translate.failure import CONTEXT_EXCEEDED, failure_text

BUSY = "server busy, please try again.  maximum pending requests exceeded"
FAILED = "an error was encountered while running the model: "


def error(message, code=None, **more):
    return json.dumps({"error": {"message": message, "type": "BadRequestError", "param": None, "code": code, **more}})


@each(
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
        "The engine prompt length 5000 exceeds the max_model_len 4096. Please reduce prompt.",
        "This model's maximum context length is 4096 tokens. However, your prompt contains 250050 characters (more "
        "than 81920 characters, which is the upper bound for 4096 input tokens). Please reduce the length of the input "
        "prompt. (parameter=input_text, value=250050)",
    ],
)
@each("status", [400, 500])
def test_prompts_that_are_too_long(status, message):
    assert failure_text(status, error(message, status).encode()) == (400, CONTEXT_EXCEEDED)


@each(
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


def listed(*errors):
    """As vLLM lists what its validation found."""
    lines = [repr({"type": kind, "loc": place, "msg": text, "input": {"x": []}}) for kind, place, text in errors]
    return f"{len(lines)} validation error{'s' if len(lines) > 1 else ''}:\n" + "\n".join(f"  {line}" for line in lines)


PARTS = """7 validation errors for ValidatorIterator
0.ChatCompletionContentPartTextParam.type
  Input should be 'text' [type=literal_error, input_value='nope', input_type=str]
    For further information visit https://errors.pydantic.dev/2.14/v/literal_error
0.ChatCompletionContentPartImageParam.image_url
  Field required [type=missing, input_value={'type': 'nope', 'text': 'Hello!'}, input_type=dict]
    For further information visit https://errors.pydantic.dev/2.14/v/missing
0.ChatCompletionContentPartImageParam.type
  Input should be 'image_url' [type=literal_error, input_value='nope', input_type=str]
"""
REGEX = """Grammar error: at 1(8): invalid regex "(" (in regex): regex parse error:
    (
    ^
error: unclosed group
   1 | start: /(/
              ^"""


@each(
    ("message", "expected"),
    [
        pytest.param(
            "temperature must be in [0, 2], got 5.0. (parameter=temperature, value=5.0)",
            "temperature must be in [0, 2], got 5.0.",
            id="parameter",
        ),
        pytest.param(
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely. "
            "(parameter=tools)",
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.",
            id="parameter without a value",
        ),
        pytest.param(
            listed(
                ("int_parsing", "body.seed", "Input should be a valid integer, unable to parse string as an integer")
            ),
            "seed: expected integer",
            id="one error",
        ),
        pytest.param(
            listed(
                ("string_type", "body.stop", "Input should be a valid string"),
                ("string_type", "body.stop.0", "Input should be a valid string"),
            ),
            "stop[0]: expected string",
            id="the deepest place",
        ),
        pytest.param(
            listed(
                (
                    "literal_error",
                    "body.response_format.type",
                    "Input should be 'text', 'json_object' or 'json_schema'",
                ),
                ("literal_error", "body.response_format.type", "Input should be 'structural_tag'"),
                ("missing", "body.response_format.format", "Field required"),
            ),
            "response_format.type: expected 'text', 'json_object' or 'json_schema' or 'structural_tag'",
            id="one of several objects",
        ),
        pytest.param(
            listed(
                ("missing", "body.tools.0.FunctionTool.name", "Field required"),
                ("literal_error", "body.tools.0.FunctionTool.type", "Input should be 'function'"),
            ),
            "tools[0].type: expected 'function'",
            id="names of classes",
        ),
        pytest.param(
            listed(("missing", "body.tools.0.function.name", "Field required")),
            "tools[0].function.name: required",
            id="missing",
        ),
        pytest.param(
            listed(
                ("string_type", "body.input", "Input should be a valid string"),
                ("list_type", "body.input", "Input should be a valid list"),
            ),
            "input: expected string or array",
            id="one of two types",
        ),
        pytest.param(
            listed(("dict_type", "body.metadata", "Input should be a valid dictionary")),
            "metadata: expected object",
            id="dictionary",
        ),
        pytest.param(PARTS, "[0].type: expected 'text' or 'image_url'", id="pydantic's own print"),
        pytest.param("2 validation errors, of an unknown kind", "2 validation errors, of an unknown kind", id="unread"),
        pytest.param(
            "Grammar error: Invalid type: nope", "the format cannot be followed: Invalid type: nope", id="type"
        ),
        pytest.param(
            "Grammar error: Unsatisfiable schema: minimum (5) is greater than maximum (1)",
            "the format cannot be followed: Unsatisfiable schema: minimum (5) is greater than maximum (1)",
            id="impossible schema",
        ),
        pytest.param(
            "Grammar error: Pointer '/nope' does not exist",
            "the format cannot be followed: Pointer '/nope' does not exist",
            id="bad reference",
        ),
        pytest.param(
            REGEX,
            'the format cannot be followed: at 1(8): invalid regex "(" (in regex): unclosed group',
            id="bad regular expression",
        ),
        pytest.param(
            "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template "
            "if the tokenizer does not define one.",
            "the model has no chat template: use /v1/completions, or /api/generate",
            id="no template",
        ),
        pytest.param(
            "suffix is only supported for models with FIM completion rendering",
            "the model does not support insert",
            id="insert",
        ),
        pytest.param(
            "demo:latest is not a multimodal model", "the model does not support images or sound", id="multimodal"
        ),
        pytest.param(
            "You must use one kind of structured outputs constraint but none are specified: {'json': None}",
            "You must use one kind of structured outputs constraint but none are specified",
            id="an object of its own",
        ),
    ],
)
def test_refusals_in_plain_words(message, expected):
    assert failure_text(400, error(message, 400).encode()) == (400, expected)


def test_what_a_model_cannot_do_at_all():
    body = error("The model does not support Transcriptions API", 501)
    assert failure_text(501, body.encode()) == (400, "The model does not support Transcriptions API")


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 100_000, b'{"error": ' * 100_000, b"x" * 100_000])
def test_anything_is_answered_in_short(body):
    status, text = failure_text(500, body)
    assert status == 500
    assert text.startswith(FAILED)
    assert len(text) < 2100


@pytest.mark.timeout(10)  # both would take minutes if they were read as carefully as what the engine itself wrote
def test_what_a_client_wrote_is_passed_over():
    wrong = {"type": "int_parsing", "loc": "body.seed", "msg": "Input should be a valid integer"}
    message = f"1 validation error:\n  {wrong | {'input': [{'a': 1}] * 500_000}}"
    assert failure_text(400, error(message, 400).encode()) == (400, "seed: expected integer")
    echo = " (parameter=a, value=" * 50_000
    assert failure_text(400, error(echo, 400).encode()) == (400, echo[:2000])
