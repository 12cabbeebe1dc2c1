"""Model names and texts at the edge."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from vllama.errors import ApiError, ConfigError
from vllama.models.model import Model
from vllama.models.names import parse
from vllama.routes._edge import find_model, gateway_of, quote

DEMO = Model(parse("demo"), source="/demo", engine_name="demo")
BROKEN = Model(parse("broken"), source="", engine_name="", fault=ConfigError("broken is torn", "mend it"))


class Gateway:
    """One that knows two models, of which one cannot be served."""

    async def find(self, name):
        return next((model for model in (DEMO, BROKEN) if model.name.key == name.key), None)


def request():
    app = Starlette()
    app.state.gateway = Gateway()
    return Request({"type": "http", "method": "POST", "path": "/", "headers": [], "app": app})


@pytest.mark.parametrize("wanted", ["demo", "demo:latest", "DEMO"])
async def test_models_are_found(wanted):
    assert await find_model(request(), wanted) is DEMO


async def test_a_model_that_cannot_be_served():
    with pytest.raises(ApiError) as raised:
        await find_model(request(), "broken")
    assert (raised.value.status, raised.value.message) == (400, "broken is torn: mend it")


@pytest.mark.parametrize(
    ("wanted", "status", "error"),
    [
        ("", 404, "model '' not found"),
        ("  ", 404, "model '' not found"),
        ("other", 404, "model 'other' not found"),
        ("Other:Tag", 404, "model 'Other:Tag' not found"),
        ("a b", 400, "invalid model name"),
        ("a/b/c/d", 400, "invalid model name"),
        ("é", 400, "invalid model name"),
        ("{}", 400, "invalid model name"),
    ],
)
async def test_models_are_not_found(wanted, status, error):
    with pytest.raises(ApiError) as raised:
        await find_model(request(), wanted)
    assert (raised.value.status, raised.value.message) == (status, error)


async def test_the_text_for_unknown_models_is_the_callers():
    with pytest.raises(ApiError, match=r'^model "x" not found, try pulling it first$'):
        await find_model(request(), "x", unknown='model "{}" not found, try pulling it first')


def test_the_gateway():
    assert isinstance(gateway_of(request()), Gateway)


@pytest.mark.parametrize(("text", "quoted"), [("x", '"x"'), ('a"b', r'"a\"b"'), ("a\\b", r'"a\\b"'), ("é", '"é"')])
def test_quotes(text, quoted):
    assert quote(text) == quoted
