"""What is told of an engine: to people, and to programs that watch it."""

from dataclasses import dataclass
from pathlib import Path

from vllama.engine.client import EngineClient
from vllama.engine.engine import State
from vllama.engine.progress import Phase, Step


@dataclass(frozen=True)
class Report:
    """One engine as it is now, or weights on their way to one, or the failure of the last one.

    weights: what tells it from others (`Model.weights`). names: short names of the models that it serves, or is to.
    phase, fraction, detail, steps: as `Progress` has them. seconds: since it entered its state. size: bytes of memory
    planned for it. requests: those it answers now. waiting: those that wait for it. restarts: how often it was started
    again by itself in the last ten minutes. error: cause and advice of the last failure, "" where there was none since
    one was ready. fast: whether it was forked from the standby. log: its log file. pid: of the first of its processes.
    client: to ask the engine itself, where it is ready.
    """

    weights: str
    names: tuple[str, ...]
    state: State
    phase: Phase | None = None
    fraction: float | None = None
    detail: str = ""
    steps: tuple[Step, ...] = ()
    seconds: float = 0.0
    size: int = 0
    requests: int = 0
    waiting: int = 0
    restarts: int = 0
    error: str = ""
    fast: bool = False
    log: Path | None = None
    pid: int | None = None
    client: EngineClient | None = None
