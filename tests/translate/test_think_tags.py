"""Telling thinking from text by the model's own tags."""

from tests.each import each
from vllama.translate.think_tags import ThinkTags


def split(pieces, *, begun=False):
    tags = ThinkTags(begun=begun)
    parts = [*(tags.feed(piece) for piece in pieces), tags.close()]
    return tuple("".join(side) for side in zip(*parts, strict=True))


CASES = [
    ("<think>\nHm.\n</think>\n\nYes.", False, ("\nHm.\n", "\n\nYes.")),
    ("\n<think>Hm.</think>Yes.", False, ("Hm.", "Yes.")),
    ("Yes.", False, ("", "Yes.")),
    (" Yes <think>no</think>", False, ("", " Yes <think>no</think>")),
    ("<thin", False, ("", "<thin")),
    ("<thinker>", False, ("", "<thinker>")),
    ("<think>Hm. </thi", False, ("Hm. </thi", "")),
    ("<think>a < b </ c</think>d</think>e", False, ("a < b </ c", "d</think>e")),
    ("Hm.</think>Yes.", True, ("Hm.", "Yes.")),
    ("Hm.", True, ("Hm.", "")),
    ("", False, ("", "")),
]


@each(("text", "begun", "parts"), CASES)
def test_whole(text, begun, parts):
    assert split([text], begun=begun) == parts


@each("size", [1, 2, 3, 5])
@each(("text", "begun", "parts"), CASES)
def test_in_pieces(text, begun, parts, size):
    assert split([text[at : at + size] for at in range(0, len(text), size)], begun=begun) == parts


def test_nothing_is_held_longer_than_needed():
    tags = ThinkTags()
    assert tags.feed("<think>") == ("", "")
    assert tags.feed("Hm") == ("Hm", "")
    assert tags.feed(" <") == (" ", "")
    assert tags.feed("3</think>Y") == ("<3", "Y")
    assert tags.feed("<think>") == ("", "<think>")
