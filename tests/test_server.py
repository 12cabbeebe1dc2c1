"""`vllama serve`'s own part: holding the port, telling of it, and ending."""

import errno
import json
import logging
import math
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.served import environment, port_is_free, wait_until
from vllama import demo, server
from vllama.engine.install import Environment
from vllama.engine.profile import Profile
from vllama.errors import ConfigError
from vllama.gateway import Gateway
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.models.store import Manifest, Origin, Store
from vllama.server import _advice, _announce, attached_app, bind, local_app, open_catalogue
from vllama.settings import Settings

HAS_IPV6 = (
    socket.has_ipv6 and Path("/proc/net/if_inet6").exists() and "00000001" in Path("/proc/net/if_inet6").read_text()
)
ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        pytest.param("::1", "::1", marks=ipv6),
        pytest.param("::", "::", marks=ipv6),
    ],
)
def test_bind(host: str, address: str) -> None:
    with bind(host, 0) as listener:
        assert listener.getsockname()[0] == address
        with socket.create_connection(("127.0.0.1" if "." in address else "::1", listener.getsockname()[1]), 5):
            pass
        assert not listener.get_inheritable()


def test_accepted_connections_are_kept_alive() -> None:
    """A client that waits for a load is not forgotten by what is between."""
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
                assert connection.getsockopt(socket.IPPROTO_TCP, option) == 15


