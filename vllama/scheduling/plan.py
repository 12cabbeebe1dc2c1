"""What an engine takes of the machine, and what it takes on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """Bytes of the GPU's memory (of RAM on a CPU) for one engine of a model: to run at all, and to run well."""

    minimum: int
    wanted: int


@dataclass(frozen=True)
class AdapterLimits:
    """slots: most adapters loaded at once. rank: the highest that one may have."""

    slots: int
    rank: int
