"""`vllama run` without a prompt: a chat in the terminal."""

from collections.abc import Callable
from pathlib import Path

from vllama.cli._answer import Answer, ask, load_first, print_timings, waiting
from vllama.cli._client import Server
from vllama.cli._images import take_images
from vllama.cli._prompt import Prompt
from vllama.cli._session import Message, Session
from vllama.cli._slash import Commands, Leave
from vllama.cli._wrap import harmless
from vllama.errors import VllamaError

OpenSession = Callable[[str], Session]


def chat(server: Server, session: Session, open_session: OpenSession, history: Path) -> None:
    """Talk until the person leaves."""
    prompt = Prompt(history)

    def opened(name: str) -> Session:
        return _begin(server, open_session(name))

    commands = Commands(_begin(server, session), server, prompt, opened)
    while True:
        try:
            _turn(server, prompt, commands)
        except KeyboardInterrupt:  # of a model that loads, say
            print()
        except VllamaError as error:
            print(f"error: {error}")
        except (EOFError, Leave):
            return


def _begin(server: Server, session: Session) -> Session:
    """Load the model, so that the first answer does not wait for it, and show what was said before."""
    load_first(server, session.load_request())
    load_first(server, session.load_request())
    with waiting():
        server.post("/api/generate", session.load_request(), patient=True)
    for message in session.shown.get("messages") or ():
        if message["role"] == "user":
            print(f">>> {harmless(message['content'])}")
        elif message["role"] == "assistant":
            print(f"{harmless(message['content'])}\n")
    return session


def _turn(server: Server, prompt: Prompt, commands: Commands) -> None:
    line = _read(prompt)
    if not line:
        return
    if commands.takes(line):
        if said := commands.run(line):
            print(said)
        return
    _answer(server, commands.session, _message(line, commands.session))


def _read(prompt: Prompt) -> str:
    try:
        return prompt.read().strip()
    except KeyboardInterrupt:
        if prompt.is_empty:
            print("Use Ctrl + d or /bye to exit.")
        return ""


def _message(text: str, session: Session) -> Message:
    if session.can("vision"):
        text, images = take_images(text)
        if images:
            return {"role": "user", "content": text, "images": images}
    return {"role": "user", "content": text}


def _answer(server: Server, session: Session, message: Message) -> None:
    """Have it answered. What was said until Ctrl-C counts; what got no answer at all was never said."""
    session.messages.append(message)
    answer = Answer()
    try:
        load_first(server, session.load_request())
        ask(server, "/api/chat", session.chat_request(), session.style, answer)
        print("\n")
    except KeyboardInterrupt:
        print()
    finally:
        if answer.content:
            session.messages.append({"role": "assistant", "content": answer.content})
        else:
            session.messages.pop()
    if session.style.verbose and answer.last:
        print_timings(answer.last)
