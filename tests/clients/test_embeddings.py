"""Embeddings with every client, in an engine beside the chat model's; the last tests of a run."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import ollama
import openai
import pytest
from langchain_ollama import OllamaEmbeddings

from tests.clients.npm import Node
from tests.clients.talk import NO_IDLE_CONNECTIONS, Llm
from tests.served import Served, alive, wait_until
from vllama.demo.dialogues import TRIPLES

pytestmark = [pytest.mark.engine, pytest.mark.clients, pytest.mark.timeout(300)]

TRIPLE = TRIPLES[-1]
TEXTS = [TRIPLE.sentence, TRIPLE.near, TRIPLE.far]
SIZE = 64


def similarity(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def make_sense(vectors: Sequence[Sequence[float]]) -> bool:
    """Whether these are unit vectors of `TEXTS`."""
    sentence, near, far = vectors
    lengths = [math.hypot(*vector) for vector in vectors]
    assert lengths == pytest.approx([1, 1, 1], abs=1e-3)
    assert {len(vector) for vector in vectors} == {SIZE}
    return similarity(sentence, near) > similarity(sentence, far)


def test_all_triples(url: str) -> None:
    with ollama.Client(host=url) as client:
        for triple in TRIPLES:
            reply = client.embed("demo-embed", [triple.sentence, triple.near, triple.far])
            assert make_sense(reply.embeddings)


def test_ollama_python(url: str) -> None:
    with ollama.Client(host=url) as client:
        many = client.embed("demo-embed", TEXTS)
        one = client.embed("demo-embed", TRIPLE.sentence)
        short = client.embed("demo-embed", TRIPLE.sentence, dimensions=16)
        legacy = client.embeddings("demo-embed", TRIPLE.sentence)
        nothing = client.embed("demo-embed", "")
    assert many.model == "demo-embed"
    assert make_sense(many.embeddings)
    assert (many.prompt_eval_count or 0) > (one.prompt_eval_count or 0) > 0
    assert similarity(one.embeddings[0], many.embeddings[0]) == pytest.approx(1, abs=1e-3)
    assert len(short.embeddings[0]) == 16
    assert math.hypot(*short.embeddings[0]) == pytest.approx(1, abs=1e-3)
    assert similarity(legacy.embedding, one.embeddings[0]) == pytest.approx(1, abs=1e-3)
    assert nothing.embeddings == []


async def test_ollama_python_async(url: str) -> None:
    async with ollama.AsyncClient(host=url) as client:
        assert make_sense((await client.embed("demo-embed", TEXTS)).embeddings)
        with pytest.raises(ollama.ResponseError, match="the input length exceeds the context length"):
            await client.embed("demo-embed", "hello " * 2000, truncate=False)
        assert len((await client.embed("demo-embed", "hello " * 2000)).embeddings) == 1


def test_ollama_npm(node: Node) -> None:
    replies = node.run("embed")
    (one,) = replies["one"]["embeddings"]
    assert [len(vector) for vector in replies["many"]["embeddings"]] == [SIZE, SIZE]
    assert similarity(one, replies["many"]["embeddings"][0]) == pytest.approx(1, abs=1e-3)
    assert len(replies["short"]["embeddings"][0]) == 16
    assert similarity(one, replies["legacy"]["embedding"]) == pytest.approx(1, abs=1e-3)


def test_openai(url: str) -> None:
    """The client asks for base64 unless it is told otherwise, and decodes it."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        reply = client.embeddings.create(model="demo-embed", input=TEXTS)
        floats = client.embeddings.create(model="demo-embed", input=TEXTS, encoding_format="float")
        short = client.embeddings.create(model="demo-embed", input=TRIPLE.sentence, dimensions=16)
    assert (reply.object, reply.model) == ("list", "demo-embed")
    assert [item.index for item in reply.data] == [0, 1, 2]
    assert make_sense([item.embedding for item in reply.data])
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > 0
    for item, same in zip(reply.data, floats.data, strict=True):
        assert item.embedding == pytest.approx(same.embedding, abs=1e-6)
    assert len(short.data[0].embedding) == 16


async def test_langchain(url: str) -> None:
    client = OllamaEmbeddings(
        model="demo-embed", base_url=url, validate_model_on_init=True, client_kwargs=NO_IDLE_CONNECTIONS
    )
    vectors = client.embed_documents(TEXTS)
    assert make_sense(vectors)
    assert client.embed_query(TRIPLE.sentence) == pytest.approx(vectors[0], abs=1e-3)
    assert make_sense(await client.aembed_documents(TEXTS))


def test_llm(llm: Llm, tmp_path: Path) -> None:
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps([{"id": text, "content": text} for text in (TRIPLE.far, TRIPLE.near)]))
    llm("embed-multi", "texts", str(texts), "-m", "ollama/demo-embed")
    found = [json.loads(line)["id"] for line in llm("similar", "texts", "-c", TRIPLE.sentence).splitlines()]
    assert found == [TRIPLE.near, TRIPLE.far]


def test_an_unload(demo: Served) -> None:
    """Only the engine that is not wanted any more goes."""
    with ollama.Client(host=demo.url) as client:
        client.generate("demo")
        client.embed("demo-embed", TRIPLE.sentence)
        beside, engine = (demo.engine_processes(f"{model}:latest") for model in ("demo", "demo-embed"))
        assert beside
        assert engine
        shown = {model.model for model in client.ps().models}
        assert {"demo:latest", "demo-embed:latest"} <= shown
        client.embed("demo-embed", TRIPLE.sentence, keep_alive=0)
        wait_until(lambda: not alive(engine), 10, "the unloaded engine ends")
        wait_until(
            lambda: {model.model for model in client.ps().models} == shown - {"demo-embed:latest"}, 10, "unlisted"
        )
        assert alive(beside) == beside
