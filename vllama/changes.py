"""Something that changes, for those who want to know when it does."""

import asyncio


class Changes:
    """Counts changes. Whoever waits learns that there were some, not which: slow ones miss none, and keep no queue."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def note(self) -> None:
        self.count += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def after(self, count: int) -> int:
        """The count, as soon as it is another than this one."""
        while self.count == count:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)
        return self.count
