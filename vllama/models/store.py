"""Models that were made or pulled: a manifest for each, and the files that were uploaded for them.

    <root>/manifests/<host>/<namespace>/<model>/<tag>.json
    <root>/blobs/sha256-<64 hexadecimal digits>
    <root>/folders/<16 hexadecimal digits>/      links to blobs under the names that vLLM reads
    <root>/merged/<name>/                        models of an adapter and its base

Several processes may work on one store: a manifest is replaced by renaming, and a lock is held while it is.
"""

import contextlib
import glob
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from filelock import FileLock, Timeout

from vllama.errors import ConfigError
from vllama.models.blobs import Blobs
from vllama.models.modelfile import Modelfile
from vllama.models.names import InvalidName, ModelName, parse

logger = logging.getLogger("vllama")

_LOCK_S = 30.0
_FORGOTTEN_S = 3600.0
"""Age from which a file that no manifest names is taken for left behind: creating a model takes less."""


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where files come from.

    kind: `hub` (name: the repository, revision: its commit), `folder` (name: its path), `demo` (name: of a model of the
    package's), or `files` (uploaded; the blobs' digests by file name).
    """

    kind: Literal["hub", "folder", "demo", "files"]
    name: str = ""
    revision: str = ""
    files: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a name stands for.

    weights: None only for an adapter whose base is named by `base`. base: the model that the adapter is for, by name.
    parent: the model it was made from. messages: (role, content). fetched: the hub's files were not in its cache
    before we pulled them, so that deleting the model may delete them.
    """

    weights: Origin | None = None
    adapter: Origin | None = None
    base: str = ""
    parent: str = ""
    system: str = ""
    template: str = ""
    parameters: dict[str, Any] = {}
    messages: tuple[tuple[str, str], ...] = ()
    license: tuple[str, ...] = ()
    requires: str = ""
    renderer: str = ""
    parser: str = ""
    fetched: bool = False

    @property
    def modelfile(self) -> Modelfile:
        return Modelfile(
            system=self.system,
            template=self.template or None,
            parameters=self.parameters,
            messages=self.messages,
            license=self.license,
            requires=self.requires,
            renderer=self.renderer,
            parser=self.parser,
        )

    @property
    def origins(self) -> tuple[Origin, ...]:
        return tuple(origin for origin in (self.weights, self.adapter) if origin is not None)

    @property
    def digests(self) -> frozenset[str]:
        """The blobs it needs."""
        return frozenset(digest for origin in self.origins for digest in origin.files.values())


@dataclass(frozen=True)
class Stored:
    """A manifest as it was read. digest: 64 hexadecimal digits, of its content. modified: when it was written."""

    name: ModelName
    manifest: Manifest
    digest: str
    modified: datetime


