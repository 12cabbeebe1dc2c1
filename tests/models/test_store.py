"""Manifests and uploaded files on the disk."""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.each import each
from vllama.errors import ConfigError
from vllama.models.blobs import Blobs, DigestMismatchError, read_digest
from vllama.models.names import parse
from vllama.models.store import Manifest, Origin, Store

DEMO = Origin("demo", "demo")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def upload(store: Store, data: bytes) -> str:
    digest = digest_of(data)

    async def parts() -> AsyncIterator[bytes]:
        yield data

    asyncio.run(store.blobs.add(parts(), digest))
    return digest


def test_writing_and_reading(store: Store) -> None:
    manifest = Manifest(
        weights=DEMO, parent="demo:latest", system="Be kind.", template="{{ messages }}", parameters={"stop": ["a"]},
        messages=(("user", "Hi"),), license=("MIT",), requires="0.14.0",
    )  # fmt: skip
    stored = store.write(parse("me/mine:1b"), manifest)
    again = Store(store.root).read(parse("me/mine:1b"))
    assert again == stored
    assert again.manifest == manifest
    path = store.root / "manifests/registry.ollama.ai/me/mine/1b.json"
    assert stored.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads(path.read_text())["weights"] == {"kind": "demo", "name": "demo"}
    assert stored.modified.timestamp() == pytest.approx(path.stat().st_mtime)
    assert manifest.modelfile.template == "{{ messages }}"
    assert manifest.modelfile.parameters == {"stop": ["a"]}


def test_equal_manifests_have_equal_digests(store: Store) -> None:
    one, two = (store.write(parse(name), Manifest(weights=DEMO)) for name in "ab")
    assert one.digest == two.digest
    assert store.write(parse("a"), Manifest(weights=DEMO, system="x")).digest != two.digest


def test_names_match_whatever_their_case(store: Store) -> None:
    store.write(parse("Mine"), Manifest(weights=DEMO))
    store.write(parse("mINE:LATEST"), Manifest(weights=DEMO, system="new"))
    (only,) = store
    assert (only.name.short, only.manifest.system) == ("Mine:latest", "new")
    assert store.read(parse("MINE")) == only
    assert store.remove(parse("mine")) == only
    assert list(store) == []
    assert store.remove(parse("mine")) is None
    assert store.read(parse("mine")) is None


