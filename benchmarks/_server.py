"""vLLM's own server, as its own command starts it, with the flags that our engines get."""

import asyncio
import contextlib
import os
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx

from benchmarks._measuring import LOAD_S, PROMPT, LateError
from tests.served import ENGINE_HOME, environment
from vllama.engine.install import ensure_environment
from vllama.engine.loader import Loader
from vllama.engine.plan import LaunchPlan
from vllama.engine.process import kill_session
from vllama.models.catalogue import Catalogue
from vllama.models.sources import Inspector, read_models
from vllama.settings import load

_POLL_S = 0.1
_GRACE_S = 15.0


class Server:
    """Starts it as often as asked. source: the model's, as in --model."""

    def __init__(self, source: str) -> None:
        os.environ.update(environment())  # as the gateways' engines get it
        settings = load(home=ENGINE_HOME)
        self._environment = ensure_environment(
            settings.home, profile=settings.engine_profile, engine_python=settings.engine_python,
            find_links=settings.find_links, report=lambda _step: None,
        )  # fmt: skip
        (self._model,) = read_models([source], (), Inspector())
        self._loader = Loader(settings, self._environment, Catalogue([self._model]))

    def plan(self) -> LaunchPlan:
        """For an engine of the model that is the only one."""
        return self._loader.engine(self._model, None)._plan

    async def first_word(self) -> float:
        """Seconds from the command until the first word of a streamed answer; it is ended then."""
        plan = self.plan()
        arguments = plan.command[plan.command.index("--") + 1 :]
        command = [str(self._environment.python), "-m", "vllm.entrypoints.openai.api_server", *arguments]
        began = time.monotonic()
        async with _running(command, dict(plan.variables)) as process:
            transport = httpx.AsyncHTTPTransport(uds=plan.url.removeprefix("unix:"))
            async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=LOAD_S) as http:
                await _until_ready(http, process)
                await _first_word(http, plan.name)
                return time.monotonic() - began

    def close(self) -> None:
        self._loader.close()


@contextlib.asynccontextmanager
async def _running(command: Sequence[str], variables: dict[str, str]) -> AsyncIterator[Process]:
    with tempfile.NamedTemporaryFile(prefix="vllm-", suffix=".log") as log, tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *command, env=variables, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        except LateError as error:
            raise RuntimeError(f"{error}: {Path(log.name).read_text()[-2000:]}") from None
        finally:
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                process.terminate()
                async with asyncio.timeout(_GRACE_S):
                    await process.wait()
            kill_session(process.pid)  # vLLM's engine core outlives a server that was killed
            await process.wait()


async def _until_ready(http: httpx.AsyncClient, process: Process) -> None:
    """As somebody waits who has started it by hand."""
    deadline = time.monotonic() + LOAD_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if (await http.get("/health")).status_code == 200:
                return
        if process.returncode is not None:
            raise LateError(f"vLLM ended with status {process.returncode}")
        await asyncio.sleep(_POLL_S)
    raise LateError("vLLM is not ready")


async def _first_word(http: httpx.AsyncClient, name: str) -> None:
    body = {
        "model": name, "messages": PROMPT, "stream": True, "max_tokens": 16, "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        async for line in reply.aiter_lines():
            if '"content":"' in line.replace('"content":""', ""):
                return
    raise LateError("vLLM answered nothing")
