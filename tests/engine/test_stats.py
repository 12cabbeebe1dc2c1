"""What engines say of themselves: before real HTTP servers, with a clock that the tests turn."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.clock import Clock
from tests.fake_engine import FakeEngine, Silence, hang_up, whole
from vllama.engine import stats as stats_module
from vllama.engine.client import EngineClient
from vllama.engine.stats import Stats, Usage, sums_of


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stats(clock: Clock) -> Stats:
    return Stats(clock)


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[EngineClient]:
    client = EngineClient(engine.url)
    yield client
    await client.close()


def metrics(running: int, waiting: int, tokens: int) -> bytes:
    """As vLLM 0.32 writes them, shortened."""
    labels = '{engine="0",model_name="/models/chat"}'
    return f"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{labels} {running}.0
vllm:num_requests_waiting{labels} {waiting}.0
vllm:num_requests_waiting_by_reason{{engine="0",model_name="/models/chat",reason="capacity"}} 7.0
vllm:generation_tokens_total{labels} {tokens}.0
vllm:generation_tokens_created{labels} 1.7952749127904363e+09
""".encode()


def test_sums() -> None:
    text = 'tokens_total{engine="0"} 3.0\ntokens_total{engine="1"} 1e+03\ntokens_total_created{engine="1"} 9\nplain 2\n'
    assert sums_of(text, ("tokens_total", "plain", "none")) == {"tokens_total": 1003.0, "plain": 2.0, "none": 0.0}


async def test_requests_and_speed(stats: Stats, client: EngineClient, engine: FakeEngine, clock: Clock) -> None:
    engine.script(*(whole(metrics(3, 1, tokens)) for tokens in (100, 150, 140)))
    assert await stats.usage(client) == Usage(3, 1, None)
    assert (client.answered, client.waiting) == (0, 0), "that somebody looks shows not that the engine works"
    clock.now += 2.0
    assert await stats.usage(client) == Usage(3, 1, 25.0)
    clock.now += 2.0
    assert await stats.usage(client) == Usage(3, 1, 0.0)  # never less than none


async def test_those_who_look_within_a_second_ask_once(
    stats: Stats, client: EngineClient, engine: FakeEngine, clock: Clock
) -> None:
    engine.script(whole(metrics(1, 0, 5)))
    usages = await asyncio.gather(*(stats.usage(client) for _ in range(5)))
    clock.now += 0.9
    assert [*usages, await stats.usage(client)] == 6 * [Usage(1, 0, None)]
    assert len(engine.asked) == 1


async def test_the_mean_of_a_long_time_is_no_speed(
    stats: Stats, client: EngineClient, engine: FakeEngine, clock: Clock
) -> None:
    engine.script(*(whole(metrics(1, 0, tokens)) for tokens in (0, 5000)))
    await stats.usage(client)
    clock.now += 60.0
    assert await stats.usage(client) == Usage(1, 0, None)


async def test_an_engine_without_metrics(stats: Stats, client: EngineClient, engine: FakeEngine) -> None:
    engine.script(whole({"detail": "Not Found"}, status=404))
    assert await stats.usage(client) is None


async def test_a_dead_engine(stats: Stats, client: EngineClient, engine: FakeEngine) -> None:
    engine.answer = hang_up
    assert await stats.usage(client) is None


async def test_an_engine_that_hangs(
    stats: Stats, client: EngineClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_module, "_TIMEOUT_S", 0.05)
    silence = Silence()
    engine.script(silence)
    assert await stats.usage(client) is None
    await asyncio.wait_for(silence.aborted.wait(), 5)


async def test_memory_is_measured_every_few_seconds(stats: Stats, clock: Clock) -> None:
    measured = iter((10, 20))
    for seconds, expected in ((0.0, 10), (4.9, 10), (0.2, 20)):
        clock.now += seconds
        assert await stats.memory(1, lambda: next(measured)) == expected


async def test_what_nobody_asks_for_any_more_is_forgotten(stats: Stats, clock: Clock) -> None:
    for pid in range(3):
        await stats.memory(pid, lambda: 1)
        clock.now += 50.0
    assert set(stats._known) == {1, 2}
