"""The probabilities of tokens."""

import math

import msgspec
import pytest

from vllama.translate.logprobs import translate_logprobs
from vllama.wire.openai import Logprobs


def translated(*, top=2, **logprobs):
    return msgspec.to_builtins(translate_logprobs(msgspec.convert(logprobs, Logprobs), top))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], []),
        (
            [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}],
            [{"token": "a", "logprob": -0.5, "bytes": [97]}],
        ),
        ([{"token": "", "logprob": -0.5, "bytes": []}], [{"token": "", "logprob": -0.5}]),
        (
            [
                {"token": "a", "logprob": -2.0, "bytes": [97]}
                | {"top_logprobs": [{"token": "a", "logprob": -2.0}, {"token": "ü", "logprob": -1.0}]}
            ],
            [
                {"token": "a", "logprob": -2.0, "bytes": [97]}
                | {
                    "top_logprobs": [
                        {"token": "ü", "logprob": -1.0, "bytes": [195, 188]},
                        {"token": "a", "logprob": -2.0, "bytes": [97]},
                    ]
                }
            ],
        ),
    ],
)
def test_of_a_chat(content, expected):
    assert translated(content=content) == expected


def test_of_a_completion():
    assert translated(
        tokens=["a", "é"],
        token_logprobs=[-0.5, None],
        top_logprobs=[{"b": -3.0, "a": -0.5}, None],
    ) == [
        {"token": "a", "logprob": -0.5, "bytes": [97]}
        | {
            "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "b", "logprob": -3.0, "bytes": [98]},
            ]
        },
        {"token": "é", "logprob": -9999.0, "bytes": [195, 169]},
    ]  # fmt: skip
    chosen = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5}]}
    assert translated(top=0, **chosen) == [{"token": "a", "logprob": -0.5, "bytes": [97]}]


def test_no_infinity_gets_out():
    logprobs = Logprobs(tokens=["a"], token_logprobs=[-math.inf])
    assert translate_logprobs(logprobs, 1)[0].logprob == -9999.0


def test_the_token_itself_is_no_alternative_too_many():
    (entry,) = translated(top=1, tokens=["b"], token_logprobs=[-3.0], top_logprobs=[{"a": -0.5, "b": -3.0}])
    assert [other["token"] for other in entry["top_logprobs"]] == ["a"]
