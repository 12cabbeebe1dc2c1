"""What is told of a resident: to clients, name by name, and to whoever watches the engines."""

from collections.abc import Iterator

from vllama.engine.engine import State
from vllama.engine.progress import Progress, Step
from vllama.errors import VllamaError
from vllama.scheduling.engines import Engine
from vllama.scheduling.report import Report
from vllama.scheduling.resident import Resident
from vllama.scheduling.scheduler import Loaded
from vllama.scheduling.tenant import Tenant, now

_WORTH_TELLING_S = 0.1


def shown(resident: Resident, *, waited: bool) -> Iterator[Loaded]:
    """The names in memory, or on their way there. waited: whether somebody waits for the resident."""
    engine = resident.engine if not resident.is_dead else None
    context_length, size = (engine.context_length, engine.size) if engine else (None, 0)
    for tenant in resident.tenants.values():
        if (state := _state_of(resident, tenant, waited)) is not None:
            going = engine is not None and (resident.closed or state is State.STOPPING)
            yield Loaded(tenant.model, 0.0 if going else tenant.remaining, context_length, state, size)


def _state_of(resident: Resident, tenant: Tenant, waited: bool) -> State | None:
    """As clients are told; None where it is not in memory, nor will be soon by itself."""
    if resident.is_dead:
        return State.STARTING if tenant in resident.outlasting() else None
    if tenant.failed or resident.state is State.ASLEEP or (resident.crowded and not waited):
        return None
    if resident.state is not State.READY:
        return resident.state
    if resident.holds(tenant.asked):
        return State.READY
    return State.STARTING if resident.has_place_for(tenant.asked) or not resident.closed else None


def report(resident: Resident, waiting: int, restarts: int, error: VllamaError | None) -> Report:
    """waiting: those who wait for it. restarts, error: of its weights, from before."""
    resident.mark()
    engine, progress = resident.engine, _progress(resident)
    steps = _told(resident.progress) + (engine.progress.steps if engine is not None else ())
    return Report(
        resident.weights,
        resident.names,
        resident.state,
        phase=progress.phase,
        fraction=progress.fraction,
        detail=progress.detail,
        steps=steps,
        seconds=now() - resident.since,
        size=engine.size if engine is not None else 0,
        requests=resident.users,
        waiting=waiting,
        restarts=restarts,
        error=loss(engine) if engine is not None and engine.failure else str(error or ""),
        fast=engine is not None and engine.fast,
        log=engine.log_path if engine is not None else None,
        pid=engine.pid if engine is not None else None,
        client=engine.client if engine is not None and resident.is_ready else None,
    )


def loss(engine: Engine) -> str:
    """What to tell of an engine that ended by itself."""
    return f"the engine of {engine.name} was lost{': ' if engine.failure else ''}{engine.failure}"


def _progress(resident: Resident) -> Progress:
    """Of the engine, or of what comes before there is one."""
    return resident.engine.progress if resident.engine is not None else resident.progress


def _told(progress: Progress) -> tuple[Step, ...]:
    """Weights that were at hand need no download, and most need not wait for room."""
    return tuple(step for step in progress.steps if step.seconds >= _WORTH_TELLING_S)
