"""The official client's structured outputs and tools against a running system: gateway, scheduler and workers as processes.

The workers run the engine without a model over the demo model's tokenizer: nobody would call its answers meant, so whatever matches
a schema does so by the grammar alone. Real weights under grammars are in `tests/contract/test_engine_grammar.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict, Field

from cli.system import System, SystemPlan, WorkerPlan
from gateway.fold import Kind
from shared.types import RequestId
from tests.support.pool import Pool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("structured")]

DEMO = Path(__file__).parents[2] / "examples" / "demo_model" / "weights"
Json = dict[str, Any]
ASK: list[Any] = [{"role": "user", "content": "Tell me about the whale."}]
PLACE: Json = {
    "type": "object",
    "properties": {"town": {"enum": ["Bath", "Lyme"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
NOTE: Json = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "visit", "description": "Go there.", "parameters": PLACE, "strict": True}},
    {"type": "function", "function": {"name": "note", "parameters": NOTE}},
]
FLAT_TOOLS: list[Any] = [{"type": "function", **tool["function"]} for tool in TOOLS]
SCHEMAS = {"visit": PLACE, "note": NOTE}


class Whale(BaseModel):
    """What the client's helpers turn into a strict schema and parse the answer into."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["sperm", "right", "blue"]
    tons: int = Field(ge=1, le=190)
    seen: list[bool] = Field(max_length=3)


def called(answer: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in answer.choices[0].message.tool_calls or ()]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[Pool]:
    workers = tuple(WorkerPlan(f"fake-{at}", ("--engine", "fake", "--kv-mib", "8", "--slowdown", "2")) for at in (1, 2))
    async with Pool.running(System(SystemPlan(DEMO, "demo", workers, pool="structured"))) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(pool: Pool) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{pool.system.urls[0]}/v1", api_key="none", max_retries=0, timeout=60, _strict_response_validation=True
    ) as client:
        yield client


async def test_parse_gives_an_instance(client: AsyncOpenAI) -> None:
    answers = await asyncio.gather(
        *(client.chat.completions.parse(model="demo", messages=ASK, response_format=Whale, seed=seed) for seed in range(4))
    )
    assert all(isinstance(answer.choices[0].message.parsed, Whale) for answer in answers)
    assert {answer.choices[0].finish_reason for answer in answers} == {"stop"}
    assert len({answer.choices[0].message.content for answer in answers}) > 1


async def test_responses_parse_gives_an_instance(client: AsyncOpenAI) -> None:
    answer = await client.responses.parse(model="demo", input="The whale?", text_format=Whale)
    assert isinstance(answer.output_parsed, Whale)
    assert answer.text is not None
    assert answer.text.format is not None
    assert answer.text.format.type == "json_schema"


async def test_a_json_object_of_any_shape(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="demo", messages=ASK, response_format={"type": "json_object"}, max_completion_tokens=48, seed=1
    )
    content = answer.choices[0].message.content or ""
    assert content.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "note"}}])
async def test_a_call_that_was_asked_for_is_valid(client: AsyncOpenAI, choice: Any) -> None:
    answer = await client.chat.completions.create(model="demo", messages=ASK, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    assert answer.choices[0].finish_reason == "tool_calls"
    ((name, arguments),) = called(answer)
    Draft202012Validator(SCHEMAS[name]).validate(json.loads(arguments))
    assert choice == "required" or name == "note"
    assert answer.choices[0].message.content is None


async def test_streamed_calls_are_the_plain_answers(client: AsyncOpenAI) -> None:
    """Several calls; the client's helper puts the pieces together."""
    asked: dict[str, Any] = {"model": "demo", "messages": ASK, "tools": TOOLS, "tool_choice": "required", "seed": 5}
    plain = await client.chat.completions.create(**asked)
    async with client.chat.completions.stream(**asked) as stream:
        streamed = await stream.get_final_completion()
    assert called(plain) == called(streamed)
    assert streamed.choices[0].finish_reason == "tool_calls"
    assert all(call.id.startswith("call_") for call in streamed.choices[0].message.tool_calls or ())


async def test_a_conversation_goes_on_behind_a_result(client: AsyncOpenAI) -> None:
    first = await client.chat.completions.create(model="demo", messages=ASK, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    message = first.choices[0].message
    (call,) = list(message.tool_calls or ())
    history = [*ASK, message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "Done."}]
    second = await client.chat.completions.create(model="demo", messages=history, tools=TOOLS, tool_choice="none", max_completion_tokens=8)
    assert second.choices[0].message.tool_calls is None
    assert second.usage is not None
    # Tools that may not be called are not shown; what was called, and its result, are.
    bare = await client.chat.completions.create(model="demo", messages=ASK, max_completion_tokens=1)
    assert bare.usage is not None
    assert second.usage.prompt_tokens > bare.usage.prompt_tokens + 10


async def test_responses_stream_an_item_per_call(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(
        model="demo", input="The whale?", tools=FLAT_TOOLS, tool_choice={"type": "function", "name": "visit"}, stream=True
    )
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert deltas
    (done,) = (event for event in events if event.type == "response.function_call_arguments.done")
    assert "".join(deltas) == done.arguments
    assert (kinds[3], kinds[-3:]) == (
        "response.output_item.added",
        ["response.function_call_arguments.done", "response.output_item.done", "response.completed"],
    )
    assert events[-1].type == "response.completed"
    (item,) = events[-1].response.output
    assert item.type == "function_call"
    Draft202012Validator(PLACE).validate(json.loads(item.arguments))


async def test_responses_go_on_behind_a_result(client: AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "demo", "tools": FLAT_TOOLS}
    first = await client.responses.create(**asked, input="The whale?", tool_choice="required", parallel_tool_calls=False)
    (call,) = first.output
    assert call.type == "function_call"
    history: list[Any] = [
        {"role": "user", "content": "The whale?"},
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "Done."},
    ]
    second = await client.responses.parse(**asked, input=history, tool_choice="none", text_format=Whale)
    assert isinstance(second.output_parsed, Whale)


async def test_a_schema_that_cannot_be_followed_is_refused_by_name(client: AsyncOpenAI) -> None:
    bad: Json = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=b)"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model="demo",
            messages=ASK,
            response_format={"type": "json_schema", "json_schema": {"name": "bad", "schema": bad, "strict": True}},
        )
    assert (caught.value.param, caught.value.code) == ("response_format", "invalid_schema")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="demo", input="?", tools=[{"type": "function", "name": "f", "parameters": bad, "strict": True}])
    assert caught.value.param == "tools[0].parameters"


async def test_an_answer_whose_worker_is_killed_in_the_middle_is_the_same(client: AsyncOpenAI, pool: Pool) -> None:
    """The last test of the system: it leaves one worker."""
    numbers = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99999}, "minItems": 60, "maxItems": 60}
    asked: dict[str, Any] = {
        "model": "demo",
        "messages": ASK,
        "seed": 7,
        "response_format": {"type": "json_schema", "json_schema": {"name": "numbers", "schema": numbers, "strict": True}},
    }
    undisturbed = (await client.chat.completions.create(**asked)).choices[0].message.content or ""
    Draft202012Validator(numbers).validate(json.loads(undisturbed))
    stream = await client.chat.completions.create(**asked, stream=True)
    text, killed = "", False
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if not killed and text.count(",") >= 5:
            record = await pool.fabric.record(RequestId(chunk.id.removeprefix(Kind.CHAT.prefix)))
            assert record is not None
            assert record.owner is not None
            await pool.kill(str(record.owner.worker))
            killed = True
    assert killed
    assert text == undisturbed
