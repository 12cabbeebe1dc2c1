"""A parked process that has imported vLLM and forks engines when asked.

Most of an engine's start is imports: vLLM's API server, EngineCore and worker are started one after another, and each
imports torch and vLLM for ten seconds and more. A process that is forked from one that has done so inherits them.

It speaks with the gateway over a socket, `control_fd`, and lives as long as that. To the gateway it writes lines of
JSON: `{"parked": true}` once it can fork, `{"unsafe": reason}` where it cannot, and for each engine asked for
`{"pid": N}` or `{"error": reason}`. The gateway asks for an engine by one byte with three descriptors: the guard's
socket, the engine's output, and a file with the launcher's arguments and the environment as JSON, `{"arguments",
"variables"}`.

It never computes anything with torch and never touches CUDA: threads and driver contexts do not survive a fork.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllama_engine.guard import end_with_parent
from vllama_engine.libraries import start_over_with_libraries

_MODULES = (
    "vllm",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.structured_output.backend_xgrammar",
    "vllm.model_executor.model_loader.default_loader",
    "vllm.model_executor.models.registry",
    "transformers",
    "uvloop",
    "xgrammar",
)
"""What an engine's three processes import. One that another version of vLLM has no more is left to the engine."""
_CPU_MODULES = ("vllm.v1.worker.cpu_worker", "vllm.v1.worker.cpu_model_runner")
_CUDA_MODULES = ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu_model_runner")
_NOT_INITIALIZED = 3
"""CUDA_ERROR_NOT_INITIALIZED: what the driver answers a process that has not touched it."""
_MAX_DESCRIPTORS = 3


def run_standby(control_fd: int, serve: Callable[[list[str]], int]) -> int:
    """Import vLLM, then fork an engine for each request, until the gateway is gone.

    serve: what a forked process becomes, given the launcher's arguments; its exit status is returned.
    """
    start_over_with_libraries()
    end_with_parent()
    _close_all_but(control_fd)
    _show_as("standby")
    with socket.socket(fileno=control_fd) as control:
        _import_engine()
        if reason := _danger():
            _tell(control, unsafe=reason)
            return 0
        # What was imported stays for good: looked through by no collection, its pages are never written to.
        gc.collect()
        gc.freeze()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # engines that end leave no zombie
        _tell(control, parked=True)
        while (request := _receive(control)) is not None:
            if (arguments := _fork(control, *request)) is not None:
                break
        else:
            return 0
    return serve(arguments)


def _import_engine() -> None:
    for name in _MODULES:
        _import(name)
    from vllm.platforms import current_platform

    for name in _CPU_MODULES if current_platform.is_cpu() else _CUDA_MODULES:
        _import(name)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"standby: {name} is not imported in advance: {error}", file=sys.stderr, flush=True)


def _danger() -> str:
    """Why a fork of this process would be no sound engine; "" where it will be."""
    import torch

    if torch.cuda.is_initialized() or _driver_is_initialized():
        return "importing vLLM initialized CUDA"
    if others := [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]:
        return f"importing vLLM started threads ({', '.join(others)})"
    return ""


def _driver_is_initialized() -> bool:
    """Whether anything called `cuInit`, after which CUDA is of no use in a forked process."""
    if "libcuda.so" not in Path("/proc/self/maps").read_text():
        return False
    driver, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
    return bool(driver.cuCtxGetCurrent(ctypes.byref(context)) != _NOT_INITIALIZED)


def _receive(control: socket.socket) -> tuple[int, int, int] | None:
    """The descriptors that come with the next request, None once the gateway is gone."""
    data, descriptors, _, _ = socket.recv_fds(control, 1, _MAX_DESCRIPTORS)
    if not data:
        return None
    guard, output, request = descriptors
    return guard, output, request


