"""Pushing a model to the hub: its files, and the Modelfile that says what goes with them."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllama.errors import VllamaError
from vllama.models import _child, hub
from vllama.models._files import read_json
from vllama.models._progress import Events, Transfer
from vllama.models._repository import wanted_files
from vllama.models.model import Model
from vllama.models.modelfile import Modelfile
from vllama.models.modelfile_text import modelfile_text
from vllama.wire.manage import Progress

_GENERATION = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
}
"""Parameters of Modelfiles, as transformers and vLLM call them in generation_config.json."""


class PushError(VllamaError):
    """A model that cannot be pushed."""


async def push(model: Model) -> Events:
    """Upload a model to the repository that its name reads as, which is made, for its owner only, where there is none.

    Raises VllamaError; the upload ends when the generator is closed.
    """
    target, job = await asyncio.to_thread(_job, model)

    async def work(report: hub.Report) -> None:
        process = await _child.start("vllama.models.push_worker", [])
        result = await _child.follow(process, hub.reporting(report), job)
        if "error" in result:
            kind = str(result["error"])
            kind = "push_failed" if kind in {"failed", "interrupted"} else kind
            raise hub.hub_error(kind, target, None, str(result["detail"]))

    async with contextlib.aclosing(Transfer("pushing", work).events()) as events:
        async for event in events:
            yield event
    yield Progress("success")


def _job(model: Model) -> tuple[str, dict[str, Any]]:
    """The repository, and what the worker is to do."""
    name = model.name
    if name.hub_id is None or not hub.is_hub_id(name.hub_id):
        raise PushError(
            f"unauthorized: access denied: {name.short} names no repository",
            f"copy it to ORGANISATION/{name.model} and push that",
        )
    owner = model.adapter or model.checkpoint
    if owner is None:
        raise PushError(f"{name.short} is not on this machine", f"pull {name.short} first")
    texts = {"Modelfile": modelfile_text(model, {}), **dict(_settings(model.modelfile, owner.path))}
    files = {file: path for file, path in _files(owner.path) if file not in texts}
    return name.hub_id, {"repo": name.hub_id, "files": files, "texts": texts}


def _settings(modelfile: Modelfile, folder: Path) -> Iterator[tuple[str, str]]:
    """What the Modelfile says, in the files where others than us look for it."""
    if modelfile.template:
        yield "chat_template.jinja", modelfile.template
    told = {_GENERATION[name]: value for name, value in modelfile.parameters.items() if name in _GENERATION}
    if told:
        generation = read_json(folder / "generation_config.json") | told
        yield "generation_config.json", json.dumps(generation, indent=2) + "\n"


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    yield from ((name, str(paths[name])) for name in wanted_files(paths))
