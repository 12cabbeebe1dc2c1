"""A log that is rotated: its end, and what is added to it."""

import os
from collections import deque
from io import TextIOWrapper
from pathlib import Path
from typing import Self


class LogFile:
    """Raises OSError, as files do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def tail(self, lines: int | None) -> list[str]:
        """The last lines there are now, also of what was rotated away as far as they are wanted; None: all."""
        now = deque(self._file, maxlen=lines)
        older, number = deque[str](), 1
        while lines is None or len(older) + len(now) < lines:
            part = self._path.with_name(f"{self._path.name}.{number}")
            if not part.is_file():
                break
            with _open(part) as file:
                older.extendleft(reversed(list(file)))
            number += 1
        return list(deque([*older, *now], maxlen=lines))

    def more(self) -> str:
        """What was written since, "" where that is nothing; of the new file where this one was rotated."""
        if text := self._file.read():
            return text
        try:
            status = self._path.stat()
        except FileNotFoundError:  # between two files
            return ""
        if status.st_ino != os.fstat(self._file.fileno()).st_ino:
            self._file.close()
            self._file = _open(self._path)
        elif status.st_size < os.lseek(self._file.fileno(), 0, os.SEEK_CUR):  # it was cut
            self._file.seek(0)
        return self._file.read()


def _open(path: Path) -> TextIOWrapper:
    return path.open(errors="replace", newline="\n")
