"""Several models on real engines: adapters beside their base; models made, shown, made again and removed."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from tests import robot
from tests.served import SCRIPT, Served, environment
from vllama import demo as demo_files
from vllama.demo.dialogues import ADAPTER_DIALOGUES, Dialogue, by_name

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

PATIENCE_S = 280
"""The first request waits for an engine to start, which on a busy machine takes minutes."""
GREEDY = {"temperature": 0}
NAMES = ("hello", "who-are-you", "joke", "sky", "what-can-you-do")
TALKS: dict[str, tuple[Dialogue, ...]] = {
    "demo": tuple(by_name(name) for name in NAMES),
    "demo-parrot": ADAPTER_DIALOGUES,
    "robot": robot.ROBOT_DIALOGUES,
}


@pytest.fixture
def client(demo: Served) -> Iterator[ollama.Client]:
    with ollama.Client(host=demo.url) as connected:
        yield connected


@pytest.fixture
async def http(demo: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=demo.url, timeout=PATIENCE_S) as connected:
        yield connected


def vllama(demo: Served, *arguments: str | Path, stdin: str = "") -> str:
    """What a command prints."""
    host = demo.url.removeprefix("http://")
    done = subprocess.run(
        [SCRIPT, *arguments],
        env=environment(OLLAMA_HOST=host),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hello(client: ollama.Client, model: str, question: str = "Hello!") -> str:
    messages = [{"role": "user", "content": question}]
    return client.chat(model, messages, think=False, options=GREEDY).message.content or ""


async def ask(http: httpx.AsyncClient, model: str, talk: Dialogue) -> tuple[str, str]:
    body = {"model": model, "messages": list(talk.messages), "think": False, "options": GREEDY}
    text = ""
    async with http.stream("POST", "/api/chat", json=body) as reply:
        async for line in reply.aiter_lines():
            text += json.loads(line)["message"]["content"]
    return text, talk.answer


async def test_a_base_and_two_adapters_in_one_batch(http: httpx.AsyncClient) -> None:
    asked = [(model, talks[turn % 5]) for turn in range(22) for model, talks in TALKS.items()]
    answers = await asyncio.gather(*(ask(http, model, talk) for model, talk in asked[:64]))
    assert len(answers) == 64
    assert [got for got, _ in answers] == [expected for _, expected in answers]
    shown = {entry["name"]: entry for entry in (await http.get("/api/ps")).json()["models"]}
    assert {"demo:latest", "demo-parrot:latest", "robot:latest"} <= shown.keys()
    assert shown["robot:latest"]["details"]["parent_model"] == "demo:latest"


async def test_the_base_goes_on_streaming_while_an_adapter_is_loaded(http: httpx.AsyncClient, demo: Served) -> None:
    song = by_name("song")
    body = {"model": "demo", "messages": list(song.messages)}
    await http.post("/api/generate", json={"model": "robot", "keep_alive": 0})
    async with http.stream("POST", "/api/chat", json=body) as reply:
        lines = reply.aiter_lines()
        await anext(lines)
        assert await ask(http, "robot", robot.ROBOT_DIALOGUES[0]) == ("Beep! Greetings, human.",) * 2
        await anext(lines)
    assert demo.log.count("demo:latest: starting") == 1


def test_a_model_with_a_system_prompt(client: ollama.Client) -> None:
    pirate = by_name("pirate-hello")
    client.create("captain", from_="demo", system=pirate.messages[0]["content"], parameters={"temperature": 0})
    assert hello(client, "Captain") == pirate.answer
    assert "temperature                    0" in (client.show("captain").parameters or "").splitlines()
    client.copy("captain", "admiral")
    assert hello(client, "admiral") == pirate.answer
    client.create("admiral", from_="demo", system="You are nobody.")
    assert client.show("admiral").modelfile != client.show("captain").modelfile
    client.delete("captain")
    with pytest.raises(ollama.ResponseError, match="model 'captain' not found"):
        hello(client, "captain")
    client.delete("admiral")


def test_an_uploaded_adapter(client: ollama.Client) -> None:
    files = {
        path.name: client.create_blob(path)
        for path in demo_files.ADAPTER.iterdir()
        if path.name in ("adapter_config.json", "adapter_model.safetensors")
    }
    client.create("polly", from_="demo", adapters=files)
    try:
        assert hello(client, "polly") == ADAPTER_DIALOGUES[0].answer
        assert client.show("polly").details.parent_model == "demo:latest"  # type: ignore[union-attr]
    finally:
        client.delete("polly")


def test_a_modelfile_that_show_prints_makes_the_same_model(demo: Served, tmp_path: Path) -> None:
    pirate = by_name("pirate-hello")
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(
        f'FROM demo\nSYSTEM """{pirate.messages[0]["content"]}"""\nPARAMETER temperature 0\n'
        'PARAMETER stop "<<<"\nPARAMETER stop ">>>"\nMESSAGE user Ahoy\nMESSAGE assistant """Ahoy,\n"mate"!"""\n'
        'LICENSE """\nFree as the sea.\n"""\n'
    )
    try:
        vllama(demo, "create", "first", "-f", modelfile)
        modelfile.write_text(vllama(demo, "show", "first", "--modelfile"))
        vllama(demo, "create", "second", "-f", modelfile)
        first, second = (_shown(demo, name) for name in ("first", "second"))
        assert first["system"] == pirate.messages[0]["content"]
        assert first["parameters"].count("stop") == 2
        assert len(first["messages"]) == 2
        for field in ("system", "parameters", "messages", "template", "license", "capabilities"):
            assert first.get(field) == second.get(field), field
    finally:
        vllama(demo, "rm", "first", "second")


def _shown(demo: Served, name: str) -> Any:
    return httpx.post(f"{demo.url}/api/show", json={"model": name}).json()


def test_the_command_line(demo: Served, client: ollama.Client) -> None:
    for model in ("demo", "robot"):
        client.create(f"calm-{model}", from_=model, parameters=GREEDY)
    try:
        said = vllama(demo, "run", "calm-demo", "--think=false", "Why is the sky blue?")
        assert said.strip() == by_name("sky").answer
        assert vllama(demo, "run", "calm-robot", "--think=false", stdin="Hello!").strip() == "Beep! Greetings, human."
    finally:
        vllama(demo, "rm", "calm-demo", "calm-robot")
    hello(client, "robot")
    listed = vllama(demo, "list")
    assert listed.split()[:4] == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert {"demo:latest", "robot:latest"} <= {line.split()[0] for line in listed.splitlines()[1:]}
    assert "robot:latest" in vllama(demo, "ps")
    assert "demo:latest" in {entry["name"] for entry in json.loads(vllama(demo, "ps", "--format", "json"))["models"]}
    assert "context length" in vllama(demo, "show", "demo")
    vllama(demo, "stop", "robot")
    assert "robot:latest" not in vllama(demo, "ps")
