"""What a Modelfile and a checkpoint's generation_config.json mean to requests, in every dialect alike."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import RECORDING, Alone, Engines, Serve, local_model
from tests.each import each
from tests.fake_engine import EngineInPlace, EnginesInPlace, whole
from vllama import demo
from vllama.app import create_app
from vllama.demo.dialogues import by_name
from vllama.engine.client import EngineClient
from vllama.gateway import Gateway
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.modelfile import Modelfile
from vllama.models.names import parse
from vllama.routes._engine import refuse_templates
from vllama.scheduling.local import LocalScheduler
from vllama.translate.failure import CONTEXT_EXCEEDED, UNTRUSTED_TEMPLATE

ALWAYS_HELLO = "{{ '<|im_start|>user\\nHello!<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}"
"""The demo model's own words for one question, whatever was asked."""

ASKED = {
    "/api/chat": {"messages": [{"role": "user", "content": "Hi"}], "stream": False},
    "/api/generate": {"prompt": "Hi", "stream": False},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3000},
}
"""The same question in each dialect."""

GREEDY = {"temperature": 0}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
CHATS = ["/api/chat", "/v1/chat/completions", "/v1/responses", "/v1/messages"]
OLLAMAS = ["/api/chat", "/api/generate", "/v1/messages"]
OPENAIS = ["/v1/chat/completions", "/v1/responses"]
REPLY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "."}, "finish_reason": "stop"}]}
USAGE = {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}


def made(alone: Alone, modelfile: Modelfile, *, checkpoint: dict[str, Any] | None = None) -> None:
    """`made` is demo with this Modelfile, and with other members of its checkpoint."""
    original = alone.gateway.catalogue.find(parse("demo"))
    assert original is not None
    assert original.checkpoint is not None
    changed = replace(original.checkpoint, **(checkpoint or {}))
    alone.gateway.catalogue.put(replace(original, name=parse("made"), modelfile=modelfile, checkpoint=changed))


async def ask(alone: Alone, path: str, **more: Any) -> dict[str, Any]:
    """What the engine is asked for the question that `path` asks of `made`."""
    alone.engine.script(whole(REPLY | USAGE))
    await alone.api.post(path, json={"model": "made"} | ASKED[path] | more)
    body: dict[str, Any] = alone.engine.last_body
    return body


# Sampling


