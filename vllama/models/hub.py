"""Hugging Face repositories: what is in the local cache, and fetching what is not."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllama.errors import ConfigError, VllamaError
from vllama.models._files import read_json
from vllama.models._repository import has_weights, wanted_files
from vllama.models._safetensors import INDEX

_HUB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_LONGEST_ID = 96
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST_LINE = 1_000_000
STALL_S = 300.0
"""Most seconds between two signs of progress: a download that shows none keeps other models from being loaded."""


@dataclass(frozen=True)
class DownloadProgress:
    """phase: `listing` or `downloading`. Bytes; both 0 while listing."""

    phase: str
    completed: int = 0
    total: int = 0


class HubError(VllamaError):
    """A repository was not fetched."""


class RepositoryNotFoundError(HubError):
    """The hub knows no such repository or revision, or shows it only to others."""


class GatedRepositoryError(HubError):
    """Its terms have to be accepted first."""


class InvalidTokenError(HubError):
    """The hub refused HF_TOKEN."""


class HubUnreachableError(HubError):
    """There is no way to the hub."""


class OfflineError(HubError):
    """HF_HUB_OFFLINE is set and the repository is not in the cache."""


class UnsupportedRepositoryError(HubError):
    """It holds nothing that vLLM can load."""


class NoSpaceError(HubError):
    """The disk is too small for it."""


class DownloadInterruptedError(HubError):
    """It began, and failed too often on the way."""


_NEEDS_SAFETENSORS = "vLLM needs safetensors: choose the original repository that it was made from"
ERRORS: Mapping[str, tuple[type[HubError], str, str]] = {
    "not_found": (
        RepositoryNotFoundError,
        "there is no repository {repo} on {endpoint}",
        "check the spelling; a private one needs HF_TOKEN",
    ),
    "revision_not_found": (
        RepositoryNotFoundError,
        "{repo} has no revision {revision}",
        "see {endpoint}/{repo}/commits/main",
    ),
    "disabled": (RepositoryNotFoundError, "{repo} was disabled on {endpoint}", "choose another repository"),
    "gated": (
        GatedRepositoryError,
        "{repo} is gated",
        "accept its terms at {endpoint}/{repo} and set HF_TOKEN to a token of that account",
    ),
    "bad_token": (
        InvalidTokenError,
        "{endpoint} refused the token for {repo}",
        "make a new one at {endpoint}/settings/tokens and set HF_TOKEN, or unset it",
    ),
    "unreachable": (
        HubUnreachableError,
        "{endpoint} cannot be reached",
        "check the network and proxy (HTTPS_PROXY, HF_ENDPOINT), or give a folder",
    ),
    "offline": (
        OfflineError,
        "{repo} is not in the Hugging Face cache, and HF_HUB_OFFLINE forbids to fetch it",
        "unset HF_HUB_OFFLINE, or give a folder",
    ),
    "gguf_only": (UnsupportedRepositoryError, "{repo} holds only GGUF files", _NEEDS_SAFETENSORS),
    "mlx_only": (UnsupportedRepositoryError, "{repo} is quantised for MLX", _NEEDS_SAFETENSORS),
    "no_weights": (UnsupportedRepositoryError, "{repo} holds no weights that vLLM can read", _NEEDS_SAFETENSORS),
    "no_config": (UnsupportedRepositoryError, "{repo} has no config.json", "choose a transformers repository"),
    "diffusers": (
        UnsupportedRepositoryError,
        "{repo} is a diffusers pipeline",
        "vLLM serves language and embedding models only",
    ),
    "no_space": (
        NoSpaceError,
        "{repo} does not fit on the disk",
        "{detail}: free some, or set HF_HOME to another disk",
    ),
    "interrupted": (
        DownloadInterruptedError,
        "the download of {repo} was cut off again and again",
        "try again: what is already here is kept ({detail})",
    ),
    "failed": (HubError, "{repo} could not be downloaded", "{detail}"),
}
"""By the kinds that the worker reports."""


def is_hub_id(text: str) -> bool:
    """Whether it reads as `organisation/name` and is no folder here."""
    named = _HUB_ID.fullmatch(text) is not None and len(text) <= _LONGEST_ID
    return named and ".." not in text and "--" not in text and not text.endswith(".git") and not Path(text).exists()


def cached_snapshot(repo: str, revision: str | None = None) -> Path | None:
    """The folder of a repository that is completely in the Hugging Face cache; asks no network."""
    storage = cache_folder() / f"models--{repo.replace('/', '--')}"
    commit = (
        revision if revision and _COMMIT.fullmatch(revision) else _read_ref(storage / "refs" / (revision or "main"))
    )
    folder = storage / "snapshots" / commit if commit else None
    if folder is None or not folder.is_dir():
        return None
    return folder if _is_complete(folder, read_json(storage / "trees" / f"{commit}.json")) else None


def cached_repositories() -> Iterator[tuple[str, Path]]:
    """The repositories of models that are completely in the Hugging Face cache, each with its folder."""
    for storage in sorted(cache_folder().glob("models--*--*")):
        repo = storage.name.removeprefix("models--").replace("--", "/", 1)
        if (folder := cached_snapshot(repo)) is not None:
            yield repo, folder


def cache_folder() -> Path:
    """Where huggingface_hub keeps repositories, by its own environment variables."""
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(os.path.expandvars(given or str(Path(home) / "hub"))).expanduser()


async def download(repo: str, *, revision: str | None = None, report: Callable[[DownloadProgress], None]) -> Path:
    """Fetch what vLLM needs of a repository into the Hugging Face cache, and resume what a former call began.

    Raises a HubError; cancelling the task ends the download at once.
    """
    if not _HUB_ID.fullmatch(repo):
        raise ConfigError(f"{repo!r} is not a Hugging Face repository", "write ORGANISATION/NAME")
    if _is_offline():
        if (folder := cached_snapshot(repo, revision)) is not None:
            return folder
        raise _error("offline", repo, revision)
    process = await _start_worker(repo, revision)
    complaint = asyncio.create_task(_tail(process))
    try:
        result = await _follow(process, report)
    finally:
        # Reached on cancellation too: nobody else ends this process.
        await asyncio.shield(_end(process))
        said = await complaint
    if isinstance(path := result.get("path"), str):
        return Path(path)
    kind = str(result.get("error"))
    detail = str(result.get("detail") or said or "the download process ended without a word")
    raise _error(kind if kind in ERRORS else "failed", repo, revision, detail)


async def _start_worker(repo: str, revision: str | None) -> asyncio.subprocess.Process:
    """In a process group of its own, with a pipe as stdin whose end tells it that we are gone."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vllama.models.hub_worker", repo, *([revision] if revision else [])),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=_LONGEST_LINE,
    )


