# ruff: noqa: RUF001 - DeepSeek's bars are full-width
"""The choice of parsers, against short excerpts of what the families' templates say. Needs no vLLM."""

from typing import Any

import pytest

from tests.each import each
from vllama.engine import parsers
from vllama.engine.parsers import Parsers, choose_parsers

# What vLLM 0.32.0 registers (ToolParserManager, ReasoningParserManager); those chosen here were imported from it once.
TOOL_CALL_NAMES = {
    "apertus",
    "deepseek_v3",
    "deepseek_v31",
    "deepseek_v32",
    "deepseek_v4",
    "deepseek_v41",
    "dots",
    "ernie45",
    "functiongemma",
    "gemma4",
    "gigachat3",
    "glm45",
    "glm47",
    "granite",
    "granite-20b-fc",
    "granite4",
    "hermes",
    "hf",
    "hunyuan_a13b",
    "hy_v3",
    "hy_v4",
    "inkling",
    "internlm",
    "jamba",
    "k2_horizon",
    "kimi_k2",
    "kimi_k3",
    "lfm2",
    "ling3",
    "llama3_json",
    "llama4_json",
    "llama4_pythonic",
    "longcat",
    "mimo",
    "minicpm5",
    "minimax_m2",
    "minimax_m3",
    "mistral",
    "muse_glimmer",
    "olmo3",
    "openai",
    "phi4_mini_json",
    "plamo3",
    "poolside_v1",
    "pythonic",
    "qwen3_coder",
    "qwen3_json",
    "qwen3_xml",
    "seed_oss",
    "step3",
    "step3p5",
    "xlam",
}
REASONING_NAMES = {
    "deepseek_r1",
    "deepseek_v3",
    "deepseek_v4",
    "deepseek_v41",
    "ernie45",
    "gemma4",
    "glm45",
    "glm47",
    "granite",
    "granite_thinking_parser",
    "hf",
    "holo2",
    "hunyuan_a13b",
    "hy_v3",
    "hy_v4",
    "inkling",
    "k2_horizon",
    "kimi_k2",
    "kimi_k3",
    "ling3",
    "mimo",
    "minicpmv",
    "minimax_m2",
    "minimax_m2_append_think",
    "minimax_m3",
    "mistral",
    "muse_glimmer",
    "nemotron_v3",
    "olmo3",
    "openai_gptoss",
    "plamo3",
    "poolside_v1",
    "qwen3",
    "seed_oss",
    "step3",
    "step3p5",
}

HERMES = '{{- \'<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args>}\\n</tool_call>\' }}'
XML = "<tool_call>\n<function=example>\n<parameter=a>\n"
SWITCH = "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>' }}{% endif %}"
OPENS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
HISTORY = "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"

