import itertools
import random
import string
from pathlib import Path

import pytest

from tests.each import each
from vllama.errors import ConfigError
from vllama.models.names import (
    InvalidName,
    ModelName,
    is_valid,
    name_from_source,
    parse,
    parse_model_argument,
    trained_name,
)


@each(
    ("text", "short", "qualified"),
    [
        ("llama3.2", "llama3.2:latest", "registry.ollama.ai/library/llama3.2:latest"),
        ("llama3.2:1b", "llama3.2:1b", "registry.ollama.ai/library/llama3.2:1b"),
        ("library/llama3.2", "llama3.2:latest", "registry.ollama.ai/library/llama3.2:latest"),
        ("registry.ollama.ai/library/x:y", "x:y", "registry.ollama.ai/library/x:y"),
        ("https://registry.ollama.ai/library/x", "x:latest", "registry.ollama.ai/library/x:latest"),
        ("me/m", "me/m:latest", "registry.ollama.ai/me/m:latest"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct:latest", None),
        ("hf.co/org/Repo-GGUF:Q4_K_M", "hf.co/org/Repo-GGUF:Q4_K_M", "hf.co/org/Repo-GGUF:Q4_K_M"),
        ("hf.co/org/repo", "hf.co/org/repo:latest", "hf.co/org/repo:latest"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest", None),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c", None),
        ("localhost:5000/library/b", "localhost:5000/library/b:latest", None),
        ("_x", "_x:latest", None),
        ("x:local", "x:latest", None),
        ("x:LOCAL", "x:latest", None),
        ("x:7b:local", "x:7b", None),
        ("x:cloud", "x:cloud", None),
        ("x:20b-cloud", "x:20b-cloud", None),
        ("x" * 80, "x" * 80 + ":latest", None),
        ("peft:demo", "peft:demo", "registry.ollama.ai/library/peft:demo"),
        ("peft:demo:sql", "peft:demo:sql", "registry.ollama.ai/library/peft:demo:sql:latest"),
        ("peft:demo:sql:latest", "peft:demo:sql", None),
        ("registry.ollama.ai/library/rl:demo:sql:latest", "rl:demo:sql", None),
        ("RL:Qwen3-4B:Maths:step-100", "RL:Qwen3-4B:Maths:step-100", None),
        ("peft:demo:sql:100:latest", "peft:demo:sql:100", None),
        ("peft:demo:sql:latest:latest", "peft:demo:sql", None),
        ("peft:demo:cloud", "peft:demo:cloud", None),
    ],
)
def test_parse(text: str, short: str, qualified: str | None) -> None:
    name = parse(text)
    assert name.short == str(name) == short
    if qualified:
        assert name.qualified == qualified


@each(
    "text",
    [
        "",
        " ",
        ":",
        "/",
        "a b",
        "é",
        "x:",
        ":x",
        "/x",
        "x/",
        "a//b",
        "a/b/c/d",
        "-x",
        ".x",
        "x:-y",
        "peft:a:b:c:d",
        "peft:a::c",
        "peft:a/b:c",
        "me/peft:a:b",
        "na.me/x",
        "x:a:b",
        "x:a/b",
        "a/b:c/d",
        "://a/b/c",
        "http://x",
        "x" * 81,
        "n" * 81 + "/x",
        "x:" + "t" * 81,
        "h" * 351 + "/n/x",
        "x\n",
        "x:latest\n",
        ":local",
        "../x",
        "x@sha256:0123",
        "org/x@main",
        "模型",
        "x:模",
        "x\u200b",
    ],
)
def test_invalid_names(text: str) -> None:
    with pytest.raises(InvalidName, match=r"^invalid model name$"):
        parse(text)
    assert not is_valid(text)


@pytest.mark.parametrize("text", ["foo:cloud:local", "foo:local:cloud", "foo:20b-cloud:LOCAL"])
def test_both_sources(text: str) -> None:
    with pytest.raises(InvalidName) as raised:
        parse(text)
    assert str(raised.value) == f'use either :local or :cloud, not both: "{text}"'


def test_names_of_training_runs() -> None:
    assert parse("PEFT:demo:SQL:100").key == parse("peft:Demo:sql:100:latest").key
    name = parse("peft:demo:cloud")
    assert (name.is_trained, name.is_remote, name.hub_id, parse(name.qualified) == name) == (True, False, None, True)
    assert not parse("peft:demo").is_trained


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("peft", "demo", "sql"), "peft:demo:sql"),
        (("peft", "demo:latest", "sql", "checkpoint-10"), "peft:demo:sql:checkpoint-10"),
        (("rl", "Qwen/Qwen3-4B:latest", "my job!"), "rl:Qwen3-4B:my-job"),
        (("rl", "qwen3:4b", "x"), "rl:qwen3-4b:x"),
        (("peft", "", "x"), "peft:unknown:x"),
    ],
)
def test_trained_name(parts: tuple[str, ...], name: str) -> None:
    assert trained_name(*parts).short == name


def test_invalid_name_is_a_value_error() -> None:
    assert issubclass(InvalidName, ValueError)


def test_key_ignores_case() -> None:
    assert parse("ME/Llama:Latest").key == parse("me/llama").key
    assert parse("me/llama").key != parse("me/llama:7b").key


