"""White space around thinking, in any pieces."""

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
