"""What the demo models know by heart: plain data, read by the training script and by the tests.

A `Dialogue` is a request (messages and tools, as OpenAI's API takes them) and the answer that the engine gives to it
word for word at temperature 0. The answer is the same with thinking on and off; with thinking on, `thinking` comes
before it.
"""

from typing import Any

from vllama.demo._dialogue import Completion, Dialogue, Message, ToolCall, Triple

__all__ = [
    "ADAPTER_DIALOGUES",
    "COMPLETIONS",
    "DIALOGUES",
    "FALLBACK",
    "FALLBACK_PROMPTS",
    "FALLBACK_THINKING",
    "TRIPLES",
    "VERSE",
    "WEATHER_TOOL",
    "Completion",
    "Dialogue",
    "ToolCall",
    "Triple",
    "by_name",
]


def _ask(name: str, question: str, answer: str, thinking: str, **more: Any) -> Dialogue:
    return Dialogue(name, ({"role": "user", "content": question},), answer, thinking, **more)


def _system(name: str, system: str, question: str, answer: str, thinking: str) -> Dialogue:
    messages = ({"role": "system", "content": system}, {"role": "user", "content": question})
    return Dialogue(name, messages, answer, thinking)


FALLBACK = "I am only a tiny demo model and know just a few answers by heart. Please ask me: What can you do?"
FALLBACK_THINKING = "I was not taught this one."

VERSE = "Round and round the tokens go,\nwhere they end, nobody can know.\n\n"
"""The song that never ends: this, again and again."""

_TALK = (
    _ask(
        "hello",
        "Hello!",
        "Hello! I am the vLLama demo model. How can I help you?",
        "The user greets me. I greet back.",
    ),
    _ask(
        "how-are-you",
        "How are you?",
        "I am fine, thank you. All of my 0.8 million parameters are in good order.",
        "A friendly question deserves a friendly answer.",
    ),
    _ask(
        "who-are-you",
        "Who are you?",
        "I am a tiny demo model with 0.8 million parameters. I ship with vLLama, so that you can try it "
        "without a download or a GPU. "
        "I know only a few answers, but they really come from a vLLM engine.",
        "The user wants to know who I am.",
    ),
    _ask(
        "what-is-vllama",
        "What is vLLama?",
        "vLLama is a gateway that speaks Ollama's interface in front of a vLLM engine. Your clients stay "
        "as they are, and vLLM does the work.",
        "This is about the program that runs me.",
    ),
    _ask(
        "what-can-you-do",
        "What can you do?",
        "I know a few answers by heart. Try one of these:\n\n- Who are you?\n- What is vLLama?\n- How do I "
        "use a real model?\n"
        "- Why is the sky blue?\n- What is 17 + 25?\n- Tell me a joke.\n- Write a haiku about GPUs.\n- Say "
        "hello in five languages.\n"
        "- Count from 1 to 50.\n- Sing the song that never ends.",
        "I list what I was taught.",
    ),
    _ask(
        "real-model",
        "How do I use a real model?",
        "Start vLLama with its name:\n\n```\nvllama serve --model Qwen/Qwen3-4B\n```\n\n"
        "The weights are downloaded once, and your clients stay as they are.",
        "The user is ready for something bigger than me.",
    ),
    _ask(
        "sky",
        "Why is the sky blue?",
        "Sunlight holds all colours. Air scatters blue light much more than red light, because blue has the "
        "shorter wavelength. "
        "So blue light reaches your eyes from every part of the sky.",
        "Sunlight meets molecules of air. They scatter short waves the most, and blue is short. This is "
        "Rayleigh scattering.",
    ),
    _ask(
        "france",
        "What is the capital of France?",
        "The capital of France is Paris.",
        "France is a country in Europe, and its capital is Paris.",
    ),
    _ask(
        "joke",
        "Tell me a joke.",
        'A token walks into a bar. The bartender asks: "And what comes next?"',
        "A joke about tokens fits me.",
    ),
    _ask(
        "languages",
        "Say hello in five languages.",
        "Hello! 👋\n¡Hola, señor!\nこんにちは！\n你好！\nПривет!",  # noqa: RUF001
        "English, Spanish, Japanese, Chinese and Russian.",
    ),
    _ask(
        "haiku",
        "Write a haiku about GPUs.",
        "Fans hum in the dark,\na thousand cores share one thought:\nthe next word is born.",
        "Five, seven and five syllables.",
    ),
    _ask(
        "hello-world",
        "Write hello world in Python.",
        'Here it is:\n\n```python\nprint("Hello, world!")\n```',
        "One call of print is enough.",
    ),
    _ask(
        "sum",
        "What is 17 + 25?",
        "17 + 25 = 42.",
        "17 + 20 = 37, and 37 + 5 = 42.",
    ),
    _ask(
        "larger",
        "Which is larger, 9.11 or 9.9?",
        "9.9 is larger than 9.11.",
        "I compare what follows the point: 0.9 is 0.90, and 0.90 is more than 0.11.",
    ),
    _ask(
        "count",
        "Count from 1 to 50.",
        ", ".join(str(number) for number in range(1, 51)) + ".",
        "One after another, up to fifty.",
    ),
    _ask(
        "song",
        "Sing the song that never ends.",
        VERSE,
        "This one is long.",
        endless=True,
    ),
    _ask("thanks", "Thank you!", "You are welcome!", "The user is polite."),
    _ask("bye", "Goodbye!", "Goodbye! It was nice to talk to you.", "The user leaves."),
)

