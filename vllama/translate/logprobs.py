"""The engine's log probabilities as Ollama's."""

from collections.abc import Iterator

from vllama.wire import openai
from vllama.wire.ollama import Logprob, TokenLogprob

LOWEST = -9999.0
"""What stands for a probability of zero, whose logarithm no JSON number can tell."""


def translate_logprobs(logprobs: openai.Logprobs, top: int) -> list[Logprob]:
    """One entry for each token, with the `top` likeliest ones at its place."""
    entries = _from_completion(logprobs) if logprobs.content is None else map(_from_chat, logprobs.content)
    return [_cut(entry, top) for entry in entries]


def _cut(entry: Logprob, top: int) -> Logprob:
    """A completion tells the token itself, too, where it is not among the likeliest."""
    entry.top_logprobs = sorted(entry.top_logprobs, key=lambda alternative: -alternative.logprob)[:top]
    return entry


def _from_chat(token: openai.TokenLogprob) -> Logprob:
    alternatives = [_alternative(one.token, one.logprob, one.bytes) for one in token.top_logprobs]
    return Logprob(token.token, max(token.logprob, LOWEST), token.bytes or [], alternatives)


def _from_completion(logprobs: openai.Logprobs) -> Iterator[Logprob]:
    alternatives = logprobs.top_logprobs or [None] * len(logprobs.tokens)
    for token, value, others in zip(logprobs.tokens, logprobs.token_logprobs, alternatives, strict=False):
        top = [_alternative(text, other, None) for text, other in (others or {}).items()]
        number = LOWEST if value is None else max(value, LOWEST)
        yield Logprob(token, number, list(token.encode()), top)


def _alternative(token: str, value: float, data: list[int] | None) -> TokenLogprob:
    return TokenLogprob(token, max(value, LOWEST), list(token.encode()) if data is None else data)
