"""Tool calls that nobody constrained, as a trained model writes them: told by a scripted owner, read by the official client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.settings import GatewaySettings
from tests.support.fake_owner import End, Say
from tests.support.gateway_server import Stage, staged
from tests.support.tokenizer_dirs import byte_backend, save

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}<|end|>{% endfor %}<|assistant|>"
)
TOOLS: list[Any] = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}]
FLAT: list[Any] = [{"type": "function", **TOOLS[0]["function"], "strict": False}]
ASK: list[Any] = [{"role": "user", "content": "Where?"}]
CALLING = (
    Say("Let me "),
    Say("see.<tool_"),
    Say('call>\n{"name": "find", "argu'),
    Say('ments": {"q": '),
    Say('"x"}}\n</tool_call>\n<tool_call>{"name":"find","arguments":{}}</tool_call>'),
    End(),
)


@pytest_asyncio.fixture
async def hermes(tmp_path: Path) -> AsyncIterator[Stage]:
    backend = byte_backend("<|end|>", "<|user|>", "<|assistant|>", "<|tool|>")
    model = save(tmp_path, backend, {"eos_token": "<|end|>", "chat_template": TEMPLATE}, eos=256)
    async with staged(GatewaySettings(redis_url="", model=model, served_model_name="m", poll_s=0.05)) as stage:
        stage.plays(*CALLING)
        yield stage


async def test_text_then_two_calls(hermes: Stage) -> None:
    answer = await hermes.served.openai.chat.completions.create(model="m", messages=ASK, tools=TOOLS)
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    calls: list[Any] = list(choice.message.tool_calls or ())
    assert [(call.function.name, call.function.arguments) for call in calls] == [("find", '{"q": "x"}'), ("find", "{}")]
    assert len({call.id for call in calls}) == 2


async def test_the_pieces_stream_as_they_come(hermes: Stage) -> None:
    stream = await hermes.served.openai.chat.completions.create(model="m", messages=ASK, tools=TOOLS, stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    told = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert "".join(delta.content or "" for delta in deltas) == "Let me see."
    assert [(call.index, call.function and call.function.name, call.function and call.function.arguments) for call in told] == [
        (0, "find", ""),
        (0, None, '{"q": '),
        (0, None, '"x"}'),
        (1, "find", ""),
        (1, None, "{}"),
    ]
    assert [bool(call.id) for call in told] == [True, False, False, True, False]


async def test_without_tools_the_same_text_is_text(hermes: Stage) -> None:
    answer = await hermes.served.openai.chat.completions.create(model="m", messages=ASK)
    assert (answer.choices[0].message.content or "").count("<tool_call>") == 2
    assert answer.choices[0].finish_reason == "stop"


async def test_any_gateway_gives_the_same_events(hermes: Stage) -> None:
    """A background response read again from its start is told by a new fold of the log."""
    responses = hermes.served.openai.responses
    stream = await responses.create(model="m", input="Where?", tools=FLAT, stream=True, background=True)
    first = [event async for event in stream]
    assert first[0].type == "response.created"
    again = [event async for event in await responses.retrieve(first[0].response.id, stream=True)]
    assert [event.model_dump() for event in again] == [event.model_dump() for event in first]
    items = [event.item.type for event in first if event.type == "response.output_item.done"]
    assert items == ["message", "function_call", "function_call"]
    assert first[-1].type == "response.completed"
    assert [item.type for item in first[-1].response.output] == items


async def test_a_conversation_goes_on_by_the_id_of_the_response_that_called(hermes: Stage) -> None:
    responses = hermes.served.openai.responses
    first = await responses.create(model="m", input="Where?", tools=FLAT)
    call = next(item for item in first.output if item.type == "function_call")
    specs = hermes.remembers_specs()
    await responses.create(
        model="m",
        previous_response_id=first.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "There."}],
        tools=FLAT,
        tool_choice="none",
    )
    prompt = await hermes.served.gateway.default.encoder.decode(specs[0].prompt)
    assert prompt.index("Where?") < prompt.index(call.call_id) < prompt.index("There.")


@pytest.mark.parametrize("tool_choice", ["auto", "none", "required"])
async def test_only_what_must_hold_is_constrained(hermes: Stage, tool_choice: Any) -> None:
    specs = hermes.remembers_specs()
    await hermes.served.openai.chat.completions.create(model="m", messages=ASK, tools=TOOLS, tool_choice=tool_choice)
    assert bool(specs[0].sampling.grammar) == (tool_choice == "required")
