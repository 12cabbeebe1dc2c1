"""The engine's replies to OpenAI's requests for responses."""

import json

import pytest

from vllama.translate.response_reply import ResponseReply


def block(event):
    return f"event: {event['type']}\ndata: {json.dumps(event)}".encode()


def reasoning(text):
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def message(text):
    return {"type": "message", "content": [{"type": "output_text", "text": text}]}


ECHO = {
    "metadata": {},
    "text": {"format": {"type": "text"}},
    "store": False,
    "tool_choice": "auto",
    "service_tier": "default",
}


def test_a_whole_reply():
    output = [reasoning("\nI think.\n"), message("\n\nHello!")]
    response = {"model": "m", "output": output, "metadata": None, "tool_choice": "none", "service_tier": "auto"}
    reply = json.loads(ResponseReply("Demo").whole(json.dumps(response).encode()))
    summary = [{"type": "summary_text", "text": "I think."}]
    assert reply == ECHO | {
        "model": "Demo",
        "output": [
            {"type": "reasoning", "summary": summary, "encrypted_content": "I think."},
            message("Hello!"),
        ],
    }


def stream(reply, *events):
    """What becomes of events: (name, data) of each that is left."""
    text = b"".join(reply.event(block(event), json.dumps(event).encode()) for event in events).decode()
    blocks = [block.removeprefix("event: ").split("\ndata: ") for block in text.split("\n\n")[:-1]]
    return [(name, json.loads(data)) for name, data in blocks]


def test_what_was_asked_for_is_said():
    asked = {"metadata": {"a": "b"}, "text": {"format": {"type": "json_object"}}, "tool_choice": "required"}
    response = {"model": "m", "output": [], "tools": [{"type": "function"}]} | asked
    assert asked.items() <= json.loads(ResponseReply("Demo").whole(json.dumps(response).encode())).items()


def test_a_message_of_nothing_is_left_out():
    call = {"type": "function_call", "name": "f"}
    at = {"output_index": 1, "content_index": 0}
    sent = stream(
        ResponseReply("Demo"),
        {"type": "response.reasoning_text.delta", "output_index": 0, "content_index": 0, "delta": "\na\n"},
        {"type": "response.output_item.added", "output_index": 1, "item": {"type": "message", "content": []}},
        {"type": "response.content_part.added", **at, "part": {"type": "output_text", "text": ""}},
        {"type": "response.output_text.delta", **at, "delta": "\n\n"},
        {"type": "response.output_text.done", **at, "text": "\n\n"},
        {"type": "response.content_part.done", **at, "part": {"type": "output_text", "text": "\n\n"}},
        {"type": "response.output_item.done", "output_index": 1, "item": message("\n\n")},
        {"type": "response.output_item.added", "output_index": 2, "item": call},
        {"type": "response.completed", "response": {"output": [message("\n\n"), call]}},
    )
    assert sent == [
        (
            "response.reasoning_summary_text.delta",
            {
                "type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "a",
                "sequence_number": 0,
            },
        ),
        (
            "response.output_item.added",
            {"type": "response.output_item.added", "output_index": 1, "item": call, "sequence_number": 1},
        ),
        (
            "response.completed",
            {
                "type": "response.completed", "response": ECHO | {"output": [call], "model": "Demo"},
                "sequence_number": 2,
            },
        ),
    ]  # fmt: skip


def test_a_stream_that_fails():
    reply = ResponseReply("Demo")
    stream(reply, {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}})
    error = {"code": "server_error", "message": "it broke"}
    blocks = reply.failure("it broke").decode().split("\n\n")
    first, second = (json.loads(block.partition("data: ")[2]) for block in blocks[:-1])
    assert [block.partition("\n")[0] for block in blocks] == ["event: error", "event: response.failed", ""]
    assert first == {"type": "error", **error, "param": None, "error": error, "sequence_number": 1}
    assert (second["sequence_number"], second["response"]["error"]) == (2, error)
    assert (second["response"]["id"], second["response"]["status"]) == ("resp_1", "failed")


def test_a_stream_that_fails_before_it_begins():
    assert ResponseReply("Demo").failure("it broke").count(b"event: ") == 1


# Plain tokens


def delta(kind, number, text, **more):
    at = {"item_id": "msg_1", "output_index": 0, "sequence_number": number}
    return {"content_index": 0, "delta": text, **at, **more, "type": f"response.{kind}.delta"}


def relayed(reply, *events):
    """What becomes of events: for each, whether on the shortcut, and the data of what is written."""
    made = []
    for event in events:
        pieces = reply.shortcut(block(event))
        text = b"".join(pieces) if pieces is not None else reply.event(block(event), json.dumps(event).encode())
        made.append(
            (pieces is not None, [json.loads(part.partition(b"data: ")[2]) for part in text.split(b"\n\n")[:-1]])
        )
    return made


def test_plain_tokens():
    texts = ["Hello", " you", '"', "!"]
    made = relayed(ResponseReply("Demo"), *(delta("output_text", 4 + index, text) for index, text in enumerate(texts)))
    assert made == [
        (index > 0, [delta("output_text", index, text)]) for index, text in enumerate(texts)
    ]  # fmt: skip


def test_plain_tokens_behind_thinking():
    message = {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "content": []}}
    made = relayed(
        ResponseReply("Demo"),
        *(delta("reasoning_text", 7, text) for text in ("\n", "I", " greet", ".\n")),
        message,
        *(delta("output_text", 8, text) for text in ("\n\n", "Hello", "!", " ")),
    )
    quick = [index for index, (on_shortcut, _) in enumerate(made) if on_shortcut]
    written = [event for _, events in made for event in events]
    assert quick == [2, 8]
    assert [event["sequence_number"] for event in written] == list(range(len(written)))
    assert "".join(event["delta"] for event in written if "delta" in event) == "I greet.Hello! "


@pytest.mark.parametrize("more", [{"logprobs": []}, {"obfuscation": "x"}])
def test_arguments_are_plain_too(more):
    events = [
        delta("function_call_arguments", 9 + number, text, **more) for number, text in enumerate(["{", '"a"', "}"])
    ]
    made = relayed(ResponseReply("Demo"), *events)
    assert [on_shortcut for on_shortcut, _ in made] == [False, True, True]
    assert [events for _, events in made] == [[event | {"sequence_number": n}] for n, event in enumerate(events)]


def test_numbers_in_another_place():
    events = [{"sequence_number": 5, "type": "response.output_text.delta", "delta": text} for text in ("a", "b", "c")]
    made = relayed(ResponseReply("Demo"), *events)
    assert made == [(False, [event | {"sequence_number": number}]) for number, event in enumerate(events)]


@pytest.mark.parametrize("more", [{"logprobs": [{"token": "1", "logprob": -0.5}]}, {"part_index": 7}])
def test_numbers_behind_the_events_own(more):
    events = [
        {"type": "response.output_text.delta", "delta": "1", "sequence_number": 0} | more,
        {"type": "response.output_text.delta", "delta": "2", "sequence_number": 1} | dict.fromkeys(more, 2),
    ]
    assert relayed(ResponseReply("Demo"), *events) == [(False, [event]) for event in events]


def test_a_summary_of_the_servers_own_is_kept():
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I greet."}], "encrypted_content": "x"}
    made = json.loads(ResponseReply("Demo").whole(json.dumps({"output": [item]}).encode()))
    assert made["output"] == [item]
