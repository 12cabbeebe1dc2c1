"""`vllama serve`: from settings to a listening gateway, and down again."""

import contextlib
import errno
import gc
import ipaddress
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from vllama import descriptors
from vllama.admission import Admission, make_admission
from vllama.app import create_app
from vllama.engine.client import EngineClient
from vllama.engine.command import check_flags, read_flags, user_arguments
from vllama.engine.install import Environment
from vllama.engine.loader import Loader, make_standby
from vllama.engine.memory import most_engines
from vllama.engine.profile import Profile
from vllama.errors import ConfigError
from vllama.gateway import Gateway
from vllama.models import library
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.names import is_valid, parse
from vllama.models.sources import Inspector, cached_models, read_models, stored_models, trained_models
from vllama.models.store import Store
from vllama.progress_log import ShowLoads
from vllama.protocol import bounded
from vllama.scheduling.attached import AttachedScheduler
from vllama.scheduling.local import LocalScheduler
from vllama.security.guard import Guard
from vllama.settings import Settings, unknown_variables

logger = logging.getLogger("vllama")

_PROBE_S = 15
"""Between signs of life on a connection: well below the minute after which the strictest routers forget one."""
_TRUST = "--trust-request-chat-template"


Install = Callable[[Settings], Environment]
"""Gives the engine's environment, built first where it is missing."""


def run(settings: Settings, install: Install, show_loads: ShowLoads | None = None) -> None:
    """Serve until SIGTERM or SIGINT. show_loads: told of models that load, which else is logged.

    What can be wrong is found out before anything starts: raises ConfigError or InstallError.
    """
    _configure_logging(settings.log_level)
    descriptors.raise_limit()
    for variable, meant in unknown_variables(os.environ):
        logger.warning("nothing reads %s%s", variable, f": did you mean {meant}?" if meant else "")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(settings.host, settings.port))
        loopback = ipaddress.ip_address(listener.getsockname()[0]).is_loopback
        if settings.engine_url:
            app = attached_app(settings, loopback=loopback)
        else:
            app = _local_app(settings, install, stack, loopback)
        app.state.gateway.show_loads = show_loads or app.state.gateway.show_loads
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=bounded(app.state.gateway.admission.connections),
            ws="none",
            log_config=None,
            access_log=settings.log_level == "debug",
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=None if settings.drain_timeout == math.inf else math.ceil(settings.drain_timeout),
        )
        gc.freeze()  # what is there by now stays: looking at all of it again would hold up the answers of then
        _announce(listener, app.state.gateway, everyone=not loopback and not settings.api_keys)
        _Server(config, app.state.gateway, settings.drain_timeout).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's, which says how it stops and ends with our exit status, not with the signal that stopped it."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, drain_timeout: float) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._drain_timeout = drain_timeout

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            # The engine's guard sees our end and kills what is left.
            print("vllama: stopped at once", file=sys.stderr)
            os._exit(130)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # What waits for a load would not be answered in time.
        self._gateway.drain()
        if running := len(self.server_state.tasks):
            logger.info("stopping: %g s for what runs, %d in all (Ctrl-C: stop now)", self._drain_timeout, running)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds the port. Raises ConfigError where it cannot be had, saying why."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a name"
        raise ConfigError(f"{host!r} is no address of this machine ({reason})", "correct --host") from None
    # Of a name that has both, like localhost, the address that every client knows.
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    with contextlib.ExitStack() as failed:
        try:
            listener = failed.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _keep_connections(listener)
            listener.bind(address)
            listener.listen(2048)
        except OSError as error:
            where = f"{_bracketed(host)}:{port}"
            raise ConfigError(f"cannot listen on {where} ({error.strerror})", _advice(error, port)) from None
        failed.pop_all()
    return listener


