"""What is left out of a conversation, and what is certain about its length."""

import pytest

from tests.each import each
from vllama.translate.history import most_tokens, reply_room, shortened, without_media


def message(role, content="x"):
    return {"role": role, "content": content}


IMAGE = {"type": "image_url", "image_url": {"url": "data:…"}}


@each(
    ("roles", "first", "kept"),
    [
        ("sua", 0, "sua"),
        ("sua", 1, "sua"),
        ("sua", 2, "sa"),
        ("usuasu", 3, "sasu"),
        ("usuasu", 5, "ssu"),
        ("u", 0, "u"),
    ],
)
def test_system_messages_stay(roles, first, kept):
    names = {"s": "system", "u": "user", "a": "assistant"}
    left = shortened([message(names[role], str(at)) for at, role in enumerate(roles)], first)
    assert "".join(one["role"][0] for one in left) == kept
    assert [one["content"] for one in left] == sorted(one["content"] for one in left)


def test_an_upper_bound():
    short = most_tokens({"messages": [message("user", "Hi")]})
    assert most_tokens({"messages": [message("user", "Hi" + "é" * 1000)]}) == short + 2000
    assert most_tokens({"messages": [message("user", "Hi")], "tools": [{"a": "b" * 500}]}) > short + 500
    image = {"type": "image_url", "image_url": {"url": "data:" + "x" * 10**6}}
    assert 2 * 768 < most_tokens({"messages": [message("user", [image, image])]}) < 10**4
    assert most_tokens({"prompt": "x" * 5000}) > 5000


@pytest.mark.parametrize(
    ("limit", "wanted", "room"), [(4096, None, 1024), (4096, 10, 10), (4096, 4000, 1024), (4, None, 1), (2, 1, 1)]
)
def test_room_for_the_reply(limit, wanted, room):
    assert reply_room(limit, wanted) == room


def test_counting_leaves_media_out():
    parts = [{"type": "text", "text": "a"}, IMAGE, {"type": "text", "text": "b"}]
    assert without_media([message("user", parts), message("user", "c")]) == [
        message("user", "ab"),
        message("user", "c"),
    ]
