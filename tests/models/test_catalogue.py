"""Models by name."""

from collections.abc import Iterator
from dataclasses import replace

from vllama.models.catalogue import Catalogue, Find
from vllama.models.model import Model
from vllama.models.names import parse


def model(name: str, source: str = "") -> Model:
    return Model(parse(name), source=source or name, engine_name=name)


def test_finding_and_replacing() -> None:
    first, second = model("a"), model("b:1")
    catalogue = Catalogue([first, second])
    assert catalogue.find(parse("A")) is first
    assert catalogue.find(parse("b")) is None
    changed = replace(first, context_length=5)
    catalogue.put(changed)
    assert list(catalogue) == [changed, second]
    catalogue.replace_all([second])
    assert (list(catalogue), len(catalogue)) == ([second], 1)


def test_finding_by_source() -> None:
    small = model("small", "Some/Model")
    catalogue = Catalogue([small, model("other", "Some/Model"), model("demo")])
    assert catalogue.find_by_source("some/MODEL") is small
    assert catalogue.find_by_source("Some/Other") is None


def test_shelves() -> None:
    """What the server was started with comes first, then the shelves in order; each finds the models before it."""
    first, there = model("x", "first"), [model("X", "hidden"), model("y", "second")]
    here = [first, model("a", "hidden")]
    seen: list[bool] = []

    def second(find: Find) -> Iterator[Model]:
        seen.append(find(parse("a")) is not None and find(parse("x")) is first)
        yield from there

    catalogue = Catalogue([model("a", "configured")], [lambda _find: here, second])
    assert [found.source for found in catalogue] == ["configured"]
    catalogue.refresh()
    assert seen == [True]
    assert {found.source for found in catalogue} == {"configured", "first", "second"}
    assert [catalogue.is_configured(found) for found in catalogue if found.source != "configured"] == [False, False]
    here.clear()
    catalogue.refresh()
    assert {found.source for found in catalogue} == {"configured", "hidden", "second"}


def test_what_a_download_tells_of_a_found_model_goes_with_the_next_look() -> None:
    found = model("x")
    catalogue = Catalogue([], [lambda _find: [found]])
    catalogue.refresh()
    catalogue.put(replace(found, context_length=5))
    assert catalogue.find(parse("x")) != found
    assert not catalogue.is_configured(found)
    catalogue.refresh()
    assert catalogue.find(parse("x")) is found
