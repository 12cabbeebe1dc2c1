"""What a level of load came to, in numbers."""

import statistics
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from vllama.bench.load import Answer, Level


class Spread(Struct):
    """Percentiles, in milliseconds."""

    p50: float
    p90: float
    p99: float


class Summary(Struct):
    """tokens: of all answers, by the server's count; of an answer that was interrupted, by the pieces that came.

    per_stream: the median of the streams' tokens a second after the first. ttft: time to first token. itl: between
    reads that brought text. client_cpu: how busy the measuring process was, 1.0 for all the time. errors: what was
    said, and how often.
    """

    clients: int
    seconds: float
    requests: int
    errors: dict[str, int]
    tokens: int
    tokens_per_second: float
    per_stream: float | None
    prompt_tokens: float | None
    answer_tokens: float | None
    ttft: Spread | None
    itl: Spread | None
    duration: Spread | None
    client_cpu: float


def summarize(level: Level) -> Summary:
    good = [answer for answer in level.answers if not answer.error]
    whole = [answer for answer in good if answer.is_complete]
    tokens = sum(map(tokens_of, good))
    seconds = level.seconds
    return Summary(
        clients=level.clients,
        seconds=seconds,
        requests=len(whole),
        errors=dict(Counter(answer.error for answer in level.answers if answer.error)),
        tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        per_stream=_median([rate for answer in good if (rate := _rate(answer))]),
        prompt_tokens=_median([answer.prompt_tokens for answer in whole]),
        answer_tokens=_median([answer.tokens for answer in whole]),
        ttft=_spread([answer.first - answer.began for answer in good if answer.first]),
        itl=_spread([gap for answer in good for gap in answer.gaps]),
        duration=_spread([answer.last - answer.began for answer in whole if answer.last]),
        client_cpu=level.cpu / seconds if seconds else 0.0,
    )


def tokens_of(answer: Answer) -> int:
    return answer.tokens or answer.pieces


def _rate(answer: Answer) -> float:
    """Tokens a second behind the first; 0.0 where there are too few to tell."""
    seconds = answer.last - answer.first
    return (tokens_of(answer) - 1) / seconds if seconds > 0 else 0.0


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _spread(seconds: Sequence[float]) -> Spread | None:
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Spread(*(1000 * percentile(ordered, part) for part in (0.5, 0.9, 0.99)))


def percentile(ordered: Sequence[float], part: float) -> float:
    """With what lies between two values in proportion, as numpy does it."""
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
