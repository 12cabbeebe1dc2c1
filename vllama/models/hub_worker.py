"""`python -m vllama.models.hub_worker REPO [REVISION]`: download a repository into the Hugging Face cache.

A process of its own, because huggingface_hub takes half a second to import and its downloads cannot be cancelled.
It prints one JSON object a line: progress, and at the end `{"path": …}` or `{"error": kind, "detail": …}`. It reads
nothing from stdin, but ends when stdin does: that is how it notices that its parent died.
"""

import glob
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, errors, snapshot_download, try_to_load_from_cache
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import tqdm

from vllama.models._files import is_mlx, read_json
from vllama.models._repository import has_weights, wanted_files

ATTEMPTS = 5
_REPORT_EVERY = 0.1


class Refused(Exception):  # noqa: N818
    """A download that cannot succeed. kind: a key of `vllama.models.hub.ERRORS`."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = detail


class Progress:
    """Counts bytes from the download's threads and prints them at most every tenth of a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._completed = 0
        self._total = 0
        self._printed = 0.0

    def start(self, completed: int, total: int) -> None:
        with self._lock:
            self._completed, self._total = completed, total
            self._print()

    def add(self, count: int) -> None:
        with self._lock:
            self._completed += count
            if time.monotonic() - self._printed >= _REPORT_EVERY:
                self._print()

    def finish(self) -> None:
        with self._lock:
            self._completed = self._total
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        completed = max(0, min(self._completed, self._total))
        say({"phase": "downloading", "completed": completed, "total": self._total})


def main(arguments: list[str]) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    repo, revision = arguments[0], arguments[1] if len(arguments) > 1 else None
    try:
        say({"path": _download(repo, revision)})
    except Refused as refused:
        say({"error": refused.kind, "detail": _without_token(refused.detail)})
    except Exception as error:
        kind, detail = classify(error)
        say({"error": kind, "detail": _without_token(detail)})
    return 0


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def classify(error: Exception) -> tuple[str, str]:
    """The kind of a failure of huggingface_hub's, and what it said itself."""
    kinds: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        (errors.GatedRepoError, "gated"),
        (errors.DisabledRepoError, "disabled"),
        (errors.RevisionNotFoundError, "revision_not_found"),
        (errors.RepositoryNotFoundError, "not_found"),
        (errors.HFValidationError, "not_found"),
        (errors.OfflineModeIsEnabled, "offline"),
        ((httpx2.ConnectError, httpx2.ProxyError, httpx2.ConnectTimeout), "unreachable"),
        ((httpx2.TransportError, errors.LocalEntryNotFoundError), "interrupted"),
    )
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in {401, 403}:
        if error.response.headers.get("X-Error-Code") == "GatedRepo":
            return "gated", ""
        if not isinstance(error, errors.RepositoryNotFoundError):
            return "bad_token", ""
    for types, kind in kinds:
        if isinstance(error, types):
            return kind, _first_line(error)
    if isinstance(error, OSError) and error.errno in {28, 122}:
        return "no_space", _first_line(error)
    return "failed", _first_line(error)


def _download(repo: str, revision: str | None) -> str:
    progress = Progress()
    say({"phase": "listing"})
    commit, sizes = _list_files(repo, revision)
    names = wanted_files(sizes)
    _check_kind(repo, commit, sizes, names)
    total = sum(sizes[name] for name in names)
    _check_space(total - _cached_bytes(repo, commit, sizes, names))
    patterns = [glob.escape(name) for name in names]
    for attempt in range(1, ATTEMPTS + 1):
        progress.start(_cached_bytes(repo, commit, sizes, names), total)
        try:
            path = snapshot_download(repo, revision=revision, allow_patterns=patterns, tqdm_class=_bar(progress))
        except Exception as error:
            if attempt == ATTEMPTS or not _is_transient(error):
                raise
            # The files already here are kept, and the one in the middle is resumed.
            time.sleep(min(0.5 * 2**attempt, 10))
        else:
            progress.finish()
            return path
    raise AssertionError("unreachable")


def _list_files(repo: str, revision: str | None) -> tuple[str | None, dict[str, int]]:
    api = HfApi()
    commit = api.model_info(repo, revision=revision).sha
    tree = api.list_repo_tree(repo, recursive=True, revision=commit)
    return commit, {file.path: file.size for file in tree if isinstance(file, RepoFile)}


def _check_kind(repo: str, commit: str | None, sizes: dict[str, int], names: list[str]) -> None:
    """Refuse what vLLM cannot load before a gigabyte of it is here."""
    if not has_weights(names):
        raise Refused("gguf_only" if any(name.endswith(".gguf") for name in sizes) else "no_weights")
    if "config.json" in names:
        config = HfApi().hf_hub_download(repo, "config.json", revision=commit)
        if is_mlx(read_json(Path(config))):
            raise Refused("mlx_only")
    elif "adapter_config.json" not in names:
        raise Refused("diffusers" if "model_index.json" in sizes else "no_config")


def _cached_bytes(repo: str, commit: str | None, sizes: dict[str, int], names: list[str]) -> int:
    return sum(sizes[name] for name in names if isinstance(try_to_load_from_cache(repo, name, revision=commit), str))


def _check_space(needed: int) -> None:
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Refused("no_space", f"{needed / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free")


def _is_transient(error: Exception) -> bool:
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in {408, 429} or error.response.status_code >= 500
    cut = isinstance(error, OSError) and "Consistency check failed" in str(error)
    return cut or isinstance(error, httpx2.TransportError | errors.LocalEntryNotFoundError | errors.XetDownloadError)


def _bar(progress: Progress) -> type[tqdm]:
    class Bar(tqdm):
        """Reports bytes as they reach the disk; the other bars count files, and bytes as they leave the network."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            self._counts = settings.get("unit") == "B" and not str(settings.get("name")).endswith(".transfer")
            super().__init__(*arguments, **settings)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts and n:
                progress.add(int(n))
            shown: bool | None = super().update(n)
            return shown

    return Bar


def _end_with_parent() -> None:
    # The parent never writes: a read returns when its end of the pipe is closed, whatever closed it.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _without_token(text: str) -> str:
    token = os.environ.get("HF_TOKEN")
    return text.replace(token, "***") if token else text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
