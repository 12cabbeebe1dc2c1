"""A gateway in a place of its own: what it starts, and what files it leaves, can be told from everybody else's."""

import contextlib
import ctypes
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.served import SCRIPT, Served, environment

_PR_SET_CHILD_SUBREAPER = 36
_START_S = 300.0
_REAP_S = 0.1


def adopt_orphans() -> None:
    """Have whatever loses its parent below this process become its child: nothing that was started is lost sight of."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def descendants() -> list[psutil.Process]:
    """Every process below this one that still runs."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


_ROLES = ("guard", "server", "core", "worker")
"""Each is started by the one before."""


def role(process: psutil.Process, session: int) -> str:
    """What a process of an engine does, by its place among them: forked ones have no titles. session: its pid."""
    if "resource_tracker" in " ".join(process.cmdline()):
        return "other"
    above = [parent.pid for parent in (process, *process.parents())]
    depth = above.index(session) if session in above else len(_ROLES)
    return _ROLES[depth] if depth < len(_ROLES) else "other"


def kinds() -> Counter[str]:
    """How many descendants there are by what they are called, to compare."""
    found = Counter[str]()
    for process in descendants():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            found[" ".join(command[:4])[:60] if command else process.name()] += 1
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Place:
    """Folders for temporary files and a port: what lies there was left by the gateway and its engines."""

    def __init__(self, *arguments: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="vl-", dir="/tmp"))
        self.port = free_port()
        self._command: list[str | Path] = [SCRIPT, "serve", "--port", str(self.port), *arguments]
        self.url = f"http://127.0.0.1:{self.port}"
        self.served = self._start()
        self._closed = threading.Event()
        self._reaper = threading.Thread(target=self._reap, daemon=True)
        self._reaper.start()

    def _reap(self) -> None:
        """What was adopted is forgotten once it ended, as init does it."""
        while not self._closed.wait(_REAP_S):
            for process in psutil.Process().children():
                with contextlib.suppress(psutil.Error, ChildProcessError):
                    if process.pid != self.served.process.pid and process.status() == psutil.STATUS_ZOMBIE:
                        os.waitpid(process.pid, os.WNOHANG)

    def _start(self) -> Served:
        variables = environment(TMPDIR=str(self._folder), XDG_RUNTIME_DIR=str(self._folder))
        return Served(self._command, variables)

    def wait_listening(self) -> None:
        self.served.wait_listening(_START_S)

    def start_again(self) -> None:
        """As a service manager does with a gateway that ended."""
        self.served.process.wait(30)
        old, self.served = self.served, self._start()
        old.close()

    def files(self) -> list[str]:
        """Sockets and files that lie there now."""
        return sorted(str(path.relative_to(self._folder)) for path in self._folder.rglob("*"))

    def close(self) -> None:
        """End everything, however it is."""
        self.served.close()
        deadline = time.monotonic() + 10
        while descendants() and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in descendants():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        self._closed.set()
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            self._folder.rmdir()


@contextlib.contextmanager
def place(*arguments: str) -> Iterator[Place]:
    """`vllama serve ARGUMENTS`, listening. Nothing of it is left afterwards."""
    adopt_orphans()
    found = Place(*arguments)
    try:
        found.wait_listening()
        yield found
    except BaseException:
        print(found.served.log)
        raise
    finally:
        found.close()
