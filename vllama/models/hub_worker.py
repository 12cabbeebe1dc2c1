"""`python -m vllama.models.hub_worker REPO [REVISION]`: download a repository into the Hugging Face cache.

A process of its own, because huggingface_hub takes half a second to import and its downloads cannot be cancelled.
It prints one JSON object a line: progress, and at the end `{"done": [path, commit]}` or `{"error": kind, "detail": …}`.
It reads nothing from stdin, but ends when stdin does: that is how it notices that its parent died.
"""

import glob
import hashlib
import io
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers

from vllama.models._files import is_mlx, read_json
from vllama.models._repository import has_weights, wanted_files
from vllama.models._worker import Refused, is_transient, run, say

ATTEMPTS = 5
_AT_ONCE = 8
_PIECE = 2**20
_REPORT_EVERY = 0.08

T = TypeVar("T")


class Layers:
    """The files of a download and how much of each is here. Threads tell it, and it tells the parent now and then."""

    def __init__(self, files: list[RepoFile], complete: Callable[[RepoFile], bool]) -> None:
        self._lock = threading.Lock()
        self._index = {file.path: index for index, file in enumerate(files)}
        self._sizes = [file.size for file in files]
        self._completed = [file.size if complete(file) else 0 for file in files]
        self._printed = 0.0
        say({"files": [[file.path, _digest(file), file.size] for file in files], "completed": self._completed})

    def set(self, path: str, completed: int) -> None:
        """Say how much of a file is here; also that it is still worked on, when nothing changed."""
        with self._lock:
            index = self._index[path]
            self._completed[index] = min(completed, self._sizes[index])
            if time.monotonic() - self._printed >= _REPORT_EVERY or completed == self._sizes[index]:
                self._print()

    def finish(self) -> None:
        with self._lock:
            self._completed = list(self._sizes)
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        say({"completed": self._completed})


