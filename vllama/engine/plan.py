"""What starting one engine takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllama.engine.prefetch import Work
from vllama.scheduling.plan import AdapterLimits


@dataclass(frozen=True)
class LaunchPlan:
    """Everything that starting one engine takes.

    command: the launcher and vLLM's arguments. variables: the process's whole environment. url: where it will listen.
    name: what vLLM calls the model. stall_timeout: seconds without a line of output after which a start is given up.
    size: bytes of GPU memory (of RAM, on a CPU) planned for it. adapters: those it has room for, None for none.
    sleep_size: bytes of RAM that it takes while it sleeps, None where it cannot. full_context: what the model could
    take in, in tokens, where vLLM is left to choose what fits. meanwhile: what a thread does while the engine starts.
    scratch: where it gets a folder for its temporary files, None for that of all.
    """

    command: Sequence[str]
    variables: Mapping[str, str]
    url: str
    name: str
    log: Path
    stall_timeout: float
    size: int = 0
    adapters: AdapterLimits | None = None
    sleep_size: int | None = None
    full_context: int | None = None
    meanwhile: Work = lambda _stop: None
    scratch: Path | None = None