CASES: list[tuple[str, str, str, str | None, str | None]] = [
    # model, model_type, template, tool_call, reasoning
    ("Qwen2.5", "qwen2", HERMES, "hermes", None),
    ("Qwen3", "qwen3", HERMES + HISTORY + SWITCH, "hermes", "qwen3"),
    ("Qwen3-Instruct-2507", "qwen3", HERMES, "hermes", None),
    ("Qwen3-Thinking-2507", "qwen3", HERMES + HISTORY + OPENS, "hermes", "deepseek_r1"),
    ("QwQ", "qwen2", HERMES + HISTORY + OPENS, "hermes", "deepseek_r1"),
    ("Qwen3-Coder", "qwen3_moe", XML, "qwen3_xml", None),
    ("Qwen3.5", "qwen3_5", XML + SWITCH, "qwen3_xml", "qwen3"),
    ("Hermes-3", "llama", '<tool_call>\n{"arguments": <args-dict>, "name": <function-name>}', "hermes", None),
    ("SmolLM3", "smollm3", HERMES + "{% if enable_thinking %}<think>{% endif %}", "hermes", "qwen3"),
    ("DeepSeek-R1", "deepseek_v3", "<｜tool▁calls▁begin｜>```json" + HISTORY + OPENS, "deepseek_v3", "deepseek_r1"),
    ("DeepSeek-R1-Distill", "qwen2", "<｜Assistant｜>" + HISTORY, None, "deepseek_r1"),
    (
        "DeepSeek-V3.1",
        "deepseek_v3",
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}<｜tool▁calls▁begin｜></think><think>",
        "deepseek_v31",
        "deepseek_v3",
    ),
    ("DeepSeek-V3.2", "deepseek_v32", "", "deepseek_v32", "deepseek_v3"),
    ("DeepSeek-V4", "deepseek_v4", "", "deepseek_v4", "deepseek_v4"),
    ("DeepSeek-V4.1", "deepseek_v41", "", "deepseek_v41", "deepseek_v41"),
    ("gpt-oss", "gpt_oss", "<|channel|>analysis<|message|>", "openai", "openai_gptoss"),
    ("Mistral", "mistral", "[AVAILABLE_TOOLS][/AVAILABLE_TOOLS][TOOL_CALLS]", "mistral", None),
    ("Magistral", "mistral", "[TOOL_CALLS][THINK][/THINK]", "mistral", "mistral"),
    ("Llama-3.1", "llama", 'Respond in the format {\\"name\\": function name, <|python_tag|>', "llama3_json", None),
    ("Llama-3.2", "llama", 'Respond in the format {"name": function name, "parameters"', "llama3_json", None),
    ("Llama-4", "llama4", 'Respond in the format {"name": function name', "llama4_json", None),
    ("Llama-4 in Python", "llama4", "in the format of [func_name1(params_name1=1)]", "llama4_pythonic", None),
    ("ToolACE", "llama", "in the format of [func_name1(params_name1=1)]", "pythonic", None),
    ("Gemma 4", "gemma4", "<|tool_call>call:x{}<tool_call|><|channel>thought", "gemma4", "gemma4"),
    ("Gemma 3", "gemma3", "<start_of_turn>model", None, None),
    ("FunctionGemma", "gemma3_text", "<start_function_call>call:", "functiongemma", None),
    ("GLM-4.5", "glm4_moe", "<tool_call>x<arg_key>k</arg_key><arg_value>" + SWITCH, "glm47", "glm47"),
    ("Laguna", "laguna", "<tool_call>x<arg_key>k</arg_key><arg_value><think>", "poolside_v1", "poolside_v1"),
    ("Ling 3", "bailing_hybrid", "<tool_call><arg_key><arg_value><think>", "ling3", "ling3"),
    ("Hy3", "hy_v3", "<tool_calls><tool_call><arg_key><arg_value><think>", "hy_v3", "hy_v3"),
    ("Hunyuan-A13B", "hunyuan_v1_moe", "<tool_calls><think>\n</think>\n<answer>", "hunyuan_a13b", "hunyuan_a13b"),
    ("Kimi-K2", "kimi_k2", "<|tool_calls_section_begin|>", "kimi_k2", None),
    ("Kimi-K2-Thinking", "kimi_k2", "<|tool_calls_section_begin|><think></think>", "kimi_k2", "kimi_k2"),
    ("Kimi-K3", "kimi_k3", "", "kimi_k3", "kimi_k3"),
    ("MiniMax-M2", "minimax_m2", '<minimax:tool_call><invoke name=""><think>', "minimax_m2", "minimax_m2"),
    ("MiniMax-M3", "minimax_m3_vl", "<tool_call><mm:think>", "minimax_m3", "minimax_m3"),
    ("Granite-3.1", "granite", "<|tool_call|>", "granite", None),
    ("Granite-3.2", "granite", "<|tool_call|>Here is my thought process:", "granite", "granite"),
    ("Granite-4", "granitemoehybrid", HERMES, "granite4", None),
    ("Granite-4.2", "granite", XML + SWITCH, "qwen3_xml", "granite_thinking_parser"),
    ("Phi-4-mini", "phi3", 'functools[{"name": ', "phi4_mini_json", None),
    ("Olmo-3-Instruct", "olmo3", "<function_calls>", "olmo3", None),
    ("Olmo-3-Think", "olmo3", OPENS, None, "olmo3"),
    ("Seed-OSS", "seed_oss", "<seed:tool_call><seed:think>", "seed_oss", "seed_oss"),
    ("ERNIE-4.5-Thinking", "ernie4_5_moe", "<tool_call>\n{}<think>", "ernie45", "ernie45"),
    ("Step3", "step3_vl", '<steptml:invoke name=""><think>', "step3", "step3"),
    ("Step-3.5", "step3p5", XML + OPENS, "step3p5", "step3p5"),
    ("Nemotron 3", "nemotron_h", XML + SWITCH, "qwen3_xml", "nemotron_v3"),
    ("MiMo-V2", "mimo_v2_flash", XML + SWITCH, "mimo", "mimo"),
    ("MiniCPM-V", "minicpmv4_6", SWITCH, None, "minicpmv"),
    ("Holo2", "qwen3_vl", HERMES + "{% if thinking is defined %}<think></think>{% endif %}", "hermes", "holo2"),
    ("LFM2", "lfm2", "<|tool_call_start|>[]<|tool_call_end|>", "lfm2", None),
    ("InternLM2.5", "internlm2", "<|action_start|><|plugin|>", "internlm", None),
    ("Jamba-1.5", "jamba", "<tool_calls>[]", "jamba", None),
    ("LongCat", "longcat_flash", '<longcat_tool_call>{"name"', "longcat", None),
    ("Apertus", "apertus", "<|tools_prefix|>", "apertus", None),
    ("GigaChat 3", "deepseek_v3", "function call<|role_sep|>", "gigachat3", None),
    ("MiniCPM5", "minicpm", '<function name="x"><param name="y">', "minicpm5", None),
    # vLLM's parsers for these need a package that nobody installs.
    ("Command A Reasoning", "cohere2", "<|START_ACTION|><|START_THINKING|>", None, None),
    ("plain ChatML", "llama", "{{ '<|im_start|>' + message.role }}", None, None),
    ("base model", "llama", "", None, None),
    ("unknown", "new", "{{ messages }}", None, None),
]