class Repository:
    """A commit of a repository, and its place in the cache."""

    def __init__(self, repo: str, commit: str) -> None:
        self._repo = repo
        self._commit = commit
        self._cache = Path(constants.HF_HUB_CACHE)
        self._folder = repo_folder_name(repo_id=repo, repo_type="model")

    def is_here(self, file: RepoFile) -> bool:
        if file.lfs is not None and self._blob(file.lfs.sha256).is_file():
            return True
        return isinstance(try_to_load_from_cache(self._repo, file.path, revision=self._commit), str)

    def missing_bytes(self, file: RepoFile) -> int:
        if self.is_here(file):
            return 0
        part = self._part(file.lfs.sha256) if file.lfs is not None else None
        return file.size - (min(part.stat().st_size, file.size) if part and part.is_file() else 0)

    def fetch(self, file: RepoFile, layers: Layers) -> None:
        """A large file, from where an earlier download of it was cut off; its content is checked."""
        assert file.lfs is not None
        blob, part = self._blob(file.lfs.sha256), self._part(file.lfs.sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        lock = self._lock(file.lfs.sha256, lambda: layers.set(file.path, part.stat().st_size if part.exists() else 0))
        try:
            if not blob.is_file():
                self._fetch_part(file, part, layers)
                _verify(part, file.lfs.sha256, lambda: layers.set(file.path, file.size))
                part.rename(blob)
        finally:
            lock.release()
        layers.set(file.path, file.size)

    def _fetch_part(self, file: RepoFile, part: Path, layers: Layers) -> None:
        if part.exists() and part.stat().st_size > file.size:
            part.unlink()
        with _Part(part, lambda size: layers.set(file.path, size)) as output:
            http_get(
                hf_hub_url(self._repo, file.path, revision=self._commit),
                output,
                resume_size=output.tell(),
                headers=build_hf_headers(),
                expected_size=file.size,
                displayed_filename=file.path,
            )

    def _lock(self, digest: str, waiting: Callable[[], None]) -> FileLock:
        """huggingface_hub's own lock of a file: another process may be fetching it."""
        path = self._cache / ".locks" / self._folder / f"{digest}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        while True:
            try:
                lock.acquire(timeout=1)
            except Timeout:
                waiting()
            else:
                return lock

    def _blob(self, digest: str) -> Path:
        return self._cache / self._folder / "blobs" / digest

    def _part(self, digest: str) -> Path:
        return self._blob(digest).with_suffix(".incomplete")


class _Part(io.FileIO):
    """A file that is written from its end on, and tells its size. Unbuffered: what was told is there after a kill."""

    def __init__(self, path: Path, report: Callable[[int], None]) -> None:
        super().__init__(path, "a+")
        self._report = report

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            _write_all(super().write, view[start : start + _PIECE])
            self._report(self.tell())
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._report(kept := super().truncate(size))
        return kept


def _write_all(write: Callable[[memoryview], int | None], view: memoryview) -> None:
    while view:
        view = view[write(view) or 0 :]


def main(arguments: list[str]) -> list[str]:
    repo, revision = arguments[0], arguments[1] if len(arguments) > 1 else None
    # huggingface_hub hands over, and so keeps, whole pieces only: ten megabytes are much on a bad line.
    constants.DOWNLOAD_CHUNK_SIZE = _PIECE
    say({"phase": "listing"})
    commit, files = _list_files(repo, revision)
    names = wanted_files(files)
    _check_kind(repo, commit, files, names)
    wanted = [files[name] for name in names]
    repository = Repository(repo, commit)
    _check_space(sum(map(repository.missing_bytes, wanted)))
    layers = Layers(wanted, repository.is_here)
    _fetch_all(repository, [file for file in wanted if _is_large(file) and not repository.is_here(file)], layers)
    patterns = [glob.escape(name) for name in names]
    # The small ones; and links to those that are here.
    path = _persistently(lambda: snapshot_download(repo, revision=revision, allow_patterns=patterns))
    layers.finish()
    return [path, commit]


def _fetch_all(repository: Repository, files: list[RepoFile], layers: Layers) -> None:
    """Several at once; the first failure is raised without waiting for the others, which end with the process."""
    pool = ThreadPoolExecutor(_AT_ONCE)

    def fetch(file: RepoFile) -> None:
        _persistently(lambda: repository.fetch(file, layers))

    running = [pool.submit(fetch, file) for file in files]
    done, _ = wait(running, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()


def _persistently(work: Callable[[], T]) -> T:
    """What is here already is kept: each attempt goes on where the last one was cut off."""
    for attempt in range(1, ATTEMPTS):
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            time.sleep(min(0.5 * 2**attempt, 10))
    return work()


def _list_files(repo: str, revision: str | None) -> tuple[str, dict[str, RepoFile]]:
    api = HfApi()
    commit = api.model_info(repo, revision=revision).sha or "main"
    tree = api.list_repo_tree(repo, recursive=True, revision=commit)
    return commit, {file.path: file for file in tree if isinstance(file, RepoFile)}


def _check_kind(repo: str, commit: str, files: dict[str, RepoFile], names: list[str]) -> None:
    """Refuse what vLLM cannot load before a gigabyte of it is here."""
    if not has_weights(names):
        raise Refused("gguf_only" if any(name.endswith(".gguf") for name in files) else "no_weights")
    if "config.json" in names:
        config = HfApi().hf_hub_download(repo, "config.json", revision=commit)
        if is_mlx(read_json(Path(config))):
            raise Refused("mlx_only")
    elif "adapter_config.json" not in names:
        raise Refused("diffusers" if "model_index.json" in files else "no_config")


def _check_space(needed: int) -> None:
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Refused("no_space", f"{needed / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free")


def _is_large(file: RepoFile) -> bool:
    """Whether it is fetched by us. huggingface_hub does so with what HTTP is not offered for."""
    return file.lfs is not None and file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE


def _digest(file: RepoFile) -> str:
    """Of the content where the hub knows it; for a small file, of what the hub knows it by."""
    return f"sha256:{file.lfs.sha256 if file.lfs else hashlib.sha256(file.blob_id.encode()).hexdigest()}"


def _verify(path: Path, wanted: str, working: Callable[[], None]) -> None:
    """Raises Refused, and removes the file, where its content is not what the hub says."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(32 * _PIECE):
            digest.update(piece)
            working()
    if (found := digest.hexdigest()) != wanted:
        path.unlink()
        raise Refused("digest_mismatch", f"want sha256:{wanted} got sha256:{found}")


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
