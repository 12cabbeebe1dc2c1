"""Random requests that are valid, made from the types that the gateway reads them into: a new field joins by itself."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from vllama.wire import anthropic, embed, engines, ollama
from vllama.wire import openai_requests as openai

Strategy = st.SearchStrategy[Any]

TEXTS = st.one_of(st.sampled_from(["", "Hello!", "grüß 🙂", "<think>", "\n", "{{ x }}"]), st.text(max_size=12))
INTEGERS = st.one_of(st.integers(-2, 40), st.integers(-(2**62), 2**62))
FLOATS = st.floats(-4, 4, allow_nan=False)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
MODELS = st.sampled_from(["demo", "DEMO:latest", "anything", "anything", "anything", "plain", "demo-embed", "nobody"])


def one_of(*values: Any) -> Strategy:
    return st.sampled_from(values)


def some_of(**members: Strategy) -> Strategy:
    return st.fixed_dictionaries({}, optional=members)


_IMAGE = base64.b64encode(b"\x89PNG" + bytes(9)).decode()
_FUNCTION = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
_PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), min_size=1, max_size=2)
_MESSAGE = st.fixed_dictionaries(
    {"role": one_of("user", "assistant", "system"), "content": TEXTS | _PARTS}, optional={"name": TEXTS}
)

OPTIONS = some_of(
    temperature=FLOATS, top_k=INTEGERS, top_p=FLOATS, min_p=FLOATS, typical_p=FLOATS, repeat_penalty=FLOATS,
    presence_penalty=FLOATS, frequency_penalty=FLOATS, repeat_last_n=INTEGERS, seed=INTEGERS,
    num_predict=INTEGERS, num_ctx=INTEGERS, num_keep=INTEGERS, num_gpu=INTEGERS, use_mmap=st.booleans(),
    stop=st.lists(TEXTS, max_size=3) | TEXTS, unknown=JSON,
)  # fmt: skip

VALUES: Mapping[str, Strategy] = {
    "role": one_of("user", "user", "assistant", "system", "tool", "User", ""),
    "format": one_of("", "json", {}) | OBJECTS,
    "keep_alive": one_of(0, 5, -1, 1.5, "5m", "1h30m", "0", "-1", "300"),
    "options": OPTIONS,
    "think": one_of(True, False, "low", "medium", "high", "max"),
    "structured_outputs": one_of({"regex": "a+"}, {"choice": ["a", "b"]}, {"json_object": True}),
    "tool_choice": one_of("auto", "none", "required", {"type": "function", "function": {"name": "get_weather"}}),
    "top_logprobs": st.integers(0, 20),
    "images": st.lists(one_of(_IMAGE, "", "QUJD\n"), max_size=1),
    "template": one_of("", "", "{{ messages }}"),
    "suffix": one_of("", "", "}"),
    "raw": one_of(False, False, True),
    "_debug_render_only": one_of(False, False, False, True),
    "stop": TEXTS | st.lists(TEXTS, max_size=3),
    "messages": st.lists(_MESSAGE, min_size=1, max_size=3),
    "tools": st.lists(st.just(_FUNCTION), max_size=2),
    "response_format": one_of({"type": "text"}, {"type": "json_object"}),
    "reasoning_effort": one_of("none", "low", "high"),
    "encoding_format": one_of("float", "base64"),
    "input": TEXTS | st.lists(TEXTS, max_size=3),
    "query": TEXTS,
    "documents": st.lists(TEXTS, min_size=1, max_size=3),
    "max_tokens": st.integers(1, 100),
}
"""What a field may hold where its type alone does not say it. A type with Structs in it does."""

SCALARS: Mapping[Any, Strategy] = {
    str: TEXTS, int: INTEGERS, float: FLOATS, bool: st.booleans(), NoneType: st.none(), Any: JSON,
}  # fmt: skip


def of_struct(struct: type[msgspec.Struct], **own: Strategy) -> Strategy:
    """JSON objects that are read into the Struct. own: members in place of what their types say, or besides."""
    fields = {one.encode_name: one for one in msgspec.structs.fields(struct)}
    members = {name: of_type(one.type, name) for name, one in fields.items()} | own
    required = {name for name, one in fields.items() if one.required}
    return st.fixed_dictionaries(
        {name: member for name, member in members.items() if name in required},
        optional={name: member for name, member in members.items() if name not in required},
    )


def of_type(type_: Any, name: str = "") -> Strategy:
    if name in VALUES and "Struct" not in _kinds(type_):
        return st.none() | VALUES[name]
    origin, arguments = get_origin(type_), get_args(type_)
    if origin in (Union, UnionType):
        return st.one_of(*(of_type(option) for option in arguments))
    if origin is Annotated:
        return of_type(arguments[0]).filter(lambda value: _is_valid(value, type_))
    if origin is list:
        return st.lists(of_type(arguments[0]), max_size=3)
    if origin is dict:
        return OBJECTS
    return of_struct(type_) if _is_struct(type_) else SCALARS[type_]


def _is_struct(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def _kinds(type_: Any) -> set[str]:
    inner = {kind for argument in get_args(type_) for kind in _kinds(argument)}
    return inner | ({"Struct"} if _is_struct(type_) else set())


def _is_valid(value: Any, type_: Any) -> bool:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError:
        return False
    return True


@dataclass(frozen=True)
class Endpoint:
    """A route that takes JSON.

    struct: what reads the request. good: one that succeeds. own: what members may hold that the struct does not name.
    """

    path: str
    struct: type[msgspec.Struct]
    good: Mapping[str, Any]
    own: Mapping[str, Strategy] = field(default_factory=dict)

    def bodies(self) -> Strategy:
        """Whatever `good` has is there, if with another value: without it nothing else would be looked at."""
        own = {name: VALUES[name] for name in self.good if name in VALUES} | dict(self.own) | {"model": MODELS}
        return of_struct(self.struct, **own).map(lambda body: {**self.good, **body})


_SAY_HELLO = [{"role": "user", "content": "Hello!"}]
_TOOLS = {"tools": VALUES["tools"], "tool_choice": VALUES["tool_choice"]}

ENDPOINTS = (
    Endpoint("/api/generate", ollama.GenerateRequest, {"model": "demo", "prompt": "Hello!"}),
    Endpoint("/api/chat", ollama.ChatRequest, {"model": "demo", "messages": _SAY_HELLO}),
    Endpoint("/api/warmup", engines.WarmupRequest, {"model": "demo"}),
    Endpoint("/api/show", ollama.ShowRequest, {"model": "demo"}),
    Endpoint("/api/embed", embed.EmbedRequest, {"model": "demo-embed", "input": "Hello!"}),
    Endpoint("/api/embeddings", embed.EmbeddingsRequest, {"model": "demo-embed", "prompt": "Hello!"}),
    Endpoint("/api/tokenize", embed.TokenizeRequest, {"model": "demo", "content": "Hello!"}),
    Endpoint("/api/detokenize", embed.DetokenizeRequest, {"model": "demo", "tokens": [1, 2]}),
    Endpoint("/tokenize", embed.TokenizeRequest, {"model": "demo", "prompt": "Hello!"}),
    Endpoint("/detokenize", embed.DetokenizeRequest, {"model": "demo", "tokens": [1, 2]}),
    Endpoint("/v1/chat/completions", openai.ChatRequest, {"model": "demo", "messages": _SAY_HELLO}, _TOOLS),
    Endpoint("/v1/completions", openai.CompletionRequest, {"model": "demo", "prompt": "Hello!"}),
    Endpoint("/v1/responses", openai.ResponsesRequest, {"model": "demo", "input": "Hello!"}),
    Endpoint("/v1/embeddings", embed.OpenAIEmbeddingsRequest, {"model": "demo-embed", "input": "Hello!"}),
    Endpoint("/v1/rerank", embed.RerankRequest, {"model": "demo-embed", "query": "a", "documents": ["b"]}),
    Endpoint("/v1/score", embed.ScoreRequest, {"model": "demo-embed", "text_1": "a", "text_2": "b"}),
    Endpoint("/v1/systemone", ollama.DecisionRequest, {"model": "demo", "state": "x", "questions": {"a": {}}}),
    Endpoint("/v1/messages", anthropic.MessagesRequest, {"model": "demo", "max_tokens": 9, "messages": _SAY_HELLO}),
    Endpoint("/v1/messages/count_tokens", anthropic.MessagesRequest, {"model": "demo", "messages": _SAY_HELLO}),
)
