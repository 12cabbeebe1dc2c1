"""Settings from all their sources."""

import hashlib
import re
from pathlib import Path

import platformdirs
import pytest

from vllama.errors import ConfigError
from vllama.settings import FOREVER, config_file, load


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    """No variables and no files but the test's own."""
    import os

    for name in list(os.environ):
        if name.startswith(("VLLAMA_", "OLLAMA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def toml():
    def write(text):
        Path("vllama.toml").write_text(text)

    return write


def refusal(**flags):
    with pytest.raises(ConfigError) as raised:
        load(**flags)
    return str(raised.value)


def test_defaults():
    settings = load()
    assert (settings.host, settings.port, settings.model, settings.keep_alive) == ("127.0.0.1", 11434, [], 300.0)
    assert settings.home == Path(platformdirs.user_data_dir("vllama", appauthor=False))


SOURCES = ["flag", "VLLAMA", "OLLAMA", "toml"]


@pytest.mark.parametrize("highest", range(5))
@pytest.mark.parametrize(
    ("field", "ollama", "values", "texts", "default"),
    [
        ("port", "OLLAMA_HOST", [1, 2, 3, 4], ["1", "2", "h:3", "4"], 11434),
        ("host", "OLLAMA_HOST", ["a", "b", "c", "d"], ["a", "b", "c:1", '"d"'], "127.0.0.1"),
        ("keep_alive", "OLLAMA_KEEP_ALIVE", [60, 120, 180, 240], ["1m", "2m", "3m", '"4m"'], 300),
        ("load_timeout", "OLLAMA_LOAD_TIMEOUT", [1, 2, 3, 4], ["1s", "2s", "3s", "4"], 300),
        ("max_model_len", "OLLAMA_CONTEXT_LENGTH", ["1", "2", "3", "4"], ["1", "2", "3", "4"], None),
        ("max_queue", "OLLAMA_MAX_QUEUE", [1, 2, 3, 4], ["1", "2", "3", "4"], 512),
        ("max_loaded_models", "OLLAMA_MAX_LOADED_MODELS", [1, 2, 3, 4], ["1", "2", "3", "4"], 0),
        (
            "log_level",
            "OLLAMA_DEBUG",
            ["error", "warning", "debug", "error"],
            ["error", "warning", "1", '"error"'],
            "info",
        ),
    ],
)
def test_precedence(monkeypatch, toml, highest, field, ollama, values, texts, default):
    flags = {}
    for source, text in list(zip(SOURCES, texts, strict=True))[highest:]:
        if source == "flag":
            flags[field] = text
        elif source == "toml":
            toml(f"{field} = {text}")
        else:
            monkeypatch.setenv(ollama if source == "OLLAMA" else f"VLLAMA_{field.upper()}", text)
    assert getattr(load(**flags), field) == [*values, default][highest]


def test_flags_that_were_not_given_hide_nothing(monkeypatch):
    monkeypatch.setenv("VLLAMA_PORT", "5")
    assert load(port=None).port == 5


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("On", True), ("yes", True), ("0", False), ("off", False)]
)
def test_switches(monkeypatch, text, value):
    monkeypatch.setenv("VLLAMA_STANDBY", text)
    assert load().standby is value


def test_empty_variables_are_absent(monkeypatch, toml):
    toml("port = 4\nkeep_alive = 4")
    for name in ("VLLAMA_PORT", "OLLAMA_HOST", "VLLAMA_KEEP_ALIVE", "OLLAMA_KEEP_ALIVE", "OLLAMA_DEBUG"):
        monkeypatch.setenv(name, "")
    settings = load()
    assert (settings.port, settings.keep_alive, settings.log_level) == (4, 4, "info")


