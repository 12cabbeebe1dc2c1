"""Whether an engine lives, for whoever wants to know."""

import asyncio

from vllama.engine.fate import Fate


def watched() -> Fate:
    fate = Fate()
    fate.watched = True
    return fate


async def asked(fate: Fate) -> "asyncio.Task[str]":
    asking = asyncio.create_task(fate.learn(5.0))
    await asyncio.wait_for(fate.doubted.wait(), 5)
    return asking


async def test_one_that_nobody_watches_lives() -> None:
    assert await Fate().learn(5.0) == ""


async def test_it_lives() -> None:
    fate = watched()
    asking = await asked(fate)
    fate.affirm()
    assert (await asking, fate.doubted.is_set()) == ("", False)


async def test_it_is_lost() -> None:
    fate = watched()
    asking = await asked(fate)
    fate.seal("it was killed by SIGKILL")
    assert await asking == await fate.learn(5.0) == "it was killed by SIGKILL"


async def test_it_was_stopped_which_is_no_failure() -> None:
    fate = watched()
    asking = await asked(fate)
    fate.seal("")
    assert await asking == await fate.learn(5.0) == ""


async def test_nobody_can_tell_in_time() -> None:
    assert await asyncio.wait_for(watched().learn(0.02), 20) == ""


async def test_who_gave_up_is_told_nothing() -> None:
    fate = watched()
    asking = await asked(fate)
    asking.cancel()
    fate.affirm()
    await asyncio.wait({asking})
    assert asking.cancelled()
