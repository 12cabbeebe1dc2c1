"""White space around thinking, in any pieces."""

import msgspec
import pytest

from vllama.translate.spacing import Trimmer


@pytest.mark.parametrize(
    ("thinking", "answer", "expected"),
    [
        (["\nThe user", " greets. ", "\n"], ["\n\n", "Hello!", "\n"], ("The user greets.", "Hello!\n")),
        (["\n", " \n a", "\n", "\n", "b \n"], ["c"], ("a\n\nb", "c")),
        ([], ["\n\nHello!"], ("", "\n\nHello!")),
        (["\n"], ["\n", "\n"], ("", "")),
        (["a"], ["\n b", " c "], ("a", "b c ")),
    ],
)
def test_trimmed(thinking, answer, expected):
    trimmer = Trimmer()
    pieces = [trimmer.thinking(part) for part in thinking], [trimmer.answer(part) for part in answer]
    assert ("".join(pieces[0]), "".join(pieces[1])) == expected


@pytest.mark.parametrize(
    ("before", "text", "expected"),
    [
        ([], "a", False),
        (["\n"], "a", False),
        (["a"], " b", True),
        (["a"], '"', False),  # ends in an escape, as white space may
        (["a"], "b ", False),
        (["a"], "b\n", False),
        (["a"], "\u3000", False),
        (["a"], "世界", True),
        (["a", " "], "b", False),
        (["a", " ", "b"], "c", True),
    ],
)
def test_thinking_that_passes_as_it_is(before, text, expected):
    trimmer = Trimmer()
    for part in before:
        trimmer.thinking(part)
    assert trimmer.thinks_on(msgspec.json.encode(text)[1:-1]) is expected
    assert not expected or trimmer.thinking(text) == text