@pytest.mark.parametrize("text", [' "1.2.3.4:5" ', "'1.2.3.4:5'", "  1.2.3.4:5", '" 1.2.3.4:5 "'])
def test_quotes_and_blanks_around_ollamas_variables(monkeypatch, text):
    monkeypatch.setenv("OLLAMA_HOST", text)
    settings = load()
    assert (settings.host, settings.port) == ("1.2.3.4", 5)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("OLLAMA_KEEP_ALIVE", "-1", "keep_alive", FOREVER),
        ("OLLAMA_KEEP_ALIVE", "60", "keep_alive", 60),
        ("OLLAMA_KEEP_ALIVE", "0", "keep_alive", 0),
        ("OLLAMA_KEEP_ALIVE", "1h30m", "keep_alive", 5400),
        ("OLLAMA_KEEP_ALIVE", "soon", "keep_alive", 300),
        ("OLLAMA_LOAD_TIMEOUT", "0", "load_timeout", FOREVER),
        ("OLLAMA_LOAD_TIMEOUT", "-5m", "load_timeout", FOREVER),
        ("OLLAMA_LOAD_TIMEOUT", "10m", "load_timeout", 600),
        ("OLLAMA_CONTEXT_LENGTH", "0", "max_model_len", None),
        ("OLLAMA_CONTEXT_LENGTH", "many", "max_model_len", None),
        ("OLLAMA_CONTEXT_LENGTH", "²", "max_model_len", None),
        ("OLLAMA_CONTEXT_LENGTH", "8192", "max_model_len", "8192"),
        ("OLLAMA_MAX_QUEUE", "0", "max_queue", 512),
        ("OLLAMA_MAX_QUEUE", "-3", "max_queue", 512),
        ("OLLAMA_MAX_QUEUE", "7", "max_queue", 7),
        ("OLLAMA_MAX_LOADED_MODELS", "0", "max_loaded_models", 0),
        ("OLLAMA_MAX_LOADED_MODELS", "many", "max_loaded_models", 0),
        ("OLLAMA_DEBUG", "0", "log_level", "info"),
        ("OLLAMA_DEBUG", "F", "log_level", "info"),
        ("OLLAMA_DEBUG", "false", "log_level", "info"),
        ("OLLAMA_DEBUG", "true", "log_level", "debug"),
        ("OLLAMA_DEBUG", "2", "log_level", "debug"),
        ("OLLAMA_DEBUG", "yes please", "log_level", "debug"),
    ],
)
def test_ollamas_variables(monkeypatch, variable, text, field, value):
    monkeypatch.setenv(variable, text)
    assert getattr(load(), field) == value


@pytest.mark.parametrize(
    ("field", "text", "seconds"),
    [
        ("keep_alive", "5m", 300),
        ("keep_alive", "90", 90),
        ("keep_alive", "-1", FOREVER),
        ("keep_alive", "0", 0),
        ("load_timeout", "0", FOREVER),
        ("drain_timeout", "1.5", 1.5),
        ("drain_timeout", "-1s", FOREVER),
    ],
)
def test_durations(field, text, seconds):
    assert getattr(load(**{field: text}), field) == seconds


def test_durations_in_toml(toml):
    toml('keep_alive = -1\nload_timeout = "10m"\ndrain_timeout = 2.5')
    settings = load()
    assert (settings.keep_alive, settings.load_timeout, settings.drain_timeout) == (FOREVER, 600, 2.5)


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("VLLAMA_MODEL", "demo", ["demo"]),
        ("VLLAMA_MODEL", "a=/x, b ,,", ["a=/x", "b"]),
        ("VLLAMA_PRELOAD", "demo, qwen3:4b", ["demo", "qwen3:4b"]),
        ("VLLAMA_PIN", "demo", ["demo"]),
        ("VLLAMA_KEEP_WARM", "demo, qwen3:4b", ["demo", "qwen3:4b"]),
        ("VLLAMA_LORA", "a=/x, b=/y@demo", ["a=/x", "b=/y@demo"]),
        ("VLLAMA_CHECKPOINTS", "/a,/b/../c", [Path("/a"), Path("/c")]),
        ("VLLAMA_FIND_LINKS", "/a,/b c", ["/a", "/b c"]),
        ("VLLAMA_ORIGINS", "https://a.example, *", ["https://a.example", "*"]),
        ("VLLAMA_VLLM_ARGS", '--dtype half --x \'{"a": 1, "b": 2}\'', ["--dtype", "half", "--x", '{"a": 1, "b": 2}']),
    ],
)
def test_lists_in_variables(monkeypatch, name, text, values):
    monkeypatch.setenv(name, text)
    assert getattr(load(), name.removeprefix("VLLAMA_").lower()) == values


@pytest.mark.parametrize("text", ["https://A.example/ , app://*,", '"https://a.example,app://*"'])
def test_ollamas_origins(monkeypatch, toml, text):
    toml('origins = ["https://b.example"]')
    monkeypatch.setenv("OLLAMA_ORIGINS", text)
    assert load().origins == ["https://a.example", "app://*"]
    monkeypatch.setenv("VLLAMA_ORIGINS", "https://c.example")
    assert load().origins == ["https://c.example"]


def test_lists_in_toml(toml):
    toml('model = ["a", "b,c"]\nvllm_args = ["--x", "a b"]\nfind_links = "/a,/b"')
    settings = load()
    assert (settings.model, settings.vllm_args, settings.find_links) == (["a", "b,c"], ["--x", "a b"], ["/a", "/b"])


