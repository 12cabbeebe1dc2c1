"""What an interactive chat does with a line that begins with a slash."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from vllama.cli import _slash_help
from vllama.cli._images import names_image
from vllama.cli._prompt import Prompt
from vllama.cli._session import Session
from vllama.cli._slash_set import set_
from vllama.cli._slash_show import show
from vllama.errors import VllamaError

if TYPE_CHECKING:
    from vllama.cli._client import Server


class Leave(Exception):  # noqa: N818 - no error
    """The person is done."""


class Commands:
    """The commands of one chat. `open_session` makes the session of the model that `/load` names."""

    def __init__(
        self, session: Session, server: "Server", prompt: Prompt, open_session: Callable[[str], Session]
    ) -> None:
        self.session = session
        self._server = server
        self._prompt = prompt
        self._open_session = open_session

    def takes(self, line: str) -> bool:
        """Whether the line is for us: one that begins with an image's path is a message."""
        return line.startswith("/") and not (self.session.can("vision") and names_image(line))

    def run(self, line: str) -> str:
        """Do what the line says. Returns what to print; raises Leave."""
        word, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        match word:
            case "bye" | "exit":
                raise Leave
            case "?" | "help":
                return _slash_help.topic(rest.split(), images=self.session.can("vision"))
            case "set":
                return set_(rest, self.session, self._prompt)
            case "show":
                return show(rest, self.session)
            case "clear":
                self.session.messages.clear()
                return "Cleared session context"
            case "load":
                return self._load(rest)
            case "save":
                return self._save(rest)
        return f"Unknown command '/{word}'. Type /? for help"

    def _load(self, name: str) -> str:
        if not name:
            return "Usage:\n  /load <modelname>"
        print(f"Loading model '{name}'")
        self.session = self._open_session(name)
        return ""

    def _save(self, name: str) -> str:
        if not name:
            return "Usage:\n  /save <modelname>"
        with self._server.stream("/api/create", self.session.create_request(name)) as steps:
            if not any(step.get("status") == "success" for step in steps):
                raise VllamaError(f"'{name}' was not saved", "look at the server's log")
        return f"Created new model '{name}'"
