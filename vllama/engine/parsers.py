"""Which of vLLM's parsers understands what a model writes.

vLLM has no automatic choice for `--tool-call-parser` and `--reasoning-parser`, and a wrong one is worse than none: a
reasoning parser on a model that does not think hides the whole answer, and some refuse to start when the tokenizer
lacks their tokens. So nothing is chosen without a mark of it in the chat template, or a family that vLLM renders by
itself.
"""

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parsers:
    tool_call: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True)
class _Rule:
    """Matches when the model type starts with one of `families` (any type, if empty) and the template has all `marks`.

    Without marks the family is enough: vLLM renders those prompts in code, and their folders carry no template.
    """

    parser: str
    families: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    def matches(self, families: frozenset[str], template: str) -> bool:
        named = not self.families or any(name.startswith(self.families) for name in families)
        return named and all(mark in template for mark in self.marks)


# Cohere's are left out: they need cohere_melody, which neither vLLM nor we install, and fail at start without it.
# granite-20b-fc, xlam and phi4_mini_json fit only the templates in vLLM's examples, known by their own marks.
# The most specific first: <tool_call> and <function= are written by a dozen families.
_TOOL_CALL = (
    _Rule("openai", ("gpt_oss",)),
    _Rule("deepseek_v41", ("deepseek_v41",)),
    _Rule("deepseek_v4", ("deepseek_v4",)),
    _Rule("deepseek_v32", ("deepseek_v32",)),
    _Rule("kimi_k3", ("kimi_k3",)),
    _Rule("inkling", ("inkling",)),
    _Rule("muse_glimmer", ("muse_glimmer",)),
    _Rule("gemma4", marks=("<|tool_call>",)),
    _Rule("functiongemma", marks=("<start_function_call>",)),
    _Rule("dots", marks=("<dots_function_call>",)),
    _Rule("longcat", marks=("<longcat_tool_call>",)),
    _Rule("minimax_m3", ("minimax_m3",), ("<tool_call>",)),
    _Rule("minimax_m2", marks=("<minimax:tool_call>",)),
    _Rule("seed_oss", marks=("<seed:tool_call>",)),
    _Rule("k2_horizon", marks=("<ifm|tool_call",)),
    _Rule("plamo3", marks=("<|plamo:begin_tool_request",)),
    _Rule("apertus", marks=("<|tools_prefix|>",)),
    _Rule("lfm2", marks=("<|tool_call_start|>",)),
    _Rule("kimi_k2", marks=("<|tool_calls_section_begin|>",)),
    _Rule("deepseek_v32", marks=("<｜DSML｜",)),  # noqa: RUF001 - DeepSeek's bars are full-width
    _Rule("deepseek_v3", marks=("<｜tool▁calls▁begin｜>", "```json")),  # noqa: RUF001
    _Rule("deepseek_v31", marks=("<｜tool▁calls▁begin｜>",)),  # noqa: RUF001
    _Rule("step3", marks=("<steptml:",)),
    _Rule("mistral", marks=("[TOOL_CALLS]",)),
    _Rule("internlm", marks=("<|action_start|>", "<|plugin|>")),
    _Rule("gigachat3", marks=("<|role_sep|>", "function call")),
    _Rule("olmo3", marks=("<function_calls>",)),
    _Rule("jamba", ("jamba",), ("<tool_calls>",)),
    _Rule("hy_v4", ("hy_v4",), ("<tool_call",)),
    _Rule("hy_v3", ("hy_v3",), ("<tool_call",)),
    _Rule("hunyuan_a13b", ("hunyuan",), ("<tool_calls>",)),
    _Rule("ernie45", ("ernie4_5",), ("<tool_call>",)),
    _Rule("poolside_v1", ("laguna",), ("<arg_key>",)),
    _Rule("ling3", ("bailing",), ("<arg_key>",)),
    _Rule("glm47", marks=("<arg_key>", "<arg_value>")),
    _Rule("minicpm5", marks=("<function name=", "<param name=")),
    _Rule("step3p5", ("step3p5",), ("<function=",)),
    _Rule("mimo", ("mimo",), ("<function=",)),
    _Rule("qwen3_xml", marks=("<function=", "<parameter=")),
    _Rule("granite4", ("granite",), ("<tool_call>", "</tool_call>")),
    _Rule("granite", ("granite",), ("<|tool_call|>",)),
    _Rule("granite", ("granite",), ("<tool_call>",)),
    _Rule("granite-20b-fc", ("gpt_bigcode",), ("<function_call>",)),
    _Rule("phi4_mini_json", marks=("functools[",)),
    _Rule("llama4_pythonic", ("llama4",), ("[func_name1(",)),
    _Rule("llama4_json", ("llama4",), ('{"name": function name',)),
    _Rule("pythonic", marks=("[func_name1(",)),
    _Rule("llama3_json", marks=('{"name": function name',)),
    _Rule("llama3_json", marks=("<|python_tag|>",)),
    _Rule("hermes", marks=("<tool_call>", '"name"')),
)

