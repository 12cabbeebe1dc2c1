"""Downloads against a hub of our own."""

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.each import each
from tests.hub_server import COMMIT, Hub, serving
from vllama.errors import ConfigError
from vllama.models import hub
from vllama.models._repository import wanted_files
from vllama.models.hub import DownloadProgress, FileProgress, cached_snapshot, download, is_hub_id

TOKEN = "hf_secret"


MODEL = {
    "config.json": b'{"architectures": ["XForCausalLM"]}',
    "tokenizer.json": b"{}",
    "README.md": b"---\nlicense: mit\n---\n",
    "model.safetensors": bytes(range(256)) * 1000,
    "model.gguf": b"no",
    "original/consolidated.00.pth": b"no",
    "onnx/model.onnx": b"no",
    "picture.png": b"no",
}
WANTED = {"config.json", "tokenizer.json", "README.md", "model.safetensors"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path, monkeypatch) as hub_server:
        yield hub_server


def ignore(progress: DownloadProgress) -> None:
    """For downloads whose progress is not the matter."""


async def test_download(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.repos["org/model"] = MODEL
    assert cached_snapshot("org/model") is None
    reports: list[DownloadProgress] = []
    path = await download("org/model", revision=None, report=reports.append)
    assert {file.name for file in path.iterdir()} == WANTED == set(server.fetched)
    assert (path / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    size = sum(len(MODEL[name]) for name in WANTED)
    assert reports[0] == DownloadProgress("listing")
    last = reports[-1]
    assert (last.phase, last.completed, last.total) == ("transferring", size, size)
    weights = MODEL["model.safetensors"]
    listed = {file.name: file for file in last.files}
    assert listed.keys() == WANTED
    digest = f"sha256:{hashlib.sha256(weights).hexdigest()}"
    assert listed["model.safetensors"] == FileProgress("model.safetensors", digest, len(weights), len(weights))
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", file.digest) for file in last.files)
    assert all(0 <= report.completed <= report.total for report in reports)
    assert [report.completed for report in reports] == sorted(report.completed for report in reports)
    assert server.tokens == {f"Bearer {TOKEN}"}
    assert cached_snapshot("org/model") == cached_snapshot("org/model", COMMIT) == path

    # Without the network the cache answers, and only for what is in it.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert await download("org/model", revision=None, report=ignore) == path
    with pytest.raises(hub.OfflineError, match="HF_HUB_OFFLINE"):
        await download("org/other", revision=None, report=ignore)
    (path / "tokenizer.json").unlink()
    assert cached_snapshot("org/model") is None


WEIGHTS = bytes(range(256)) * 20_000


def resumed_at(server: Hub) -> list[int]:
    return [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in server.ranges]


async def test_a_cut_connection_is_resumed(server: Hub) -> None:
    server.repos["org/model"] = MODEL | {"model.safetensors": WEIGHTS}
    server.cut = {"model.safetensors"}
    path = await download("org/model", revision="main", report=ignore)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert resumed_at(server) == [2 * 2**20]  # of half the file, whole pieces


async def test_a_download_that_is_cancelled_ends_at_once_and_is_resumed(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.repos["org/model"] = MODEL | {"model.safetensors": WEIGHTS}
    server.stalled = {"model.safetensors"}
    arrived = asyncio.Event()
    workers: list[asyncio.subprocess.Process] = []
    start = hub._start_worker

    async def remember(repo: str, revision: str | None) -> asyncio.subprocess.Process:
        workers.append(await start(repo, revision))
        return workers[-1]

    def report(progress: DownloadProgress) -> None:
        if progress.completed >= 2**20:
            arrived.set()

    monkeypatch.setattr(hub, "_start_worker", remember)
    first = asyncio.create_task(download("org/model", revision=None, report=report))
    await arrived.wait()
    assert TOKEN not in " ".join(psutil.Process(workers[0].pid).cmdline())
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not psutil.pid_exists(workers[0].pid)
    assert cached_snapshot("org/model") is None
    server.stalled.clear()
    path = await download("org/model", revision=None, report=ignore)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert resumed_at(server)[0] >= 2**20


async def test_what_was_sent_wrong_is_not_kept(server: Hub) -> None:
    server.repos["org/model"] = MODEL
    server.wrong = {"model.safetensors": MODEL["model.safetensors"][::-1]}
    with pytest.raises(hub.DigestMismatchError) as raised:
        await download("org/model", revision=None, report=ignore)
    wanted, got = (
        hashlib.sha256(content).hexdigest() for content in (MODEL["model.safetensors"], *server.wrong.values())
    )
    text = f"digest mismatch, file must be downloaded again: want sha256:{wanted} got sha256:{got}"
    assert str(raised.value) == text
    assert cached_snapshot("org/model") is None
    server.wrong = {}
    assert await download("org/model", revision=None, report=ignore) == cached_snapshot("org/model")
    assert server.ranges == []


REFUSALS: list[tuple[str, tuple[int, dict[str, str]] | dict[str, bytes] | None, type[hub.HubError], str]] = [
    ("org/missing", None, hub.RepositoryNotFoundError, "there is no repository org/missing"),
    ("org/hidden", (401, {"X-Error-Code": "RepoNotFound"}), hub.RepositoryNotFoundError, "needs HF_TOKEN"),
    ("org/gated", (401, {"X-Error-Code": "GatedRepo"}), hub.GatedRepositoryError, "accept its terms at http"),
    (
        "org/denied",
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
        hub.InvalidTokenError,
        "refused the token",
    ),
    ("org/no-rev", (404, {"X-Error-Code": "RevisionNotFound"}), hub.RepositoryNotFoundError, "has no revision main"),
    ("org/gguf", {"m.gguf": b"x", "config.json": b"{}"}, hub.UnsupportedRepositoryError, "holds only GGUF files"),
    (
        "org/mlx",
        {"model.safetensors": b"x", "config.json": b'{"quantization": {"bits": 4, "group_size": 64}}'},
        hub.UnsupportedRepositoryError,
        "quantised for MLX: vLLM needs safetensors: choose the original",
    ),
    (
        "org/Qwen3-4B-GGUF",
        {"m.gguf": b"x"},
        hub.UnsupportedRepositoryError,
        "holds only GGUF files: vLLM needs safetensors: use Qwen/Qwen3-4B instead",
    ),
    (
        "org/huge",
        {"huge.safetensors": b"x", "config.json": b"{}"},
        hub.NoSpaceError,
        "100000000.0 GB are needed in /",
    ),
]
DOWNLOAD_ALL = """
import sys
from vllama.models import _worker, hub_worker
for repo in sys.argv[1:]:
    _worker.say({"repo": repo, **_worker.outcome(lambda: hub_worker.main([repo]))})
"""


def test_refusals(server: Hub) -> None:
    """All in one process, as to start one takes longer than the rest."""
    server.sizes = {"huge.safetensors": 10**17}
    for repo, answer, _, _ in REFUSALS:
        if isinstance(answer, tuple):
            server.refusals[repo] = answer
        elif answer is not None:
            server.repos[repo] = answer
    command = [sys.executable, "-c", DOWNLOAD_ALL, *(repo for repo, *_ in REFUSALS)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()
    outcomes = {said["repo"]: said for said in map(json.loads, lines) if "repo" in said}
    for repo, _, kind, told in REFUSALS:
        error = hub.hub_error(outcomes[repo]["error"], repo, None, outcomes[repo]["detail"])
        assert type(error) is kind, (repo, error)
        assert told in str(error)
        assert error.advice
    assert not any(name.endswith(".safetensors") for name in server.fetched)


async def test_unreachable(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(hub.HubUnreachableError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        await download("org/model", revision=None, report=ignore)


async def test_what_is_here_needs_no_network(
    cache: Callable[[dict[str, str]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    folder = cache({"config.json": "{}", "model.safetensors": ""})
    unreachable = """print('{"error": "unreachable", "detail": "x"}')"""
    assert await run_instead(monkeypatch, unreachable) == folder


async def stalled(server: Hub) -> None:
    await asyncio.to_thread(server.stalling.wait, 30)


async def test_the_worker_ends_with_its_parent(server: Hub) -> None:
    server.repos["org/model"] = MODEL
    server.stalled = {"model.safetensors"}
    command = [sys.executable, "-m", "vllama.models.hub_worker", "org/model"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as worker:
        await stalled(server)
        assert worker.poll() is None
        assert worker.stdin is not None
        worker.stdin.close()
        assert await asyncio.to_thread(worker.wait, 10) == 1


async def run_instead(monkeypatch: pytest.MonkeyPatch, code: str) -> Path:
    """Download with a worker of these words."""

    async def start(repo: str, revision: str | None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", "-c", code, repo),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    monkeypatch.setattr(hub, "_start_worker", start)
    return await download("org/model", revision=None, report=ignore)


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        ("raise SystemExit('it broke')", hub.HubError, "org/model could not be downloaded: it broke"),
        ("pass", hub.HubError, "ended without a word"),
        ("print('no JSON')", hub.HubError, "ended without a word"),
        ("raise SystemExit('secret hf_secret told')", hub.HubError, "secret *** told"),
        ("raise SystemExit('told hf_abcdefghijklmnopqrst')", hub.HubError, "told ***"),
        ("raise SystemExit('at http://me:pass@x/y?key=1 it')", hub.HubError, "at http://x/y it"),
        ("import sys; sys.stderr.write('x' * 300000); sys.exit('\\nend')", hub.HubError, "downloaded: end"),
        ("""print('{"error": "no_space", "detail": "9 GB"}')""", hub.NoSpaceError, "does not fit on the disk: 9 GB"),
        ("""print('{"error": "interrupted", "detail": "x"}')""", hub.DownloadInterruptedError, "try again"),
        ("""print('{"error": "new kind", "detail": "x"}')""", hub.HubError, "could not be downloaded: x"),
    ],
)
async def test_what_a_worker_says(
    monkeypatch: pytest.MonkeyPatch, code: str, kind: type[hub.HubError], told: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(hub.HubError) as raised:
        await run_instead(monkeypatch, code)
    assert type(raised.value) is kind
    assert told in str(raised.value)


async def test_no_repository_id() -> None:
    for text in ("../../etc/passwd", "--help", "a b/c", "x"):
        with pytest.raises(ConfigError, match="not a Hugging Face repository"):
            await download(text, revision=None, report=ignore)


@each(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-4B", True),
        ("org.x/y_z.1", True),
        ("gpt2", False),
        ("a/b/c", False),
        ("/a/b", False),
        ("./a", False),
        ("~/a", False),
        ("a/b--c", False),
        ("a/..", False),
        ("a/b.git", False),
        ("a/b c", False),
        ("a/" + "b" * 95, False),
        ("", False),
    ],
)
def test_is_hub_id(text: str, expected: bool) -> None:
    assert is_hub_id(text) is expected


def test_a_folder_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("org/model")
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert not is_hub_id("org/model")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
        ({"HUGGINGFACE_HUB_CACHE": "/c"}, "/c"),
        ({"HF_HOME": "/h"}, "/h/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "$HOME/h", "HOME": "/me"}, "/me/h/hub"),
        ({"HOME": "/me"}, "/me/.cache/huggingface/hub"),
    ],
)
def test_cache_folder(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hub.cache_folder() == Path(folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Path]:
    """A repository as an older huggingface_hub left it: without a listing of the commit."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    storage = tmp_path / "models--org--model"

    def put(files: dict[str, str]) -> Path:
        folder = storage / "snapshots" / COMMIT
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_text(content)
        (storage / "refs").mkdir()
        (storage / "refs" / "main").write_text(COMMIT)
        return folder

    return put


@pytest.mark.parametrize(
    ("files", "complete"),
    [
        ({"config.json": "{}", "model.safetensors": ""}, True),
        ({"config.json": "{}", "pytorch_model.bin": ""}, True),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, True),
        ({"config.json": "{}"}, False),
        ({"model.safetensors": ""}, False),
        ({}, False),
        (
            {"config.json": "{}", "a.safetensors": "", "model.safetensors.index.json": '{"weight_map": {"x": "b"}}'},
            False,
        ),
        (
            {
                "config.json": "{}",
                "a.safetensors": "",
                "model.safetensors.index.json": '{"weight_map": {"x": "a.safetensors"}}',
            },
            True,
        ),
    ],
)
def test_older_caches(cache: Callable[[dict[str, str]], Path], files: dict[str, str], complete: bool) -> None:
    folder = cache(files)
    assert cached_snapshot("org/model") == (folder if complete else None)
    assert cached_snapshot("org/model", "v1") is None
    assert cached_snapshot("org/other") is None


def test_a_complete_repository_is_read_once(
    cache: Callable[[dict[str, str]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until a file comes or goes: what is in the cache is looked at again and again."""
    folder = cache({"config.json": "{}", "model.safetensors": ""})
    assert cached_snapshot("org/model") == folder
    with monkeypatch.context() as unread:
        unread.delattr(hub, "read_json")
        assert cached_snapshot("org/model") == folder
    (folder / "model.safetensors").unlink()
    os.utime(folder, ns=(0, 0))
    assert cached_snapshot("org/model") is None


@each(
    ("names", "wanted"),
    [
        (MODEL, WANTED),
        (["a.safetensors", "pytorch_model.bin"], {"a.safetensors"}),
        (["pytorch_model-1.bin", "training_args.bin", "x.gguf"], {"pytorch_model-1.bin"}),
        (["model-1.safetensors", "consolidated.safetensors"], {"model-1.safetensors"}),
        (["consolidated.safetensors", "params.json"], {"consolidated.safetensors", "params.json"}),
        (
            ["1_Pooling/config.json", "2_Dense/model.safetensors"],
            {"1_Pooling/config.json", "2_Dense/model.safetensors"},
        ),
        (["metal/model.bin", "original/config.json", "unet/x.safetensors", "flax_model.msgpack"], set()),
        (["LICENSE", "tokenizer.model", "merges.txt", "chat_template.jinja"], None),
        ([], set()),
    ],
)
def test_wanted_files(names: list[str], wanted: set[str] | None) -> None:
    assert set(wanted_files(names)) == (set(names) if wanted is None else wanted)
