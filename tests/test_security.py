"""Who may use the gateway: raw requests to a real port, for clients tidy up the headers that matter here."""

import asyncio
import contextlib
import hashlib
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import httpx
import ollama
import psutil
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.conftest import Alone, Serve
from tests.each import each
from tests.fake_engine import EnginesInPlace, Stream, chat_events, whole
from vllama.app import create_app
from vllama.engine.command import engine_environment
from vllama.engine.install import Environment, Profile
from vllama.gateway import Gateway
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.scheduling.local import LocalScheduler
from vllama.security.guard import Guard
from vllama.security.hosts import names_this_machine
from vllama.security.keys import any_valid, digest
from vllama.security.origins import read_origin
from vllama.security.refusals import Refusals
from vllama.streams import begin, poured


@dataclass
class Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def allowed_origin(self) -> list[str]:
        return self.values("access-control-allow-origin")


async def exchange(url: str, request: str, body: bytes = b"") -> Reply:
    """request: its first line and its headers, as they go over the wire; the connection is closed after the reply."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [*request.split("\n"), "Connection: close", *([f"Content-Length: {len(body)}"] if body else []), "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    head, _, content = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    first, *fields = head.decode("latin-1").split("\r\n")
    pairs = [field.partition(": ") for field in fields]
    return Reply(int(first.split()[1]), [(name.lower(), value) for name, _, value in pairs], content)


async def _fail(_request: Request) -> Response:
    raise ValueError


async def _stream(request: Request) -> Response:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"{}\n"
        yield b"{}\n"

    return await begin(request, poured(chunks()), "application/x-ndjson", b"")


def _no_engine(_model: Model) -> NoReturn:
    raise AssertionError


Listen = Callable[[Guard], Awaitable[str]]


@pytest.fixture(scope="module")
async def listen(serve: Serve) -> AsyncIterator[Listen]:
    """A gateway behind a guard, on a port; those with the same guard share one."""
    urls: dict[str, str] = {}
    async with contextlib.AsyncExitStack() as stack:

        async def listening(guard: Guard) -> str:
            key = f"{guard} {guard.keys}"
            if key not in urls:
                scheduler = LocalScheduler(EnginesInPlace(_no_engine), keep_alive=0.0, max_queue=1)
                app = create_app(Gateway(Catalogue([]), scheduler), guard)
                app.router.routes += [Route("/fail", _fail), Route("/stream", _stream)]
                urls[key] = await stack.enter_async_context(serve(app))
            return urls[key]

        yield listening


PAGES = Guard(origins=["https://app.example.com", "https://*.example.org", "chrome-extension://*", "https://a.*.net"])
KEYED = Guard(origins=PAGES.origins, keys=[digest("right"), digest("too")])


@each(
    "origin",
    [
        *("http://localhost", "https://localhost", "http://localhost:3000", "https://localhost:1"),
        *("http://127.0.0.1", "http://127.0.0.1:8080", "https://127.0.0.1:8080", "http://0.0.0.0", "https://0.0.0.0:1"),
        *("app://obsidian.md", "file://", "tauri://localhost", "vscode-webview://1a2b", "vscode-file://vscode-app"),
        *("https://app.example.com", "https://a.b.example.org", "chrome-extension://abc", "https://a.b.net"),
        "HTTP://LOCALHOST:3000",
    ],
)
async def test_pages_that_are_let_in(listen: Listen, origin: str) -> None:
    reply = await exchange(await listen(PAGES), f"GET / HTTP/1.1\nHost: gateway\nOrigin: {origin}")
    assert (reply.status, reply.body) == (200, b"Ollama is running")
    assert (reply.allowed_origin, reply.values("vary")) == ([origin], ["Origin"])


REFUSED = [
    *("https://example.com", "http://app.example.com", "https://app.example.com:8443", "https://app.example.com.evil"),
    *("https://example.org", "https://.example.org.evil", "http://x.example.org", "https://a.net"),
    *("http://localhost.evil.com", "http://127.0.0.1.evil.com", "http://127.0.0.2", "http://[::1]"),
    *("moz-extension://abc", "null", "x", "*", "http://other:1"),
]


@each("origin", REFUSED)
async def test_pages_that_are_refused(listen: Listen, origin: str) -> None:
    reply = await exchange(await listen(PAGES), f"GET / HTTP/1.1\nHost: other\nOrigin: {origin}")
    assert (reply.status, reply.body, reply.allowed_origin) == (403, b"", [])


@pytest.mark.parametrize("guard", [PAGES, KEYED], ids=["without keys", "with keys"])
@each("path", ["/", "/api/chat", "/v1/messages", "/nothing", "/fail"])
@each("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_a_refused_page_is_refused_everything(listen: Listen, method: str, path: str, guard: Guard) -> None:
    reply = await exchange(await listen(guard), f"{method} {path} HTTP/1.1\nHost: g\nOrigin: https://evil.example")
    assert (reply.status, reply.body) == (403, b"")


@pytest.mark.parametrize(
    ("host", "origin"),
    [("gateway:11434", "http://gateway:11434"), ("gateway", "https://gateway"), ("[::1]:1", "http://[::1]:1")],
)
async def test_a_page_of_the_gateways_own_origin(listen: Listen, host: str, origin: str) -> None:
    reply = await exchange(await listen(PAGES), f"GET / HTTP/1.1\nHost: {host}\nOrigin: {origin}")
    assert (reply.status, reply.allowed_origin, reply.values("vary")) == (200, [], [])


@pytest.mark.parametrize(
    ("first_line", "status"),
    [
        ("GET /nothing", 404),
        ("GET /api/chat", 405),
        ("POST /api/chat", 400),
        ("POST /v1/chat/completions", 400),
        ("GET /api/tags/", 301),
        ("GET /fail", 500),
        ("GET /stream", 200),
    ],
)
async def test_a_page_can_read_every_reply(listen: Listen, first_line: str, status: int) -> None:
    reply = await exchange(await listen(PAGES), f"{first_line} HTTP/1.1\nHost: g\nOrigin: https://app.example.com")
    assert (reply.status, reply.allowed_origin) == (status, ["https://app.example.com"])


HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    "X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
    "X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    "X-Stainless-Runtime-Version,X-Stainless-Timeout,X-Api-Key,Anthropic-Version,Anthropic-Beta,"
    "Anthropic-Dangerous-Direct-Browser-Access"
)


@pytest.mark.parametrize("guard", [PAGES, KEYED], ids=["without keys", "with keys"])
@pytest.mark.parametrize("path", ["/", "/api/chat", "/v1/messages", "/nothing", "*"])
async def test_a_preflight(listen: Listen, path: str, guard: Guard) -> None:
    reply = await exchange(
        await listen(guard),
        f"OPTIONS {path} HTTP/1.1\nHost: g\nOrigin: http://localhost:5173\nAccess-Control-Request-Method: PURGE",
    )
    assert (reply.status, reply.body) == (204, b"")
    cors = [(name, value) for name, value in reply.headers if name.startswith("access-control-") or name == "vary"]
    assert sorted(cors) == [
        ("access-control-allow-headers", HEADERS),
        ("access-control-allow-methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
        ("access-control-allow-origin", "http://localhost:5173"),
        ("access-control-max-age", "43200"),
        ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]


async def test_every_page_where_all_are_allowed(listen: Listen) -> None:
    url = await listen(Guard(origins=["*"]))
    for method, status in (("GET", 200), ("OPTIONS", 204)):
        reply = await exchange(url, f"{method} / HTTP/1.1\nHost: g\nOrigin: https://anything.example")
        assert (reply.status, reply.allowed_origin, reply.values("vary")) == (status, ["*"], [])


@pytest.mark.parametrize("path", ["/", "/api/chat", "/api/tags/", "/nothing"])
async def test_options_without_an_origin(listen: Listen, path: str) -> None:
    reply = await exchange(await listen(KEYED), f"OPTIONS {path} HTTP/1.1\nHost: g")
    assert (reply.status, reply.body, reply.allowed_origin) == (204, b"", [])


@each(
    ("text", "origin"),
    [
        ("https://App.Example.com", "https://app.example.com"),
        (" https://a.example:8443/ ", "https://a.example:8443"),
        ("chrome-extension://abc", "chrome-extension://abc"),
        ("*", "*"),
        ("*.example.com", "*.example.com"),
        ("http://192.168.0.*", "http://192.168.0.*"),
    ],
)
def test_origins_are_read(text: str, origin: str) -> None:
    assert read_origin(text) == origin


@each("text", ["", "example.com", "localhost:3000", "null", "https://", "http://a http://b", "*.*"])
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match=r": write "):
        read_origin(text)


LOOPBACK = Guard(loopback=True)
GOOD_HOSTS = [
    *("", "localhost", "localhost:11434", "LOCALHOST:1", "localhost:", "gateway.localhost", "a.b.local:80"),
    *("HOST.docker.internal", "ollama.internal:11434"),
    *("127.0.0.1", "127.0.0.1:11434", "127.8.9.1", "0.0.0.0:11434", "10.1.2.3", "172.16.0.1", "172.31.255.255:1"),
    *("192.168.1.20:11434", "[::1]:11434", "[::1]", "::1", "[::]:1", "[fd00::1]:1", "[fc00::1]"),
    *("[::ffff:127.0.0.1]:11434", "[::ffff:10.0.0.1]"),
]
BAD_HOSTS = [
    *("evil.example.com", "evil.example.com:11434", "localhost.evil.com", "127.0.0.1.evil.com", "localhostx"),
    *("local", "internal", "xlocal", "localhost:11434:1", "8.8.8.8", "8.8.8.8:11434", "172.32.0.1", "169.254.1.1"),
    *("[2001:db8::1]:1", "[fe80::1]", "[localhost", "127.0.0.1,evil.com", "0x7f.1", "127.1"),
]


@each("host", [*GOOD_HOSTS, socket.gethostname().upper(), socket.gethostname() + ":11434"])
async def test_names_of_this_machine(listen: Listen, host: str) -> None:
    reply = await exchange(await listen(LOOPBACK), f"GET / HTTP/1.1\nHost: {host}")
    assert (reply.status, reply.body) == (200, b"Ollama is running")


@each("host", BAD_HOSTS)
async def test_other_names(listen: Listen, host: str) -> None:
    for first_line in ("GET /", "POST /api/chat", "GET /nothing", "OPTIONS /"):
        reply = await exchange(await listen(LOOPBACK), f"{first_line} HTTP/1.1\nHost: {host}")
        assert (reply.status, reply.body) == (403, b"")


@each("host", [*GOOD_HOSTS, *BAD_HOSTS])
async def test_any_name_where_others_may_ask(listen: Listen, host: str) -> None:
    assert (await exchange(await listen(PAGES), f"GET / HTTP/1.1\nHost: {host}")).status == 200


@pytest.mark.parametrize("line", ["GET / HTTP/1.0", "GET / HTTP/1.1"])
async def test_no_name(listen: Listen, line: str) -> None:
    assert (await exchange(await listen(LOOPBACK), line)).status == 200


async def test_a_page_that_is_let_in_must_use_a_name_of_this_machine(listen: Listen) -> None:
    request = "GET / HTTP/1.1\nHost: evil.example.com\nOrigin: http://localhost:3000"
    assert (await exchange(await listen(LOOPBACK), request)).status == 403
    request = "GET / HTTP/1.1\nHost: evil.example.com\nOrigin: http://evil.example.com"
    assert (await exchange(await listen(LOOPBACK), request)).status == 403, "a domain that points to 127.0.0.1"


@pytest.mark.parametrize("guard", [PAGES, LOOPBACK], ids=["for everybody", "on loopback"])
@pytest.mark.parametrize(
    "hosts",
    ["Host: localhost/v1/embeddings?", "Host: a@localhost", "Host: a#b", "Host: a\\b", "Host: a b", "Host: a\nHost: b"],
)
async def test_malformed_hosts(listen: Listen, hosts: str, guard: Guard) -> None:
    reply = await exchange(await listen(guard), f"GET / HTTP/1.1\n{hosts}")
    assert (reply.status, reply.body) == (400, b"400 Bad Request: malformed Host header")


async def test_addresses_of_this_machines_interfaces(monkeypatch: pytest.MonkeyPatch, no_blocking: None) -> None:
    entries = [
        SimpleNamespace(family=family, address=address)
        for family, address in (
            (psutil.AF_LINK, "00:11:22:33:44:55"),
            (socket.AF_INET, "203.0.113.5"),
            (socket.AF_INET6, "2001:db8::5"),
            (socket.AF_INET6, "fe80::1%eth0"),
        )
    ]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": entries})
    for host in ("203.0.113.5", "203.0.113.5:11434", "[2001:db8::5]:1", "[2001:DB8::5]"):
        assert await names_this_machine(host), host
    for host in ("203.0.113.6", "[2001:db8::6]"):
        assert not await names_this_machine(host), host


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer right",
        "Authorization: bearer  too",
        "AUTHORIZATION: BEARER right",
        "X-Api-Key: right",
        "x-api-key: wrong\nAuthorization: Bearer right",
        "Authorization: Basic xyz\nAuthorization: Bearer too",
    ],
)
async def test_a_right_key(listen: Listen, header: str) -> None:
    reply = await exchange(await listen(KEYED), f"GET /api/tags HTTP/1.1\nHost: g\n{header}")
    assert (reply.status, reply.body) == (200, b'{"models":[]}')


WRONG = "unauthorized: the API key that was sent is not one of this server's: ask its operator for one"
MISSING = (
    "unauthorized: this server needs an API key: send it as 'Authorization: Bearer KEY', "
    "which Ollama's clients do with OLLAMA_API_KEY"
)


@each(
    ("header", "text"),
    [
        ("Accept: */*", MISSING),
        ("Authorization: Basic cmlnaHQ=", MISSING),
        ("Authorization: right", MISSING),
        ("Cookie: x-api-key=right", MISSING),
        ("Authorization: Bearer ", WRONG),
        ("Authorization: Bearer wrong", WRONG),
        ("Authorization: Bearer Right", WRONG),
        ("Authorization: Bearer right,too", WRONG),
        ("Authorization: Bearer right too", WRONG),
        ("X-Api-Key: righ", WRONG),
        ("X-Api-Key: Bearer right", WRONG),
        (f"X-Api-Key: {hashlib.sha256(b'right').hexdigest()}", WRONG),
        ("X-Api-Key: \xff", WRONG),
    ],
)
async def test_no_right_key(listen: Listen, header: str, text: str) -> None:
    reply = await exchange(await listen(KEYED), f"GET /api/tags HTTP/1.1\nHost: g\n{header}")
    assert (reply.status, json.loads(reply.body)) == (401, {"error": text})
    assert reply.values("www-authenticate") == ["Bearer"]


OPENAIS = {"error": {"message": MISSING, "type": "api_error", "param": None, "code": None}}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/models", "/v1/nothing"])
async def test_openais_clients_are_refused_in_their_own_words(listen: Listen, path: str) -> None:
    reply = await exchange(await listen(KEYED), f"POST {path} HTTP/1.1\nHost: g", b"{}")
    assert (reply.status, json.loads(reply.body)) == (401, OPENAIS)


async def test_anthropics_clients_are_refused_in_their_own_words(listen: Listen) -> None:
    reply = await exchange(await listen(KEYED), "POST /v1/messages HTTP/1.1\nHost: g", b"{}")
    body = json.loads(reply.body)
    assert body.pop("request_id").startswith("req_")
    assert body == {"type": "error", "error": {"type": "authentication_error", "message": MISSING}}


@each(
    ("line", "status"),
    [
        *(("GET /", 200), ("HEAD /", 200), ("GET /api/version", 200), ("HEAD /api/version", 200), ("GET /health", 200)),
        *(("POST /", 401), ("DELETE /api/version", 401), ("GET /api/version/", 401), ("GET //", 401)),
        *(("GET /%61pi/version", 200), ("GET /api/%74ags", 401), ("GET /api/version/../tags", 401)),
        *(("GET /api/tags", 401), ("GET /api/ps", 401), ("POST /api/show", 401), ("GET /nothing", 401)),
    ],
)
async def test_what_needs_no_key(listen: Listen, line: str, status: int) -> None:
    assert (await exchange(await listen(KEYED), f"{line} HTTP/1.1\nHost: g")).status == status


async def test_a_page_can_read_that_its_key_is_wrong(listen: Listen) -> None:
    request = "GET /api/tags HTTP/1.1\nHost: g\nOrigin: https://app.example.com\nX-Api-Key: wrong"
    reply = await exchange(await listen(KEYED), request)
    assert (reply.status, reply.allowed_origin) == (401, ["https://app.example.com"])


async def test_the_ollama_package_sends_its_key(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "right")
    async with ollama.AsyncClient(host=await listen(KEYED)) as client:
        assert (await client.list()).models == []


def test_all_keys_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("vllama.security.keys.hmac.compare_digest", lambda *pair: compared.append(pair) or True)
    assert any_valid([b"a", b"b"], [b"1", b"2", b"3"])
    assert len(compared) == 6, "though the first was right"


def test_a_guard_shows_no_key() -> None:
    assert "keys" not in repr(KEYED)


def test_keys_do_not_reach_an_engines_process() -> None:
    environment = Environment(Path("/engine/bin/python"), "0.32.0", Profile.CUDA, Path("/flags"))
    assert "VLLAMA_API_KEYS" not in engine_environment(environment, {"VLLAMA_API_KEYS": "right"})


OURS = {"Host", "Accept", "Accept-Encoding", "User-Agent", "Content-Type", "Content-Length"}
"""What the gateway's own client sends."""

