"""`vllama` with a window: at SIGUSR1 it writes how many of asyncio's tasks there are to the file in WATCHED.

WATCHED=FILE python -m benchmarks._watched serve ...
"""

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[1]))

from vllama.cli import main


def _tell(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    tasks = sum(isinstance(each, asyncio.Task) and not each.done() for each in gc.get_objects())
    path = Path(os.environ["WATCHED"])
    fresh = path.with_suffix(".new")
    fresh.write_text(str(tasks))
    fresh.replace(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    main()
