"""What an engine takes of the machine, and what it takes on."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """Bytes of the GPU's memory (of RAM on a CPU) for one engine of a model.

    minimum: to run at all. wanted: to serve a conversation as long as the model can have. useful: what it makes use of
    where nobody else needs it, for many at once.
    """

    minimum: int
    wanted: int
    useful: int

    @classmethod
    def exactly(cls, size: int) -> "Demand":
        return cls(size, size, size)


@dataclass(frozen=True)
class AdapterLimits:
    """slots: most adapters loaded at once. rank: the highest that one may have."""

    slots: int
    rank: int


def shortage(needed: int, free: int, kind: str = "memory") -> str:
    """As `needs 31 GB of memory, 23 GB free`, rounded apart, so that the two never read the same."""
    return f"needs {_gigabytes(needed, math.ceil)} of {kind}, {_gigabytes(free, math.floor)} free"


def _gigabytes(size: int, rounded: Callable[[float], int]) -> str:
    gigabytes = size / 1e9
    return f"{rounded(gigabytes)} GB" if gigabytes >= 10 else f"{rounded(10 * gigabytes) / 10:g} GB"
