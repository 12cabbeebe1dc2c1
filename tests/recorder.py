"""Real engines for the recordings of `fake_engine`."""

from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from aiohttp import web

from tests.fake_engine import Asked, Behaviour, Exchange, FakeEngine, Recordings, describe, replay
from tests.served import ENGINE_HOME
from vllama.engine.client import EngineClient
from vllama.engine.install import ensure_environment
from vllama.engine.loader import Loader
from vllama.engine.progress import Progress
from vllama.models.catalogue import Catalogue
from vllama.models.model import Model
from vllama.settings import load


class Recorder:
    """Starts a model's real engine when it is first asked something, and writes down what it answers."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._loader: Loader | None = None
        self._clients: dict[str, EngineClient] = {}
        self._engines = AsyncExitStack()
        self._folders = ExitStack()

    def record(self, fake: FakeEngine, model: Model, recordings: Recordings) -> Behaviour:
        async def behaviour(request: web.Request) -> web.StreamResponse:
            asked = fake.asked[-1]
            if (known := recordings.find(describe(asked.method, asked.path, asked.body))) is not None:
                return await replay(known)(request)
            data = await request.read()
            client = await self._client(model)
            exchange = await _ask(client, asked, data, model.source)
            recordings.add(exchange)
            return await replay(exchange)(request)

        return behaviour

    async def _client(self, model: Model) -> EngineClient:
        if model.engine_name not in self._clients:
            self._loader = self._loader or self._make_loader()
            engine = self._loader.engine(await self._loader.fetch(model, Progress()), None)
            await engine.start()
            self._engines.push_async_callback(engine.stop)
            self._clients[model.engine_name] = engine.client
        return self._clients[model.engine_name]

    def _make_loader(self) -> Loader:
        # What Modelfiles say is rendered, too.
        settings = load(home=ENGINE_HOME)
        environment = ensure_environment(
            settings.home, profile=settings.engine_profile, engine_python=settings.engine_python,
            find_links=settings.find_links, report=print,
        )  # fmt: skip
        loader = Loader(settings, environment, self._catalogue)
        self._folders.callback(loader.close)
        return loader

    async def close(self) -> None:
        await self._engines.aclose()
        self._folders.close()


async def _ask(client: EngineClient, asked: Asked, data: bytes, source: str) -> Exchange:
    # Where the model lies on the machine that records is nobody's business.
    folder, shown = str(Path(source)).encode(), b"/models/" + Path(source).name.encode()
    async with client.request(asked.method, asked.path, data or None) as response:
        chunks = []
        while chunk := await response.next():
            chunks.append(chunk)
        texts = [chunk.replace(folder, shown).decode("utf-8", "surrogateescape") for chunk in chunks]
        return Exchange(asked.method, asked.path, asked.body, response.status, response.content_type, texts)