@pytest.mark.parametrize(
    ("model_type", "template", "tool_call", "reasoning"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_choice(model_type: str, template: str, tool_call: str | None, reasoning: str | None) -> None:
    assert choose_parsers({"model_type": model_type}, template or None) == Parsers(tool_call, reasoning)


def test_every_name_is_one_of_vllms() -> None:
    assert {rule.parser for rule in parsers._TOOL_CALL} | parsers._TOOL_CALL_NEEDS.keys() <= TOOL_CALL_NAMES
    assert {rule.parser for rule in parsers._REASONING} | parsers._REASONING_NEEDS.keys() <= REASONING_NAMES
    assert {case[3] for case in CASES} - {None} <= TOOL_CALL_NAMES
    assert {case[4] for case in CASES} - {None} <= REASONING_NAMES


def test_every_rule_can_be_reached() -> None:
    """A rule behind a more general one would never match."""
    for rules in (parsers._TOOL_CALL, parsers._REASONING):
        for rule in rules:
            families = frozenset(rule.families[:1] or ("some",))
            assert parsers._first(rules, families, " ".join(rule.marks)) == rule.parser


@pytest.mark.parametrize("model_type", ["llama", None, 3, [], {"a": 1}])
def test_strange_configs(model_type: Any) -> None:
    assert choose_parsers({"model_type": model_type, "text_config": model_type}, None) == Parsers()


def test_the_language_model_inside_a_multimodal_one_counts() -> None:
    config = {"model_type": "new_vl", "text_config": {"model_type": "glm4v_moe_text"}}
    assert choose_parsers(config, "<think>").reasoning == "glm47"


def test_comments_choose_nothing() -> None:
    assert choose_parsers({}, "{# [TOOL_CALLS] <think> enable_thinking #}{{ x }}") == Parsers()


@pytest.mark.parametrize(
    "template",
    [
        # Handles what others thought, but does not think.
        HISTORY,
        # A message's own thinking, kept in a variable.
        "{% set thinking = message.thinking %}{% if thinking %}<think>{{ thinking }}</think>{% endif %}",
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}",
        "<think> mentioned before {% if add_generation_prompt %}{% endif %}",
        "{{ 'set enable_thinking' }}<think>",
    ],
)
def test_no_reasoning_parser_without_a_sign_of_thinking(template: str) -> None:
    """One that is wrong would take the whole answer for reasoning."""
    assert choose_parsers({"model_type": "qwen3"}, template).reasoning is None


@each(
    ("template", "tokens", "expected"),
    [
        ("<|python_tag|>", {"<|python_tag|>"}, Parsers("llama3_json")),
        ("<|python_tag|>", {"<|eot_id|>"}, Parsers()),
        ("[TOOL_CALLS]", {"<s>"}, Parsers()),
        (OPENS, {"<think>", "</think>"}, Parsers(None, "deepseek_r1")),
        (OPENS, {"<think>"}, Parsers()),
        (HERMES + SWITCH, {"<|im_end|>"}, Parsers("hermes", "qwen3")),
    ],
)
def test_tokens_that_vllm_insists_on(template: str, tokens: set[str], expected: Parsers) -> None:
    assert choose_parsers({}, template, tokens) == expected
