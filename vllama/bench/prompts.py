"""Prompts of about a given length that an engine has not seen before."""

import random
import secrets

_WORDS = (  # noqa: SIM905 - a hundred quotation marks
    "apple arrow autumn bell bird boat book bread bridge candle castle chair cloud coat copper corner desert dinner "
    "door dream dust eagle earth engine evening farm feather field fire fish flower forest fruit garden glass gold "
    "grass hammer harbour hill honey horse house island kettle king kitchen ladder lake lamp leaf letter lion market "
    "mirror moon morning mountain music night ocean orange paper pencil piano picture pocket queen rain river road "
    "rocket rose sand school shadow shell ship shoe silver snow song spring star station stone storm story street "
    "summer sun table thunder tiger tower town train tree valley village violin wagon water wheel window winter wolf"
).split()
_ORDER = "Tell a very long story in which each of these words occurs again and again."


class Prompts:
    """words: how many random ones each has. same: all are alike, so that an engine's prefix cache knows them."""

    def __init__(self, words: int, *, same: bool = False) -> None:
        self._words = words
        self._random = random.Random(secrets.randbits(64))  # noqa: S311 - to differ, not to be secret
        self._only = self._make() if same else ""

    def next(self) -> str:
        return self._only or self._make()

    def _make(self) -> str:
        """The random part comes first: what is alike at the beginning is computed only once."""
        words = " ".join(self._random.choice(_WORDS) for _ in range(self._words))
        return f"{words}\n\n{_ORDER}"


def words_for(tokens: int, few: tuple[int, int], many: tuple[int, int]) -> int:
    """How many words make a prompt of so many tokens, by two that were counted: (words, tokens) of each."""
    (words_1, tokens_1), (words_2, tokens_2) = few, many
    each = max((tokens_2 - tokens_1) / (words_2 - words_1), 1.0)  # a server may leave out what it has cached
    return max(1, round((tokens - tokens_1) / each + words_1))
