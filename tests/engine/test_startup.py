"""Which of vLLM's arguments a start profile stands for."""

from pathlib import Path

import pytest

from vllama.engine.profile import Profile
from vllama.engine.startup import has_compiler, startup_arguments

GRAPHS = ["--cudagraph-capture-sizes", "1", "2", "4", "8", "16", "32", "64", "128", "256"]
EAGER = ["--enforce-eager"]


@pytest.mark.parametrize(
    ("startup", "profile", "compiles", "expected"),
    [
        ("fast", Profile.CUDA, False, ["-O0"]),
        ("balanced", Profile.CUDA, False, GRAPHS),
        ("throughput", Profile.CUDA, False, []),
        ("fast", Profile.CPU, True, EAGER),
        ("balanced", Profile.CPU, True, EAGER),
        ("throughput", Profile.CPU, True, []),
        ("throughput", Profile.CPU, False, EAGER),
    ],
)
def test_profiles(startup: str, profile: Profile, compiles: bool, expected: list[str]) -> None:
    assert list(startup_arguments(startup, profile, ["--seed", "1"], compiles=compiles)) == expected


@pytest.mark.parametrize(
    "user",
    [
        ["--enforce-eager"],
        ["--no-enforce-eager"],
        ["-O3"],
        ["-O", "3"],
        ["--optimization_level=2"],
        ["-cc.mode=3"],
        ["--compilation-config", "{}"],
        ["--cudagraph-capture-sizes", "1", "2"],
        ["--max-cudagraph-capture-size=8"],
        ["--performance-mode", "interactivity"],
    ],
)
@pytest.mark.parametrize("profile", Profile)
def test_the_users_flags_decide(profile: Profile, user: list[str]) -> None:
    for startup in ("fast", "balanced", "throughput"):
        assert startup_arguments(startup, profile, user, compiles=True) == ()


@pytest.mark.parametrize(
    ("most", "largest"), [("1", "2"), ("4", "8"), ("5", "8"), ("1000", "256"), ("None", "256"), ("0", "1")]
)
def test_no_graphs_for_more_sequences_than_there_can_be(most: str, largest: str) -> None:
    chosen = startup_arguments("balanced", Profile.CUDA, ["--max-num-seqs", most], compiles=True)
    assert list(chosen) == GRAPHS[: GRAPHS.index(largest) + 1]


def test_a_compiler(tmp_path: Path) -> None:
    path = {"PATH": str(tmp_path)}
    assert not has_compiler(path)
    for name in ("g++", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert has_compiler(path)
    assert has_compiler(path | {"CXX": "mine -v"})
    assert not has_compiler(path | {"CXX": "clang++"})