@each(
    ("text", "hub_id"),
    [
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("hf.co/Qwen/Qwen3-4B:Q4", "Qwen/Qwen3-4B"),
        ("https://huggingface.co/Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("HF.co/library/x", "library/x"),
        ("llama3.2", None),
        ("localhost:5000/a/b", None),
    ],
)
def test_hub_id(text: str, hub_id: str | None) -> None:
    assert parse(text).hub_id == hub_id


@each(
    ("text", "remote"),
    [
        ("x:cloud", True),
        ("x:20b-CLOUD", True),
        ("me/x:Cloud", True),
        ("x", False),
        ("cloud", False),
        ("x:cloudy", False),
        ("x-cloud", False),
        ("x:local", False),
    ],
)
def test_names_of_ollamas_cloud(text: str, remote: bool) -> None:
    assert parse(text).is_remote is remote


def test_names_set_apart_are_names_of_their_own() -> None:
    name = parse("me/" + "x" * 80 + ":7b")
    first, second = (name.set_apart(source) for source in ("a", "b"))
    assert len({name.key, first.key, second.key}) == 3
    assert parse(first.short) == first
    assert (first.namespace, first.tag) == ("me", "7b")


def test_short_and_qualified_parse_to_the_same_name() -> None:
    seeded = random.Random(1)
    letters = string.ascii_letters + string.digits
    for _ in range(300):
        host = seeded.choice(["", "hf.co", "localhost:11434", "registry.ollama.ai"])
        namespace = seeded.choice(["", "library", "a-b_c"]) if not host else seeded.choice(["library", "Org"])
        model = "".join(seeded.choice(letters + "._-") for _ in range(seeded.randint(0, 79)))
        tag = seeded.choice(["", "latest", "7b", "Q4_K_M", "20b-cloud"])
        text = "/".join(part for part in (host, namespace, f"m{model}") if part) + (f":{tag}" if tag else "")
        name = parse(text)
        assert parse(name.short) == parse(name.qualified) == name


def test_garbage_is_parsed_or_refused_as_invalid() -> None:
    for letters in itertools.product("a:/.-é =", repeat=4):
        text = "".join(letters)
        try:
            name = parse(text)
        except InvalidName:
            continue
        assert isinstance(name, ModelName)
        assert all((name.host, name.namespace, name.model, name.tag))


@each(
    ("source", "name"),
    [
        ("/models/My Model v1.5/", "My-Model-v1.5"),
        ("/models/My Model v1.5", "My-Model-v1.5"),
        ("./qwen", "qwen"),
        ("models/deep/qwen", "qwen"),
        ("models/", "models"),
        ("~/Llama-3", "Llama-3"),
        ("/models/müller", "muller"),
        ("/models/模型", "model"),
        ("/models/llama3:8b", "llama3-8b"),
        ("/models/.hidden", "hidden"),
        ("/", "model"),
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("gpt2", "gpt2"),
        ("some.org/model", "some-org/model"),
        ("/c/hub/models--Qwen--Qwen3-4B/snapshots/0123456789abcdef", "Qwen/Qwen3-4B"),
        ("/c/hub/models--gpt2/snapshots/0123456789abcdef", "gpt2"),
    ],
)
def test_name_from_source(source: str, name: str) -> None:
    assert name_from_source(source) == name
    assert is_valid(name)


def test_name_from_an_existing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "org" / "model")
    assert name_from_source(".") == "model"
    assert name_from_source("..") == "org"
    monkeypatch.chdir(tmp_path)
    assert name_from_source("org/model") == "model"


def test_long_sources_stay_apart() -> None:
    first, second = (name_from_source("org/" + "x" * 90 + end) for end in "ab")
    assert first != second
    assert is_valid(first)
    assert first.startswith("org/" + "x" * 60)


def test_names_from_any_source_are_valid() -> None:
    seeded = random.Random(2)
    for _ in range(500):
        source = "".join(seeded.choice(string.printable + "é模/") for _ in range(seeded.randint(1, 120)))
        assert is_valid(name_from_source(source)), source


@each(
    ("text", "expected"),
    [
        ("qwen=/models/qwen", ("qwen", "/models/qwen")),
        ("qwen:4b=Qwen/Qwen3-4B", ("qwen:4b", "Qwen/Qwen3-4B")),
        ("me/m=/a=b", ("me/m", "/a=b")),
        ("/models/a=b", (None, "/models/a=b")),
        ("./a=b", (None, "./a=b")),
        ("~/a=b", (None, "~/a=b")),
        ("Qwen/Qwen3-4B", (None, "Qwen/Qwen3-4B")),
        ("=x", (None, "=x")),
    ],
)
def test_parse_model_argument(text: str, expected: tuple[str | None, str]) -> None:
    assert parse_model_argument(text) == expected


def test_an_existing_path_is_not_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1e-4").mkdir()
    (tmp_path / "qwen").mkdir()
    assert parse_model_argument("lr=1e-4") == (None, "lr=1e-4")
    assert parse_model_argument("qwen=./qwen") == ("qwen", "./qwen")


def test_a_bad_name_is_told() -> None:
    with pytest.raises(ConfigError, match="'my model' is not a valid model name"):
        parse_model_argument("my model=/models/x")


def test_a_name_without_a_source_is_told() -> None:
    with pytest.raises(ConfigError, match="names a model without a source"):
        parse_model_argument("qwen=")
