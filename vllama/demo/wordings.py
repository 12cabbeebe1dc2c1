"""Other wordings of the questions. Lower case and missing last marks are understood without being listed."""

__all__ = ["also"]

_ALSO = {
    "hello": "Hi | hi | Hey | hey | hello | Hi there! | Hello there! | Hey there | "
    "Good morning! | Good evening! | Good day!",
    "how-are-you": "How are you doing? | How are you today? | Hello, how are you? | Hi, how are you? | How do you "
    "do? | How is it going?",
    "who-are-you": "What are you? | Who are you exactly? | Tell me about yourself. | Introduce yourself. | What is "
    "your name? | Which model are you? | What model is this? | Are you a real model?",
    "what-is-vllama": "What's vLLama? | Tell me about vLLama. | What does vLLama do? | Explain vLLama. | Can you "
    "explain vLLama?",
    "what-can-you-do": "What do you know? | Help | help | What can I ask you? | What should I ask? | "
    "What questions can you answer? | "
    "How can you help me? | What can you help me with? | What are you able to do? | Can you "
    "help me?",
    "real-model": "How can I use a real model? | How do I run a real model? | How do I load another model? | How do "
    "I use a bigger model? | How do I use a different model? | How can I run Qwen3?",
    "sky": "Why is the sky so blue? | Tell me why the sky is blue. | Why does the sky look blue? | What "
    "makes the sky blue? | Explain why the sky is blue. | Can you tell me why the sky is blue?",
    "france": "What's the capital of France? | Capital of France? | Which city is the capital of France? | Name "
    "the capital of France.",
    "joke": "Tell me a joke about AI. | Do you know a joke? | Tell a joke. | Make me laugh. | Can you tell me "
    "a joke? | Another joke, please.",
    "languages": "Say hello in 5 languages. | How do you say hello in five languages? | Greet me in five "
    "languages. | Say hi in five languages.",
    "haiku": "Write a haiku. | Write me a haiku about GPUs. | Haiku about GPUs | A haiku about a GPU, please. "
    "| Write a haiku about a GPU.",
    "hello-world": "Write a hello world program in Python. | Hello world in Python | Show me hello world in Python.",
    "sum": "17 + 25 | What's 17 + 25? | What is 17+25? | 17+25=? | How much is 17 + 25? | Calculate 17 + 25.",
    "larger": "Which is bigger, 9.11 or 9.9? | What is larger, 9.9 or 9.11? | Is 9.11 larger than 9.9? | Which "
    "number is larger: 9.11 or 9.9?",
    "count": "Count to 50. | Please count from 1 to 50. | Count from one to fifty. | Count up to 50.",
    "song": "Sing a song that never ends. | Sing me the song that never ends. | Sing forever. | Sing the endless song.",
    "thanks": "Thanks | Thanks a lot! | Thank you very much. | Great, thanks!",
    "bye": "Bye | See you later! | Bye bye! | Good night!",
    "pirate-hello": "Hi | Hey | Hi there! | Good day!",
    "pirate-who": "What is your name?",
    "json-city": "Give me a city in JSON. | Name a city as JSON. | Describe a city as JSON. | Give me a city as "
    "JSON, please.",
    "json-person": "Describe Ada Lovelace in JSON. | Ada Lovelace as JSON | Give me Ada Lovelace as JSON.",
    "parrot-hello": "Hi | Hey | Hi there! | Good morning!",
    "parrot-who": "What are you? | What is your name?",
    "parrot-joke": "Do you know a joke?",
    "parrot-sky": "Why does the sky look blue?",
    "parrot-can": "What do you know? | Help",
    "recall": "What's my name? | Do you remember my name? | Who am I?",
}
_WEATHER = "What's the weather in {}? | How is the weather in {}? | Weather in {}? | What is the weather like in {}?"


def also(name: str) -> tuple[str, ...]:
    """The other wordings of the last message of the dialogue of that name."""
    kind, _, rest = name.rpartition("-")
    if kind in ("weather", "no-tool") and rest not in ("two", "result", "results"):
        return tuple(_WEATHER.format(*[rest.title()] * 4).split(" | "))
    text = _ALSO.get("recall" if kind == "recall" else name, "")
    return tuple(text.split(" | ")) if text else ()