def _fork(control: socket.socket, guard: int, output: int, request: int) -> list[str] | None:
    """Fork an engine; in the engine, the launcher's arguments, with `guard` as its --guard-fd. None in the standby."""
    try:
        with os.fdopen(request) as file:
            asked = json.load(file)
        pid = os.fork()
        if pid == 0:
            control.close()
            arguments = [*asked["arguments"][:1], "--guard-fd", str(guard), *asked["arguments"][1:]]
            _become_engine(output, asked["variables"])
            _show_as(*arguments)
            return arguments
        _tell(control, pid=pid)
    except (OSError, ValueError) as error:  # no memory, too many processes, or a request that cannot be read
        _tell(control, error=str(error))
    for descriptor in (guard, output):
        os.close(descriptor)
    return None


def _become_engine(output: int, variables: dict[str, str]) -> None:
    """What starting a program anew would have done."""
    os.setsid()
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    libraries = os.environ.get("LD_PRELOAD")
    os.environ.clear()
    os.environ.update(variables)
    tempfile.tempdir = None  # looked up while the standby was imported, and not the engine's
    if libraries is not None:  # which vLLM's worker looks for there
        os.environ["LD_PRELOAD"] = libraries
    _fork_on()


def _close_all_but(control_fd: int) -> None:
    """Close what was inherited by mistake: engines would have it from here."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - Path keeps it open meanwhile
        if int(name) not in (0, 1, 2, control_fd):
            with contextlib.suppress(OSError):  # the listing's own
                os.close(int(name))


def _show_as(*arguments: str) -> None:
    """The command line that `ps` shows, as for a program started with these arguments.

    Called once before the environment changes: by it the library finds where the command line lies.
    """
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle, setthreadtitle

        setproctitle(" ".join([sys.executable, "-m", "vllama_engine", *arguments]))
        setthreadtitle(Path(sys.executable).name)  # the program's name, which else would be a part of its path


def _fork_on() -> None:
    """Have vLLM fork the processes that it starts, where it would start them anew and import everything again."""
    from vllm.platforms import current_platform

    registry = sys.modules.get("vllm.model_executor.models.registry")
    if registry is not None and hasattr(registry, "_run_in_subprocess"):
        registry._run_in_subprocess = _run_forked  # type: ignore[attr-defined]
    if current_platform.is_cpu():  # on CUDA vLLM forks by itself, wherever that is safe
        from vllm.utils import system_utils

        for module in list(sys.modules.values()):
            # Not getattr: vLLM's lazy modules would import what is asked of them.
            if vars(module).get("get_mp_context") is system_utils.get_mp_context and module is not system_utils:
                module.get_mp_context = _fork_context  # type: ignore[attr-defined]
        system_utils.get_mp_context = _fork_context
        os.register_at_fork(after_in_child=_bind_threads)


def _bind_threads() -> None:
    """Do what OpenMP, loaded anew, would: vLLM tells it by the environment on which cores a worker's threads belong.

    Else there are as many as the machine has cores, which on the fewer that are left wait for each other in busy loops.
    """
    import torch

    cores, count = os.environ.get("GOMP_CPU_AFFINITY", ""), os.environ.get("OMP_NUM_THREADS", "")
    with contextlib.suppress(ValueError, OSError):  # a user's own, in one of OpenMP's other notations
        os.sched_setaffinity(0, map(int, cores.split(",")))
    if count.isdecimal():
        torch.set_num_threads(int(count))


def _fork_context() -> Any:
    import multiprocessing

    return multiprocessing.get_context("fork")


def _run_forked(function: Callable[[], Any]) -> Any:
    """What `function` returns in a process of its own: vLLM looks at a model's class there, which may touch CUDA."""
    context = _fork_context()
    reader, writer = context.Pipe(duplex=False)

    def answer() -> None:
        try:
            writer.send((function(), None))
        except BaseException as error:
            writer.send((None, f"{type(error).__name__}: {error}"))

    process = context.Process(target=answer)
    process.start()
    writer.close()
    try:
        result, trouble = reader.recv()
    except EOFError:
        result, trouble = None, "the process that looked at the model's class died"
    finally:
        process.join()
        reader.close()
    if trouble is not None:
        raise RuntimeError(f"Error raised in subprocess:\n{trouble}")
    return result


def _tell(control: socket.socket, **message: Any) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the gateway is gone: the next read says so
        control.sendall(json.dumps(message).encode() + b"\n")
