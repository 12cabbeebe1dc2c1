"""Hugging Face repositories: what is in the local cache, and fetching what is not."""

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllama.errors import ConfigError, VllamaError
from vllama.models import _child, library
from vllama.models._files import read_json
from vllama.models._repository import has_weights, wanted_files
from vllama.models._safetensors import INDEX
from vllama.models._sharing import Shared

_HUB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
_LONGEST_ID = 96
_COMMIT = re.compile(r"[0-9a-f]{40}")
_AT_ONCE = 3
"""Downloads; each has several connections of its own, and more would not be faster."""


@dataclass(frozen=True)
class FileProgress:
    """One file of a download. digest: `sha256:` and 64 hexadecimal digits. total, completed: bytes."""

    name: str
    digest: str
    total: int
    completed: int


@dataclass(frozen=True)
class DownloadProgress:
    """Bytes and files; none of them until they are listed.

    phase: `waiting` for other downloads, `listing`, `transferring`; of a push, in the end, `committing`.
    """

    phase: str
    completed: int = 0
    total: int = 0
    files: tuple[FileProgress, ...] = ()


Report = Callable[[DownloadProgress], None]


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


class DigestMismatchError(HubError):
    """What came is not what the hub said would come."""


class NoTokenError(HubError):
    """There is no token to push with."""


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
    "digest_mismatch": (DigestMismatchError, "digest mismatch, file must be downloaded again", "{detail}"),
    "no_token": (
        NoTokenError,
        "{repo} cannot be written without a token",
        "make one with write access at {endpoint}/settings/tokens and set HF_TOKEN",
    ),
    "not_allowed": (
        InvalidTokenError,
        "access denied: the token may not write {repo}",
        "give it write access at {endpoint}/settings/tokens, or push to a repository of your own",
    ),
    "push_failed": (HubError, "{repo} could not be pushed", "{detail}"),
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
    return folder if folder and _is_complete(folder, storage / "trees" / f"{commit}.json") else None


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


_downloads: Shared[tuple[Path, str, str | None], DownloadProgress, Path] = Shared(
    _AT_ONCE, waiting=DownloadProgress("waiting")
)


async def download(repo: str, *, revision: str | None = None, report: Report) -> Path:
    """Fetch what vLLM needs of a repository into the Hugging Face cache, and resume what a former call began.

    Who asks for what is on its way already joins in. Raises a HubError; when the tasks of all who wait are cancelled,
    the download ends at once.
    """
    if not _HUB_ID.fullmatch(repo):
        raise ConfigError(f"{repo!r} is not a Hugging Face repository", "write ORGANISATION/NAME")
    key = (cache_folder(), repo, revision)
    return await _downloads.join(key, lambda report_all: _download(repo, revision, report_all), report)


async def _download(repo: str, revision: str | None, report: Report) -> Path:
    if _is_offline():
        if (folder := await asyncio.to_thread(cached_snapshot, repo, revision)) is not None:
            return folder
        raise hub_error("offline", repo, revision)
    process = await _start_worker(repo, revision)
    result = await _child.follow(process, reporting(report))
    if "done" in result:
        return Path(result["done"][0])
    error = hub_error(str(result["error"]), repo, revision, str(result.get("detail")))
    if isinstance(error, HubUnreachableError):
        folder = await asyncio.to_thread(cached_snapshot, repo, revision)
        if folder is not None:
            return folder
    raise error


async def _start_worker(repo: str, revision: str | None) -> asyncio.subprocess.Process:
    return await _child.start("vllama.models.hub_worker", [repo, *([revision] if revision else [])])


def reporting(report: Report) -> Callable[[_child.Message], None]:
    """Puts together what the worker says of the files at first, and then of their sizes."""
    files: list[FileProgress] = []

    def on_message(message: _child.Message) -> None:
        nonlocal files
        if "files" in message:
            files = [FileProgress(name, digest, total, 0) for name, digest, total in message["files"]]
        if "completed" in message:
            pairs = zip(files, message["completed"], strict=True)
            files = [replace(file, completed=completed) for file, completed in pairs]
        if message:
            completed, total = sum(file.completed for file in files), sum(file.total for file in files)
            report(DownloadProgress(message.get("phase", "transferring"), completed, total, tuple(files)))

    return on_message


def hub_error(kind: str, repo: str, revision: str | None, detail: str = "") -> HubError:
    """What a kind of failure, as the workers report it, means to whoever wanted the repository."""
    error, message, advice = ERRORS.get(kind, ERRORS["failed"])
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    words = {"repo": repo, "revision": revision or "main", "endpoint": endpoint, "detail": detail}
    if advice == _NEEDS_SAFETENSORS and (original := library.safetensors_of(repo)):
        advice = f"vLLM needs safetensors: use {original} instead"
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


_complete: dict[Path, int] = {}
"""Folders that were complete, with the time of their last change, as long as which they are."""


def _is_complete(folder: Path, tree: Path) -> bool:
    try:
        changed = folder.stat().st_mtime_ns
        if _complete.get(folder) != changed:
            if not _is_whole(folder, read_json(tree)):
                return False
            _complete[folder] = changed
    except OSError:  # there is no such folder
        return False
    return True


def _is_whole(folder: Path, tree: Mapping[str, Any]) -> bool:
    """By huggingface_hub's own listing of the commit; caches of its older versions have none."""
    listed = tree.get("files")
    if isinstance(listed, dict) and listed:
        return all((folder / name).is_file() for name in wanted_files(listed))
    names = {entry.name for entry in folder.iterdir() if entry.is_file()}
    shards = read_json(folder / INDEX).get("weight_map")
    needed = set(shards.values()) if isinstance(shards, dict) else set()
    described = "config.json" in names or "adapter_config.json" in names
    return described and has_weights(wanted_files(names)) and needed <= names
