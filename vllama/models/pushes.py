"""Pushing a model to the hub: its files, and the Modelfile that says what goes with them."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from vllama.errors import VllamaError
from vllama.models import _child, hub
from vllama.models._progress import Events, Transfer
from vllama.models._repository import wanted_files
from vllama.models.model import Model
from vllama.models.modelfile_text import modelfile_text
from vllama.wire.manage import Progress


class PushError(VllamaError):
    """A model that cannot be pushed."""


async def push(model: Model) -> Events:
    """Upload a model to the repository that its name reads as, which is made, for its owner only, where there is none.

    Raises VllamaError; the upload ends when the generator is closed.
    """
    target, files = await asyncio.to_thread(_job, model)
    texts = {"Modelfile": modelfile_text(model, {})}
    if model.modelfile.template:
        texts["chat_template.jinja"] = model.modelfile.template

    async def work(report: hub.Report) -> None:
        process = await _child.start("vllama.models.push_worker", [])
        job = {"repo": target, "files": files, "texts": texts}
        result = await _child.follow(process, hub.reporting(report), job)
        if "error" in result:
            kind = str(result["error"])
            kind = "push_failed" if kind in {"failed", "interrupted"} else kind
            raise hub.hub_error(kind, target, None, str(result["detail"]))

    async with contextlib.aclosing(Transfer("pushing", work).events()) as events:
        async for event in events:
            yield event
    yield Progress("pushing manifest")
    yield Progress("success")


def _job(model: Model) -> tuple[str, dict[str, str]]:
    """The repository, and the files on the disk by the names they get there."""
    name = model.name
    if name.hub_id is None or not hub.is_hub_id(name.hub_id):
        raise PushError(
            f"unauthorized: access denied: {name.short} names no repository",
            f"copy it to ORGANISATION/{name.model} and push that",
        )
    owner = model.adapter or model.checkpoint
    if owner is None:
        raise PushError(f"{name.short} is not on this machine", f"pull {name.short} first")
    return name.hub_id, dict(_files(owner.path))


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    yield from ((name, str(paths[name])) for name in wanted_files(paths))
