"""What a start may cost: vLLM's arguments for compiling and for CUDA graphs, chosen by the `startup` setting."""

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence

from vllama.engine.command import names_any, user_value
from vllama.engine.profile import Profile

_DECISIONS = (
    *("--enforce-eager", "-O", "--optimization-level", "-cc", "--compilation-config"),
    *("--cudagraph-capture-sizes", "--max-cudagraph-capture-size", "--performance-mode"),
)
"""Flags by which a user decides about compiling or graphs: beside one of them nothing is chosen."""

_GRAPH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""vLLM captures 51 sizes, each twice (whole and in pieces). A batch uses the graph of the next larger size, so these
nine waste at most half of a batch's rows, where a batch's time is that of reading the weights in any case."""

_GRAPHS_PER_SEQUENCE = 2
"""vLLM captures no sizes above this times the most sequences."""


def startup_arguments(startup: str, profile: Profile, user: Sequence[str], *, compiles: bool) -> tuple[str, ...]:
    """vLLM's arguments for a start profile, none where the user's own decide.

    compiles: whether this machine could compile for its CPU; for a GPU vLLM brings what it needs.
    """
    if names_any(user, _DECISIONS):
        return ()
    if profile is Profile.CPU:
        return () if startup == "throughput" and compiles else ("--enforce-eager",)
    match startup:
        case "fast":
            return ("-O0",)
        case "balanced":
            return ("--cudagraph-capture-sizes", *map(str, _graph_sizes(user_value(user, "--max-num-seqs"))))
        case _:
            return ()


def _graph_sizes(max_num_seqs: str | None) -> list[int]:
    most = int(max_num_seqs) * _GRAPHS_PER_SEQUENCE if max_num_seqs and max_num_seqs.isdecimal() else _GRAPH_SIZES[-1]
    return [size for size in _GRAPH_SIZES if size <= max(most, 1)]


def has_compiler(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there is the C++ compiler that torch would call."""
    command = shlex.split(environ.get("CXX", "")) or ["g++"]
    return shutil.which(command[0], path=environ.get("PATH")) is not None
