"""The chat that a request for a response amounts to: what the engine can count the tokens of."""

from typing import Any

from vllama.translate.openai_messages import Object


def chat_prompt(body: Object) -> Object:
    """The prompt of a response's body in the words of the engine's chats, with its limit as `max_tokens`."""
    variables = dict(body.get("chat_template_kwargs", {}))
    template = variables.pop("chat_template", None)
    instructions = [{"role": "system", "content": text}] if (text := body.get("instructions")) else []
    prompt = {
        "messages": [*instructions, *(message for item in body["input"] for message in _message(item))],
        "tools": [_tool(tool) for tool in body.get("tools", ()) if tool.get("type") == "function"] or None,
        "chat_template_kwargs": variables or None,
        "chat_template": template,
        "max_tokens": body.get("max_output_tokens"),
    }
    return {name: value for name, value in prompt.items() if value is not None}


def _message(item: Object) -> list[Object]:
    match item.get("type", "message"):
        case "message":
            return [{"role": item["role"], "content": _content(item["content"])}]
        case "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            return [{"role": "assistant", "content": "", "tool_calls": [call]}]
        case "function_call_output":
            return [{"role": "tool", "tool_call_id": item["call_id"], "content": _content(item["output"])}]
    return []


def _content(content: Any) -> Any:
    return [_part(part) for part in content] if isinstance(content, list) else content


def _part(part: Any) -> Object:
    """Of images it is only counted how many there are."""
    text = part.get("text", part.get("refusal")) if isinstance(part, dict) else str(part)
    return {"type": "text", "text": text} if isinstance(text, str) else {"type": "image_url"}


def _tool(tool: Object) -> Object:
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
