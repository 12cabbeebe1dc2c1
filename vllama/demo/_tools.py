"""Tools as clients describe them, each a bit differently, and the weather conversations that use them."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vllama.demo import _prompts as prompts
from vllama.demo.dialogues import (
    CALLS_THINKING,
    DIALOGUES,
    RESULT_THINKING,
    Dialogue,
    Message,
    ToolCall,
    call_message,
    weather_call,
    weather_dialogues,
)

Tool = dict[str, Any]
Worded = Callable[[Dialogue], Dialogue]

CITIES = ("Paris", "Tokyo", "London", "Berlin", "Rome", "Madrid", "Vienna", "Oslo")
CONDITIONS = ("sunny", "cloudy", "rainy", "windy", "snowy")
TAUGHT = tuple(dialogue for dialogue in DIALOGUES if dialogue.tools)
VERBS = prompts.split(
    """
    add find send read list open search get set delete calculate count
    """
)


def render_call(call: ToolCall) -> str:
    return (
        f"<tool_call>\n{json.dumps({'name': call.name, 'arguments': call.arguments}, ensure_ascii=False)}\n</tool_call>"
    )


def offered(rng: random.Random, weather: bool) -> tuple[Tool, ...]:
    """Some tools; with `weather`, one of them tells the weather."""
    others = [
        _tool(rng, _other_name(rng), [rng.choice(prompts.THINGS) for _ in range(rng.randint(1, 2))], "")
        for _ in range(rng.randint(0, 2))
    ]
    if weather:
        others.append(_weather_tool(rng, "get_weather", "city"))
    elif not others:
        others.append(_tool(rng, "add", ["a", "b"], "Add two numbers"))
    rng.shuffle(others)
    return tuple(others)


def weather(rng: random.Random, worded: Worded) -> Dialogue:
    """One of the moments of a weather conversation."""
    city, second = rng.sample(CITIES, 2)
    if rng.random() < 0.3:
        city, second = "Paris", "Tokyo"
    name = rng.choice(("get_weather",) * 3 + ("get_current_weather", "get_temperature"))
    argument = rng.choice(("city", "city", "location"))
    tools = [_weather_tool(rng, name, argument)]
    if rng.random() < 0.35:
        tools.append(_tool(rng, _other_name(rng), [rng.choice(prompts.THINGS)], ""))
        rng.shuffle(tools)
    one, without = weather_dialogues(city)
    calls = (weather_call(city, name, argument), weather_call(second, name, argument))
    kind = rng.random()
    if rng.random() < 0.15:
        return rng.choice(TAUGHT)
    if kind < 0.12:
        return worded(without)
    if kind < 0.32:
        return replace(worded(one), tools=tuple(tools), tool_calls=calls[:1])
    if kind < 0.5:
        return Dialogue("two", (_both(rng, city, second),), "", CALLS_THINKING, tuple(tools), calls)
    if kind < 0.75:
        return _result(rng, worded(one).messages[-1], calls[:1], tools)
    return _result(rng, _both(rng, city, second), calls, tools)


def _both(rng: random.Random, city: str, second: str) -> Message:
    question = rng.choice(
        (
            "What is the weather in {} and in {}?",
            "What is the weather in {} and {}?",
            "How is the weather in {} and in {}?",
        )
    )
    return {"role": "user", "content": prompts.casual(question, rng).format(city, second)}


def _result(rng: random.Random, question: Message, calls: tuple[ToolCall, ...], tools: list[Tool]) -> Dialogue:
    turn = call_message(calls)
    if rng.random() < 0.5:
        turn["reasoning_content"] = (
            f"I need the weather in {next(iter(calls[0].arguments.values()))}, so I call the tool."
        )
        if len(calls) > 1:
            turn["reasoning_content"] = CALLS_THINKING
    answers, results = [], []
    shape = rng.random()
    for call in calls:
        text, said = _observation(rng, shape)
        results.append({"role": "tool", "content": text})
        answers.append(f"{said} in {next(iter(call.arguments.values()))}")
    return Dialogue(
        "result", (question, turn, *results), f"It is {' and '.join(answers)}.", RESULT_THINKING, tuple(tools)
    )


def _observation(rng: random.Random, shape: float) -> tuple[str, str]:
    """What the tool returned, and how the answer puts it."""
    degrees, condition = rng.randint(1, 35), rng.choice(CONDITIONS)
    said = f"{degrees} degrees"
    if shape < 0.6:
        fields = {"temperature": degrees, "condition": condition}
        return json.dumps(fields), said
    if shape < 0.7:
        return json.dumps({"condition": condition, "temperature": degrees}), said
    if shape < 0.8:
        return f"{degrees}°C, {condition}", said
    if shape < 0.9:
        return rng.choice((f"{degrees}°C", f"{degrees} degrees", str(degrees))), said
    return json.dumps({"temperature": degrees}), said


def _weather_tool(rng: random.Random, name: str, argument: str) -> Tool:
    kind = "temperature" if name == "get_temperature" else "weather"
    place = rng.choice(("in", "of", "for"))
    described = rng.choice(
        (f"Get the {kind} {place} a city", f"Get the current {kind} {place} a city.", f"The {kind} {place} a city", "")
    )
    tool = _tool(rng, name, [argument], described)
    if rng.random() < 0.15:
        tool["function"]["parameters"]["properties"]["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    return tool


def _tool(rng: random.Random, name: str, arguments: list[str], described: str) -> Tool:
    properties = {argument: _property(rng, argument) for argument in arguments}
    parameters: Tool = {"type": "object", "properties": properties}
    if rng.random() < 0.75:
        parameters["required"] = arguments
    if rng.random() < 0.15:
        parameters["additionalProperties"] = False
    if rng.random() < 0.3:
        parameters = dict(rng.sample(list(parameters.items()), len(parameters)))
    function: Tool = {"name": name}
    if described or rng.random() < 0.2:
        function["description"] = described or f"{name} {arguments[0]}"
    function["parameters"] = parameters
    if rng.random() < 0.1:
        function["strict"] = rng.choice((True, False))
    if rng.random() < 0.2:
        function = dict(rng.sample(list(function.items()), len(function)))
    return {"type": "function", "function": function}


def _property(rng: random.Random, argument: str) -> Tool:
    kind = "string" if argument in ("city", "location") else rng.choice(("string", "integer", "number"))
    described = rng.choice(
        (
            f"The name of the {argument}",
            f"The {argument}",
            f"The {argument} to get the weather for",
            "City name",
            "Name of a city, e.g. Paris",
        )
    )
    fields: Tool = {"type": kind}
    if rng.random() < 0.6:
        fields["description"] = described
    return dict(reversed(fields.items())) if rng.random() < 0.3 else fields


def _other_name(rng: random.Random) -> str:
    return f"{rng.choice(VERBS)}_{rng.choice(prompts.THINGS)}"
