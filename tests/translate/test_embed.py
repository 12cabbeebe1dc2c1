"""Texts to embed, and vectors."""

import math
from array import array

import pytest

from tests.each import each
from vllama.errors import ApiError
from vllama.translate.embed import embedding_request, openai_inputs, texts, unit, vector


@each(
    ("value", "expected"),
    [(None, []), ("", []), ("x", ["x"]), ([], []), (["x", ""], ["x", ""]), ([""], [""])],
)
def test_texts(value, expected):
    assert texts(value) == expected


@each("value", [5, 0, False, {}, {"text": "x"}, [5], ["x", 5], ["x", None], [["x"]], [{}]])
def test_texts_of_the_wrong_type(value):
    with pytest.raises(ApiError, match=r"^invalid input type$"):
        texts(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", [""]),
        ("x", ["x"]),
        (["x", ""], ["x", ""]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_openai_inputs(value, expected):
    assert openai_inputs(value) == expected


@each(
    ("value", "text"),
    [
        (None, "invalid input"),
        ([], "invalid input"),
        (5, "invalid input type"),
        ({}, "invalid input type"),
        ([1, "x"], "invalid input type"),
        ([True], "invalid input type"),
        ([1.5], "invalid input type"),
        ([[]], "invalid input type"),
        ([[1], []], "invalid input type"),
        ([[1], "x"], "invalid input type"),
    ],
)
def test_openai_inputs_that_are_refused(value, text):
    with pytest.raises(ApiError, match=f"^{text}$"):
        openai_inputs(value)


def test_embedding_request():
    body = {"input": ["x"], "encoding_format": "base64"}
    assert embedding_request(["x"], truncate=False) == body
    assert embedding_request(["x"], truncate=True) == body | {"truncate_prompt_tokens": -1}


def test_vector():
    floats = array("f", [0.1, -2.5])
    assert vector(floats.tobytes()) == floats
    assert vector([0.1, -2.5]) == floats


@pytest.mark.parametrize("numbers", [[math.nan], [1.0, math.inf], [math.inf, -math.inf], [-math.inf]])
def test_numbers_that_make_no_vector(numbers):
    with pytest.raises(ApiError, match=r"^embedding contains NaN or Inf values$"):
        vector(array("f", numbers).tobytes())


@each(
    ("numbers", "dimensions", "expected"),
    [
        ([3.0, 4.0], None, [0.6, 0.8]),
        ([3.0, 4.0, 12.0], 2, [0.6, 0.8]),
        ([3.0, 4.0], 2, [0.6, 0.8]),
        ([3.0, 4.0], 3, [0.6, 0.8]),
        ([3.0, 4.0], 0, [0.6, 0.8]),
        ([3.0, 4.0], -1, [0.6, 0.8]),
        ([0.0, 0.0], None, [0.0, 0.0]),
        ([0.0, 1.0], 1, [0.0]),
        ([1e-30, 0.0], None, [1.0, 0.0]),
        ([3e38, 3e38], None, [math.sqrt(0.5)] * 2),
    ],
)
def test_unit(numbers, dimensions, expected):
    made = unit(array("f", numbers), dimensions)
    assert made.typecode == "f"
    assert made.tolist() == pytest.approx(expected)


def test_a_vector_of_length_1_stays_as_it_is():
    floats = array("f", [0.6, 0.8])
    assert unit(floats) is floats