class Store:
    """The manifests below `root`. Everything here reads or writes the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = Blobs(root / "blobs")
        self.merged = root / "merged"
        self._manifests = root / "manifests"
        self._read: dict[Path, tuple[tuple[int, int, int], Stored]] = {}
        self._complained: set[Path] = set()

    def __iter__(self) -> Iterator[Stored]:
        """All that can be read; a broken one is logged once."""
        paths = self._paths()
        for gone in self._read.keys() - set(paths):
            self._read.pop(gone, None)
        for path in paths:
            if (stored := self._load(path)) is not None:
                yield stored

    def broken(self) -> list[Path]:
        """The manifests that cannot be read."""
        return [path for path in self._paths() if self._load(path) is None]

    def _paths(self) -> list[Path]:
        # Unlike pathlib's, this glob does not mind that a folder goes with its model meanwhile.
        found = glob.glob("*/*/*/*.json", root_dir=self._manifests)  # noqa: PTH207
        return sorted(self._manifests / path for path in found)

    def read(self, name: ModelName) -> Stored | None:
        path = self._existing(name)
        return self._load(path) if path else None

    def write(self, name: ModelName, manifest: Manifest) -> Stored:
        """Put a manifest under a name, or in the place of the one that it has, whatever the case of its letters.

        Raises ConfigError where the disk does not take it.
        """
        data = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1) + b"\n"
        with self._locked():
            path = self._existing(name) or self._path(name)
            before = self._load(path)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _replace(path, data)
            except OSError as error:
                raise _cannot_write(path, error) from None
            stored = self._load(path)
            assert stored is not None
            if before is not None:
                self._drop(before.manifest)
        return stored

    def remove(self, name: ModelName) -> Stored | None:
        """Forget a name and what only it needed; what it was, None where there is no such name.

        Raises ConfigError where the disk does not let it go.
        """
        with self._locked():
            path = self._existing(name)
            stored = self._load(path) if path else None
            if path is None or stored is None:
                return None
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _cannot_write(path, error) from None
            self._read.pop(path, None)
            for parent in path.relative_to(self._manifests).parents[:-1]:
                with contextlib.suppress(OSError):
                    (self._manifests / parent).rmdir()
            self._drop(stored.manifest)
        return stored

    def folder(self, files: Mapping[str, str]) -> Path:
        """A folder with the blobs of these digests under these names. Raises ConfigError where one is missing."""
        folder = self._links(files)
        if folder.is_dir():
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
            try:
                for name, digest in files.items():
                    (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                    _link(self.blobs.path(digest), unfinished / name)
                unfinished.rename(folder)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                if not folder.is_dir():  # another process was quicker
                    raise
        except FileNotFoundError as error:
            raise ConfigError(f"{error.filename} is missing", "create the model again") from None
        except OSError as error:
            raise _cannot_write(folder, error) from None
        return folder

    def collect(self) -> None:
        """Remove uploads and folders of an hour ago and older that no manifest needs.

        Nothing where a manifest cannot be read, which a newer vLLama may have written.
        """
        if not self.root.is_dir():
            return
        with self._locked():
            manifests = [stored.manifest for stored in self]
            if len(manifests) < len(self._paths()):
                return
            before = time.time() - _FORGOTTEN_S
            self.blobs.prune(frozenset[str]().union(*(manifest.digests for manifest in manifests)), before)
            folders = set((self.root / "folders").glob("*"))
            for folder in folders.difference(*map(self._folders, manifests)):
                with contextlib.suppress(OSError):
                    if folder.stat().st_mtime < before:
                        shutil.rmtree(folder, ignore_errors=True)

    def _drop(self, manifest: Manifest) -> None:
        """Remove the blobs and folders that a manifest needed and no other does."""
        others = [stored.manifest for stored in self]
        for folder in self._folders(manifest).difference(*map(self._folders, others)):
            shutil.rmtree(folder, ignore_errors=True)
        for digest in manifest.digests.difference(*(other.digests for other in others)):
            self.blobs.remove(digest)

    def _folders(self, manifest: Manifest) -> set[Path]:
        """The store's own folders that it needs."""
        links = {self._links(origin.files) for origin in manifest.origins if origin.files}
        named = {Path(origin.name).resolve() for origin in manifest.origins if origin.kind == "folder"}
        return links | {folder for folder in named if folder.parent == self.merged.resolve()}

    def _links(self, files: Mapping[str, str]) -> Path:
        listed = "\n".join(f"{name} {digest}" for name, digest in sorted(files.items()))
        return self.root / "folders" / hashlib.sha256(listed.encode()).hexdigest()[:16]

    def _path(self, name: ModelName) -> Path:
        return self._manifests / name.host / name.namespace / name.model / f"{name.tag}.json"

    def _existing(self, name: ModelName) -> Path | None:
        """The file of a name: as it is written, else with letters of another case."""
        if (path := self._path(name)).is_file():
            return path
        found = (stored for stored in self if stored.name.key == name.key)
        return next((self._path(stored.name) for stored in found), None)

    def _load(self, path: Path) -> Stored | None:
        try:
            status = path.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if (known := self._read.get(path)) is not None and known[0] == stamp:
                return known[1]
            data = path.read_bytes()
            host, namespace, model = path.relative_to(self._manifests).parts[:3]
            stored = Stored(
                parse(f"{host}/{namespace}/{model}:{path.stem}"),
                msgspec.json.decode(data, type=Manifest),
                hashlib.sha256(data).hexdigest(),
                datetime.fromtimestamp(status.st_mtime, tz=UTC),
            )
        except FileNotFoundError:
            return None
        except (OSError, InvalidName, msgspec.DecodeError, UnicodeDecodeError) as error:
            if path not in self._complained:
                self._complained.add(path)
                logger.warning("%s is ignored: it is no manifest (%s)", path, error)
            return None
        self._read[path] = (stamp, stored)
        return stored

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / ".lock", timeout=_LOCK_S)
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"{self.root} is in use by another process", f"try again; if none runs, remove {self.root / '.lock'}"
            ) from None
        except OSError as error:
            raise _cannot_write(self.root, error) from None
        try:
            yield
        finally:
            lock.release()


def _replace(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _link(blob: Path, path: Path) -> None:
    """A hard link where the file system has such; both lie in one folder tree, so it nearly always has."""
    try:
        path.hardlink_to(blob)
    except FileNotFoundError:
        raise
    except OSError:
        if not blob.is_file():
            raise FileNotFoundError(2, "missing", str(blob)) from None
        path.symlink_to(blob)


def _cannot_write(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written ({error.strerror})", "check the disk's space and its permissions")