@pytest.mark.parametrize("path", ASKED)
async def test_the_layers_of_options(alone: Alone, path: str) -> None:
    said = {"temperature": 0.6, "top_k": 20, "min_p": 0.05, "repeat_penalty": 1.1}
    made(alone, Modelfile(parameters={"top_k": 30, "seed": 7}), checkpoint={"parameters": said})
    body = await ask(alone, path)
    assert (body["seed"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (7, 30, 0.05, 1.1)
    # OpenAI's own default lies above a model's, in Ollama, too.
    assert body["temperature"] == (1.0 if path in OPENAIS else 0.6)


@pytest.mark.parametrize("path", OLLAMAS)
async def test_ollamas_defaults_are_the_lowest_layer(alone: Alone, path: str) -> None:
    made(alone, Modelfile())
    body = await ask(alone, path)
    assert (body["temperature"], body["top_k"], body["top_p"]) == (0.8, 40, 0.9)


@pytest.mark.parametrize("path", OPENAIS)
async def test_a_request_is_the_highest_layer(alone: Alone, path: str) -> None:
    made(alone, Modelfile(parameters={"temperature": 0.3, "top_k": 30}), checkpoint={"parameters": {"top_k": 20}})
    body = await ask(alone, path, temperature=0.1, top_k=5)
    assert (body["temperature"], body["top_k"]) == (0.1, 5)


async def test_the_demo_is_sampled_as_its_makers_say(alone: Alone) -> None:
    alone.gateway.catalogue.put(await asyncio.to_thread(local_model, "made", demo.CHAT))
    body = await ask(alone, "/api/chat", options={"top_p": 0.5})
    assert (body["temperature"], body["top_k"], body["top_p"]) == (0.6, 20, 0.5)
    shown = (await alone.api.post("/api/show", json={"model": "made"})).json()
    assert set(shown["parameters"].splitlines()) == {f"{name:<30} {value}" for name, value in [
        ("temperature", 0.6), ("top_k", 20), ("top_p", 0.95),
    ]}  # fmt: skip


# num_ctx


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_num_ctx_holds(alone: Alone, path: str) -> None:
    """What the prompt leaves of it is left to the reply."""
    made(alone, Modelfile(parameters={"num_ctx": 100}))
    alone.engine.script(whole({"count": 60, "max_model_len": 4096, "tokens": [1]}))
    body = await ask(alone, path)
    assert (body.get("max_tokens") or body["max_output_tokens"]) == 40
    assert alone.engine.asked[0].path == "/tokenize"
    assert alone.engine.asked[0].body["messages"] == [{"role": "user", "content": "Hi"}]
    alone.engine.script(whole({"count": 100, "max_model_len": 4096, "tokens": [1]}))
    refused = await alone.api.post(path, json={"model": "made"} | ASKED[path])
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == CONTEXT_EXCEEDED


@pytest.mark.parametrize(
    ("prompt", "counts", "limit"),
    [("Hi", [60], 40), (["a", "b"], [10, 70], 30), ([1, 2, 3], [], 97), ([[1], [2]], [], 99)],
)
async def test_num_ctx_holds_for_each_prompt(alone: Alone, prompt: Any, counts: list[int], limit: int) -> None:
    made(alone, Modelfile(parameters={"num_ctx": 100}))
    alone.engine.script(*(whole({"count": count, "max_model_len": 4096, "tokens": [1]}) for count in counts))
    alone.engine.script(whole(REPLY))
    await alone.api.post("/v1/completions", json={"model": "made", "prompt": prompt})
    assert (alone.engine.last_body["prompt"], alone.engine.last_body["max_tokens"]) == (prompt, limit)


@pytest.mark.parametrize("path", CHATS[1:])
async def test_a_num_ctx_above_the_engines_is_nothing(alone: Alone, path: str) -> None:
    made(alone, Modelfile(parameters={"num_ctx": 100_000}))
    body = await ask(alone, path)
    assert alone.engine.asked[0].path != "/tokenize"
    assert body.get("max_tokens") == (3000 if path == "/v1/messages" else None)


async def test_a_response_is_counted_as_the_chat_that_it_is(alone: Alone) -> None:
    made(alone, Modelfile(parameters={"num_ctx": 100}, template="{{ messages }}{% if tools %}{% endif %}"))
    alone.engine.script(whole({"count": 60, "max_model_len": 4096, "tokens": [1]}))
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "Hm."},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
    ]
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    await ask(alone, "/v1/responses", input=items, tools=[tool], instructions="Be kind.")
    counted = alone.engine.asked[0].body
    assert [message["role"] for message in counted["messages"]] == ["system", "user", "assistant", "tool"]
    assert counted["messages"][1]["content"] == "Hi"
    assert counted["tools"] == [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    assert counted["chat_template"] == "{{ messages }}{% if tools %}{% endif %}"


# SYSTEM and MESSAGE


PREAMBLE = Modelfile(system="Be brief.", messages=(("user", "1+1?"), ("assistant", "2")))


def roles(body: dict[str, Any]) -> list[str]:
    return [message["role"] for message in body.get("messages") or body["input"]]


@pytest.mark.parametrize("path", ASKED)
async def test_what_comes_before_a_conversation(alone: Alone, path: str) -> None:
    made(alone, PREAMBLE)
    assert roles(await ask(alone, path)) == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/api/chat", {"messages": [{"role": "system", "content": "Own."}, {"role": "user", "content": "Hi"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "System", "content": "Own."}, QUESTION[0]]}),
        ("/v1/messages", {"system": "Own."}),
        ("/v1/responses", {"input": [{"role": "system", "content": "Own."}, {"role": "user", "content": "Hi"}]}),
        ("/api/generate", {"system": "Own."}),
    ],
)  # fmt: skip
async def test_a_clients_system_text_replaces_the_models(alone: Alone, path: str, own: dict[str, Any]) -> None:
    made(alone, PREAMBLE)
    body = await ask(alone, path, **own)
    texts = [message["content"] for message in body.get("messages") or body["input"]]
    assert "Own." in texts
    assert "Be brief." not in texts
    assert "1+1?" in texts


