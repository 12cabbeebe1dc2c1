"""Those who wait, as the mover sees them."""

from typing import Protocol

from vllama.models.model import Model
from vllama.scheduling.resident import Resident
from vllama.scheduling.shelf import Changed


class Queue(Protocol):
    def serve(self) -> None:
        """Let in all who can be, and begin what the others need that takes no room from anybody."""
        ...

    def waited_for(self) -> list[Model]:
        """What is waited for, in the order of those who wait."""
        ...

    def place_all(self, resident: Resident) -> None: ...
    def adapter_moved(self, resident: Resident) -> Changed: ...
    def call_warm(self) -> None: ...

    def started(self, resident: Resident) -> None: ...
    def opened(self, resident: Resident) -> None: ...
    def fail(self, resident: Resident, error: BaseException, *, held: bool = True) -> None: ...

    def lost(self, resident: Resident) -> None:
        """Its engine ended by itself."""
        ...

    def succeed(self, resident: Resident) -> None:
        """Its engine ended so that one that can do more takes its place."""
        ...

    def follow(self, resident: Resident) -> Resident:
        """It gave way to those who waited, and is to be tried again."""
        ...

    def noted(self) -> None:
        """Something about the residents changed."""
        ...
