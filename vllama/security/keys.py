"""API keys. In memory are only their digests, from the moment the settings are read."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator

RawHeaders = Iterable[tuple[bytes, bytes]]


def digest(key: str) -> bytes:
    """What is kept of a key. Raises ValueError, which does not show it, where no client could send it."""
    if not re.fullmatch("[!-~]+", key):
        raise ValueError("a key consists of visible ASCII characters, without blanks")
    return _digest(key.encode())


def sent_keys(headers: RawHeaders) -> Iterator[bytes]:
    """The keys in a request: `Authorization: Bearer KEY`, and Anthropic's `x-api-key: KEY`."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield token.strip()


def any_valid(sent: Iterable[bytes], digests: Iterable[bytes]) -> bool:
    """Whether one of the keys is right. Every pair is compared in full: the time it takes tells nothing."""
    known = list(digests)
    matches = [hmac.compare_digest(_digest(key), right) for key in sent for right in known]
    return any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
