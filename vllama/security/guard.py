"""Everything that stands before the routes, in Ollama's order."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp

from vllama.security.authentication import Authentication
from vllama.security.cors import Cors
from vllama.security.hosts import Hosts
from vllama.security.origins import Origins


@dataclass(frozen=True)
class Guard:
    """Who may use the gateway.

    origins: of web pages, besides the built-in ones. keys: the API keys' digests; without any, everyone is let in.
    loopback: whether the gateway listens to this machine only.
    """

    origins: Sequence[str] = ()
    keys: Sequence[bytes] = field(default=(), repr=False)
    loopback: bool = False

    def before(self, app: ASGIApp) -> ASGIApp:
        """The app, for those who may use it."""
        if self.keys:
            app = Authentication(app, self.keys)
        return Cors(Hosts(app, loopback=self.loopback), Origins(self.origins))