# TEMPLATE


@pytest.fixture
async def greeter(
    models: dict[str, Model], recorded_engines: Engines, engines: Engines, serve: Serve
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway with one model: demo's weights under a template of its own."""

    def place(model: Model) -> EngineInPlace:
        return EngineInPlace(recorded_engines["demo"].url, name=model.engine_name)

    model = replace(models["demo"], name=parse("greeter"), modelfile=Modelfile(template=ALWAYS_HELLO))
    scheduler = LocalScheduler(EnginesInPlace(place), keep_alive=300.0, max_queue=16)
    async with (
        serve(create_app(Gateway(Catalogue([model]), scheduler))) as url,
        httpx.AsyncClient(base_url=url, timeout=1200 if RECORDING else 20, trust_env=False) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/api/chat", {"messages": QUESTION, "stream": False, "options": GREEDY}, ("message", "content")),
        ("/api/generate", {"prompt": "Hm?", "stream": False, "options": GREEDY}, ("response",)),
        ("/v1/chat/completions", {"messages": QUESTION} | GREEDY, ("choices", 0, "message", "content")),
        ("/v1/responses", {"input": QUESTION} | GREEDY, ("output", 0, "content", 0, "text")),
        ("/v1/messages", {"messages": QUESTION, "max_tokens": 50} | GREEDY, ("content", 0, "text")),
    ],
)
async def test_a_template_on_a_real_engine(
    greeter: httpx.AsyncClient, path: str, body: dict[str, Any], answer: tuple[Any, ...]
) -> None:
    """It makes no thinking, so none is looked for: all that the model says is its answer."""
    reply = (await greeter.post(path, json={"model": "greeter"} | body)).json()
    for step in answer:
        reply = reply[step]
    assert reply == by_name("hello").answer


async def test_a_template_decides_about_tokens(greeter: httpx.AsyncClient) -> None:
    asked = {"model": "greeter", "messages": QUESTION}
    counts = [
        (await greeter.post("/tokenize", json=asked)).json()["count"],
        (await greeter.post("/api/tokenize", json=asked)).json()["count"],
        (await greeter.post("/v1/messages/count_tokens", json=asked)).json()["input_tokens"],
    ]
    assert len(set(counts)) == 1
    rendered = await greeter.post("/api/chat", json=asked | {"_debug_render_only": True})
    assert "Hello!" in rendered.json()["_debug_info"]["rendered_template"]
    assert "France" not in rendered.text


async def test_a_template_decides_about_capabilities(greeter: httpx.AsyncClient) -> None:
    shown = (await greeter.post("/api/show", json={"model": "greeter"})).json()
    assert shown["template"] == ALWAYS_HELLO
    assert shown["capabilities"] == ["completion"]
    refused = await greeter.post("/api/chat", json={"model": "greeter", "messages": QUESTION, "think": True})
    assert (refused.status_code, refused.json()) == (400, {"error": '"greeter" does not support thinking'})


# Templates of clients

TEMPLATES: list[dict[str, Any]] = [
    {"chat_template": "x"},
    {"chat_template": ""},
    {"chat_template": 1},
    {"chat_template_kwargs": {"chat_template": "x"}},
    {"chat_template_kwargs": {"enable_thinking": False, "chat_template": "x"}},
]