REPLY: Any = {
    "model": "x", "choices": [], "data": [{"index": 0, "embedding": "AACAPw=="}], "usage": {"prompt_tokens": 1},
}  # fmt: skip
SAY: Any = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("path", "body", "streamed"),
    [
        ("/api/chat", SAY, True),
        ("/api/generate", {"model": "demo", "prompt": "Hi"}, True),
        ("/v1/chat/completions", SAY, False),
        ("/v1/completions", {"model": "demo", "prompt": "Hi"}, False),
        ("/v1/embeddings", {"model": "demo-embed", "input": "Hi"}, False),
    ],
)
async def test_no_header_of_a_client_reaches_the_engine(alone: Alone, path: str, body: Any, streamed: bool) -> None:
    alone.engine.script(Stream(*chat_events("Hello")) if streamed else whole(REPLY))
    headers = (
        "Authorization: Bearer secret\nX-Api-Key: secret\nCookie: secret\nX-Request-Id: secret\nX-Secret: secret\n"
        "X-data-parallel-rank: 7\nTraceparent: secret\nUser-Agent: secret\nContent-Type: text/secret\nTE: secret\n"
        "X-Forwarded-For: secret\nReferer: secret\nAccept-Language: secret\nContent-Encoding: identity"
    )
    reply = await exchange(
        alone.url, f"POST {path}?secret=1 HTTP/1.1\nHost: secret\n{headers}", json.dumps(body).encode()
    )
    assert reply.status == 200
    (asked,) = alone.engine.asked
    assert set(asked.headers) <= OURS
    assert "secret" not in str(asked)


async def test_a_newline_in_a_header_is_no_second_header(alone: Alone) -> None:
    """What comes after it is a header of the client's own, and stays with the gateway."""
    reply = await exchange(alone.url, "GET / HTTP/1.1\nHost: g\nX-Request-Id: a\rX-Evil: b")
    assert reply.status == 400
    async with httpx.AsyncClient(base_url=alone.url, trust_env=False) as client:
        assert (await client.get("/")).status_code == 200


async def test_who_is_refused_is_logged_once(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    url = await listen(Guard(loopback=True))
    for _ in range(2):
        await exchange(url, "GET / HTTP/1.1\nHost: localhost\nOrigin: https://refused.example.com")
        await exchange(url, "GET / HTTP/1.1\nHost: refused.example.com")
    assert [record.message for record in caplog.records if record.name == "vllama.security"] == [
        "refused a page of 'https://refused.example.com': if it may use this server, add it to OLLAMA_ORIGINS",
        "refused a request for 'refused.example.com', which is no name of this machine",
    ]


def test_the_log_of_refusals_has_an_end(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for number in range(1000):
        refusals.note(f"refused {number}")
    assert len(caplog.records) == 100
