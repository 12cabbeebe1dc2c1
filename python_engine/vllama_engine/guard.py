"""A small process above vLLM's server, so that no part of an engine outlives the gateway.

vLLM's API server starts EngineCore and worker processes which stay behind, holding the GPU, when the API server is
killed (seen on 0.32.0). The guard starts the server in a process group of its own and kills that whole group when
the server ends for any reason, or when the gateway does: the gateway holds the other end of a pipe, which the kernel
closes however the gateway dies.
"""

import os
import select
import signal
import sys
from collections.abc import Callable


def run_guarded(guard_fd: int, serve: Callable[[], int]) -> int:
    """Run `serve` in a child process group until it ends or `guard_fd` reaches its end.

    Returns the child's exit status, or 128 plus the number of the signal that killed it.
    """
    wakeup, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    signal.set_wakeup_fd(wakeup_writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    server = os.fork()
    if server == 0:
        _become_server(serve, guard_fd, wakeup, wakeup_writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: _signal_group(server, received))
    return _watch(server, guard_fd, wakeup)


def _become_server(serve: Callable[[], int], *inherited: int) -> None:
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in inherited:
        os.close(descriptor)
    status = 1
    try:
        status = serve()
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        # The log is where the gateway looks for causes; `sys.excepthook` prints what an uncaught error would.
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _watch(server: int, guard_fd: int, wakeup: int) -> int:
    while True:
        readable, _, _ = select.select([guard_fd, wakeup], [], [])
        if guard_fd in readable and not os.read(guard_fd, 1):
            _signal_group(server, signal.SIGKILL)
            return 128 + signal.SIGKILL
        if wakeup in readable:
            os.read(wakeup, 4096)
        pid, status = os.waitpid(server, os.WNOHANG)
        if pid == server:
            _signal_group(server, signal.SIGKILL)  # EngineCore and the workers, should they still live
            return _describe_exit(status)


def _describe_exit(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    print(f"vllama_engine: vLLM's server was killed by {name}", file=sys.stderr, flush=True)
    return 128 - code


def _signal_group(server: int, number: int) -> None:
    # Between fork and the child's own setpgid its group does not exist yet: then the child alone is signalled.
    for send in (os.killpg, os.kill):
        try:
            send(server, number)
        except ProcessLookupError:
            continue
        return
