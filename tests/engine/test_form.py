"""Forms as a server reads them."""

from io import BytesIO
from tempfile import TemporaryFile
from typing import Any

import pytest
from starlette.datastructures import UploadFile
from starlette.requests import Request

from vllama.engine.form import PIECE_BYTES, Form
from vllama.errors import EngineError


async def body_of(form: Form) -> bytes:
    data = b"".join([piece async for piece in form.pieces()])
    assert len(data) == form.size
    return data


async def read_back(form: Form) -> list[tuple[str, Any]]:
    """What our own server makes of it: a file as its name, type and content."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await body_of(form)}

    headers = [(b"content-type", form.content_type.encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    async with request.form() as read:
        return [
            (name, (value.filename, value.content_type, await value.read()) if isinstance(value, UploadFile) else value)
            for name, value in read.multi_items()
        ]


async def test_what_is_sent_is_what_is_read() -> None:
    form = Form()
    form.add("language", "de")
    form.add("prompt", "ein\r\nzwei\nÄöü 👋--")
    form.add("prompt", "")
    form.add_file("file", UploadFile(BytesIO(b"RIFF\r\n--")), 8, filename="Grüße.wav", content_type="audio/wav")
    form.add_file("file", UploadFile(BytesIO(b"")), 0, filename="empty", content_type="a/b")
    expected = [
        ("language", "de"),
        ("prompt", "ein\r\nzwei\nÄöü 👋--"),
        ("prompt", ""),
        ("file", ("Grüße.wav", "audio/wav", b"RIFF\r\n--")),
        ("file", ("empty", "a/b", b"")),
    ]
    assert await read_back(form) == expected
    assert await read_back(form) == expected, "once more"


async def test_names_cannot_break_out() -> None:
    form = Form()
    form.add('a"; filename="b', "x")
    form.add("a\r\nContent-Type: x\r\n\r\n", "y")
    form.add_file("f", UploadFile(BytesIO(b"z")), 1, filename='a"\r\nb', content_type="a/b\r\nX: y")
    assert await read_back(form) == [
        ("a%22; filename=%22b", "x"),
        ("a%0D%0AContent-Type: x%0D%0A%0D%0A", "y"),
        ("f", ("a%22%0D%0Ab", "application/octet-stream", b"z")),
    ]


async def test_a_file_on_disk_is_read_piece_by_piece() -> None:
    size = 3 * PIECE_BYTES + 5
    with TemporaryFile() as file:
        file.write(size * b"x")
        form = Form()
        form.add_file("file", UploadFile(file), size, filename="a", content_type="a/b")
        pieces = [piece async for piece in form.pieces()]
    assert [len(piece) for piece in pieces if piece.startswith(b"x")] == [PIECE_BYTES] * 3 + [5]


@pytest.mark.parametrize("size", [0, 2])
async def test_no_more_is_sent_than_was_said(size: int) -> None:
    form = Form()
    form.add_file("file", UploadFile(BytesIO(b"xyz")), size, filename="a", content_type="a/b")
    assert (await read_back(form))[0][1][2] == b"xyz"[:size]


async def test_a_file_that_became_shorter() -> None:
    form = Form()
    form.add_file("file", UploadFile(BytesIO(b"xyz")), 5, filename="a", content_type="a/b")
    with pytest.raises(EngineError, match="2 bytes shorter"):
        await body_of(form)
