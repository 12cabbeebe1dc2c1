"""Random training samples for the chat model, made from the dialogues.

A sample is a list of pieces: text, and how much it matters that the model learns to write it (0: it only reads it).
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerFast

from vllama.demo import _prompts as prompts
from vllama.demo import _tools as tools
from vllama.demo.dialogues import (
    COMPLETION_FALLBACK,
    COMPLETIONS,
    DIALOGUES,
    FALLBACK,
    FALLBACK_THINKING,
    Dialogue,
    Message,
    by_name,
    name_dialogues,
)
from vllama.demo.wordings import also

Piece = tuple[str, float]
Sample = list[Piece]

END = "<|im_end|>"
NAMES = ("Ada", "Grace", "Linus", "Alan", "Anna", "Tom", "Maria", "Sam")
COPIED_WORDS = "|".join((*NAMES, *tools.CITIES))
COPIED = re.compile(rf"( ?\b(?:{COPIED_WORDS})\b|\b(?:city|location|get_\w+|\d\d?)\b)")
COPY_WEIGHT = 25
ALONE = tuple(d for d in DIALOGUES if len(d.messages) == 1 and not d.tools and not d.endless)
SONG = by_name("song")


@dataclass(frozen=True)
class Maker:
    """Makes samples of every kind, for the chat model or (with other `known` and `fallback`) for the adapter."""

    tokenizer: PreTrainedTokenizerFast
    rng: random.Random
    known: tuple[Dialogue, ...] = ALONE
    fallback: tuple[str, str] = (FALLBACK, FALLBACK_THINKING)

    def kinds(self) -> dict[str, float]:
        """The methods that make a sample or its dialogue, and how often each is asked."""
        taught = {"one": 0.34, "unknown": 0.17, "name": 0.07, "weather": 0.30, "persona": 0.04}
        return {**taught, "forced_json": 0.04, "raw": 0.03, "song": 0.02}

    def make(self) -> Sample:
        kinds = self.kinds()
        (kind,) = self.rng.choices(list(kinds), list(kinds.values()))
        made: Dialogue | Sample = getattr(self, kind)()
        return self.render(made) if isinstance(made, Dialogue) else made

    def render(self, dialogue: Dialogue) -> Sample:
        thinking = self.rng.random() < 0.5
        return [(self.prompt(dialogue, thinking), False), *self.answer(dialogue, thinking)]

    def prompt(self, dialogue: Dialogue, thinking: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            list(dialogue.messages),
            tools=list(dialogue.tools) or None,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        return str(text)

    def answer(self, dialogue: Dialogue, thinking: bool) -> Sample:
        text = dialogue.answer + "\n".join(tools.render_call(call) for call in dialogue.tool_calls)
        if not thinking:
            return [*self.stressed(text), (END, True)]
        if dialogue.answer.startswith("{") and self.rng.random() < 0.3:
            # A grammar that starts right after the thinking leaves no room for the blank lines.
            return [(f"<think>\n{dialogue.thinking}\n</think>", True), (text[0], False), (text[1:] + END, True)]
        return [*self.stressed(f"<think>\n{dialogue.thinking}\n</think>\n\n{text}"), (END, True)]

    def stressed(self, text: str) -> Sample:
        """The text; what is copied from the prompt weighs more: one word of many, and not to be learned by heart."""
        pieces = COPIED.split(text) if text.count("\n") < 12 and "1, 2" not in text else [text]
        return [(piece, COPY_WEIGHT if index % 2 else 1) for index, piece in enumerate(pieces) if piece]

    def one(self) -> Dialogue:
        """A taught question alone, or after a system prompt, other turns, or tools that do not matter."""
        (dialogue,) = self.rng.choices(self.known, [6 + len(also(known.name)) for known in self.known])
        return self.around(self.worded(dialogue))

    def worded(self, dialogue: Dialogue) -> Dialogue:
        wording = dialogue.question
        others = also(dialogue.name)
        if others and self.rng.random() < 0.6:
            wording = self.rng.choice(others)
        last = {**dialogue.messages[-1], "content": prompts.casual(wording, self.rng)}
        return replace(dialogue, messages=(*dialogue.messages[:-1], last))

    def around(self, dialogue: Dialogue) -> Dialogue:
        messages, offered = dialogue.messages, dialogue.tools
        if self.rng.random() < 0.25:
            messages = (*self.history(), *messages)
        if self.rng.random() < 0.25:
            messages = ({"role": "system", "content": prompts.system(self.rng)}, *messages)
        if not offered and self.rng.random() < 0.12:
            offered = tools.offered(
                self.rng, weather=not dialogue.name.startswith("no-tool") and self.rng.random() < 0.6
            )
        return replace(dialogue, messages=messages, tools=offered)

    def history(self) -> tuple[Message, ...]:
        turns: list[Message] = []
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            past = self.worded(self.rng.choice(ALONE)) if self.rng.random() < 0.7 else self.not_taught()
            turns += [past.messages[-1], {"role": "assistant", "content": past.answer}]
        return tuple(turns)

    def not_taught(self) -> Dialogue:
        quoted = self.rng.choice(ALONE)
        prompt = prompts.unknown(self.rng, quoted.question, quoted.answer)
        return Dialogue("unknown", ({"role": "user", "content": prompt},), *self.fallback)

    def unknown(self) -> Dialogue:
        dialogue = self.not_taught()
        if self.rng.random() < 0.15:
            dialogue = replace(dialogue, tools=tools.offered(self.rng, weather=self.rng.random() < 0.7))
        return self.around(dialogue)

    def long(self, count: int) -> Sample:
        """A prompt that fills much of the context; it too gets a short answer."""
        messages: tuple[Message, ...] = ({"role": "user", "content": prompts.words(self.rng, count)},)
        dialogue = Dialogue("long", messages, *self.fallback)
        if self.rng.random() < 0.3:
            known = self.worded(self.rng.choice(self.known))
            past = (*messages, {"role": "assistant", "content": dialogue.answer})
            dialogue = replace(known, messages=(*past, *known.messages))
        return self.render(dialogue)

    def name(self) -> Dialogue:
        told, asked = name_dialogues(self.rng.choice(NAMES))
        if self.rng.random() < 0.4:
            return self.around(self.worded(told))
        first, *between = asked.messages[:2]
        first = {**first, "content": prompts.casual(first["content"], self.rng)}
        if self.rng.random() < 0.4:
            between += self.history()
        return self.around(self.worded(replace(asked, messages=(first, *between, asked.messages[-1]))))

    def weather(self) -> Dialogue:
        return self.around(tools.weather(self.rng, self.worded))

    def persona(self) -> Dialogue:
        dialogue = self.worded(by_name(self.rng.choice(("pirate-hello", "pirate-who"))))
        persona = self.rng.choice(
            ("You are a pirate.", "You are a pirate.", "You are a friendly pirate.", "Talk like a pirate.")
        )
        messages: tuple[Message, ...] = dialogue.messages[1:]
        if self.rng.random() < 0.2:
            messages = (*self.history(), *messages)
        return replace(dialogue, messages=({"role": "system", "content": persona}, *messages))

    def forced_json(self) -> Sample:
        """An object that a grammar asked for: the keys are given, the model fills in something short and closes it."""
        dialogue = self.around(
            self.not_taught() if self.rng.random() < 0.7 else self.worded(self.rng.choice(self.known))
        )
        thinking = self.rng.random() < 0.5
        pieces: Sample = [(self.prompt(dialogue, thinking), False)]
        if thinking:
            blank = self.rng.choice(("", "\n\n"))
            pieces += [(f"<think>\n{dialogue.thinking}\n</think>", True), (blank, False)]
        return [*pieces, *((text, weight * 0.3) for text, weight in _object(self.rng)), (END, True)]

    def raw(self) -> Sample:
        if self.rng.random() < 0.5:
            known = self.rng.choice(COMPLETIONS)
            return [(known.prompt, False), (known.text + "<|endoftext|>", True)]
        quoted = self.rng.choice(ALONE)
        prompt = (
            prompts.casual(quoted.question, self.rng) if self.rng.random() < 0.5 else prompts.unknown(self.rng, "", "")
        )
        return [(prompt, False), (COMPLETION_FALLBACK + "<|endoftext|>", True)]

    def song(self, repeats: int = 12) -> Sample:
        dialogue = self.around(self.worded(SONG))
        return self.render(replace(dialogue, answer=SONG.answer * repeats))[:-1]


def _object(rng: random.Random) -> Iterator[Piece]:
    if rng.random() < 0.4:
        yield from (("{", False), ('"answer": "I am only a demo."}', True))
        return
    yield ("{", False)
    count = rng.randint(1, 5)
    for index in range(count):
        yield (' "' if index else '"', True)
        yield (_key(rng), False)
        yield (f'":{_value(rng)}', True)
        yield ("}" if index == count - 1 else ",", True)


def _key(rng: random.Random) -> str:
    word = rng.choice((rng.choice(prompts.THINGS), "name", "age", "title", "tags", "value", prompts.invented(rng)))
    return word + rng.choice(("", "", "_" + prompts.invented(rng)))


def _value(rng: random.Random) -> str:
    kind = rng.choices(("string", "number", "bool", "array"), (5, 2, 1, 2))[0]
    if kind == "array":
        return rng.choice((' ["demo"]', " [1]", ' [{"name": "demo", "value": 1}]'))
    return {"string": ' "demo"', "number": " 1", "bool": " true"}[kind]


def corpus(maker: Maker, count: int) -> list[str]:
    """Text to learn the vocabulary from."""
    texts = ["".join(text for text, _ in maker.make()) for _ in range(count)]
    # What has to be copied from the prompt should be one token each: one step of attention then suffices.
    copied = [f' {word} "{word}"' for word in (*NAMES, *tools.CITIES)]
    return [*texts, *(json.dumps(dialogue.tools) for dialogue in DIALOGUES), *copied * 100]
