"""Errors that reach a person: each says what is wrong and what to do about it.

`VllamaError` is the root. The command line prints it as one line without a traceback; over HTTP the routes turn
`ApiError` into the status and the body of the client's dialect.
"""


class VllamaError(Exception):
    """Something a user can act on.

    message: what is wrong, one sentence without a full stop at the end.
    advice: what to do, or "" where the message says it all.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message}: {self.advice}" if self.advice else self.message


class ConfigError(VllamaError):
    """A setting, a flag or a file of the user's is wrong; found before anything starts."""


class InstallError(VllamaError):
    """The engine's environment cannot be built or used."""


class EngineError(VllamaError):
    """An engine did not start, died, or could not be reached."""


class EngineGoneError(EngineError):
    """An engine was lost under a request: it ended, broke off, or says itself that it cannot go on."""


class EngineBusyError(EngineError):
    """An engine could not be asked, as this machine has no file, port or memory left for a connection."""


class DoesNotFitError(EngineError):
    """A model's engine needs more memory than there is for all."""


class ApiError(Exception):
    """A request that is answered with an error status.

    status: HTTP status code. message: the text for `{"error": ...}`; clients match on some of them.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
