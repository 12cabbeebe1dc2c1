"""What is wrong with the engine's environment or with the flags that it was given."""

from vllama.engine.diagnosis._rule import Rule

_REINSTALL = "run `vllama engine install --reinstall`"
_SILENT = r"\A(?!(?s:.*){} failed to start)(?s:.*?)"

ENVIRONMENT = (
    Rule(
        "unknown-flag",
        r"^vllm serve: error: unrecognized arguments: (?P<flags>.*)$",
        "vLLM has no flag {flags}",
        "correct what follows -- on the server's command line, or vllm_args in its settings",
    ),
    Rule(
        "wrong-flag",
        r"^vllm serve: error: (?P<error>.{1,300})",
        "vLLM refuses its command line: {error}",
        "correct what follows -- on the server's command line, or vllm_args in its settings",
    ),
    Rule(
        "unknown-parser",
        r"^KeyError: ['\"]invalid (?P<kind>tool call|reasoning) parser: (?P<name>\S+) \(chose from",
        "vLLM has no {kind} parser {name}",
        "leave --tool-call-parser and --reasoning-parser out: they are chosen by model",
    ),
    Rule(
        "missing-module",
        r"^ModuleNotFoundError: (?P<error>No module named '[^']+')",
        "the engine's environment is damaged ({error})",
        _REINSTALL,
    ),
    Rule(
        "versions-at-odds",
        r"^ImportError: (?P<error>.*(?:undefined symbol|cannot import name|\.so\b|is required for a normal).*)$",
        "the packages in the engine's environment do not fit each other ({error})",
        _REINSTALL,
    ),
    Rule(
        "vanished",
        _SILENT.format("WorkerProc") + r"^Exception: WorkerProc initialization failed"
        "|" + _SILENT.format("EngineCore") + r"^RuntimeError: Engine core initialization failed",
        "a process of it ended without a word while the model was loaded, as Linux ends one where RAM runs out",
        "see `dmesg`, where Linux names what it killed; then free RAM, or set --memory-limit",
    ),
)
