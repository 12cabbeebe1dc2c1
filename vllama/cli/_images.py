"""Paths of images in what a person writes or drops into the terminal."""

import base64
import re
import sys
from pathlib import Path

from vllama.errors import VllamaError

_SUFFIX = r"\.(?:jpe?g|png|webp)"
_START = r"(?:\.{0,2}/|~/)"
_PATH = re.compile(
    rf"'(?P<single>{_START}[^']+{_SUFFIX})'"
    rf'|"(?P<double>{_START}[^"]+{_SUFFIX})"'
    rf"|(?<!\S)(?P<bare>{_START}(?:\\.|[^\s\\'\"])+?{_SUFFIX})(?=\W|$)",
    re.IGNORECASE,
)


def take_images(text: str) -> tuple[str, list[str]]:
    """The text without the paths of images that exist, and those images in base64. Raises VllamaError."""
    images = []

    def take(match: re.Match[str]) -> str:
        path = _path(match)
        if not path.is_file():
            return match[0]
        images.append(_read(path))
        print(f"Added image '{path}'", file=sys.stderr)
        return ""

    return _PATH.sub(take, text).strip(), images


def names_image(text: str) -> bool:
    """Whether it begins with an image's path."""
    match = _PATH.match(text)
    return match is not None and _path(match).is_file()


def _path(match: re.Match[str]) -> Path:
    quoted = match["single"] or match["double"]
    # Terminals put a backslash before the spaces of a path that is dropped into them.
    return Path(quoted or re.sub(r"\\(.)", r"\1", match["bare"])).expanduser()


def _read(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise VllamaError(f"could not read the image {path} ({error.strerror})") from None
