"""Folders in which training leaves its results: a model for each run, and for each checkpoint of it.

    <folder>/[peft/|rl/]<job>/                  is peft:<base>:<job>
    <folder>/[peft/|rl/]<job>/<checkpoint>/     is peft:<base>:<job>:<checkpoint>

Without a checkpoint a name means the job's own folder if that holds a model, else its newest checkpoint. Training may
be going on: what is not whole yet is not there.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllama.errors import ConfigError
from vllama.models._card import card_value, made_by_rl
from vllama.models._files import require_config
from vllama.models._folders import Kind, Stamp, by_number, classify, stamp_of
from vllama.models._safetensors import weight_files
from vllama.models.adapters import inspect_adapter
from vllama.models.bases import candidates
from vllama.models.names import ModelName, name_from_source, trained_name

_KINDS = ("peft", "rl")
_UNFINISHED = (".", "tmp-")
_LAST = re.compile(r"(final|last|latest)([-_].*)?", re.IGNORECASE)

Known = Iterable[tuple[ModelName, str]]
"""Names and sources of the models that may be bases."""


@dataclass(frozen=True)
class Trained:
    """What a training run has left under a name."""

    name: ModelName
    path: Path
    kind: Kind


@dataclass(frozen=True)
class _Whole:
    """A folder that can be read. base: as it tells it. by_rl: whether its model card says so."""

    path: Path
    kind: Kind
    base: str
    by_rl: bool


class Checkpoints:
    """Looks through folders, again and again: a folder is read anew only where something in it changed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._read: dict[Path, tuple[Stamp, _Whole | None]] = {}

    def scan(self, known: Known) -> Iterator[Trained]:
        """All that is whole now; the first of those that would have one name."""
        bases, seen = _Bases(known), set[str]()
        for folder in self._folders:
            for job, kind in _jobs(folder.expanduser()):
                for trained in self._results(job, kind, bases):
                    if trained.name.key not in seen:
                        seen.add(trained.name.key)
                        yield trained
        for gone in [path for path in self._read if not path.exists()]:
            del self._read[gone]

    def _results(self, job: Path, kind: str, bases: "_Bases") -> Iterator[Trained]:
        own = self._look(job)
        saved = [whole for folder in _subfolders(job) if (whole := self._look(folder))]
        if newest := own or max(saved, key=lambda whole: _age(whole.path.name), default=None):
            yield _named(newest, kind, bases, job.name)
        for whole in saved:
            yield _named(whole, kind, bases, job.name, whole.path.name)

    def _look(self, path: Path) -> _Whole | None:
        stamp = stamp_of(path)
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            known = self._read[path] = (stamp, _read(path))
        return known[1]


class _Bases:
    """What the bases that adapters name are called here. Adapters of one run all name the same."""

    def __init__(self, known: Known) -> None:
        self._known = list(known)
        self._names: dict[str, str] = {}

    def name(self, wanted: str) -> str:
        if wanted and wanted not in self._names:
            self._names[wanted] = self._find(wanted)
        return self._names.get(wanted, "")

    def _find(self, wanted: str) -> str:
        found = candidates(wanted, self._known)
        named = found[0].name if len(found) == 1 else None
        return named.short if named else name_from_source(wanted)


def _named(whole: _Whole, kind: str, bases: _Bases, job: str, checkpoint: str = "") -> Trained:
    kind = kind or ("rl" if whole.by_rl else "peft")
    return Trained(trained_name(kind, bases.name(whole.base), job, checkpoint), whole.path, whole.kind)


def _jobs(folder: Path) -> Iterator[tuple[Path, str]]:
    """The runs' folders, and of what kind they are where their place says so."""
    kind = "rl" if folder.name.lower() == "rl" else ""
    for path in _subfolders(folder):
        if path.name.lower() in _KINDS:
            yield from ((job, path.name.lower()) for job in _subfolders(path))
        else:
            yield path, kind


def _subfolders(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(_UNFINISHED)]
    except OSError:
        return []
    return [path / name for name in sorted(names, key=by_number)]


def _age(checkpoint: str) -> tuple[bool, int, str]:
    """A key whose maximum is the newest: what is called final, then the highest number."""
    numbers = re.findall(r"\d+", checkpoint)
    return bool(_LAST.fullmatch(checkpoint)), int(numbers[-1]) if numbers else -1, checkpoint


def _read(path: Path) -> _Whole | None:
    try:
        kind = classify(path)
        base = inspect_adapter(path).base if kind is Kind.ADAPTER else _base_of_model(path)
    except (ConfigError, OSError):
        return None
    return _Whole(path, kind, base, made_by_rl(path))


def _base_of_model(path: Path) -> str:
    """What it was trained from. Raises ConfigError where its weights are not whole."""
    config = require_config(path)
    if not weight_files(path):
        raise ConfigError(f"{path} holds no weights", "wait for the training to save them")
    return str(config.get("_name_or_path") or "") or card_value(path, "base_model")