def _keep_connections(listener: socket.socket) -> None:
    """Connections that it accepts stay known to what is on their way, which forgets those on which nothing is sent.

    A client that waits for a load gets no byte for minutes.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
        listener.setsockopt(socket.IPPROTO_TCP, option, _PROBE_S)


def _advice(error: OSError, port: int) -> str:
    if port < 1024 and isinstance(error, PermissionError):
        return "choose a port above 1023 with --port"
    if error.errno != errno.EADDRINUSE:
        return "choose another address with --host"
    if port == 11434:
        return "another Ollama or vLLama may be running: stop it, or choose another port with --port"
    return "choose another port with --port"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _local_app(settings: Settings, install: Install, stack: contextlib.ExitStack, loopback: bool) -> Starlette:
    store = Store(settings.home / "models")
    catalogue = open_catalogue(settings, store)
    with contextlib.suppress(ConfigError):  # a disk that cannot be written
        store.collect()
    return local_app(settings, catalogue, install(settings), stack, store=store, loopback=loopback)


def open_catalogue(settings: Settings, store: Store, *, strict: bool = True) -> Catalogue:
    """The models that the settings name, and those found on the disk.

    strict: raise ConfigError where one that the settings name cannot be served.
    """
    inspector, models = Inspector(), list[Model]()

    def sources() -> Iterator[str]:
        """What has a name already."""
        yield from (model.source for model in models)
        for stored in store:
            yield from (origin.name for origin in stored.manifest.origins)

    shelves = (
        stored_models(store, inspector),
        trained_models(settings.checkpoints, inspector),
        cached_models(inspector, sources),
    )
    found = Catalogue([], shelves)
    found.refresh()
    models += read_models(settings.model, settings.lora, inspector, list(found))
    if strict and (faults := [model.fault for model in models if model.fault is not None]):
        raise faults[0]
    catalogue = Catalogue(models, shelves)
    catalogue.refresh()
    return catalogue


def local_app(
    settings: Settings,
    catalogue: Catalogue,
    environment: Environment,
    stack: contextlib.ExitStack,
    *,
    store: Store | None = None,
    loopback: bool = False,
) -> Starlette:
    """The gateway before engines of its own. Raises ConfigError for flags that vLLM does not take."""
    check_flags(user_arguments(settings), read_flags(environment.flags))
    standby = make_standby(settings, environment) if settings.standby else None
    loader = Loader(settings, environment, catalogue, library.sibling, standby)
    stack.callback(loader.close)
    loader.records.end_leftovers()
    scheduler = LocalScheduler(
        loader,
        keep_alive=settings.keep_alive,
        max_queue=settings.max_queue,
        max_requests=settings.max_requests_per_engine,
        max_loaded=_max_loaded(settings, environment.profile),
        pinned=_keys(catalogue, settings.pin),
        warm=_keys(catalogue, settings.keep_warm),
    )
    if standby is not None:
        standby.on_change = scheduler.changes.note
    first = dict.fromkeys((*settings.pin, *settings.preload, *settings.keep_warm))
    preload = [_named(catalogue, name) for name in first]
    on_gpu = environment.profile is not Profile.CPU
    gateway = Gateway(
        catalogue, scheduler, standby=standby, store=store, preload=preload, on_gpu=on_gpu,
        max_body=_max_body(settings), admission=_admission(settings), trusts_templates=_trusts_templates(settings),
    )  # fmt: skip
    return create_app(gateway, _guard(settings, loopback))


def _max_loaded(settings: Settings, profile: Profile) -> int:
    if settings.vllm_port is not None:  # which a second engine could not have, too
        return 1
    return settings.max_loaded_models or most_engines(profile)


def _keys(catalogue: Catalogue, names: Iterable[str]) -> frozenset[str]:
    return frozenset(_named(catalogue, name).name.key for name in names)


def _named(catalogue: Catalogue, name: str) -> Model:
    """A model that a setting names. Raises ConfigError where there is none, with the nearest, or it is broken."""
    if is_valid(name) and (model := catalogue.find(parse(name))) is not None:
        if model.fault is not None:
            raise model.fault
        return model
    near = get_close_matches(name, [model.name.short for model in catalogue], n=1, cutoff=0.0)
    advice = f"did you mean {near[0]}?" if near else "name a model that is served"
    raise ConfigError(f"there is no model {name!r} to preload, pin or keep warm", advice)


def _trusts_templates(settings: Settings) -> bool:
    """Whether the user lets clients send chat templates; our engines have to take them from us in any case."""
    given = (argument.replace("_", "-") for argument in user_arguments(settings))
    decided = [argument for argument in given if argument in (_TRUST, _TRUST.replace("--", "--no-", 1))]
    return decided[-1:] == [_TRUST]


def attached_app(settings: Settings, *, loopback: bool = False) -> Starlette:
    """The gateway before a server that somebody else runs."""
    assert settings.engine_url is not None
    client = EngineClient(settings.engine_url, settings.engine_api_key)
    catalogue = Catalogue([])
    scheduler = AttachedScheduler(client, catalogue, settings.max_requests_per_engine)
    gateway = Gateway(
        catalogue, scheduler, attached=client, max_body=_max_body(settings), admission=_admission(settings)
    )
    return create_app(gateway, _guard(settings, loopback))


def _max_body(settings: Settings) -> int:
    return settings.max_body_mb * 2**20


def _admission(settings: Settings) -> Admission:
    return make_admission(settings.max_requests, _max_body(settings), descriptors.limit())


def _guard(settings: Settings, loopback: bool) -> Guard:
    return Guard(settings.origins, settings.api_keys, loopback)


def _announce(listener: socket.socket, gateway: Gateway, *, everyone: bool) -> None:
    """everyone: whether whoever reaches the address is let in, and it is more than this machine."""
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", _bracketed(host), port)
    if gateway.attached is not None:
        logger.info("serving the models of %s", gateway.attached.url)
    else:
        logger.info("models: %s", ", ".join(model.name.short for model in gateway.catalogue if not model.fault))
    if everyone:
        logger.warning("anyone who reaches this address can use it: set VLLAMA_API_KEYS to ask for keys")


def _configure_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("vllama").setLevel(level.upper())
    logging.getLogger("uvicorn.access").setLevel(level.upper())
    # Tracebacks of unexpected errors come from uvicorn's logger; that the time to drain is over is no error.
    errors = logging.getLogger("uvicorn.error")
    errors.setLevel(logging.WARNING)
    errors.addFilter(lambda record: not record.getMessage().startswith("Cancel "))
