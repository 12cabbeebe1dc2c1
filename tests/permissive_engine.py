"""An engine that has an answer to everything: for tests of what the gateway makes of requests, whatever they are."""

import asyncio
import base64
import json
import struct
from typing import Any, NoReturn

from aiohttp import web

from tests.fake_engine import Stream, chat_events, events, whole


async def permissive(request: web.Request) -> web.StreamResponse:
    """Whatever is asked: the short answer that vLLM gives on that path, streamed where that is asked for."""
    body = json.loads(await request.read() or b"null") or {}
    if body.get("stream"):
        return await Stream(*_streamed(request.path, body))(request)
    return await whole(_whole_answer(request.path, body))(request)


async def endless(request: web.Request) -> NoReturn:
    """An answer that never ends, or never begins where it is not streamed: it can only be aborted."""
    body = json.loads(await request.read())
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    if body.get("stream"):
        await response.prepare(request)
        event = _streamed(request.path, body)[1]
    while True:
        if body.get("stream"):
            await response.write(event)
        await asyncio.sleep(0)


def _streamed(path: str, body: dict[str, Any]) -> list[bytes]:
    match path:
        case "/v1/responses":
            reply = _whole_answer(path, body)
            kinds = ("response.created", "response.output_text.delta", "response.completed")
            return [
                f"event: {kind}\n".encode()
                + events({"type": kind, "response": reply, "delta": "Hello", "sequence_number": number})[0]
                for number, kind in enumerate(kinds)
            ]
        case "/v1/completions":
            choices = [
                _choice(body) | {"text": text, "finish_reason": end} for text, end in (("Hel", None), ("lo", "stop"))
            ]
            return events(*({"choices": [choice]} for choice in choices), "[DONE]")
    return chat_events("<think>", "Hel", "lo")


def _whole_answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    size = len(json.dumps([body.get(name) for name in ("messages", "prompt")]))
    match path:
        case "/v1/chat/completions":
            message = {"role": "assistant", "content": "Hello", "reasoning": "Well", "tool_calls": []}
            return {"choices": [_choice(body) | {"message": message}], "usage": usage}
        case "/v1/completions":
            return {"choices": [_choice(body) | {"text": "Hello"}], "usage": usage}
        case "/tokenize":
            tokens = list(range(size))
            return {"count": size, "max_model_len": 4096, "tokens": tokens, "token_strs": [str(one) for one in tokens]}
        case "/detokenize":
            return {"prompt": "Hello"}
        case "/v1/embeddings" | "/pooling":
            inputs = body["input"] if isinstance(body.get("input"), list) else [body.get("input")]
            floats = [0.6, 0.8]
            packed = base64.b64encode(struct.pack("<2f", *floats)).decode()
            vector = packed if body.get("encoding_format") == "base64" else floats
            data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(len(inputs))]
            return {"object": "list", "data": data, "usage": usage}
        case "/rerank" | "/score":
            results = [{"index": 0, "document": {"text": "b"}, "relevance_score": 0.5}]
            return {"results": results, "data": [], "usage": usage}
        case "/v1/responses":
            part = {"type": "output_text", "text": "Hello", "annotations": []}
            output = [{"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}]
            counts = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
            return {"id": "resp_1", "object": "response", "status": "completed", "output": output, "usage": counts}
    return {}


def _choice(body: dict[str, Any]) -> dict[str, Any]:
    tokens = {"prompt_token_ids": [1, 2], "token_ids": [3, 4]} if body.get("return_token_ids") else {}
    return {"index": 0, "finish_reason": "stop", **tokens}
