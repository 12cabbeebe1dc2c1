"""Texts to embed, and the vectors that the engine makes of them."""

import math
from array import array
from typing import Any

from vllama.errors import ApiError

INPUT_TOO_LONG = "the input length exceeds the context length"
_UNIT_ENOUGH = 1e-6  # what single precision leaves of a length of 1


def texts(value: Any) -> list[str]:
    """/api/embed's `input`: what is to be embedded. Raises ApiError 400 in Ollama's words.

    A text that is empty is no input, but one in a list is embedded.
    """
    if isinstance(value, str):
        return [value] if value else []
    if value is None:
        return []
    if not _are_all(value, str):
        raise ApiError(400, "invalid input type")
    return list(value)


def openai_inputs(value: Any) -> list[str] | list[list[int]]:
    """/v1/embeddings' `input`: texts, or token ids, which Ollama refuses. Raises ApiError 400 in Ollama's words."""
    if value is None or value == []:
        raise ApiError(400, "invalid input")
    if isinstance(value, str):
        return [value]
    if _are_all(value, int):
        return [value]
    if isinstance(value, list) and all(item and _are_all(item, int) for item in value):
        return value
    return texts(value)


def _are_all(items: Any, kind: type) -> bool:
    # The type itself: a boolean is an int to isinstance.
    return isinstance(items, list) and all(type(item) is kind for item in items)


def embedding_request(inputs: list[str] | list[list[int]], *, truncate: bool) -> dict[str, Any]:
    """The engine's body, without `model`. What is too long loses its end, as in Ollama, where it may be cut.

    As base64 the vectors take a quarter of the room and a tenth of the time to read; infinities, which have no JSON,
    come through.
    """
    body: dict[str, Any] = {"input": inputs, "encoding_format": "base64"}
    return body | {"truncate_prompt_tokens": -1} if truncate else body


def vector(data: bytes | list[float]) -> "array[float]":
    """One vector of the engine's reply. Raises ApiError 400 in Ollama's words where it is none."""
    floats = array("f", data)
    if not math.isfinite(sum(floats)):
        raise ApiError(400, "embedding contains NaN or Inf values")
    return floats


def unit(floats: "array[float]", dimensions: int | None = None) -> "array[float]":
    """The vector, cut to `dimensions` where it has more, at length 1. One of zeros has no direction: it stays."""
    if dimensions is not None and 0 < dimensions < len(floats):
        floats = floats[:dimensions]
    length = math.hypot(*floats)
    if length == 0 or abs(length - 1) < _UNIT_ENOUGH:
        return floats
    return array("f", [number / length for number in floats])
