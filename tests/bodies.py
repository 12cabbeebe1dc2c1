"""Random requests that are valid, made from the types that the gateway reads them into: a new field joins by itself."""

import base64
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st

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

    good: a request that succeeds. struct: what reads it, by its place in `vllama.wire`. own: what members may hold
    that the struct does not know, or not well enough.
    """

    path: str
    good: Mapping[str, Any]
    struct: str = ""
    own: Mapping[str, Strategy] = field(default_factory=dict)

    def bodies(self) -> Strategy:
        """Whatever `good` has is there, if with another value: without it nothing else would be looked at."""
        own = {name: VALUES[name] for name in self.good if name in VALUES} | dict(self.own) | {"model": MODELS}
        struct = _find_struct(self.struct)
        random = some_of(**own) if struct is None else of_struct(struct, **own)
        return random.map(lambda body: {**self.good, **body})


def _find_struct(place: str) -> type[msgspec.Struct] | None:
    module, _, name = place.rpartition(".")
    if not module or importlib.util.find_spec(f"vllama.wire.{module}") is None:
        return None
    struct: type[msgspec.Struct] = getattr(importlib.import_module(f"vllama.wire.{module}"), name)
    return struct


_SAY_HELLO = [{"role": "user", "content": "Hello!"}]
_SAMPLING = {"stream": st.booleans(), "temperature": FLOATS, "top_p": FLOATS, "seed": INTEGERS, "max_tokens": INTEGERS}

ENDPOINTS = (
    Endpoint("/api/generate", {"model": "demo", "prompt": "Hello!"}, "ollama.GenerateRequest"),
    Endpoint("/api/chat", {"model": "demo", "messages": _SAY_HELLO}, "ollama.ChatRequest"),
    Endpoint("/api/show", {"model": "demo"}, "ollama.ShowRequest"),
    Endpoint("/api/embed", {"model": "demo-embed", "input": "Hello!"}, "embed.EmbedRequest"),
    Endpoint("/api/embeddings", {"model": "demo-embed", "prompt": "Hello!"}, "embed.EmbeddingsRequest"),
    Endpoint("/api/tokenize", {"model": "demo", "content": "Hello!"}, "embed.TokenizeRequest"),
    Endpoint("/api/detokenize", {"model": "demo", "tokens": [1, 2]}, "embed.DetokenizeRequest"),
    Endpoint(
        "/v1/chat/completions",
        {"model": "demo", "messages": _SAY_HELLO},
        "openai_requests.ChatRequest",
        _SAMPLING | {"tools": VALUES["tools"], "tool_choice": VALUES["tool_choice"]},
    ),
    Endpoint("/v1/completions", {"model": "demo", "prompt": "Hello!"}, "openai_requests.CompletionRequest", _SAMPLING),
    Endpoint("/v1/responses", {"model": "demo", "input": "Hello!"}, "openai_requests.ResponsesRequest", _SAMPLING),
    Endpoint(
        "/v1/embeddings",
        {"model": "demo-embed", "input": "Hello!"},
        "embed.OpenAIEmbeddingsRequest",
        {"encoding_format": VALUES["encoding_format"]},
    ),
    Endpoint("/v1/rerank", {"model": "demo-embed", "query": "a", "documents": ["b"]}, "embed.RerankRequest"),
    Endpoint("/v1/messages", {"model": "demo", "max_tokens": 9, "messages": _SAY_HELLO}, "anthropic.MessagesRequest"),
    Endpoint("/v1/messages/count_tokens", {"model": "demo", "messages": _SAY_HELLO}, "anthropic.MessagesRequest"),
)
