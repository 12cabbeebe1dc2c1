"""The port that `vllama serve` listens on: free, or whose."""

import os
from collections.abc import Iterator
from typing import Any

import httpx

from vllama.doctor.finding import Finding, ok, problem, warning
from vllama.settings import Settings

_NAME = "server"
_ELSEWHERE = "stop it, or choose another port with --port"


def check(settings: Settings, url: str) -> Iterator[Finding]:
    """url: where commands would look for the server."""
    key = os.environ.get("OLLAMA_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if settings.port == 0:
        yield ok(_NAME, "it takes a port that is free")
        return
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=3.0) as client:
        try:
            version = _object(client.get("/api/version"))
        except (httpx.ConnectError, httpx.ConnectTimeout):
            yield _free(settings)
            return
        except httpx.HTTPError:
            version = {}
        where = str(client.base_url).rstrip("/")
        if ours := version.get("vllama"):
            yield ok(_NAME, f"vLLama {ours} runs at {where}")
            yield from _engines(client)
        elif theirs := version.get("version"):
            yield problem(_NAME, f"{where} is an Ollama's ({theirs})", _ELSEWHERE)
        else:
            yield problem(_NAME, f"{where} is taken by something else", _ELSEWHERE)


def _free(settings: Settings) -> Finding:
    """Raises ConfigError where it cannot be listened on."""
    from vllama.server import bind

    bind(settings.host, settings.port).close()
    return ok(_NAME, f"none runs; port {settings.port} is free")


def _engines(client: httpx.Client) -> Iterator[Finding]:
    try:
        told = _object(client.get("/api/engines"))
    except httpx.HTTPError:
        return
    for engine in told.get("engines", ()):
        if engine["state"] == "failed":
            yield warning(_NAME, engine["error"], f"`vllama logs {engine['name']}`")
    standby = told.get("standby") or {}
    if standby.get("state") == "failed":
        yield warning(_NAME, f"the standby failed: {standby['reason']}", "models start slowly: `vllama logs standby`")


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