async def _follow(process: asyncio.subprocess.Process, report: Callable[[DownloadProgress], None]) -> dict[str, Any]:
    """Report progress until the line that ends it."""
    assert process.stdout is not None
    while line := await _next_line(process.stdout):
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if not isinstance(message, dict):
            continue
        if "path" in message or "error" in message:
            return message
        if "phase" in message:
            report(DownloadProgress(message["phase"], message.get("completed", 0), message.get("total", 0)))
    return {}


async def _next_line(output: asyncio.StreamReader) -> bytes:
    """The next line, or what stands for it when none has come for STALL_S."""
    try:
        async with asyncio.timeout(STALL_S):
            return await output.readline()
    except TimeoutError:
        return json.dumps({"error": "interrupted", "detail": f"no byte came for {STALL_S:.0f} s"}).encode()


async def _tail(process: asyncio.subprocess.Process) -> str:
    """The last line on stderr; reading all of it keeps the worker from blocking on a full pipe."""
    assert process.stderr is not None
    last = ""
    while chunk := await process.stderr.read(65536):
        last = (last + chunk.decode(errors="replace"))[-2000:]
    lines = last.strip().splitlines()
    token = os.environ.get("HF_TOKEN")
    return (lines[-1].replace(token, "***") if token else lines[-1]) if lines else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.stdin.close()
    await process.stdout.read()
    await process.wait()


def _error(kind: str, repo: str, revision: str | None, detail: str = "") -> HubError:
    error, message, advice = ERRORS[kind]
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    words = {"repo": repo, "revision": revision or "main", "endpoint": endpoint, "detail": detail}
    return error(message.format(**words), advice.format(**words))


def _is_offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def _read_ref(path: Path) -> str | None:
    try:
        commit = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _is_complete(folder: Path, tree: Mapping[str, Any]) -> bool:
    """By huggingface_hub's own listing of the commit; caches of its older versions have none."""
    listed = tree.get("files")
    if isinstance(listed, dict) and listed:
        return all((folder / name).is_file() for name in wanted_files(listed))
    names = {entry.name for entry in folder.iterdir() if entry.is_file()}
    shards = read_json(folder / INDEX).get("weight_map")
    needed = set(shards.values()) if isinstance(shards, dict) else set()
    described = "config.json" in names or "adapter_config.json" in names
    return described and has_weights(wanted_files(names)) and needed <= names
