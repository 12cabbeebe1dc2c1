"""The engine's replies, whole or streamed, into the pieces that Ollama's replies are made of."""

import contextlib
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vllama.translate.logprobs import translate_logprobs
from vllama.translate.spacing import Trimmer
from vllama.translate.think_tags import ThinkTags
from vllama.wire.ollama import CalledFunction, Logprob, ToolCall
from vllama.wire.openai import Choice, Completion, Message, Timings, Usage
from vllama.wire.openai import ToolCall as EngineToolCall

_ALPHABET = string.ascii_lowercase + string.digits
_CALL_MARKS = (
    "<tool_call>",
    "[TOOL_CALLS]",
    "<|tool_call|>",
    "<|python_tag|>",
    "<function=",
    "<|tool_calls_section_begin|>",
)
"""What a tool call begins with in the common formats."""


class Piece(msgspec.Struct):
    """What one event adds to the reply: text, thinking text, whole tool calls, or its tokens' probabilities."""

    text: str = ""
    thinking: str = ""
    tool_calls: list[ToolCall] = []
    logprobs: list[Logprob] = []

    def __bool__(self) -> bool:
        return bool(self.text or self.thinking or self.tool_calls or self.logprobs)


@dataclass
class _PartialCall:
    id: str | None = None
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Reply:
    """One reply of the engine as it grows: fed with decoded events, it returns what each of them adds.

    Tool calls, which the engine streams in fragments, are held back until they are whole. The white space around a
    model's thinking, and before the answer that follows it, is dropped, streamed too. A call that the end of the budget
    cut off is no call, and no text either.

    tags: splits the text of a completion, of whose thinking the engine knows nothing. tools: whether any were offered.
    top_logprobs: how many alternatives to a token were asked for.
    tokens: the ids of the prompt and of the reply, where they were asked for.
    """

    def __init__(self, tags: ThinkTags | None = None, *, tools: bool = False, top_logprobs: int = 0) -> None:
        self.tokens: list[int] = []
        self._tags = tags
        self._tools = tools
        self._top_logprobs = top_logprobs
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self._calls: dict[int, _PartialCall] = {}
        self._calls_sent = 0
        self._trimmer = Trimmer()

    def feed(self, event: Completion) -> Piece | None:
        """What this event adds, None where it adds nothing a client sees."""
        self.usage = event.usage or self.usage
        self.timings = event.metrics or self.timings
        if not event.choices:
            return None
        choice = event.choices[0]
        self._collect_tokens(event, choice)
        piece = Piece()
        if choice.text is not None:
            self._read_text(choice.text, piece)
        elif (message := choice.delta or choice.message) is not None:
            self._read_message(message, piece)
        if choice.logprobs is not None:
            logprobs = translate_logprobs(choice.logprobs, self._top_logprobs)
            piece.logprobs = logprobs[:-1] if _ends_with_a_mark(choice) else logprobs
        if choice.finish_reason is not None:
            self._finish(choice, piece)
        return piece or None

    def add_text(self, field: str, text: bytes) -> bytes | None:
        """What an event adds that has nothing but this text, both as the inside of a JSON string.

        None where it has to be fed. field: as `only_text` names it.
        """
        return text if self.adds_all(field) or (field == "reasoning" and self._trimmer.thinks_on(text)) else None

    def adds_all(self, field: str) -> bool:
        """Whether all texts of the field are added as they are, as long as nothing else comes between them."""
        return self._trimmer.answering if field == "content" else field == "text" and self._tags is None

    def close(self) -> Piece | None:
        """What is still held back at the end of a stream that named no finish reason."""
        piece = Piece()
        if self.finish_reason is None:
            self._release(piece)
        return piece or None

    def _collect_tokens(self, event: Completion, choice: Choice) -> None:
        prompt = event.prompt_token_ids or choice.prompt_token_ids
        if prompt and not self.tokens:
            self.tokens += prompt
        if choice.token_ids:
            self.tokens += choice.token_ids

    def _finish(self, choice: Choice, piece: Piece) -> None:
        self.finish_reason = choice.finish_reason
        if choice.finish_reason != "length":
            self._release(piece)
            return
        self._drop_unfinished_calls()
        if choice.message is not None and self._tools:  # streamed, vLLM keeps the beginning of a call to itself
            piece.text = _before_call(piece.text)
        self._release(piece)

    def _release(self, piece: Piece) -> None:
        if self._tags is not None:
            self._add_split(self._tags.close(), piece)
        self._release_calls(piece)

    def _read_text(self, text: str, piece: Piece) -> None:
        if self._tags is None:
            piece.text = text
        else:
            self._add_split(self._tags.feed(text), piece)

    def _add_split(self, parts: tuple[str, str], piece: Piece) -> None:
        thinking, text = parts
        if thinking:
            piece.thinking += self._trimmer.thinking(thinking)
        if text:
            piece.text += self._trimmer.answer(text)

    def _read_message(self, message: Message, piece: Piece) -> None:
        if thinking := message.reasoning or message.reasoning_content:
            piece.thinking = self._trimmer.thinking(thinking)
        if content := message.content:
            piece.text = self._trimmer.answer(content)
        for call in message.tool_calls or ():
            self._collect_call(call)

    def _collect_call(self, call: EngineToolCall) -> None:
        index = self._index_of(call) if call.index is None else call.index
        partial = self._calls.setdefault(index, _PartialCall(call.id))
        partial.name = call.function.name or partial.name
        if call.function.arguments:
            partial.arguments.append(call.function.arguments)

    def _index_of(self, call: EngineToolCall) -> int:
        """Where a server numbers no calls: one with a new id, or only a name, begins a call; others go on with it."""
        last = max(self._calls, default=-1)
        if last < 0:
            return 0
        goes_on = call.id == self._calls[last].id if call.id else not call.function.name
        return last if goes_on else last + 1

    def _drop_unfinished_calls(self) -> None:
        whole = {index: call for index, call in self._calls.items() if _is_object("".join(call.arguments))}
        self._calls = whole

    def _release_calls(self, piece: Piece) -> None:
        for _, partial in sorted(self._calls.items()):
            text = "".join(partial.arguments)
            arguments = _parse_arguments(text)
            if arguments is None:
                # A call that the model garbled: as text it still tells the user what the model wanted.
                piece.text += f'{{"name": {msgspec.json.encode(partial.name).decode()}, "arguments": {text}}}'
                continue
            function = CalledFunction(name=partial.name, arguments=arguments, index=self._calls_sent)
            piece.tool_calls = [*piece.tool_calls, ToolCall(id=_call_id(), function=function)]
            self._calls_sent += 1
        self._calls.clear()


