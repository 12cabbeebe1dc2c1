"""Engines that a crash left behind: they outlived their gateway, and the guards that should have ended them.

Each engine is written down while it runs, in a file under `run/` in vLLama's home. Whoever starts next ends what is
written there and belongs to nobody any more. A pid alone names no process, as it is given again to others: what is
ended is a process that started when the record says, or one of a session in which such a process still lives, whose id
the kernel gives to nobody else as long as it does.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from vllama.engine.kin import Process, everyone, find, look_at

logger = logging.getLogger("vllama.engine")

_GONE_S = 5.0
"""For killed processes to be gone: they first give their GPU memory back."""
_POLL_S = 0.02


class Identity(msgspec.Struct, frozen=True):
    """One process for good: pids are given again. started: in ticks since the machine's start."""

    pid: int
    started: int

    @classmethod
    def of(cls, process: Process) -> "Identity":
        return cls(process.pid, process.started)


class Record(msgspec.Struct):
    """An engine as it is written down.

    session: its first process, whose pid is the session's id. members: all processes that were seen of it. boot: names
    the run of the machine in which it was started.
    """

    name: str
    boot: str
    gateway: Identity
    session: int
    members: list[Identity]

    @property
    def is_orphaned(self) -> bool:
        """Whether its gateway does not live any more."""
        return self.boot != _boot() or not _lives(self.gateway)

    def survivors(self) -> list[int]:
        """The pids of its processes that live."""
        if self.boot != _boot():
            return []
        members, mine = set(self.members), os.geteuid()
        known = [process for process in look_at(member.pid for member in members) if Identity.of(process) in members]
        found = {process.pid for process in known}
        if any(process.session == self.session for process in known):
            found |= {process.pid for process in everyone() if process.session == self.session}
        return sorted(pid for pid in found if _owner(pid) == mine)


class Leftover(NamedTuple):
    """name: of the model whose engine it was. pids: of what lives of it."""

    name: str
    pids: list[int]


class Entry:
    """One engine in the records of its gateway, until it is removed."""

    def __init__(self, record: Record, path: Path) -> None:
        self._record = record
        self._path = path
        self._removed = False
        self._lock = threading.Lock()

    def see(self, processes: Iterable[Process]) -> None:
        """Write down which processes it has by now. A disk that cannot be written is nobody's fault."""
        members = [Identity.of(process) for process in processes]
        with self._lock, contextlib.suppress(OSError):
            if self._removed or members == self._record.members:
                return
            self._record.members = members
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self._path.with_suffix(".new")
            unfinished.write_bytes(msgspec.json.encode(self._record))
            unfinished.replace(self._path)

    def remove(self) -> None:
        """It has ended."""
        with self._lock, contextlib.suppress(OSError):
            self._removed = True
            self._path.unlink(missing_ok=True)


class Records:
    """The engines of all gateways that share a home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "run"
        own = find(os.getpid())
        self._own = Identity.of(own) if own is not None else Identity(os.getpid(), 0)

    def add(self, session: int, name: str) -> Entry:
        """Write an engine down. Blocks for the time that a disk takes, as what its entry does."""
        first, own = find(session), self._own
        entry = Entry(Record(name, _boot(), own, session, []), self._folder / f"{own.pid}-{session}.json")
        entry.see([first] if first is not None else [])
        return entry

    def list_leftovers(self) -> list[Leftover]:
        """The engines whose gateway does not live any more, though something of them does."""
        found = ((record, record.survivors()) for _, record in self._orphans())
        return [Leftover(record.name, pids) for record, pids in found if pids]

    def end_leftovers(self) -> list[str]:
        """End the engines that an earlier crash left behind, and forget them. Returns their names.

        Blocks until they are gone, which is seen to for some seconds.
        """
        ended = []
        for path, record in self._orphans():
            pids = _end(record)
            if left := record.survivors():  # the next start tries again
                logger.error("what a crash left of the engine of %s cannot be ended: processes %s", record.name, left)
                continue
            if pids:
                ended.append(record.name)
                logger.warning("ended what a crash had left of the engine of %s: processes %s", record.name, pids)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return ended

    def _orphans(self) -> Iterator[tuple[Path, Record]]:
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                record = msgspec.json.decode(path.read_bytes(), type=Record)
                if record.is_orphaned:
                    yield path, record


def _end(record: Record) -> list[int]:
    """SIGKILL all that is left of an engine, also what was forked meanwhile, and see it gone. Returns what it was."""
    killed: set[int] = set()
    deadline = time.monotonic() + _GONE_S
    while (pids := record.survivors()) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= {*pids}
        time.sleep(_POLL_S)
    return sorted(killed)


def _lives(identity: Identity) -> bool:
    process = find(identity.pid)
    return process is not None and Identity.of(process) == identity


def _owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116
    except OSError:
        return None


def _boot() -> str:
    """Names the run of the machine, in which pids and the times of starts mean something."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
