"""What became of an engine, for those whose requests it broke off."""

import asyncio
import contextlib


class Fate:
    """failure: why the engine is lost, "" as long as it is not. doubted: set when somebody wants to know.

    Whoever watches the engine sets `watched`, and tells by `affirm` that it lives, or by `seal` that it does not.
    """

    def __init__(self) -> None:
        self.failure = ""
        self.watched = False
        self.doubted = asyncio.Event()
        self._asked: set[asyncio.Future[str]] = set()

    async def learn(self, seconds: float) -> str:
        """Why the engine is lost; "" where it lives, or where nobody can tell in time."""
        if self.failure or not self.watched:
            return self.failure
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked.add(answer)
        self.doubted.set()
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            return ""
        finally:
            self._asked.discard(answer)

    def affirm(self) -> None:
        """It lives."""
        self._tell("")

    def seal(self, failure: str) -> None:
        """It is gone for good: lost, or stopped, which is no failure."""
        self.failure, self.watched = failure, False
        self._tell(failure)

    def _tell(self, failure: str) -> None:
        self.doubted.clear()
        for answer in self._asked:
            with contextlib.suppress(asyncio.InvalidStateError):  # it gave up waiting in the same turn of the loop
                answer.set_result(failure)
