"""The engine's environment: vLLM in a virtual environment of its own, built with uv below `<home>/engines`.

It is built aside and renamed, so what lies at its place is always whole; a lock keeps two builders apart.
"""

import errno
import os
import secrets
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import filelock

from vllama.engine._build import FLAGS, Report, build, find_damage, python_of
from vllama.engine._find_links import configured_find_links
from vllama.engine._flags import Distribution, are_flags, probe, read_flags, release_of
from vllama.engine._host import check_host, check_space, detect_profile, read_nvidia
from vllama.engine._uv import InstallStep, UvError, clean_environ
from vllama.engine._uv_errors import explain
from vllama.engine.profile import Profile
from vllama.errors import InstallError

__all__ = [
    "Environment",
    "InstallStep",
    "Report",
    "check_machine",
    "configured_find_links",
    "detect_profile",
    "ensure_environment",
    "find_environment",
    "launcher_path",
    "pinned_version",
    "read_nvidia",
]

_LOCK_SECONDS = 3600.0
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class Environment:
    """An environment that has vLLM.

    python: its interpreter. version: vLLM's. profile: what hardware it is for.
    flags: a JSON file, `{"version", "flags": [{"names", "nargs", "type", "choices"}]}`: vLLM's command line.
    """

    python: Path
    version: str
    profile: Profile
    flags: Path


def launcher_path() -> Path:
    """The folder that holds the package `vllama_engine`, for PYTHONPATH of the engine's processes."""
    package = Path(__file__).parents[1]
    for folder in (package / "_python_engine", package.parent / "python_engine"):
        if (folder / "vllama_engine").is_dir():
            return folder
    raise InstallError("this installation of vllama lacks its launcher for the engine", "install vllama again")


def pinned_version(profile: Profile) -> str:
    """vLLM's version that this vllama is made for."""
    requirement: str = _project()["optional-dependencies"][profile.value][0]
    return requirement.partition("==")[2]


@cache
def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((launcher_path() / "pyproject.toml").read_text())["project"]
    return project


def find_environment(home: Path, profile: Profile) -> Environment | None:
    """The environment that `ensure_environment` has built, or None. Fast: nothing is started or imported.

    Raises `InstallError` where something lies at its place that cannot be used.
    """
    root, version = _root(home, profile), pinned_version(profile)
    if not os.path.lexists(root):
        return None
    if problem := find_damage(root, profile, version):
        raise InstallError(
            f"the engine's environment {root} is damaged ({problem})", "run `vllama engine install --reinstall`"
        )
    return Environment(python_of(root), version, profile, root / FLAGS)


def ensure_environment(
    home: Path,
    *,
    profile: Profile | None,
    engine_python: Path | None,
    find_links: Sequence[str],
    reinstall: bool = False,
    report: Report,
) -> Environment:
    """The engine's environment, built first where it is missing. Blocks, for minutes where it has to build.

    profile: None for the one that fits this machine. engine_python: interpreter of an environment that is used
    instead, as it is. find_links: folders and pages with wheels. reinstall: build anew even what is whole.
    report: called from this thread with each step.
    """
    home = home.expanduser().absolute()
    with _plain_os_errors(home):
        if engine_python is not None:
            return _use_external(home, engine_python, report)
        profile = profile or detect_profile()
        if not reinstall and (found := find_environment(home, profile)):
            return found
        check_machine(profile)
        with _locked(home, report):
            # Whoever held the lock before may have built it.
            if reinstall or find_environment(home, profile) is None:
                _rebuild(home, profile, find_links, report)
        environment = find_environment(home, profile)
    assert environment is not None
    return environment


def check_machine(profile: Profile) -> None:
    """Raise `InstallError` where vLLM cannot run on this machine."""
    check_host(profile, _project()["requires-python"])


def _root(home: Path, profile: Profile) -> Path:
    return home / "engines" / f"{profile.value}-{pinned_version(profile)}"


