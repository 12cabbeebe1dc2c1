"""Helper processes of the gateway, as the gateway sees them: they print one JSON object a line, the last one says how
it ended, and they live no longer than whoever waits for them."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

_LONGEST_LINE = 10_000_000
STALL_S = 300.0
"""Most seconds between two lines: a download that shows no progress would keep its place from others."""

_TOKEN = re.compile(r"\bhf_\w{16,}")

Message = dict[str, Any]


async def start(module: str, arguments: Sequence[str]) -> asyncio.subprocess.Process:
    """In a process group of its own, with a pipe as stdin whose end tells it that we are gone."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        limit=_LONGEST_LINE,
    )


async def follow(
    process: asyncio.subprocess.Process, report: Callable[[Message], None], job: Message | None = None
) -> Message:
    """The message that ended it, which has `done` or `error`; the others are reported. Cancelling ends the process.

    job: what it is to do, written to its stdin.
    """
    complaint = asyncio.create_task(_tail(process))
    try:
        if job is not None:
            assert process.stdin is not None
            process.stdin.write(json.dumps(job).encode() + b"\n")
        result = await _messages(process, report)
    finally:
        # Reached on cancellation too: nobody else ends this process.
        await asyncio.shield(_end(process))
        said = await complaint
    if "done" in result or result.get("detail"):
        return result
    return {"error": "failed", **result, "detail": said or "the process ended without a word"}


def without_token(text: str) -> str:
    """A text that others may read."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name):
            text = text.replace(token, "***")
    return _TOKEN.sub("***", text)


async def _messages(process: asyncio.subprocess.Process, report: Callable[[Message], None]) -> Message:
    assert process.stdout is not None
    while line := await _next_line(process.stdout):
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if not isinstance(message, dict):
            continue
        if "done" in message or "error" in message:
            return message
        report(message)
    return {}


async def _next_line(output: asyncio.StreamReader) -> bytes:
    """The next line, or what stands for it when none has come for STALL_S."""
    try:
        async with asyncio.timeout(STALL_S):
            return await output.readline()
    except TimeoutError:
        return json.dumps({"error": "interrupted", "detail": f"no byte came for {STALL_S:.0f} s"}).encode()


async def _tail(process: asyncio.subprocess.Process) -> str:
    """The last line on stderr; reading all of it keeps the process from blocking on a full pipe."""
    assert process.stderr is not None
    last = ""
    while chunk := await process.stderr.read(65536):
        last = (last + chunk.decode(errors="replace"))[-2000:]
    lines = last.strip().splitlines()
    return without_token(lines[-1]) if lines else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.stdin.close()
    while await process.stdout.read(65536):
        pass
    await process.wait()
