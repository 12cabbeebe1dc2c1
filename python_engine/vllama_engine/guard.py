"""A small process above vLLM's server, so that no part of an engine outlives the gateway.

vLLM's API server starts EngineCore and worker processes which stay behind, holding the GPU, when the API server is
killed (seen on 0.32.0), and helpers in sessions of their own. The guard runs the server in a process group of its own
and kills everything below itself when the server ends for any reason, or when the gateway does: the gateway holds the
other end of a socket, which the kernel closes however the gateway dies.

Over that socket the guard tells what the gateway, which need not be its parent, cannot see: a line `status N` as soon
as the server has ended, so that nobody is sent to an engine of which only the killing is left.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def run_guarded(guard_fd: int, serve: Callable[[], int]) -> int:
    """Run `serve` in a child process group until it ends or `guard_fd` reaches its end.

    Returns once no process of it is left: the child's exit status, or 128 plus the number of the signal that killed it.
    The same is told over `guard_fd`.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wakeup, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    # A signal that comes before the handlers are in place waits for them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    guard = os.getpid()
    server = os.fork()
    if server == 0:
        for descriptor in (guard_fd, wakeup, wakeup_writer):
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _become_server(serve, guard)
    signal.set_wakeup_fd(wakeup_writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: _signal_server(server, received))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return _watch(server, guard_fd, wakeup)


def _become_server(serve: Callable[[], int], guard: int) -> None:
    os.setpgid(0, 0)
    end_with_parent()
    if os.getppid() != guard:
        os._exit(1)
    status = 1
    try:
        status = serve()
    except SystemExit as exit_:
        status = _exit_status(exit_)
    except BaseException:
        # The log is where the gateway looks for causes; `sys.excepthook` prints what an uncaught error would.
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or nobody reads it any more
                stream.flush()
        os._exit(status)


def _exit_status(exit_: SystemExit) -> int:
    """What the interpreter makes of it: a text is an error message."""
    if exit_.code is None or isinstance(exit_.code, int):
        return exit_.code or 0
    print(exit_.code, file=sys.stderr)
    return 1


def _watch(server: int, guard_fd: int, wakeup: int) -> int:
    while True:
        readable, _, _ = select.select([guard_fd, wakeup], [], [])
        if guard_fd in readable and not _read(guard_fd):
            _kill_all(server)
            return 128 + signal.SIGKILL
        if wakeup in readable:
            os.read(wakeup, 4096)
        if (status := _reap(server)) is not None:
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            _tell(guard_fd, code)
            _kill_all(server)  # EngineCore and the workers, should they still live
            return code


def _read(guard_fd: int) -> bytes:
    """What the gateway says; nothing where it is gone."""
    try:
        return os.read(guard_fd, 1)
    except ConnectionResetError:  # it went without having read all that it was told
        return b""


def _tell(guard_fd: int, status: int) -> None:
    with contextlib.suppress(OSError):  # the gateway is gone
        os.write(guard_fd, b"status %d\n" % status)


def _reap(server: int) -> int | None:
    """The server's wait status if it has ended. Orphans, which are ours by adoption, are reaped on the way."""
    while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
        if reaped[0] == server:
            return reaped[1]
    return None


def _kill_all(server: int) -> None:
    """SIGKILL every process below this one and wait for its end: those that lose their parent become our children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in _children():
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> list[int]:
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - Path's listing trips over what ends meanwhile
        if name.isdigit():
            with contextlib.suppress(OSError):
                # pid (name, which may hold anything) state parent
                if int(Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


def _signal_server(server: int, number: int) -> None:
    # Between fork and the child's own setpgid its group does not exist yet: then the child alone is signalled.
    for send in (os.killpg, os.kill):
        try:
            send(server, number)
        except ProcessLookupError:
            continue
        return


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    """Where it is refused, killing the process group has to do."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)