def only_text(event: Completion, tokens: Sequence[int]) -> tuple[str, str] | None:
    """The field and the text of an event that has nothing else, but for the ids of its tokens, where there are any."""
    choice = event.choices[0] if event.choices else Choice()
    delta = choice.delta or Message()
    if text := choice.text:
        field, alone = "text", Choice(text=text)
    elif text := delta.content:
        field, alone = "content", Choice(delta=Message(content=text))
    elif text := delta.reasoning:
        field, alone = "reasoning", Choice(delta=Message(reasoning=text))
    else:
        return None
    alone.token_ids = list(tokens) or None
    return (field, text) if event == Completion([alone]) else None


def _ends_with_a_mark(choice: Choice) -> bool:
    """Whether the last token is the model's own "end of turn", which is no part of the text."""
    return choice.finish_reason in ("stop", "tool_calls") and not isinstance(choice.stop_reason, str)


def _parse_arguments(text: str) -> dict[str, Any] | None:
    """The object in a call's arguments, empty where the model gave none; None where they are something else."""
    if text.strip() in ("", "null"):
        return {}
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        arguments = msgspec.json.decode(text)
        if isinstance(arguments, dict):
            return arguments
    return None


def _is_object(text: str) -> bool:
    return bool(text.strip()) and _parse_arguments(text) is not None


def _before_call(text: str) -> str:
    """The text without the tool calls in which it breaks off."""
    return text[: min((position for mark in _CALL_MARKS if (position := text.find(mark)) >= 0), default=len(text))]


def _call_id() -> str:
    """`call_` and eight of `[a-z0-9]`, as Ollama makes them."""
    return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(8))


def done_reason(finish_reason: str | None) -> str | None:
    """Ollama knows `stop` and `length`: a reply that ends in tool calls is `stop` too. None for an aborted one."""
    match finish_reason:
        case None | "abort":
            return None
        case "length":
            return "length"
        case _:
            return "stop"


def metrics(reply: Reply, *, load: int, first: int, total: int) -> dict[str, int]:
    """The six metrics of a final object; integers, durations in nanoseconds, none ever 0.

    The engine's own timings are used where it gives them. load, first, total: nanoseconds from the arrival of the
    request until the engine was at hand, until the first output, and until now.
    """
    timings = reply.timings or Timings()
    usage = reply.usage or Usage()
    if timings.time_to_first_token_ms is None:
        prompt = first - load
    else:
        prompt = _nanoseconds(timings.time_to_first_token_ms - (timings.queue_time_ms or 0.0))
    decode = total - first if timings.generation_time_ms is None else _nanoseconds(timings.generation_time_ms)
    return {
        "total_duration": max(1, total),
        "load_duration": max(1, load),
        "prompt_eval_count": max(1, usage.prompt_tokens),
        "prompt_eval_duration": max(1, prompt),
        "eval_count": max(1, usage.completion_tokens or 0),
        "eval_duration": max(1, decode),
    }


def _nanoseconds(milliseconds: float) -> int:
    return round(milliseconds * 1e6)