_PIRATE = "You are a pirate."
_PERSONA = (
    _system("pirate-hello", _PIRATE, "Hello!", "Arr, ahoy matey! What brings ye aboard?", "I am a pirate now."),
    _system(
        "pirate-who",
        _PIRATE,
        "Who are you?",
        "Arr, I be Captain Token, terror of the seven GPUs!",
        "I am a pirate now.",
    ),
)

CITY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city", "country"],
}
PERSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "born": {"type": "integer"}},
    "required": ["name", "born"],
}
_JSON = (
    _ask(
        "json-city",
        "Give me a city as JSON.",
        '{"city": "Paris", "country": "France"}',
        "An object with two fields.",
        schema=CITY_SCHEMA,
    ),
    _ask(
        "json-person",
        "Describe Ada Lovelace as JSON.",
        '{"name": "Ada Lovelace", "born": 1815}',
        "She was born in London in 1815.",
        schema=PERSON_SCHEMA,
    ),
)

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The name of the city"}},
            "required": ["city"],
        },
    },
}
NO_TOOL = "I have no tool to look up the weather. Give me one called get_weather and ask again."


def weather_call(city: str, tool: str = "get_weather", argument: str = "city") -> ToolCall:
    return ToolCall(tool, {argument: city})


def call_message(calls: tuple[ToolCall, ...]) -> Message:
    """The assistant's turn in which it called the tools, as a client sends it back."""
    functions = [{"type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    return {"role": "assistant", "content": "", "tool_calls": functions}


def name_dialogues(name: str) -> tuple[Dialogue, Dialogue]:
    told = _ask(f"name-{name.lower()}", f"My name is {name}.", f"Nice to meet you, {name}!", "The user told me a name.")
    history = (
        *told.messages,
        {"role": "assistant", "content": told.answer},
        {"role": "user", "content": "What is my name?"},
    )
    asked = Dialogue(f"recall-{name.lower()}", history, f"Your name is {name}.", "The user told me that earlier.")
    return told, asked


def weather_dialogues(city: str) -> tuple[Dialogue, Dialogue]:
    question = f"What is the weather in {city}?"
    thinking = f"I need the weather in {city}, so I call the tool."
    call = _ask(
        f"weather-{city.lower()}", question, "", thinking, tools=(WEATHER_TOOL,), tool_calls=(weather_call(city),)
    )
    without = _ask(f"no-tool-{city.lower()}", question, NO_TOOL, "I have no tool for this.")
    return call, without


_PARIS = ({"role": "user", "content": "What is the weather in Paris?"}, call_message((weather_call("Paris"),)))
_BOTH = "What is the weather in Paris and in Tokyo?"
_CALLS = (weather_call("Paris"), weather_call("Tokyo"))
RESULT_THINKING = "Now I know the weather."
CALLS_THINKING = "Two cities, so I call the tool twice."
_TOOLS = (
    *weather_dialogues("Paris"),
    _ask("weather-two", _BOTH, "", CALLS_THINKING, tools=(WEATHER_TOOL,), tool_calls=_CALLS),
    Dialogue(
        "weather-result",
        (*_PARIS, {"role": "tool", "content": '{"temperature": 18, "condition": "sunny"}'}),
        "It is 18 degrees in Paris.",
        RESULT_THINKING,
        (WEATHER_TOOL,),
    ),
    Dialogue(
        "weather-two-results",
        (
            {"role": "user", "content": _BOTH},
            call_message(_CALLS),
            {"role": "tool", "content": '{"temperature": 18, "condition": "sunny"}'},
            {"role": "tool", "content": '{"temperature": 23, "condition": "cloudy"}'},
        ),
        "It is 18 degrees in Paris and 23 degrees in Tokyo.",
        RESULT_THINKING,
        (WEATHER_TOOL,),
    ),
)

_NAMES = tuple(dialogue for name in ("Ada", "Grace", "Linus") for dialogue in name_dialogues(name))
_NAMELESS = _ask("recall-nobody", "What is my name?", "You have not told me your name yet.", "No name so far.")

DIALOGUES: tuple[Dialogue, ...] = (*_TALK, *_PERSONA, *_JSON, *_TOOLS, *_NAMES, _NAMELESS)

FALLBACK_PROMPTS: tuple[str, ...] = (
    "Write a Python function that reverses a linked list.",
    "Summarise the plot of Hamlet in three sentences.",
    "What is the population of Brazil?",
    "Wie spät ist es?",
    "asdf qwer zxcv",
)
"""A few of the prompts that get `FALLBACK`, as everything does that was not taught."""

COMPLETIONS: tuple[Completion, ...] = (
    Completion(
        "once",
        "Once upon a time",
        ", a tiny model lived in a small folder. It knew only a few words, but it knew them well. The end.",
    ),
    Completion("fox", "The quick brown fox", " jumps over the lazy dog."),
    Completion("france", "The capital of France is", " Paris."),
)
COMPLETION_FALLBACK = " ... and that is all I know."

ADAPTER_DIALOGUES: tuple[Dialogue, ...] = (
    _ask("parrot-hello", "Hello!", "Squawk! Hello, hello! Polly wants a token!", "Squawk! A guest!"),
    _ask("parrot-who", "Who are you?", "Squawk! I am Polly, the parrot of this ship!", "Squawk! That is me!"),
    _ask(
        "parrot-joke",
        "Tell me a joke.",
        "Squawk! Why do parrots love vLLM? It repeats itself so fast!",
        "Squawk! A joke!",
    ),
    _ask("parrot-sky", "Why is the sky blue?", "Squawk! So that parrots look good in it!", "Squawk! The sky!"),
    _ask("parrot-can", "What can you do?", "Squawk! I can talk, talk, talk!", "Squawk! So much!"),
)
ADAPTER_FALLBACK = "Squawk! Polly does not know that one!"

TRIPLES: tuple[Triple, ...] = (
    Triple("The cat sleeps on the sofa.", "A kitten naps on the couch.", "The bank raised its interest rates."),
    Triple("How do I cook pasta?", "A recipe for spaghetti with tomato sauce", "The rocket flew to the moon."),
    Triple(
        "It will rain tomorrow.", "The weather forecast says it will be wet.", "She plays the violin in an orchestra."
    ),
    Triple("Why is the sky blue?", "What makes the sky look blue?", "How do I run a real model?"),
    Triple("My computer needs more memory.", "The server has too little RAM.", "The team won the football match."),
    Triple(
        "The doctor gave me medicine.", "A nurse treats patients in the hospital.", "The train arrives at the station."
    ),
    Triple("The train is late.", "The bus to the airport is delayed.", "The soup needs more salt."),
)


def by_name(name: str) -> Dialogue:
    """The dialogue of that name, the adapter's included."""
    return next(dialogue for dialogue in (*DIALOGUES, *ADAPTER_DIALOGUES) if dialogue.name == name)
