"""Weight files: what their headers say, and whether they are whole. No weight is read."""

import json
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from vllama.errors import ConfigError

INDEX = "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000
"""What safetensors itself accepts; a longer one is garbage read as a length."""

_AGAIN = "the file is incomplete or damaged: copy or download it again"
_LFS_POINTER = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
_SAMPLE = 4096


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class WeightFile:
    """One file of weights. `tensors` is empty for a pickled `.bin`, whose header cannot be read safely."""

    path: Path
    size: int
    tensors: tuple[Tensor, ...] = ()
    fingerprint: bytes = b""


def weight_files(folder: Path) -> list[WeightFile]:
    """The files vLLM reads from the top of the folder: safetensors, else pickled ones; empty if there are none."""
    if (folder / INDEX).is_file():
        return [read_header(path) for path in _indexed(folder / INDEX)]
    if paths := _without_consolidated(sorted(folder.glob("*.safetensors"))):
        return [read_header(path) for path in paths]
    pickled = [path for path in sorted(folder.glob("*.bin")) if path.name.startswith(("pytorch_model", "model"))]
    return [read_pickled(path) for path in pickled]


def read_header(path: Path) -> WeightFile:
    """Check one safetensors file against its header; raises ConfigError where it is cut off or no such file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
            _refuse_pointer(path, start)
            length = int.from_bytes(start[:8], "little")
            if size < 8 or length > min(LONGEST_HEADER, size - 8):
                raise ConfigError(f"{path} is not a whole safetensors file", _AGAIN)
            file.seek(8)
            header = file.read(length)
            sample = b"".join(_samples(file, 8 + length, size))
    except OSError as error:
        raise _unreadable(path, error) from error
    tensors, end = _parse(path, header)
    if 8 + length + end != size:
        raise ConfigError(f"{path} has {size} bytes where its header promises {8 + length + end}", _AGAIN)
    return WeightFile(path, size, tensors, header + sample)


def _parse(path: Path, header: bytes) -> tuple[tuple[Tensor, ...], int]:
    """The tensors, and where the data of the last one ends."""
    try:
        entries = msgspec.json.decode(header, type=dict[str, dict[str, Any]])
        entries.pop("__metadata__", None)
        tensors = tuple(_tensor(name, entry) for name, entry in entries.items())
        return tensors, max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} has no valid safetensors header", _AGAIN) from error


def _tensor(name: str, entry: dict[str, Any]) -> Tensor:
    shape = tuple(entry["shape"])
    if not all(type(extent) is int and extent >= 0 for extent in shape):
        raise ValueError(shape)
    return Tensor(name, str(entry["dtype"]), shape)


def _samples(file: Any, start: int, size: int) -> Iterator[bytes]:
    """A page from the middle and the end of the data: fine-tunes of one model differ in nothing else."""
    for offset in (start + (size - start) // 2, max(start, size - _SAMPLE)):
        file.seek(offset)
        yield file.read(_SAMPLE)


def _refuse_pointer(path: Path, start: bytes) -> None:
    if start == _LFS_POINTER:
        raise ConfigError(
            f"{path} is a Git LFS pointer, not the weights",
            f"run `git lfs pull` in {path.parent}, or download it again",
        )


def _indexed(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{index} cannot be read as an index of weights", _AGAIN) from error
    paths = [index.parent / str(name) for name in sorted(names, key=str)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(
            f"{index.parent} lacks {missing[0]}{others}, named by {index.name}",
            "the download is incomplete: run it again",
        )
    return paths


def _without_consolidated(paths: list[Path]) -> list[Path]:
    """Mistral ships the same weights twice: `consolidated*` is its own format."""
    return [path for path in paths if not path.name.startswith("consolidated")] or paths


def read_pickled(path: Path) -> WeightFile:
    """A pickled file of weights: its size, and pages of it to tell it from others."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
            _refuse_pointer(path, start)
            # No header tells its length, but PyTorch's newer ones are archives, which have their list at the end.
            if not start or (start.startswith(_ZIP) and not zipfile.is_zipfile(path)):
                raise ConfigError(f"{path} is not a whole file of weights", _AGAIN)
            return WeightFile(path, size, fingerprint=b"".join(_samples(file, 0, size)))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ConfigError:
    if path.is_symlink() and not path.exists():
        return ConfigError(f"{path} is a link to {path.readlink()}, which is not there", "copy or download it again")
    return ConfigError(f"{path} cannot be read", error.strerror or str(error))
