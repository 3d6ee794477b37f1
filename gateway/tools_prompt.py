"""How tools get into the prompt: through the model's chat template, or, where it knows none, in words of our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
Json = dict[str, Any]

PREAMBLE = """You may call these tools:
{tools}
To call a tool, answer with nothing but a JSON object on a line of its own, one line per call:
{{"tool": NAME, "arguments": ARGUMENTS}}
ARGUMENTS is a JSON object that matches the tool's parameters. Without a tool to call, answer in plain text."""
"""The system prompt of a model whose template knows no tools."""


def call_format_of(template: str) -> str:
    """How the model of this template was trained to write calls, by what the template's text says; `generic` where it says nothing."""
    if "tools" not in template:
        return "generic"
    if "<tool_call>" in template:
        return "hermes"
    if '"parameters"' in template and ("<|python_tag|>" in template or "ipython" in template):
        return "llama3"
    return "generic"


def in_words(messages: Sequence[Message], tools: Sequence[Json]) -> list[Json]:
    """The conversation for a template without tools: a preamble, calls as the text that makes them, results as the user's words."""
    told = [_in_words(message, messages) for message in messages]
    if not tools:
        return told
    preamble = PREAMBLE.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools))
    if told and told[0]["role"] == "system":
        return [{"role": "system", "content": f"{told[0]['content']}\n\n{preamble}"}, *told[1:]]
    return [{"role": "system", "content": preamble}, *told]


def _in_words(message: Message, messages: Sequence[Message]) -> Json:
    if message["role"] == "tool":
        name = _called_name(message.get("tool_call_id"), messages)
        return {"role": "user", "content": f"The tool{name} answered:\n{message['content']}"}
    calls = [_call_line(call["function"]) for call in message.get("tool_calls") or ()]
    text = message.get("content") or ""
    return {"role": message["role"], "content": "\n".join([text, *calls] if text else calls) if calls else text}


def _call_line(function: Json) -> str:
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'{{"tool": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": {written}}}'


def _called_name(call_id: object, messages: Sequence[Message]) -> str:
    calls = [call for message in messages for call in message.get("tool_calls") or () if call["id"] == call_id]
    return f" {calls[-1]['function']['name']}" if calls else ""
