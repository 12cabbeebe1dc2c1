"""/api/blobs: uploads that become models."""

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Alone
from vllama.models.blobs import Blobs
from vllama.models.store import Store
from vllama.routes import blobs

Library = tuple[Alone, Store]
CONTENT = b"some weights"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
OTHER = f"sha256:{hashlib.sha256(b'other').hexdigest()}"


def kept(store: Store) -> list[str]:
    folder = store.root / "blobs"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("digest", [DIGEST, DIGEST.replace(":", "-"), DIGEST[:7] + DIGEST[7:].upper()])
async def test_an_upload(library: Library, digest: str) -> None:
    alone, store = library
    missing = await alone.api.head(f"/api/blobs/{digest}")
    assert (missing.status_code, missing.content) == (404, b"")
    response = await alone.api.post(f"/api/blobs/{digest}", content=CONTENT)
    assert (response.status_code, response.content) == (201, b"")
    assert (store.root / "blobs" / DIGEST.replace(":", "-")).read_bytes() == CONTENT
    again = await alone.api.post(f"/api/blobs/{digest}", content=CONTENT)
    assert (again.status_code, again.content) == (200, b"")
    assert (await alone.api.head(f"/api/blobs/{digest}")).status_code == 200
    assert len(kept(store)) == 1


async def test_a_large_upload_is_streamed(library: Library) -> None:
    alone, store = library
    alone.gateway.max_body = 1000
    part, hashed = bytes(range(256)) * 4096, hashlib.sha256()
    for _ in range(9):
        hashed.update(part)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield part

    digest = f"sha256:{hashed.hexdigest()}"
    assert (await alone.api.post(f"/api/blobs/{digest}", content=parts())).status_code == 201
    assert store.blobs.path(digest).stat().st_size == 9 * len(part)


@pytest.mark.parametrize(
    "digest", ["sha256", "sha256:0", "md5:" + "0" * 64, "sha256:" + "g" * 64, "sha256:" + "0" * 65]
)
@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_what_is_no_digest(library: Library, method: str, digest: str) -> None:
    alone, _ = library
    response = await alone.api.request(method, f"/api/blobs/{digest}", content=CONTENT)
    assert response.status_code == 400
    assert method == "HEAD" or response.json() == {"error": "invalid digest format"}


async def test_something_else_than_was_announced(library: Library) -> None:
    alone, store = library
    response = await alone.api.post(f"/api/blobs/{OTHER}", content=CONTENT)
    assert response.status_code == 400
    assert response.json() == {"error": f'digest mismatch, expected "{OTHER}", got "{DIGEST}"'}
    assert kept(store) == []


async def test_other_methods(library: Library) -> None:
    alone, _ = library
    response = await alone.api.get(f"/api/blobs/{DIGEST}")
    assert (response.status_code, response.headers["allow"]) == (405, "HEAD, POST")


async def test_a_client_that_leaves(library: Library) -> None:
    alone, store = library
    begun, forever = asyncio.Event(), asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield CONTENT
        begun.set()
        await forever.wait()

    upload = asyncio.create_task(alone.api.post(f"/api/blobs/{DIGEST}", content=parts()))
    async with asyncio.timeout(10):
        await begun.wait()
        while not kept(store):
            await asyncio.sleep(0.001)
        upload.cancel()
        await asyncio.gather(upload, return_exceptions=True)
        while kept(store):
            await asyncio.sleep(0.001)


async def test_an_upload_that_stalls(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, store = library
    monkeypatch.setattr(blobs, "STALL_S", 0.05)
    forever = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield CONTENT
        await forever.wait()

    async with httpx.AsyncClient(base_url=alone.url, timeout=5, trust_env=False) as client:
        sending = asyncio.create_task(client.post(f"/api/blobs/{DIGEST}", content=parts()))
        async with asyncio.timeout(10):
            while not kept(store):
                await asyncio.sleep(0.001)
            while kept(store):
                await asyncio.sleep(0.001)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_disk_that_is_known_to_be_too_small(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, store = library
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 9, 3))
    response = await alone.api.post(f"/api/blobs/{DIGEST}", content=CONTENT)
    assert response.status_code == 507
    assert response.json()["error"] == (
        f"there is no room for the upload of 0.0 GB: 0.0 GB are free on the disk of {store.root}; free some, or set "
        "VLLAMA_HOME to another disk"
    )
    assert kept(store) == []


@pytest.mark.parametrize(
    ("number", "status", "text"),
    [(errno.ENOSPC, 507, "there is no room for the upload"), (errno.EIO, 500, "{root} does not take the upload")],
)
async def test_a_disk_that_does_not_take_it(
    library: Library, monkeypatch: pytest.MonkeyPatch, number: int, status: int, text: str
) -> None:
    alone, store = library

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Blobs, "_keep", fail)
    response = await alone.api.post(f"/api/blobs/{DIGEST}", content=CONTENT)
    assert response.status_code == status
    assert response.json()["error"].startswith(text.format(root=store.root))
    assert kept(store) == []


async def test_a_folder_that_cannot_be_made(library: Library, tmp_path: Path) -> None:
    alone, _ = library
    (tmp_path / "file").write_text("")
    alone.gateway.store = Store(tmp_path / "file" / "models")
    response = await alone.api.post(f"/api/blobs/{DIGEST}", content=CONTENT)
    assert response.status_code == 500
    assert "does not take the upload" in response.json()["error"]


async def test_before_a_server_that_somebody_else_runs(alone: Alone) -> None:
    response = await alone.api.post(f"/api/blobs/{DIGEST}", content=CONTENT)
    assert response.status_code == 400
    assert "--engine-url" in response.json()["error"]
