"""What `vllama serve` shows of loads: on a terminal a line below the log, which goes on above it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from vllama.progress_log import ShowLoads


@contextmanager
def loads_shown() -> Iterator["ShowLoads"]:
    """Yield what shows reports: as lines of the log, unless the log is a terminal's."""
    from vllama.progress_log import LoadLog

    if not sys.stderr.isatty():
        yield LoadLog()
        return
    from vllama.cli._board import Above, Board, QuietConsole

    console = QuietConsole(file=sys.stderr)
    if not console.is_interactive:
        yield LoadLog()
        return
    board = Board(console)
    with redirect_stderr(cast("TextIO", Above(sys.stderr, board))):
        try:
            yield board
        finally:
            board([])
