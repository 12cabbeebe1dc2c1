"""What uv's error messages mean for a user, and what to do about them."""

import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from vllama.errors import InstallError


@dataclass(frozen=True)
class _Cause:
    """A kind of failure: the text in uv's output that shows it, and templates of what to say.

    {0} is the pattern's first group; {host}, {home}, {tag} and {machine} are filled in too.
    """

    pattern: str
    message: str
    advice: str


_MIRROR = "set UV_DEFAULT_INDEX to a mirror, or UV_FIND_LINKS to a folder with the wheels"
_REFETCH = "run `uv cache clean`, or fetch that wheel again where it lies in a folder of yours, and repeat"

# The first that matches is told: the specific ones stand above the general ones.
_CAUSES = (
    _Cause(
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        "make room in {home} and in uv's cache (`uv cache clean`), or set VLLAMA_HOME and UV_CACHE_DIR to another disk",
    ),
    _Cause(
        r"network was disabled",
        "uv is told to work offline, and its cache lacks packages of the engine",
        "unset UV_OFFLINE, or set UV_FIND_LINKS to a folder with the wheels",
    ),
    _Cause(
        r"invalid peer certificate",
        "the certificate of {host} is not trusted",
        "set SSL_CERT_FILE to your network's certificates",
    ),
    _Cause(
        r"(401 Unauthorized|403 Forbidden|407 Proxy Authentication Required)",
        "{host} refuses access ({0})",
        "correct the name and password in the URL of the package index or of the proxy",
    ),
    _Cause(
        r"HTTP status (?:client|server) error \((\d+ [^)]*)\)",
        "{host} answers {0}",
        f"try again later, or {_MIRROR}",
    ),
    _Cause(
        r"https://download\.pytorch\.org",
        "PyTorch's package index, download.pytorch.org, cannot be reached",
        "check the network and HTTPS_PROXY, or set UV_FIND_LINKS to a folder with torch's CPU wheel for {tag}",
    ),
    _Cause(
        r"error sending request|operation timed out|Request failed after|connection (?:reset|closed)|error decoding",
        "{host} cannot be reached",
        f"check the network and HTTPS_PROXY, or {_MIRROR}",
    ),
    _Cause(
        r"(?:[Hh]ash mismatch for|structure of|Failed to download) `([^`]+)`"
        r"(?:.* was invalid|\s+cause: Failed to extract|\s+cause: [Hh]ash mismatch|)",
        "the wheel of {0} is damaged",
        _REFETCH,
    ),
    _Cause(
        r"No solution found[^\n]*\n\s*cause: Because (.+?)(?:,? and |, we can)",
        "the engine's packages do not fit together on {tag}, {machine}: {0}",
        "correct the configured package index, or add what is missing to a folder named by UV_FIND_LINKS",
    ),
    _Cause(
        r"`([^`]+)`[^\n]*(?:Permission denied|Read-only file system)",
        "{0} cannot be written",
        "correct its permissions, or set VLLAMA_HOME (UV_CACHE_DIR for uv's cache) to a folder of yours",
    ),
    _Cause(
        r"uv was killed by (SIGKILL)",
        "uv was killed by {0} (often because memory ran out)",
        "close other programs, or set UV_CONCURRENT_DOWNLOADS=4, and repeat",
    ),
)


def explain(output: str, home: Path) -> InstallError:
    """What a run of uv that failed means. output: all that uv printed."""
    # uv writes the conditions of a requirement into its name: torch{platform_machine == 'x86_64'}==2.13.0
    text = re.sub(r"\{[^{}]*\}", "", output)
    facts = {
        "host": _find_host(text),
        "home": home,
        "tag": f"cp{sys.version_info[0]}{sys.version_info[1]}",
        "machine": platform.machine(),
    }
    for cause in _CAUSES:
        if found := re.search(cause.pattern, text):
            return InstallError(cause.message.format(*found.groups(), **facts), cause.advice.format(**facts))
    return InstallError(f"uv failed: {_last_telling_line(text)}", "see its output for more")


def is_missing_torch(output: str) -> bool:
    """Whether uv found no torch that fits, with the indexes and folders that it was given."""
    return re.search(r"no versions? of torch\b|torch\S* has no wheels|torch was not found", output) is not None


def _find_host(text: str) -> str:
    urls: list[str] = re.findall(r"https?://([^/\s)`]+)", text)
    return urls[0].rpartition("@")[2] if urls else "the package index"


def _last_telling_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"(error|cause|Caused by):", line)]
    return re.sub(r"^(error|cause|Caused by):\s*", "", (causes or lines or ["without a word"])[-1])