def test_removing_leaves_no_empty_folders(store: Store) -> None:
    store.write(parse("a/b:c"), Manifest(weights=DEMO))
    store.write(parse("a/b:d"), Manifest(weights=DEMO))
    store.remove(parse("a/b:c"))
    assert [stored.name.short for stored in store] == ["a/b:d"]
    store.remove(parse("a/b:d"))
    assert list((store.root / "manifests").iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weights": {"kind": "moon"}}', "\xff"])
def test_a_broken_manifest_is_ignored(store: Store, text: str, caplog: pytest.LogCaptureFixture) -> None:
    store.write(parse("good"), Manifest(weights=DEMO))
    bad = store.root / "manifests/registry.ollama.ai/library/bad/latest.json"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(text.encode("latin-1"))
    for _ in range(2):
        assert [stored.name.short for stored in store] == ["good:latest"]
    assert [record.getMessage().partition(" is ignored")[0] for record in caplog.records] == [str(bad)]
    store.write(parse("bad"), Manifest(weights=DEMO))
    assert len(list(store)) == 2


def test_another_process_sees_what_changed(store: Store) -> None:
    other = Store(store.root)
    store.write(parse("a"), Manifest(weights=DEMO))
    assert [stored.manifest.system for stored in other] == [""]
    store.write(parse("a"), Manifest(weights=DEMO, system="new"))
    assert [stored.manifest.system for stored in other] == ["new"]


def _write_many(root: Path, number: int) -> None:
    store = Store(root)
    for turn in range(10):
        store.write(parse("shared"), Manifest(weights=DEMO, system=f"{number} {turn}"))
        store.write(parse(f"own{number}"), Manifest(weights=DEMO))
        assert store.read(parse("shared")) is not None


def test_two_processes_at_once(store: Store) -> None:
    context = get_context("fork")
    processes = [context.Process(target=_write_many, args=(store.root, number)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(stored.name.short for stored in store) == ["own0:latest", "own1:latest", "shared:latest"]
    assert not [path for path in store.root.rglob("tmp*") if path.is_file()]


def test_uploaded_files(store: Store) -> None:
    digest = upload(store, b"weights")
    assert store.blobs.has(digest)
    folder = store.folder({"model.safetensors": digest, "1_Pooling/config.json": digest})
    assert (folder / "1_Pooling/config.json").read_bytes() == b"weights"
    assert store.folder({"1_Pooling/config.json": digest, "model.safetensors": digest}) == folder
    with pytest.raises(ConfigError, match=r"is missing: create the model again"):
        store.folder({"x": digest_of(b"never uploaded")})
    assert sorted(path.name for path in (store.root / "folders").iterdir()) == [folder.name]


def test_removing_drops_what_nothing_else_uses(store: Store) -> None:
    shared, own = upload(store, b"shared"), upload(store, b"own")
    store.write(parse("a"), Manifest(weights=Origin("files", files={"x": shared, "y": own})))
    store.write(parse("b"), Manifest(weights=Origin("files", files={"x": shared})))
    folders = [store.folder(stored.manifest.weights.files) for stored in store if stored.manifest.weights]
    store.remove(parse("a"))
    assert (store.blobs.has(shared), store.blobs.has(own)) == (True, False)
    assert [folder.exists() for folder in folders] == [False, True]
    store.write(parse("b"), Manifest(weights=DEMO))
    assert not store.blobs.has(shared), "a new manifest in its place needs it no more"


def test_collecting(store: Store) -> None:
    needed, forgotten, fresh = (upload(store, name) for name in (b"needed", b"forgotten", b"fresh"))
    store.write(parse("a"), Manifest(weights=Origin("files", files={"x": needed})))
    kept, left = store.folder({"x": needed}), store.folder({"y": forgotten})
    for path in (store.blobs.path(needed), store.blobs.path(forgotten), kept, left):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    store.collect()
    assert [store.blobs.has(digest) for digest in (needed, forgotten, fresh)] == [True, False, True]
    assert (kept.exists(), left.exists()) == (True, False)


def test_nothing_is_collected_that_a_newer_version_may_need(store: Store) -> None:
    store.collect()
    assert not store.root.exists()
    digest = upload(store, b"theirs")
    os.utime(store.blobs.path(digest), (0, 0))
    path = store.root / "manifests" / "registry.ollama.ai" / "library" / "a" / "latest.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"weights": {"kind": "torrent"}}')
    store.collect()
    assert store.blobs.has(digest)
    path.unlink()
    store.collect()
    assert not store.blobs.has(digest)


def test_a_model_that_goes_while_all_are_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("going", "here"):
        store.write(parse(name), Manifest(weights=DEMO))
    scandir = os.scandir

    def removing(path: str | Path) -> Any:
        if Path(path).name == "going":
            (Path(path) / "latest.json").unlink()
            Path(path).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", removing)
    assert [stored.name.short for stored in store] == ["here:latest"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ConfigError, match=r"cannot be written \(.+\): check the disk"):
        Store(tmp_path / "models").write(parse("a"), Manifest(weights=DEMO))


@each(
    ("text", "digest"),
    [
        (f"sha256:{'a' * 64}", f"sha256:{'a' * 64}"),
        (f"sha256-{'A' * 64}", f"sha256:{'a' * 64}"),
        (f"sha256:{'a' * 63}", None),
        (f"sha512:{'a' * 64}", None),
        ("../../etc/passwd", None),
        ("", None),
    ],
)
def test_digests(text: str, digest: str | None) -> None:
    assert read_digest(text) == digest


async def chunks(*parts: bytes, then: Any = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if then is not None:
        raise then


async def test_an_upload_in_parts(tmp_path: Path) -> None:
    blobs, data = Blobs(tmp_path), os.urandom(5 * 2**20)
    digest = digest_of(data)
    assert await blobs.add(chunks(data[:100], data[100:], b""), digest) is True
    assert blobs.path(digest).read_bytes() == data
    assert await blobs.add(chunks(then=AssertionError("it was read")), digest) is False
    assert len(list(tmp_path.iterdir())) == 1


async def test_an_upload_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatchError) as error:
        await Blobs(tmp_path).add(chunks(b"x"), digest_of(b"y"))
    assert error.value.digest == digest_of(b"x")
    assert list(tmp_path.iterdir()) == []


async def test_an_upload_that_breaks_off(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        await Blobs(tmp_path).add(chunks(b"x", then=ConnectionError()), digest_of(b"xy"))
    assert list(tmp_path.iterdir()) == []