_REASONING = (
    _Rule("openai_gptoss", ("gpt_oss",)),
    _Rule("deepseek_v41", ("deepseek_v41",)),
    _Rule("deepseek_v4", ("deepseek_v4",)),
    _Rule("deepseek_v3", ("deepseek_v32",)),
    _Rule("kimi_k3", ("kimi_k3",)),
    _Rule("inkling", ("inkling",)),
    _Rule("muse_glimmer", ("muse_glimmer",)),
    _Rule("gemma4", marks=("<|channel>",)),
    _Rule("mistral", marks=("[THINK]",)),
    _Rule("minimax_m3", marks=("<mm:think>",)),
    _Rule("minimax_m2", marks=("<minimax:tool_call>", "<think>")),
    _Rule("seed_oss", marks=("<seed:think>",)),
    _Rule("k2_horizon", marks=("<ifm|think>",)),
    _Rule("plamo3", marks=("<|plamo:begin_think",)),
    _Rule("granite", marks=("Here is my thought process",)),
    _Rule("hy_v4", ("hy_v4",), ("<think",)),
    _Rule("hy_v3", ("hy_v3",), ("<think",)),
    _Rule("kimi_k2", marks=("<|tool_calls_section_begin|>", "<think>")),
    _Rule("hunyuan_a13b", ("hunyuan",), ("<think>", "<answer>")),
    _Rule("ernie45", ("ernie4_5",), ("<think>",)),
    _Rule("poolside_v1", ("laguna",), ("<think>",)),
    _Rule("ling3", ("bailing",), ("<think>", "<arg_key>")),
    _Rule("glm47", ("glm",), ("<think>",)),
    _Rule("nemotron_v3", ("nemotron_h",), ("<think>",)),
    _Rule("granite_thinking_parser", ("granite",), ("<think>",)),
    _Rule("step3p5", ("step3p5",), ("<think>",)),
    _Rule("step3", ("step3",), ("<think>",)),
    _Rule("mimo", ("mimo_v2", "mimovl"), ("<think>", "enable_thinking")),
    _Rule("minicpmv", ("minicpmv", "minicpmo"), ("<think>", "enable_thinking")),
)

_THINK = "<think>"
_OLMO3_FAMILIES = ("olmo3", "olmo_hybrid")

_TOOL_CALL_NEEDS: Mapping[str, tuple[str, ...]] = {
    "deepseek_v3": ("<｜tool▁calls▁begin｜>",),  # noqa: RUF001
    "deepseek_v31": ("<｜tool▁calls▁begin｜>",),  # noqa: RUF001
    "jamba": ("<tool_calls>", "</tool_calls>"),
    "lfm2": ("<|tool_call_start|>",),
    "llama3_json": ("<|python_tag|>",),
    "llama4_json": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]",),
}
_REASONING_NEEDS: Mapping[str, tuple[str, ...]] = {
    "deepseek_r1": ("<think>", "</think>"),
    "deepseek_v3": ("<think>", "</think>"),
    "ernie45": ("<think>", "</think>"),
    "holo2": ("<think>", "</think>"),
    "minimax_m3": ("<mm:think>", "</mm:think>"),
    "mistral": ("[TOOL_CALLS]",),
    "step3": ("</think>",),
}
"""Tokens whose absence makes vLLM's parser refuse to start. Some speak of text only (hermes) and need none."""


def choose_parsers(
    checkpoint_config: Mapping[str, Any], chat_template: str | None, tokens: Container[str] | None = None
) -> Parsers:
    """The parsers for a model, by its config.json and chat template.

    tokens: the tokenizer's own tokens, where known; a parser that would not start without one is then left out.
    """
    families = _families(checkpoint_config)
    template = _normalise(chat_template or "")
    tool_call = _first(_TOOL_CALL, families, template)
    reasoning = _first(_REASONING, families, template) or _generic_reasoning(families, template)
    return Parsers(_able(tool_call, _TOOL_CALL_NEEDS, tokens), _able(reasoning, _REASONING_NEEDS, tokens))


def _families(config: Mapping[str, Any]) -> frozenset[str]:
    """The model type, and that of the language model inside a multimodal one."""
    nested = (config.get(key) for key in ("text_config", "language_config", "llm_config", "thinker_config"))
    types = [config.get("model_type")] + [part.get("model_type") for part in nested if isinstance(part, Mapping)]
    return frozenset(name.lower().replace("-", "_") for name in types if isinstance(name, str))


def _normalise(template: str) -> str:
    """Comments out, and quotes as the model sees them: templates write `{\\"name\\"` inside their strings."""
    return re.sub(r"\{#.*?#\}", "", template, flags=re.DOTALL).replace('\\"', '"')


def _first(rules: tuple[_Rule, ...], families: frozenset[str], template: str) -> str | None:
    return next((rule.parser for rule in rules if rule.matches(families, template)), None)


def _generic_reasoning(families: frozenset[str], template: str) -> str | None:
    """For everyone who writes <think>: can it be switched, is it off by default, does the prompt always open it?"""
    code = _code(template)
    if _THINK in template and re.search(r"(?<![\w.])enable_thinking\b", code):
        return "qwen3"
    # Only asked whether it is defined: templates also keep a turn's own thinking in a variable of that name.
    if "</think>" in template and re.search(r"(?<![\w.])thinking is (?:not )?defined", code):
        return "holo2" if any(name.startswith("qwen3_vl") for name in families) else "deepseek_v3"
    _, asked, prompt = template.rpartition("add_generation_prompt")
    if asked and _THINK in prompt:
        return "olmo3" if any(name.startswith(_OLMO3_FAMILIES) for name in families) else "deepseek_r1"
    if "</think>" in template and "<｜Assistant｜>" in template:  # noqa: RUF001
        # DeepSeek-R1 and its distillations open <think> by themselves.
        return "deepseek_r1"
    return None


def _code(template: str) -> str:
    """The statements and expressions of a template, without their string literals."""
    inside = " ".join(re.findall(r"\{[{%](.*?)[%}]\}", template, flags=re.DOTALL))
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", inside)


def _able(parser: str | None, needs: Mapping[str, tuple[str, ...]], tokens: Container[str] | None) -> str | None:
    if parser is None or tokens is None or all(token in tokens for token in needs.get(parser, ())):
        return parser
    return None
