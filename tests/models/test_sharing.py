"""Work that several wait for."""

import asyncio
from collections.abc import Callable

import pytest

from vllama.models._sharing import Shared

Report = Callable[[str], None]


class Work:
    """Jobs that are done when the test says so."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.going_on = asyncio.Event()
        self.ended = 0

    async def __call__(self, report: Report) -> str:
        self.reports.append(report)
        try:
            await self.going_on.wait()
        finally:
            self.ended += 1
        return "done"


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def shared() -> Shared[str, str, str]:
    return Shared(1, waiting="waiting")


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_several_share_a_job(shared: Shared[str, str, str], work: Work) -> None:
    heard: list[list[str]] = [[], []]
    tasks = [asyncio.create_task(shared.join("a", work, to.append)) for to in heard]
    await turn()
    work.reports[0]("half")
    late: list[str] = []
    tasks.append(asyncio.create_task(shared.join("a", work, late.append)))
    await turn()
    assert heard == [["half"], ["half"]]
    assert late == ["half"]  # what is known is told at once
    tasks[0].cancel()  # the others still want it
    await turn()
    work.reports[0]("most")
    assert (heard[0], heard[1], late) == (["half"], ["half", "most"], ["half", "most"])
    work.going_on.set()
    assert await asyncio.gather(*tasks[1:]) == ["done", "done"]
    assert (len(work.reports), work.ended) == (1, 1)


async def test_a_job_ends_with_the_last_who_waits(shared: Shared[str, str, str], work: Work) -> None:
    tasks = [asyncio.create_task(shared.join("a", work, lambda _: None)) for _ in range(2)]
    await turn()
    for task in tasks:
        assert work.ended == 0
        task.cancel()
        await turn()
    assert work.ended == 1
    again = asyncio.create_task(shared.join("a", work, lambda _: None))
    await turn()
    assert len(work.reports) == 2
    work.going_on.set()
    assert await again == "done"


async def test_a_few_at_once(shared: Shared[str, str, str], work: Work) -> None:
    other, heard = Work(), []
    tasks = [
        asyncio.create_task(shared.join("a", work, lambda _: None)),
        asyncio.create_task(shared.join("b", other, heard.append)),
    ]
    await turn()
    assert (heard, other.reports) == (["waiting"], [])
    work.going_on.set()
    await turn()
    assert len(other.reports) == 1
    other.going_on.set()
    assert await asyncio.gather(*tasks) == ["done", "done"]


async def test_all_are_told_of_a_failure(shared: Shared[str, str, str]) -> None:
    async def fail(report: Report) -> str:
        raise ValueError("broken")

    tasks = [shared.join("a", fail, lambda _: None) for _ in range(2)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["broken", "broken"]