@contextmanager
def _plain_os_errors(home: Path) -> Iterator[None]:
    """Tell what the operating system refused in one line."""
    try:
        yield
    except OSError as error:
        where = error.filename or home
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InstallError(
                f"the disk of {home} is full", "make room, or set VLLAMA_HOME to another disk"
            ) from error
        if error.errno in _UNWRITABLE:
            advice = "correct its permissions, or set VLLAMA_HOME to a folder that you may write"
            raise InstallError(f"{where} cannot be written ({reason})", advice) from error
        raise InstallError(f"{where} cannot be used ({reason})", "set VLLAMA_HOME to another folder") from error


@contextmanager
def _locked(home: Path, report: Report) -> Iterator[None]:
    engines = home / "engines"
    engines.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(engines / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        report(InstallStep("waiting for another install", None, str(engines)))
        _acquire_in_time(lock, engines)
    try:
        yield
    finally:
        lock.release()


def _acquire_in_time(lock: filelock.BaseFileLock, engines: Path) -> None:
    try:
        lock.acquire(timeout=_LOCK_SECONDS, poll_interval=0.2)
    except filelock.Timeout as error:
        message = f"another install in {engines} has not ended for {_LOCK_SECONDS / 60:.0f} minutes"
        raise InstallError(message, "end that process and repeat") from error


def _rebuild(home: Path, profile: Profile, find_links: Sequence[str], report: Report) -> None:
    root = _root(home, profile)
    _remove_leftovers(root.parent)
    check_space(root.parent, profile)
    new, old = (root.with_name(f".{root.name}.{what}-{secrets.token_hex(4)}") for what in ("building", "old"))
    try:
        with _log(home) as log:
            build(new, launcher_path(), profile, pinned_version(profile), find_links, log, report)
        if os.path.lexists(root):
            root.rename(old)
        try:
            new.rename(root)
        except BaseException:
            if os.path.lexists(old):
                old.rename(root)
            raise
    finally:
        _remove_leftovers(root.parent)


def _remove_leftovers(engines: Path) -> None:
    """Remove what interrupted installs have left, and what a reinstall has replaced. The caller holds the lock."""
    for pattern in (".*.building-*", ".*.old-*"):
        for path in engines.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def _log(home: Path) -> Iterator[IO[str]]:
    """A log for all that uv and vLLM print, at which a failure inside the block points."""
    path = home / "logs" / "engine-install.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("w", errors="replace") as log:
            yield log
    except (UvError, InstallError) as error:
        cause = explain(error.output, home) if isinstance(error, UvError) else error
        raise InstallError(cause.message, f"{cause.advice} (log: {path})") from error


def _use_external(home: Path, python: Path, report: Report) -> Environment:
    python = python.expanduser().absolute()
    if python.is_dir():
        python = python_of(python)
    if not python.exists():
        advice = "point it at the interpreter of an environment that has vLLM, or unset it"
        raise InstallError(f"VLLAMA_ENGINE_PYTHON names {python}, which does not exist", advice)
    environ = clean_environ(os.environ)
    distribution = probe(python, environ)
    _check_version(python, distribution, report)
    flags = home / "engines" / "external" / distribution.key(python) / FLAGS
    if not flags.is_file() or not are_flags(flags.read_bytes()):
        with _locked(home, report), _log(home) as log:
            report(InstallStep("reading vLLM's flags", None, str(python)))
            _write_whole(flags, read_flags(python, launcher_path(), environ, log))
    return Environment(python, distribution.version, distribution.profile, flags)


def _check_version(python: Path, distribution: Distribution, report: Report) -> None:
    pinned = pinned_version(distribution.profile)
    if distribution.release < release_of(pinned):
        advice = f"install vLLM {pinned} there, or unset VLLAMA_ENGINE_PYTHON"
        raise InstallError(f"{python} has vLLM {distribution.version}, which is too old for vllama", advice)
    if distribution.version.partition("+")[0] != pinned:
        text = f"{python} has vLLM {distribution.version}, and vllama is made for {pinned}: some flags may differ"
        report(InstallStep(text, warning=True))


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    aside.write_bytes(data)
    aside.replace(path)
