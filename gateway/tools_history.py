"""A stored response as messages again: what it was asked, and what it answered, calls among it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.fold import Fold
from gateway.tools_messages import Message, add_call
from gateway.tools_responses import ToolResponseFold


def stored_messages(items: Iterable[dict[str, Any]]) -> list[Message]:
    """Of input items as `stored_item` made them."""
    messages: list[Message] = []
    for item in items:
        if item["type"] == "function_call":
            add_call(messages, item["call_id"], item["name"], item["arguments"])
        elif item["type"] == "function_call_output":
            messages.append({"role": "tool", "content": item["output"], "tool_call_id": item["call_id"]})
        else:
            messages.append({"role": item["role"], "content": "".join(part["text"] for part in item["content"])})
    return messages


def answer_message(fold: Fold) -> Message:
    """The assistant's message of a response that has ended."""
    if not isinstance(fold, ToolResponseFold):
        return {"role": "assistant", "content": fold.transcript.text}
    messages: list[Message] = [{"role": "assistant", "content": fold.told.content}]
    for call in fold.told.calls:
        add_call(messages, call.call_id, call.name, call.text)
    return messages[0]