def test_localhost_is_the_address_that_every_client_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with bind("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=ipv6)])
def test_a_port_in_use(host: str) -> None:
    with bind(host, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as error:
            bind(host, port)
    shown = f"[{host}]" if ":" in host else host
    expected = f"cannot listen on {shown}:{port} (Address already in use): choose another port with --port"
    assert str(error.value) == expected
    bind(host, port).close()


@pytest.mark.parametrize(
    ("host", "text"),
    [
        (
            "192.0.2.1",
            "cannot listen on 192.0.2.1:0 (Cannot assign requested address): choose another address with --host",
        ),
        ("a..b", "'a..b' is no address of this machine (not a name): correct --host"),
        ("x" * 70, f"'{'x' * 70}' is no address of this machine (not a name): correct --host"),
        ("", "'' is no address of this machine (Name or service not known): correct --host"),
    ],
)
def test_a_bad_address(host: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        bind(host, 0)
    assert str(error.value) == text


@pytest.mark.parametrize(
    ("error", "port", "advice"),
    [
        (PermissionError(errno.EACCES, ""), 80, "choose a port above 1023 with --port"),
        (OSError(errno.EADDRINUSE, ""), 11434, "another Ollama or vLLama may be running: stop it, or choose another"),
        (OSError(errno.EADDRNOTAVAIL, ""), 11434, "choose another address with --host"),
    ],
)
def test_advice(error: OSError, port: int, advice: str) -> None:
    assert _advice(error, port).startswith(advice)


OPEN = "anyone who reaches this address can use it: set VLLAMA_API_KEYS to ask for keys"


def announced(caplog: pytest.LogCaptureFixture, host: str, gateway: Gateway, *, everyone: bool = False) -> list[str]:
    caplog.set_level(logging.INFO, "vllama")
    with bind(host, 0) as listener:
        port = listener.getsockname()[1]
        _announce(listener, gateway, everyone=everyone)
    return [record.message.replace(str(port), "PORT") for record in caplog.records]


def test_announce(caplog: pytest.LogCaptureFixture, models: dict[str, Model]) -> None:
    gateway = Gateway(Catalogue(models.values()), None)  # type: ignore[arg-type]
    expected = ["listening on http://127.0.0.1:PORT", "models: demo:latest, demo-embed:latest, plain:latest"]
    assert announced(caplog, "127.0.0.1", gateway) == expected


@ipv6
def test_announce_to_everybody(caplog: pytest.LogCaptureFixture) -> None:
    gateway = attached_app(Settings(engine_url="http://127.0.0.1:1")).state.gateway
    assert announced(caplog, "::", gateway, everyone=True) == [
        "listening on http://[::]:PORT",
        "serving the models of http://127.0.0.1:1",
        OPEN,
    ]


def test_flags_are_checked_before_anything_starts(
    tmp_path: Path, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, run = tmp_path / "flags.json", Path(tempfile.mkdtemp(prefix="run-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    flags.write_text(json.dumps({"flags": [{"names": ["--seed"], "nargs": None, "type": "int", "choices": None}]}))
    environment = Environment(Path("/engine/bin/python"), "0.32.0", Profile.CPU, flags)
    with ExitStack() as stack:
        with pytest.raises(ConfigError, match="vLLM has no flag --speed"):
            local_app(Settings(home=tmp_path, vllm_args=["--speed"]), Catalogue([]), environment, stack)
        assert not list(run.iterdir())
        settings = Settings(home=tmp_path, vllm_args=["--seed", "1"])
        local_app(settings, Catalogue(models.values()), environment, stack)
        assert list(run.iterdir()), "where sockets will lie"
    run.rmdir()  # and nothing is left in it


@pytest.mark.parametrize(
    ("arguments", "trusted"),
    [
        ([], False),
        (["--trust-request-chat-template"], True),
        (["--trust_request_chat_template"], True),
        (["--trust-request-chat-template", "--no-trust-request-chat-template"], False),
    ],
)
def test_whether_clients_are_trusted_with_templates(
    tmp_path: Path, models: dict[str, Model], arguments: list[str], trusted: bool
) -> None:
    flags = tmp_path / "flags.json"
    names = ["--trust-request-chat-template", "--no-trust-request-chat-template"]
    flags.write_text(json.dumps({"flags": [{"names": names, "nargs": 0, "type": None, "choices": None}]}))
    environment = Environment(Path("/engine/bin/python"), "0.32.0", Profile.CPU, flags)
    with ExitStack() as stack:
        settings = Settings(home=tmp_path, vllm_args=arguments)
        gateway: Gateway = local_app(settings, Catalogue(models.values()), environment, stack).state.gateway
        assert gateway.trusts_templates is trusted


def test_what_is_preloaded(tmp_path: Path, models: dict[str, Model]) -> None:
    """Pinned models first, those to keep warm last, each once, in the order in which they were named."""
    flags = tmp_path / "flags.json"
    flags.write_text('{"flags": []}')
    environment = Environment(Path("/engine/bin/python"), "0.32.0", Profile.CPU, flags)

    broken = replace(models["plain"], name=parse("broken"), fault=ConfigError("its weights are gone"))
    catalogue = Catalogue([*models.values(), broken])

    def preloaded(**settings: list[str]) -> list[Model]:
        with ExitStack() as stack:
            app = local_app(Settings(home=tmp_path, **settings), catalogue, environment, stack)
            return list(app.state.gateway.preload)

    assert preloaded() == []
    assert preloaded(preload=["demo-embed", "Demo"]) == [models["demo-embed"], models["demo"]]
    assert preloaded(preload=["plain", "demo:latest"], pin=["demo:latest"]) == [models["demo"], models["plain"]]
    assert preloaded(keep_warm=["demo", "plain"], preload=["plain"]) == [models["plain"], models["demo"]]
    with pytest.raises(ConfigError, match="its weights are gone"):
        preloaded(pin=["broken"])
    for setting in ("pin", "preload", "keep_warm"):
        with pytest.raises(ConfigError) as error:
            preloaded(**{setting: ["demo-embad"]})
        assert str(error.value) == (
            "there is no model 'demo-embad' to preload, pin or keep warm: did you mean demo-embed:latest?"
        )


def test_what_is_pinned_and_kept_warm(tmp_path: Path, models: dict[str, Model]) -> None:
    flags = tmp_path / "flags.json"
    flags.write_text('{"flags": []}')
    environment = Environment(Path("/engine/bin/python"), "0.32.0", Profile.CPU, flags)
    settings = Settings(home=tmp_path, pin=["Demo"], keep_warm=["plain:latest"])
    with ExitStack() as stack:
        app = local_app(settings, Catalogue(models.values()), environment, stack)
        terms = app.state.gateway.scheduler._terms
    assert (terms.pinned, terms.warm) == ({models["demo"].name.key}, {models["plain"].name.key})


SERVE = "import sys; from vllama import server, settings; server.run(settings.load(host=sys.argv[1], port=0), None)"


@contextmanager
def running(tmp_path: Path, host: str = "127.0.0.1", **variables: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    log = tmp_path / "log"
    command = [sys.executable, "-c", SERVE, host]
    variables = environment(VLLAMA_ENGINE_URL="http://127.0.0.1:1", VLLAMA_HOME=str(tmp_path), **variables)
    with log.open("wb") as output, subprocess.Popen(command, env=variables, stderr=output, cwd=tmp_path) as process:
        try:
            wait_until(lambda: "serving the models" in log.read_text() or process.poll() is not None, 20, "it listens")
            yield process, log.read_text().partition("listening on ")[2].partition("\n")[0]
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "variables", "host", "of_others"),
    [
        (signal.SIGTERM, {}, "127.0.0.1", 403),
        (signal.SIGINT, {"VLLAMA_DRAIN_TIMEOUT": "-1"}, "0.0.0.0", 200),
    ],
    ids=["SIGTERM", "SIGINT, for everybody, without a limit to drain"],
)
def test_run_until_a_signal(tmp_path: Path, number: int, variables: dict[str, str], host: str, of_others: int) -> None:
    with running(tmp_path, host, **variables) as (process, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(url, timeout=5, trust_env=False).text == "Ollama is running"
        assert httpx.get(url, headers={"Host": "evil.example.com"}, timeout=5, trust_env=False).status_code == of_others
        process.send_signal(number)
        assert process.wait(10) == 0, "ends with our status, not with the signal's"
        assert port_is_free(url)
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert (OPEN in log) is (host == "0.0.0.0")


def test_who_may_use_it_is_what_the_settings_say(tmp_path: Path) -> None:
    """And neither the log nor an answer shows a key."""
    variables = {
        "VLLAMA_API_KEYS": "correct-horse,battery-staple",
        "OLLAMA_ORIGINS": "https://app.example.com",
        "VLLAMA_MAX_BODY_MB": "1",
        "VLLAMA_LOG_LEVEL": "debug",
    }
    log = tmp_path / "log"
    with running(tmp_path, "0.0.0.0", **variables) as (_, url), client_of(url) as client:
        answers = [
            client.get("/api/tags"),
            client.get("/api/status", headers={"Authorization": "Bearer correct-horse-"}),
            client.get("/api/status", headers={"Authorization": "Bearer battery-staple"}),
            client.get("/", headers={"Host": "gpu-server.example.com"}),
            client.get("/", headers={"Origin": "https://app.example.com"}),
            client.get("/", headers={"Origin": "https://evil.example.com"}),
            client.post("/api/show", content=b" " * (2**20 + 1), headers={"X-Api-Key": "correct-horse"}),
        ]
        assert [answer.status_code for answer in answers] == [401, 401, 200, 200, 200, 403, 413]
    shown = log.read_text() + "".join(f"{answer.headers} {answer.text}" for answer in answers)
    assert '"GET /api/status HTTP/1.1" 200' in shown
    assert not [key for key in variables["VLLAMA_API_KEYS"].split(",") if key in shown]
    assert OPEN not in shown


def client_of(url: str) -> httpx.Client:
    return httpx.Client(base_url=url.replace("0.0.0.0", "127.0.0.1"), trust_env=False)


def test_a_failure_gives_the_port_back(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[socket.socket] = []

    def fail(_settings: Settings) -> Environment:
        raise ConfigError("no")

    def keep(host: str, port: int) -> socket.socket:
        held.append(bind(host, port))
        return held[-1]

    monkeypatch.setattr(server, "bind", keep)
    monkeypatch.setattr(server, "_configure_logging", lambda _level: None)
    with pytest.raises(ConfigError):
        server.run(Settings(port=0, keep_alive=math.inf), fail)
    assert held[0].fileno() == -1


def test_an_adapter_that_is_named_at_the_start_finds_a_base_that_was_made_before(tmp_path: Path) -> None:
    store = Store(tmp_path / "models")
    store.write(parse("mine"), Manifest(weights=Origin("demo", "demo")))
    settings = Settings(home=tmp_path, model=["demo-embed"], lora=[f"polly={demo.ADAPTER}@mine"])
    found = open_catalogue(settings, store).find(parse("polly"))
    assert found is not None
    assert (found.parent, found.source) == ("mine:latest", str(demo.CHAT))
    unknown = Settings(home=tmp_path, lora=[f"polly={demo.ADAPTER}@yours"])
    with pytest.raises(ConfigError, match="the adapter polly:latest wants the base yours, which is not here"):
        open_catalogue(unknown, store)
    assert open_catalogue(unknown, store, strict=False).find(parse("polly")) is not None
