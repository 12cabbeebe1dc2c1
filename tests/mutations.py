"""Requests with something wrong in them, each made from a valid one and a number, and the least of one that matters."""

import copy
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

RAW = {
    "@nan@": b"NaN",
    "@infinity@": b"-Infinity",
    "@too large@": b"1e400",
    "@digits@": b"1" + 400 * b"0",
    "@more digits@": b"-" + 5000 * b"9",
    "@tiny@": b"1e-400",
    "@half a character@": rb'"a \ud83d b"',
    "@the other half@": rb'"\ude00"',
    "@escaped zero@": rb'"\u0000"',
    "@bad escape@": rb'"\x"',
    "@no utf-8@": b'"\xff\xfe\xc3"',
    "@encoded surrogate@": b'"\xed\xa0\x80"',
    "@control@": b'"\x01\n"',
    "@deep lists@": 2000 * b"[" + 2000 * b"]",
    "@deeper lists@": 100_000 * b"[" + 100_000 * b"]",
    "@open lists@": 100_000 * b"[",
    "@deep objects@": 500 * b'{"a":' + b"1" + 500 * b"}",
    "@long@": b'"' + 100_000 * b"x" + b'"',
    "@leading zero@": b"007",
    "@hexadecimal@": b"0x1F",
    "@python@": b"None",
}
"""What no JSON library writes. Each stands for itself as a text until the body is written."""
_WRITTEN = {json.dumps(mark).encode(): raw for mark, raw in RAW.items()}

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 0.5, -0.0, 1e308, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30,
    "", " ", "x", "true", "1", "5m", "\u0000", "\u2028", "é" * 90, [], [[]], [None], [1, "x", {}], ["a"], {},
    {"": None}, {"type": 5}, {"a": {"b": [1]}}, {"type": "function", "function": None}, *RAW,
)  # fmt: skip


def mutate(valid: Any, number: int) -> bytes:
    """The valid request with up to three things changed; the same for the same number."""
    dice = random.Random(number)
    body = json.loads(json.dumps(valid))
    if dice.random() < 0.7:
        for _ in range(dice.choice((1, 1, 2, 3))):
            body = dice.choice((_replace, _replace, _replace, _remove, _add, _wrap))(body, dice)
        return _written(body, dice)
    data = _written(body, dice)
    return dice.choice((_truncate, _truncate, _flip, _insert, _cut, _repeat, _noise, _encode, _surround))(data, dice)


def _value(dice: random.Random) -> Any:
    return copy.deepcopy(dice.choice(VALUES))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in the value, with each of its keys or indices."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from _places(inner)


def _replace(body: Any, dice: random.Random) -> Any:
    if not (places := list(_places(body))):
        return _value(dice)
    container, key = dice.choice(places)
    container[key] = _value(dice)
    return body


def _remove(body: Any, dice: random.Random) -> Any:
    if places := list(_places(body)):
        container, key = dice.choice(places)
        del container[key]
    return body


def _add(body: Any, dice: random.Random) -> Any:
    names = ("name", "images", "format", "options", "tools", "context", "think", "stream", "seed", "stop", "messages")
    containers = [body, *(container for container, _ in _places(body))]
    chosen = dice.choice(containers)
    if isinstance(chosen, dict):
        chosen[dice.choice(names)] = _value(dice)
    elif isinstance(chosen, list):
        chosen.append(_value(dice))
    return body


def _wrap(body: Any, dice: random.Random) -> Any:
    if dice.random() < 0.3 or not (places := list(_places(body))):
        return [body]
    container, key = dice.choice(places)
    container[key] = dice.choice(([container[key]], {"text": container[key]}))
    return body


def _written(body: Any, dice: random.Random) -> bytes:
    text = json.dumps(body, ensure_ascii=dice.random() < 0.5)
    if isinstance(body, dict) and body and dice.random() < 0.1:
        name, value = dice.choice(list(body)), json.dumps(_value(dice))
        text = text[:-1] + f", {json.dumps(dice.choice((name, name.upper())))}: {value}" + "}"
    data = text.encode()
    if b'"@' in data:
        for mark, raw in _WRITTEN.items():
            data = data.replace(mark, raw)
    return data


def _truncate(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _flip(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 3))):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def _insert(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(data) + 1)
    return data[:place] + dice.choice((b",", b"{", b"]", b'"', b"\\", b"\x00", b"/**/", b"\xff")) + data[place:]


def _cut(data: bytes, dice: random.Random) -> bytes:
    start, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
    return data[:start] + data[end:]


def _repeat(data: bytes, dice: random.Random) -> bytes:
    start, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
    return data[:end] + data[start:]


def _noise(_data: bytes, dice: random.Random) -> bytes:
    return dice.randbytes(dice.randrange(60))


def _encode(data: bytes, dice: random.Random) -> bytes:
    return data.decode(errors="replace").encode(dice.choice(("utf-8-sig", "utf-16", "utf-32", "utf-7")))


def _surround(data: bytes, dice: random.Random) -> bytes:
    before, after = dice.choice(
        (
            (b"", b" x"),
            (b"", b"\x00"),
            (b"\xef\xbb\xbf", b""),
            (b"data: ", b""),
            (b"[", b"]"),
            (b"", data),
            (b"'", b"'"),
        )
    )
    return before + data + after


async def smallest(body: bytes, fails: Callable[[bytes], Awaitable[bool]], tries: int = 300) -> bytes:
    """The body without pieces that are not needed for it to fail."""
    size = len(body) // 2
    while size and tries:
        start = 0
        while start < len(body) and tries:
            tries -= 1
            shorter = body[:start] + body[start + size :]
            if await fails(shorter):
                body = shorter
            else:
                start += size
        size //= 2
    return body
