"""What is ours: engines as they are told of, and models that are loaded without being asked anything."""

from typing import Any

from msgspec import Struct

from vllama.wire.ollama import Named


class PhaseTime(Struct):
    """A phase of a start that is over."""

    phase: str
    seconds: float


class Requests(Struct):
    running: int
    waiting: int


class EngineStatus(Struct, kw_only=True):
    """An engine, or weights on their way to one.

    phase, fraction, detail: of its start. seconds: since it entered its state. memory: bytes planned for it. resident:
    bytes of RAM that its processes hold. error: cause and advice of its last failure.
    """

    name: str
    models: tuple[str, ...]
    state: str
    phase: str | None
    fraction: float | None
    detail: str
    phases: list[PhaseTime]
    seconds: float
    memory: int
    resident: int
    requests: Requests
    tokens_per_second: float | None
    restarts: int
    fast: bool
    pid: int | None
    log: str | None
    error: str


class StandbyStatus(Struct):
    """The parked process that engines are forked from. state: "off", "starting", "parked" or "failed"."""

    state: str = "off"
    pid: int | None = None
    memory: int = 0
    reason: str = ""


class AdmissionStatus(Struct, kw_only=True):
    """What the gateway works on, and the most that it would. bodies: bytes that those of requests hold."""

    requests: int
    max_requests: int
    bodies: int
    max_bodies: int


class Overview(Struct):
    engines: list[EngineStatus]
    standby: StandbyStatus
    gateway: AdmissionStatus


class WarmupRequest(Named):
    keep_alive: Any = None
    stream: bool | None = None


class LoadingStatus(Struct):
    """Where a model's load is. status: the same as its phase. seconds: since the phase began."""

    status: str
    phase: str
    fraction: float | None
    detail: str
    seconds: float


class Warmed(Struct, kw_only=True):
    """The end of a load. total_duration: nanoseconds. phases: none where the model was loaded already."""

    status: str = "success"
    total_duration: int
    phases: list[PhaseTime]
