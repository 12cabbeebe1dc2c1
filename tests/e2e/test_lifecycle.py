"""Engines that are gone with their gateway, however that ends; and starts that fail."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.served import ROOT, SCRIPT, Served, alive, environment, port_is_free, serve, wait_until
from vllama import demo as demo_files
from vllama.demo.dialogues import COMPLETIONS, DIALOGUES, by_name

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

ENDLESS = next(dialogue for dialogue in DIALOGUES if dialogue.endless)


def ask(served: Served, model: str, question: str = "Hello!") -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": False,
            "options": {"temperature": 0}}  # fmt: skip
    response = httpx.post(f"{served.url}/api/chat", json=body, timeout=200)
    assert response.status_code == 200, response.text
    return str(response.json()["message"]["content"])


def was_forked(served: Served) -> bool:
    """Whether the engine that runs is the standby's."""
    (engine,) = httpx.get(f"{served.url}/api/engines").json()["engines"]
    return bool(engine["fast"])


SING = ("/api/chat", {"model": "demo", "messages": list(ENDLESS.messages)})


def check_nothing_is_left(served: Served, number: int, song: tuple[str, Any] = SING) -> list[dict[str, Any]]:
    """Signal the gateway while an endless stream runs: its engine and its port are gone within 10 s.

    Returns the stream's objects.
    """
    engine = served.engine_processes()
    assert len(engine) >= 3, "guard, server and core"
    lines: list[dict[str, Any]] = []
    path, body = song
    with (
        contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError),
        httpx.stream("POST", f"{served.url}{path}", json=body, timeout=30) as response,
    ):
        for line in response.iter_lines():
            if not lines:
                signalled = time.monotonic()
                served.process.send_signal(number)
            lines.append(json.loads(line))
    served.process.wait(10)
    wait_until(lambda: not alive(engine), 10, f"the engine ends: {engine}")
    assert time.monotonic() - signalled < 10
    assert port_is_free(served.url)
    assert "Traceback" not in served.log
    return lines


def test_a_model_without_a_template_until_sigint(tmp_path: Path) -> None:
    """One gateway, to save a start; the only test of an engine that is started the ordinary way."""
    plain = tmp_path / "plain"
    shutil.copytree(demo_files.CHAT, plain)
    (plain / "chat_template.jinja").unlink()
    flags = ["--max-model-len", "1k", "--vllm-port", str(free_port()), "--no-standby"]
    with serve("--model", f"plain={plain}", *flags) as served:
        completion = COMPLETIONS[0]
        assert ask(served, "plain", completion.prompt) == completion.text
        assert ask(served, "plain", completion.prompt) == completion.text
        assert served.log.count("has no chat template") == 1
        assert httpx.get(f"{served.url}/api/ps").json()["models"][0]["context_length"] == 1000
        assert not was_forked(served)
        prompt = f"<|im_start|>user\n{ENDLESS.question}<|im_end|>\n<|im_start|>assistant\n"
        lines = check_nothing_is_left(
            served, signal.SIGINT, ("/api/generate", {"model": "plain", "prompt": prompt, "raw": True})
        )
        assert served.process.returncode == 0
        assert "the server is stopping" in lines[-1]["error"]


def test_a_swap_and_sigterm_during_a_stream() -> None:
    """Where there is room for one engine, another model makes it leave."""
    with serve("--model", "demo", "--model", "demo-embed", OLLAMA_MAX_LOADED_MODELS="1") as served:
        embedding = {"model": "demo-embed", "input": "Hello!"}
        assert httpx.post(f"{served.url}/api/embed", json=embedding, timeout=200).status_code == 200
        embedder = served.engine_processes("demo-embed:latest")
        assert ask(served, "demo") == by_name("hello").answer
        assert not alive(embedder)
        assert was_forked(served)
        assert [entry["name"] for entry in httpx.get(f"{served.url}/api/ps").json()["models"]] == ["demo:latest"]
        lines = check_nothing_is_left(served, signal.SIGTERM)
        assert served.process.returncode == 0
        assert "the server is stopping" in lines[-1]["error"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel in an environment of its own; its `vllama`."""
    folder = tmp_path_factory.mktemp("installed")
    run = {"check": True, "cwd": ROOT, "capture_output": True}
    subprocess.run(["uv", "build", "--wheel", "--out-dir", folder / "dist"], **run)  # type: ignore[call-overload]
    subprocess.run(["uv", "venv", folder / "venv"], **run)  # type: ignore[call-overload]
    wheel = next((folder / "dist").glob("*.whl"))
    python = folder / "venv" / "bin" / "python"
    subprocess.run(["uv", "pip", "install", "--python", python, wheel], **run)  # type: ignore[call-overload]
    return folder / "venv" / "bin" / "vllama"


def test_the_wheel_serves_the_demo_until_sigkill(installed: Path, tmp_path: Path) -> None:
    """The installed wheel brings the demo model, the launcher and the engine's pins."""
    with serve("--model", "demo", script=installed, cwd=tmp_path) as served:
        assert ask(served, "demo") == by_name("hello").answer
        check_nothing_is_left(served, signal.SIGKILL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "{tmp}"], "config.json"),
        (["--model", "{tmp}/missing"], "missing"),
        (["--model", "nonsense"], "there is no model 'nonsense'"),
        (["--", "--max-model-length", "5"], "vLLM has no flag --max-model-length: did you mean --max-model-len?"),
        (["--", "--port", "5"], "vLLM's flag --port cannot be used under vllama"),
        (["--", "--max-num-seqs", "many"], "--max-num-seqs cannot be 'many'"),
        (["--profile", "cuda"], "--profile cpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    variables = environment()
    if "cuda" in arguments:
        variables.pop("VLLAMA_ENGINE_PYTHON", None)
    done = subprocess.run(
        [SCRIPT, "serve", "--port", "0", *given],
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3


def test_a_port_in_use_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [SCRIPT, "serve", "--port", port],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
