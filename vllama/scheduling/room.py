"""Making room for an engine: who has to go, and for how much."""

from collections.abc import Collection
from dataclasses import dataclass

from vllama.engine.engine import State
from vllama.errors import EngineError
from vllama.models.model import Model
from vllama.scheduling.plan import Demand, shortage
from vllama.scheduling.resident import Resident


@dataclass(frozen=True)
class Start:
    """There is room. share: bytes to take; None for all there is."""

    share: int | None


@dataclass(frozen=True)
class Evict:
    victim: Resident


@dataclass(frozen=True)
class Drain:
    """Let nobody in there any more; when those who use it are done, it can be evicted."""

    victim: Resident


Step = Start | Evict | Drain


def next_step(demand: Demand, free: int, others: Collection[Resident], limit: int) -> Step | None:
    """What to do for an engine with that demand, None where nothing helps.

    limit: most engines awake at once, 0 for any number. An idle engine goes where less than wanted is free, as it would
    otherwise cost the model a part of its context; a busy one only where the model would not run at all.
    """
    awake = [other for other in others if other.state is State.READY]
    crowded = 0 < limit <= len(awake)
    if not crowded and free >= demand.wanted:
        return Start(None if limit == 1 else min(free, demand.useful))
    victims = sorted((other for other in awake if not other.is_pinned), key=_by_worth)
    for victim in victims:
        if not victim.is_busy:
            return Evict(victim)
    if not crowded and free >= demand.minimum:
        return Start(None if limit == 1 else free)
    for victim in sorted(victims, key=lambda victim: not victim.closed):
        return Drain(victim)
    # What sleeps keeps a little of the memory too.
    for victim in others:
        if victim.state is State.ASLEEP and not crowded:
            return Evict(victim)
    return None


def _by_worth(resident: Resident) -> tuple[float, str]:
    """The one that was to stay shortest comes first."""
    return resident.keep_alive, resident.weights


def no_room(model: Model, demand: Demand, free: int, others: Collection[Resident], limit: int) -> EngineError:
    """Why the model cannot be loaded as long as things are as they are."""
    awake = [other for other in others if other.state is State.READY]
    pinned = [tenant.model.name.short for other in awake for tenant in other.tenants.values() if tenant.pinned]
    if 0 < limit <= len(awake):
        return EngineError(
            f"{model.name.short} cannot be loaded: at most {limit} may be loaded at once, and {_pinned(pinned)}",
            "pin fewer models, or allow more with OLLAMA_MAX_LOADED_MODELS",
        )
    held = f", and {_pinned(pinned)}" if pinned else ""
    return EngineError(
        f"{model.name.short} {shortage(demand.minimum, free)}{held}",
        "pin fewer models, or take a smaller one" if pinned else "end what else uses it, or take a smaller model",
    )


def _pinned(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} pinned"
