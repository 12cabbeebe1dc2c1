"""Words broken into lines while they come."""

import re

from tests.each import each
from vllama.cli._wrap import Wrapper, harmless


def on_screen(printed: str) -> str:
    """What a terminal shows of it."""
    lines, column = [""], 0
    for piece in re.findall(r"\x1b\[\d*[DK]|.|\n", printed):
        if piece == "\n":
            lines.append("")
            column = 0
        elif piece.endswith("D") and piece.startswith("\x1b"):
            column -= int(piece[2:-1])
        elif piece == "\x1b[K":
            lines[-1] = lines[-1][:column]
        else:
            lines[-1] = lines[-1][:column] + piece
            column += 1
    return "\n".join(line.rstrip() for line in lines)


@each("size", [1, 3, 1000])
@each(
    ("text", "shown"),
    [
        ("short", "short"),
        ("one two three four", "one two\nthree four"),
        ("one\ntwo three", "one\ntwo three"),
        ("0123456789 next", "0123456789\nnext"),
        ("0123456789ABCDE f", "0123456789\nABCDE f"),
        ("a 0123456789ABC", "a\n0123456789\nABC"),
        ("深度学习模型", "深度学习模\n型"),
    ],
)
def test_lines(text, shown, size):
    wrapper = Wrapper(15)  # ten columns, and the margin
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert on_screen("".join(map(wrapper.feed, pieces))) == shown


def test_a_terminal_that_is_too_narrow_is_left_to_itself():
    assert Wrapper(8).feed("one two three") == "one two three"


def test_what_a_terminal_would_obey_is_left_out():
    assert harmless("a\x1b]0;title\x07b\tc\nd\x9b2J\r") == "a]0;titleb\tc\nd2J"