@each("brought", TEMPLATES)
@each("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize"])
async def test_a_clients_template_is_refused(alone: Alone, path: str, brought: dict[str, Any]) -> None:
    made(alone, Modelfile(template="{{ messages }}"))
    body = {"model": "made", "prompt": "x", "tokens": [1]} | ASKED.get(path, {}) | brought
    refused = await alone.api.post(path, json=body)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error if isinstance(error, str) else error["message"]) == UNTRUSTED_TEMPLATE
    # A key that is written otherwise is the same key, and the last of two is the one that counts.
    name = b'"chat\\u005ftemplate'
    hidden = json.dumps(body).encode().replace(b'"chat_template', name)
    twice = hidden.replace(b"{", b"{" + name + b'": null, ', 1)
    for data in (hidden, twice):
        assert (await alone.api.post(path, content=data)).status_code == 400
    assert not alone.engine.asked
    assert not alone.places, "and no model is loaded for it"


async def test_a_clients_template_in_generate_is_refused(alone: Alone) -> None:
    refused = await alone.api.post("/api/generate", json={"model": "demo", "prompt": "x", "template": "{{ prompt }}"})
    assert (refused.status_code, refused.json()) == (400, {"error": UNTRUSTED_TEMPLATE})
    assert not alone.places


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", ASKED["/api/chat"]),
        ("/v1/messages", ASKED["/v1/messages"]),
        ("/v1/messages/count_tokens", ASKED["/v1/messages"]),
        ("/api/tokenize", {"messages": QUESTION}),
        ("/api/detokenize", {"tokens": [1]}),
        ("/v1/systemone", {"state": {"chat_template": "x"}, "questions": {"a": {}}}),
    ],
)
async def test_a_clients_template_is_dropped_where_there_is_no_such_member(
    alone: Alone, path: str, body: dict[str, Any]
) -> None:
    alone.engine.script(whole(REPLY | USAGE | {"count": 1, "tokens": [1], "prompt": "x"}))
    brought = {"chat_template": "x", "chat_template_kwargs": {"chat_template": "x"}, "template": "x"}
    await alone.api.post(path, json={"model": "demo"} | body | brought)
    assert "chat_template" not in alone.engine.last_body
    assert "chat_template" not in alone.engine.last_body.get("chat_template_kwargs", {})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/tokenize"])
@pytest.mark.parametrize("nothing", [{"chat_template": None}, {"chat_template_kwargs": {"chat_template": None}}])
async def test_null_is_no_template(alone: Alone, path: str, nothing: dict[str, Any]) -> None:
    made(alone, Modelfile(template="{{ own }}"))
    alone.engine.script(whole(REPLY | USAGE))
    await alone.api.post(path, json={"model": "made", "messages": QUESTION} | ASKED.get(path, {}) | nothing)
    body = alone.engine.last_body
    assert (body.get("chat_template") or body["chat_template_kwargs"]["chat_template"]) == "{{ own }}"


async def test_clients_that_are_trusted(alone: Alone) -> None:
    alone.gateway.trusts_templates = True
    made(alone, Modelfile(template="{{ own }}"))
    alone.engine.script(*[whole(REPLY | USAGE)] * 4)
    for path, brought in [
        ("/api/generate", {"template": "{{ mine }}"}),
        ("/v1/chat/completions", {"chat_template": "{{ mine }}"}),
        ("/tokenize", {"messages": QUESTION, "chat_template": "{{ mine }}"}),
        ("/v1/responses", {"chat_template_kwargs": {"chat_template": "{{ mine }}"}}),
    ]:
        await alone.api.post(path, json={"model": "made"} | ASKED.get(path, {}) | brought)
        body = alone.engine.last_body
        assert (body.get("chat_template") or body["chat_template_kwargs"]["chat_template"]) == "{{ mine }}"


def test_somebody_elses_server_decides_for_itself(alone: Alone) -> None:
    attached = replace(alone.gateway, attached=EngineClient("http://127.0.0.1:1"))
    refuse_templates(attached, {"chat_template": "x"})


def test_there_is_one_way_to_the_engine() -> None:
    """A body that went another way would not be looked at."""
    routes = Path(__file__).parents[2] / "vllama" / "routes"
    ways = [path.name for path in routes.glob("*.py") if re.search(r"client\.request\(", path.read_text())]
    assert ways == ["_engine.py"]
