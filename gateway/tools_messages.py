"""Messages and input items as chat templates take them, tool calls and their results among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gateway.tools import called

if TYPE_CHECKING:
    from gateway.api_types import ChatMessage, InputItem

Message = dict[str, Any]


def chat_message(one: ChatMessage) -> Message:
    message: Message = {"role": one.role, "content": "".join(part.text for part in one.content or ())}
    if one.tool_calls:
        message["tool_calls"] = [called(call.id, call.function.name, call.function.arguments) for call in one.tool_calls]
    if one.tool_call_id is not None:
        message["tool_call_id"] = one.tool_call_id
    return message


def input_messages(items: Sequence[InputItem]) -> list[Message]:
    messages: list[Message] = []
    for item in items:
        if item.type == "function_call":
            add_call(messages, item.call_id or "", item.name or "", item.arguments or "")
        elif item.type == "function_call_output":
            messages.append({"role": "tool", "content": _text(item.output), "tool_call_id": item.call_id})
        else:
            messages.append({"role": item.role, "content": _text(item.content)})
    return messages


def stored_item(item: InputItem) -> Message:
    """As `input_items` lists it; who sent no id gets one there."""
    known: Message = {"id": item.id, "type": item.type, "status": item.status or "completed"}
    if item.type == "function_call":
        return known | {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
    if item.type == "function_call_output":
        return known | {"call_id": item.call_id, "output": _text(item.output)}
    kind: Message = {"type": "output_text", "annotations": [], "logprobs": []} if item.role == "assistant" else {"type": "input_text"}
    return known | {"role": item.role, "content": [{**kind, "text": part.text} for part in item.content or ()]}


def add_call(messages: list[Message], call_id: str, name: str, arguments: str) -> None:
    """A call belongs to the assistant's message before it, or to one without text."""
    _last_assistant(messages).setdefault("tool_calls", []).append(called(call_id, name, arguments))


def _last_assistant(messages: list[Message]) -> Message:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _text(parts: Sequence[Any] | None) -> str:
    return "".join(part.text for part in parts or ())
