"""What the clients are asked to do, in the demo model's own words."""

import json
from collections.abc import Callable
from typing import Any

import httpx
from pydantic import BaseModel

from tests.served import Served, wait_until
from vllama.demo.dialogues import by_name

Llm = Callable[..., str]
"""The type of the fixture `llm`."""
NO_IDLE_CONNECTIONS = {"limits": httpx.Limits(max_keepalive_connections=0)}
"""For LangChain, which does not close its clients."""
GREEDY = {"temperature": 0}
MODELS = {"demo:latest", "demo-embed:latest", "demo-parrot:latest", "robot:latest"}
"""What the gateway serves."""
HELLO = by_name("hello")
CITY = by_name("json-city")
WEATHER = by_name("weather-paris")
WEATHER_ANSWER = by_name("weather-result").answer
SONG = "Sing the song that never ends."


class City(BaseModel):
    """A city and its country."""

    city: str
    country: str


PARIS = City(city="Paris", country="France")


def get_weather(city: str) -> str:
    """Get the current weather of a city.

    Args:
        city: The city's name
    """
    return json.dumps({"temperature": 18, "condition": "sunny"})


def says(content: str) -> list[dict[str, Any]]:
    """The user's message, as most clients take it."""
    return [{"role": "user", "content": content}]


def wait_idle(demo: Served, finished: float) -> None:
    """Wait until the engine works on nothing. Fails if it came to the end of anything since `finished` was asked."""
    wait_until(lambda: demo.engine_metric("vllm:num_requests_running") == 0, 5, "the request ends with its client")
    assert requests_finished(demo) == finished


def requests_finished(demo: Served) -> float:
    """How many requests the engine answered to their ends; those that were aborted do not count."""
    return demo.engine_metric("vllm:request_success_total")