@pytest.mark.parametrize("length", ["auto", "-1", "8192", "8k", "1.5K", "1m", 8192, -1])
def test_context_lengths(length):
    assert load(max_model_len=length).max_model_len == str(length)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "x"),
        ("port", "70000"),
        ("vllm_port", "0"),
        ("keep_alive", "soon"),
        ("keep_alive", "1d"),
        ("gpu_memory_utilization", "0"),
        ("gpu_memory_utilization", "1.5"),
        ("max_model_len", "lots"),
        ("max_model_len", "0"),
        ("max_model_len", "8k tokens"),
        ("max_num_seqs", "0"),
        ("engine_profile", "rocm"),
        ("log_level", "loud"),
        ("enforce_eager", "maybe"),
        ("startup", "slow"),
        ("standby", "perhaps"),
        ("vllm_args", "--x 'a"),
        ("max_loaded_models", "-1"),
        ("max_loras", "0"),
        ("max_lora_rank", "high"),
        ("memory_limit", "0"),
        ("memory_limit", "nan"),
        ("memory_limit", "inf"),
    ],
)
def test_bad_values_name_the_setting(monkeypatch, name, value):
    monkeypatch.setenv(f"VLLAMA_{name.upper()}", value)
    text = refusal()
    assert re.match(rf"bad value {re.escape(repr(value))} for {name} \(VLLAMA_{name.upper()}\): \w", text)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("port", "-1", "bad value '-1' for port (--port): give a whole number from 0 to 65535"),
        ("memory_limit", "0", "bad value '0' for memory_limit (--memory-limit): give a number above 0"),
        (
            "gpu_memory_utilization",
            90.0,
            "bad value 90.0 for gpu_memory_utilization (--gpu-memory-utilization): give a number above 0 and at most 1",
        ),
        (
            "keep_alive",
            "soon",
            "bad value 'soon' for keep_alive (--keep-alive): give seconds, or a text like 90s, 5m or 1h30m",
        ),
        ("engine_profile", "rocm", "bad value 'rocm' for engine_profile (--profile): give cpu or cuda"),
    ],
)
def test_bad_flags_say_what_may_be_given(name, value, error):
    assert refusal(**{name: value}) == error


def test_a_bad_variable_of_ollamas_is_named(monkeypatch):
    monkeypatch.setenv("OLLAMA_ORIGINS", "nowhere")
    assert refusal().startswith("bad value 'nowhere' for origins (OLLAMA_ORIGINS): ")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            "keep_alive = true",
            "bad value True for keep_alive (vllama.toml): give seconds, or a text like 90s, 5m or 1h30m",
        ),
        ("keep_alive = [1]", "bad value [1] for keep_alive (vllama.toml): "),
        ("keep_alive = nan", "bad value nan for keep_alive (vllama.toml): "),
        ("model = [1]", "bad value [1] for model (vllama.toml): give a text"),
        ("home = 1", "bad value 1 for home (vllama.toml): give a path"),
        ('port = "x"', "bad value 'x' for port (vllama.toml): give a whole number from 0 to 65535"),
        ("standby = []", "bad value [] for standby (vllama.toml): give true or false"),
        ('startup = "slow"', "bad value 'slow' for startup (vllama.toml): give fast, balanced or throughput"),
        ("prot = 1", "unknown setting 'prot' in vllama.toml: did you mean 'port'?"),
        ("zzzzzzzz = 1", "unknown setting 'zzzzzzzz' in vllama.toml: remove it"),
        ("[engine]\nport = 1", "unknown setting 'engine' in vllama.toml: "),
        ("max_body_mb = 0", "bad value 0 for max_body_mb (vllama.toml): give a whole number of at least 1"),
        (
            'origins = ["http://localhost:3000", "localhost:3000"]',
            "bad value ['http://localhost:3000', 'localhost:3000'] for origins (vllama.toml): 'localhost:3000' is not "
            "an origin: write scheme://host or scheme://host:port, like https://app.example.com, or * for any text",
        ),
        ("port = ", "vllama.toml is not valid TOML: "),
        ("\udcff", "vllama.toml is not valid TOML: "),
    ],
)
def test_bad_files(toml, line, error):
    Path("vllama.toml").write_bytes(line.encode(errors="surrogateescape"))
    assert refusal().startswith(error)


