"""How many files may be open."""

import resource
import subprocess
import sys

import pytest

from vllama import descriptors


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [(1024, 4096, 4096), (1024, 2**20, 65536), (2**17, 2**20, 2**17), (1024, -1, 65536), (-1, -1, -1)],
)
def test_the_limit_is_raised(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    assert descriptors.raise_limit() == (raised if raised > 0 else 2**20)
    assert limits[-1] == (raised, hard)


def test_processes_that_are_started_may_open_as_many() -> None:
    code = (
        "import os, resource; soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard));"
        "from vllama import descriptors; print(descriptors.raise_limit(), flush=True); os.system('ulimit -n')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told[0] == told[1] != "256"
