"""A name in use on an engine, and the time it has to stay."""

import asyncio
import math
from dataclasses import dataclass

from vllama.models.model import Model


@dataclass(frozen=True)
class Terms:
    """keep_alive: seconds, for names of whose time nothing was said.

    pinned: keys of names that are never unloaded once they are loaded, whoever waits for their memory. warm: keys of
    names that are not unloaded for being idle either, but make room for others, and come back when that is free again.
    """

    keep_alive: float
    pinned: frozenset[str] = frozenset()
    warm: frozenset[str] = frozenset()


@dataclass(eq=False)
class Tenant:
    """A name in use on an engine.

    asked: the model as last asked for. model: the same with what is known since. idle_since: by the loop's clock, None
    while it is used or loads. failed: its adapter could not be loaded; the engine stays as long as it would have.
    returns: it was served by an engine that was lost, and is to be served again though nobody waits.
    """

    asked: Model
    model: Model
    keep_alive: float
    pinned: bool = False
    warm: bool = False
    users: int = 0
    idle_since: float | None = None
    failed: bool = False
    returns: bool = False

    @property
    def expires_at(self) -> float:
        """By the loop's clock, unless it is used before."""
        return math.inf if self.idle_since is None else self.idle_since + self.keep_alive

    @property
    def remaining(self) -> float:
        if self.idle_since is None:
            return self.keep_alive
        return max(0.0, self.expires_at - now())

    @property
    def is_idle(self) -> bool:
        return self.idle_since is not None

    @property
    def has_expired(self) -> bool:
        return self.is_idle and self.remaining <= 0

    @property
    def has_time_left(self) -> bool:
        """Whether it would stay if it were left alone from now on."""
        return self.keep_alive > 0 and not self.has_expired

    @property
    def was_served(self) -> bool:
        return (self.users > 0 or self.is_idle) and not self.failed

    def stay(self, keep_alive: float | None) -> None:
        if keep_alive is not None and not (self.pinned or self.warm):
            self.keep_alive = keep_alive

    def give_up(self) -> None:
        self.failed = True
        self.rest()

    def try_again(self) -> None:
        if self.failed:
            self.failed, self.idle_since = False, None

    def retire(self) -> None:
        self.pinned = self.warm = False
        self.keep_alive = 0.0

    def enter(self) -> None:
        self.users += 1
        self.idle_since = None

    def rest(self) -> None:
        self.idle_since = now()

    def succeed(self, other: "Tenant") -> None:
        """Take the place of one whose engine was lost, with the time that it had left."""
        self.keep_alive, self.returns = other.keep_alive, True
        self.idle_since = other.idle_since if other.idle_since is not None else now()


def now() -> float:
    """By the loop's clock."""
    return asyncio.get_running_loop().time()