def test_numbers_for_adapters(monkeypatch, toml):
    toml("max_loras = 4\nmax_cpu_loras = 4\nmax_lora_rank = 64\nmemory_limit = 20.5")
    monkeypatch.setenv("VLLAMA_MAX_LORA_RANK", "320")
    settings = load(max_cpu_loras=8)
    assert (settings.max_loras, settings.max_cpu_loras, settings.max_lora_rank) == (4, 8, 320)
    assert settings.memory_limit == 20.5
    ranks = "1, 8, 16, 32, 64, 128, 256, 320 or 512"
    assert refusal(max_lora_rank="24") == f"bad value '24' for max_lora_rank (--max-lora-rank): give {ranks}"
    assert refusal(max_cpu_loras=3) == "bad value 3 for max_cpu_loras (--max-cpu-loras): give at least max_loras, 4"


@pytest.mark.parametrize("entry", ["parrot", "=/parrot", "parrot=", "parrot=@demo"])
def test_an_adapter_without_a_name_or_a_path(entry):
    text = f"{entry!r} names no adapter: write NAME=PATH or NAME=PATH@BASE"
    assert refusal(lora=["a=/b", entry]) == f"bad value {['a=/b', entry]} for lora (--lora): {text}"


def test_a_file_that_cannot_be_read(monkeypatch, toml):
    toml("port = 1")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal() == "vllama.toml cannot be read: Permission denied"


def test_secrets_are_not_shown(monkeypatch, toml):
    monkeypatch.setenv("VLLAMA_ENGINE_API_KEY", "hunter2")
    settings = load()
    assert settings.engine_api_key == "hunter2"
    assert "hunter2" not in repr(settings) + str(settings)
    monkeypatch.delenv("VLLAMA_ENGINE_API_KEY")
    toml('engine_api_key = ["hunter2"]')
    assert refusal().startswith("bad value for engine_api_key (vllama.toml): ")
    assert "hunter2" not in refusal()
    toml('engine_apikey = "hunter2"')
    assert refusal() == "unknown setting 'engine_apikey' in vllama.toml: did you mean 'engine_api_key'?"


KEYS = [hashlib.sha256(key).digest() for key in (b"hunter2", b"hunter3")]


def test_of_api_keys_only_digests_are_kept(monkeypatch, toml):
    assert load().api_keys == []
    toml('api_keys = ["hunter2", "hunter3"]')
    assert load().api_keys == KEYS
    monkeypatch.setenv("VLLAMA_API_KEYS", " hunter3 ,")
    assert load().api_keys == KEYS[1:]
    assert "hunter" not in repr(load()) + str(load())
    assert "api_keys=" not in repr(load())


@pytest.mark.parametrize("value", ['[""]', '["hunter2", "hunter 3"]', '["hunter²"]', '[["hunter2"]]', "7", '","'])
def test_api_keys_that_no_client_can_send(toml, value):
    toml(f"api_keys = {value}")
    assert refusal().startswith("bad value for api_keys (vllama.toml): ")
    assert "hunter" not in refusal()


def test_where_the_file_is_looked_for(monkeypatch, tmp_path, toml):
    assert config_file() is None
    users = tmp_path / "config/vllama/vllama.toml"
    users.parent.mkdir(parents=True)
    users.write_text("port = 1")
    assert (config_file(), load().port) == (users, 1)
    toml("port = 2")
    assert (config_file(), load().port) == (Path("vllama.toml"), 2)
    named = tmp_path / "home/my.toml"
    named.parent.mkdir()
    named.write_text("port = 3")
    monkeypatch.setenv("VLLAMA_CONFIG", "~/my.toml")
    assert (config_file(), load().port) == (named, 3)


@pytest.mark.parametrize("name", ["gone.toml", ".", "~no-such-user/x.toml"])
def test_a_named_file_must_exist(monkeypatch, name):
    monkeypatch.setenv("VLLAMA_CONFIG", name)
    assert refusal() == f"the configuration file {name} does not exist: correct VLLAMA_CONFIG"


@pytest.mark.parametrize(
    ("given", "path"),
    [("~/x", "{home}/x"), ("x/../y", "{cwd}/y"), ("/a/./b", "/a/b"), ("~no-such-user", "{cwd}/~no-such-user")],
)
@pytest.mark.parametrize("field", ["home", "engine_python"])
def test_paths_are_absolute(tmp_path, field, given, path):
    expected = path.format(home=tmp_path / "home", cwd=tmp_path / "cwd")
    assert getattr(load(**{field: given}), field) == Path(expected)
    assert load(checkpoints=[given]).checkpoints == [Path(expected)]


def test_links_to_an_interpreter_are_not_followed(tmp_path):
    link = tmp_path / "python"
    link.symlink_to("/usr/bin/env")
    assert load(engine_python=link).engine_python == link
