"""`vllama logs`: what an engine wrote."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.settings import Settings

_NO_ENGINES = ("engine-install", "standby")
"""Logs that are shown only where they are named."""
_POLL_S = 0.2


@click.command
@click.argument("model", default="", help="Model, or standby; may be left out where there is one log.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    "--lines", "-n", default="100", show_default=True, help="How many of the last lines; 0 for none, all for all."
)
def logs(model: str, follow: bool, lines: str) -> None:
    """Show the log of a model's engine, on the machine where it runs."""
    from vllama.cli._log_file import LogFile
    from vllama.settings import load

    wanted = _count(lines)
    path = _path(load(), model)
    try:
        with LogFile(path) as log, contextlib.suppress(KeyboardInterrupt):
            _print("".join(log.tail(wanted)))
            while follow:
                if text := log.more():
                    _print(text)
                else:
                    time.sleep(_POLL_S)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise VllamaError(f"{error.filename or path} cannot be read ({error.strerror})") from None


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _count(text: str) -> int | None:
    if text != "all" and not text.isdecimal():
        raise VllamaError(f"bad value {text!r} for --lines", "give a number, or all")
    return None if text == "all" else int(text)


def _path(settings: "Settings", model: str) -> Path:
    """The log that the server names, else the one that lies where the engine's would."""
    from vllama.engine.log_path import log_folder

    here = {path.stem: path for path in sorted(log_folder(settings.home).glob("*.log"))}
    found = _told(settings, model) if model else None
    if found is None:
        found = _lying(settings.home, here, model) if model else _only(here)
    if found is None:
        raise VllamaError(
            f"there is no log of {model!r}" if model else "there are several logs, or none: name a model", _known(here)
        )
    return found


def _only(here: dict[str, Path]) -> Path | None:
    engines = [path for name, path in here.items() if name not in _NO_ENGINES]
    return engines[0] if len(engines) == 1 else None


def _known(here: dict[str, Path]) -> str:
    return f"there are {', '.join(here)}" if here else "none was written yet"


def _lying(home: Path, here: dict[str, Path], model: str) -> Path | None:
    from vllama.cli._engines import short_name
    from vllama.engine.log_path import log_path

    names = (model, short_name(model))
    return next((path for path in here.values() if path in {log_path(home, name) for name in names}), None)


def _told(settings: "Settings", model: str) -> Path | None:
    """By a server that runs and has, or had, an engine for the model."""
    from vllama.cli._client import connect
    from vllama.cli._engines import engine_of

    engine = None
    with connect(settings) as server, contextlib.suppress(VllamaError):
        engine = engine_of(server, model)
    if engine is None or not engine["log"]:
        return None
    path = Path(engine["log"])
    if not path.is_file():
        raise VllamaError(f"there is no {path} on this machine", "the log lies where the server runs")
    return path
