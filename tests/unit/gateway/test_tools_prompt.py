"""Tools in prompts: through templates that know them, in our own words for those that do not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.chat_template import ChatTemplate
from gateway.tools import called

HERMES = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}{% for message in messages %}"
    "<{{ message.role }}>{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>{{ call.function.arguments | tojson }}"
    "</tool_call>{% endfor %}{% endfor %}"
)
LLAMA = '{% if tools is not none %}{{ tools | tojson }}{% endif %}<|python_tag|>{{ \'{"name": , "parameters": }\' }}'
PLAIN = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
STRANGE = "{% if tools %}[AVAILABLE_TOOLS]{{ tools }}{% endif %}" + PLAIN
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "find", "description": "", "parameters": {"type": "object"}}}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "", "tool_calls": [called("call_1", "find", '{"q": "é"}')]},
    {"role": "tool", "content": "There.", "tool_call_id": "call_1"},
]


@pytest.mark.parametrize(("source", "name"), [(HERMES, "hermes"), (LLAMA, "llama3"), (PLAIN, "generic"), (STRANGE, "generic")])
def test_the_template_says_how_calls_are_written(source: str, name: str) -> None:
    assert ChatTemplate(source, {}).call_format == name


def test_a_template_that_knows_tools_gets_them() -> None:
    text = ChatTemplate(HERMES, {}).render(TALK, [TOOL])
    assert text.startswith(f"<tools>{json.dumps(TOOL)}</tools><user>Where?")
    assert '<tool_call>{"q": "é"}</tool_call><tool>There.' in text


def test_without_tools_such_a_template_sees_none() -> None:
    assert "<tools>" not in ChatTemplate(HERMES, {}).render(TALK[:1])


@pytest.mark.parametrize("source", [PLAIN, STRANGE])
def test_a_template_without_tools_gets_words(source: str) -> None:
    text = ChatTemplate(source, {}).render(TALK, [TOOL])
    assert text.startswith("[system] You may call these tools:\n" + json.dumps(TOOL["function"]))
    assert '[assistant] {"tool": "find", "arguments": {"q": "é"}}\n[user] The tool find answered:\nThere.\n' in text
    assert "AVAILABLE" not in text


def test_the_preamble_follows_the_system_message_that_is_there() -> None:
    text = ChatTemplate(PLAIN, {}).render([{"role": "system", "content": "Be brief."}, *TALK], [TOOL])
    assert text.startswith("[system] Be brief.\n\nYou may call")
    assert text.count("[system]") == 1


def test_an_option_overrides_the_template() -> None:
    assert "<tools>" not in ChatTemplate(HERMES, {}).render(TALK, [TOOL], call_format="generic")


@pytest.mark.parametrize("arguments", ["not JSON", "[1]", "7", ""])
def test_arguments_that_are_no_object_stay_text(arguments: str) -> None:
    assert called("c", "f", arguments)["function"]["arguments"] == arguments


@pytest.mark.parametrize(("source", "shown"), [(PLAIN, "system"), ("{# developer #}" + PLAIN, "developer")])
def test_a_developer_is_the_system_where_the_template_knows_none(source: str, shown: str) -> None:
    text = ChatTemplate(source, {}).render([{"role": "developer", "content": "Be brief."}])
    assert text == f"[{shown}] Be brief.\n"
    with_tools = ChatTemplate(HERMES, {}).render([{"role": "developer", "content": "Be brief."}], [TOOL])
    assert "<system>Be brief." in with_tools
    assert (
        ChatTemplate(PLAIN, {}).render([{"role": "developer", "content": "Be brief."}], [TOOL]).startswith("[system] Be brief.\n\nYou may")
    )
