"""Ollama's options: their types, and what becomes of each."""

import json
import math

import pytest

from tests.each import each
from vllama.errors import ApiError
from vllama.translate.options import check_options, inexpressible, sampling_parameters

DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
FLOATS = ["temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"]
INTEGERS = [
    "num_predict", "top_k", "repeat_last_n", "seed", "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu",
    "num_thread", "draft_num_predict",
]  # fmt: skip


def sampled(**options):
    return sampling_parameters(check_options(options))


def refusal(options):
    with pytest.raises(ApiError) as raised:
        check_options(options)
    assert raised.value.status == 500
    return raised.value.message


@each("name", FLOATS)
@each("value", ["1", True, [1], {}, 1e300, math.inf, -math.inf, math.nan, 10**400])
def test_no_float(name, value):
    assert refusal({name: value}) == f'option "{name}" must be of type float32'


@each("name", INTEGERS)
@each("value", ["1", False, [1], {}, 1e300, math.inf, -math.inf, math.nan, 10**400, 2**63])
def test_no_integer(name, value):
    assert refusal({name: value}) == f'option "{name}" must be of type integer'


@pytest.mark.parametrize("value", ["true", 1, 0.0, []])
def test_no_boolean(value):
    assert refusal({"use_mmap": value}) == 'option "use_mmap" must be of type boolean'


@pytest.mark.parametrize("value", [1, True, {"a": "b"}])
def test_stop_is_no_list(value):
    assert refusal({"stop": value}) == 'option "stop" must be of type array'


@pytest.mark.parametrize("value", [[1], ["a", None], [["a"]]])
def test_stop_holds_no_strings(value):
    assert refusal({"stop": value}) == 'option "stop" must be of an array of strings'


@pytest.mark.parametrize("text", ["1e400", "-1e400", "1e39"])
def test_numbers_that_json_reads_as_too_large(text):
    assert refusal({"temperature": json.loads(text)}) == 'option "temperature" must be of type float32'


@each("name", FLOATS)
def test_integers_are_floats_too(name):
    checked = check_options({name: 1})
    assert checked == {name: 1.0}
    assert isinstance(checked[name], float)


@each("name", INTEGERS)
@each(("value", "whole"), [(7, 7), (7.0, 7), (7.9, 7), (-7.9, -7), (2**62, 2**62)])
def test_integers_are_truncated(name, value, whole):
    checked = check_options({name: value})
    assert checked == {name: whole}
    assert isinstance(checked[name], int)


@each("name", [*FLOATS, *INTEGERS, "use_mmap", "stop"])
def test_null_is_absent(name):
    assert check_options({name: None}) == {}


@each("name", ["mirostat", "tfs_z", "penalize_newline", "numa", "low_vram", "Temperature", "", "x"])
def test_unknown_names_are_ignored(name):
    assert check_options({name: {"anything": True}}) == {}


def test_defaults_are_sent():
    assert sampled() == DEFAULTS


@each(
    ("options", "changed"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": -1}, {"temperature": 0.0}),
        ({"temperature": 1.5}, {"temperature": 1.5}),
        ({"temperature": 5}, {"temperature": 2.0}),
        ({"top_k": 1}, {"top_k": 1}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": -7}, {"top_k": 0}),
        ({"top_p": 1}, {"top_p": 1.0}),
        ({"top_p": 1.2}, {"top_p": 1.0}),
        ({"top_p": 0}, {"top_p": 1e-6}),
        ({"top_p": -1}, {"top_p": 1e-6}),
        ({"min_p": 0}, {}),
        ({"min_p": -0.5}, {}),
        ({"min_p": 0.05}, {"min_p": 0.05}),
        ({"min_p": 3}, {"min_p": 1.0}),
        ({"typical_p": 0.5}, {}),
        ({"num_predict": 7}, {"max_tokens": 7}),
        ({"num_predict": 0}, {}),
        ({"num_predict": -1}, {}),
        ({"num_predict": -2}, {}),
        ({"seed": 42}, {"seed": 42}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": -1}, {}),
        ({"seed": -2}, {"seed": -2}),
        ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ({"stop": ["a", "", "b"]}, {"stop": ["a", "b"]}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": [""]}, {}),
        ({"stop": []}, {}),
        ({"stop": [str(number) for number in range(20)]}, {"stop": [str(number) for number in range(20)]}),
        ({"repeat_penalty": 1}, {}),
        ({"repeat_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"repeat_penalty": 0.5}, {"repetition_penalty": 0.5}),
        ({"repeat_penalty": 0}, {}),
        ({"repeat_penalty": -1}, {}),
        ({"presence_penalty": 0}, {}),
        ({"presence_penalty": 0.5}, {"presence_penalty": 0.5}),
        ({"presence_penalty": 9}, {"presence_penalty": 2.0}),
        ({"frequency_penalty": -0.5}, {"frequency_penalty": -0.5}),
        ({"frequency_penalty": -9}, {"frequency_penalty": -2.0}),
        ({"repeat_last_n": 0, "repeat_penalty": 1.1, "presence_penalty": 1, "frequency_penalty": 1}, {}),
        ({"repeat_last_n": 64, "repeat_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"repeat_last_n": -1, "repeat_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"num_ctx": 4096, "num_keep": 4, "num_batch": 512, "num_gpu": -1, "main_gpu": 0, "num_thread": 8}, {}),
        ({"use_mmap": True, "draft_num_predict": 4}, {}),
    ],
)
def test_sampling_parameters(options, changed):
    assert sampled(**options) == DEFAULTS | changed


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, {}),
        ({"typical_p": 1.0, "num_keep": 4, "draft_num_predict": 4, "num_gpu": 99, "num_ctx": 8192}, {}),
        ({"typical_p": 0.7, "num_keep": 24}, {"typical_p": 0.7, "num_keep": 24}),
    ],
)
def test_what_vllm_cannot_express(options, named):
    assert inexpressible(check_options(options)) == named
