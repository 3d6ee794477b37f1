"""Whatever a client sends wrong gets the OpenAI error shape, names the parameter, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from gateway.app import create_app
from gateway.limits import MAX_BODY_BYTES, MAX_STOP_CHARS
from gateway.settings import GatewaySettings
from gateway.tokenizer import Tokenizer
from shared.fabric import SubmitAnswer, SubmitStatus
from shared.types import RequestId
from tests.support.fake_owner import MEMBER
from tests.support.model_fabric import ModelFabric
from tests.support.tiny_model import LENGTH, write_tiny_model

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": "hi"}
RESPONSE: dict[str, Any] = {"model": "tiny", "input": "hi"}
PATHS = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION, "/v1/responses": RESPONSE}
CHAT_PATH, COMPLETION_PATH, RESPONSE_PATH = PATHS


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    directory = write_tiny_model(tmp_path_factory.mktemp("model"))
    return directory, Tokenizer.load(directory)


@pytest.fixture
def fabric() -> ModelFabric:
    return ModelFabric()


@pytest_asyncio.fixture
async def client(tokenizer: tuple[Path, Tokenizer], fabric: ModelFabric) -> AsyncIterator[httpx2.AsyncClient]:
    settings = GatewaySettings(redis_url="", model=tokenizer[0], served_model_name="tiny")
    app = create_app(settings, fabric.as_fabric(), tokenizer[1])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        yield client


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


NO_SCHEMA = {"type": "object", "properties": {"a": {"type": "objekt"}}}
SCHEMA_OF_CHAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": NO_SCHEMA, "strict": True}}
SCHEMA_OF_RESPONSES = {"type": "json_schema", "name": "n", "schema": NO_SCHEMA}
TOOL = {"type": "function", "function": {"name": "f"}}
STRANGE_TOOL = {"type": "function", "function": {"name": "f", "parameters": NO_SCHEMA, "strict": True}}


BAD = [
    # (path, what is changed, status, param, code)
    (CHAT_PATH, {"messages": None}, 400, "messages", "invalid_type"),
    (CHAT_PATH, {"messages": []}, 400, "messages", "invalid_value"),
    (CHAT_PATH, {"messages": "hi"}, 400, "messages", "invalid_type"),
    (CHAT_PATH, {"messages": [{"role": "user"}]}, 400, "messages[0].content", "missing_required_parameter"),
    (CHAT_PATH, {"messages": [{"role": "robot", "content": "hi"}]}, 400, "messages[0].role", "invalid_value"),
    (CHAT_PATH, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content[0].type", "invalid_value"),
    (CHAT_PATH, {"messages": [{"role": "user", "content": "hi", "name": "Ada"}]}, 400, "messages[0].name", "unknown_parameter"),
    (CHAT_PATH, {"messages": [{"role": "developer", "content": "hi"}]}, 400, "messages", "chat_template_error"),
    (CHAT_PATH, {"messages": [{"role": "user", "content": "x" * LENGTH}]}, 400, "messages", "context_length_exceeded"),
    (CHAT_PATH, {"max_tokens": LENGTH}, 400, "max_tokens", "context_length_exceeded"),
    (CHAT_PATH, {"max_completion_tokens": LENGTH}, 400, "max_completion_tokens", "context_length_exceeded"),
    (CHAT_PATH, {"max_tokens": 1, "max_completion_tokens": 2}, 400, "max_tokens", "invalid_value"),
    (CHAT_PATH, {"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    (CHAT_PATH, {"max_tokens": "16"}, 400, "max_tokens", "invalid_type"),
    (CHAT_PATH, {"max_tokens": 1.5}, 400, "max_tokens", "invalid_type"),
    (CHAT_PATH, {"max_tokens": True}, 400, "max_tokens", "invalid_type"),
    (CHAT_PATH, {"temperature": 2.1}, 400, "temperature", "invalid_value"),
    (CHAT_PATH, {"temperature": "hot"}, 400, "temperature", "invalid_type"),
    (CHAT_PATH, {"temperature": float("nan")}, 400, "temperature", "invalid_value"),
    (CHAT_PATH, {"top_p": 0}, 400, "top_p", "invalid_value"),
    (CHAT_PATH, {"seed": -1}, 400, "seed", "invalid_value"),
    (CHAT_PATH, {"seed": 2**63}, 400, "seed", "invalid_value"),
    (CHAT_PATH, {"stop": ["a"] * 5}, 400, "stop", "invalid_value"),
    (CHAT_PATH, {"stop": [""]}, 400, "stop[0]", "invalid_value"),
    (CHAT_PATH, {"stop": "x" * (MAX_STOP_CHARS + 1)}, 400, "stop[0]", "invalid_value"),
    (CHAT_PATH, {"stop": [1]}, 400, "stop[0]", "invalid_type"),
    (CHAT_PATH, {"stream": "yes"}, 400, "stream", "invalid_type"),
    (CHAT_PATH, {"stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value"),
    (CHAT_PATH, {"stream": True, "stream_options": {"usage": True}}, 400, "stream_options.usage", "unknown_parameter"),
    (CHAT_PATH, {"n": 0}, 400, "n", "invalid_value"),
    (CHAT_PATH, {"n": -1}, 400, "n", "invalid_value"),
    (CHAT_PATH, {"n": 10**6}, 400, "n", "invalid_value"),
    (CHAT_PATH, {"n": True}, 400, "n", "invalid_type"),
    (CHAT_PATH, {"n": 2.5}, 400, "n", "invalid_type"),
    (CHAT_PATH, {"logprobs": 5}, 400, "logprobs", "invalid_type"),
    (CHAT_PATH, {"top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
    (CHAT_PATH, {"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "invalid_value"),
    (CHAT_PATH, {"temperature": -0.1}, 400, "temperature", "invalid_value"),
    (CHAT_PATH, {"presence_penalty": 2.5}, 400, "presence_penalty", "invalid_value"),
    (CHAT_PATH, {"frequency_penalty": "much"}, 400, "frequency_penalty", "invalid_type"),
    (CHAT_PATH, {"repetition_penalty": 0}, 400, "repetition_penalty", "invalid_value"),
    (CHAT_PATH, {"min_p": 1.5}, 400, "min_p", "invalid_value"),
    (CHAT_PATH, {"top_k": -2}, 400, "top_k", "invalid_value"),
    (CHAT_PATH, {"logit_bias": {"x": 1}}, 400, "logit_bias.x", "invalid_value"),
    (CHAT_PATH, {"logit_bias": {"1": 101}}, 400, "logit_bias.1", "invalid_value"),
    (CHAT_PATH, {"logit_bias": {"999999": 1}}, 400, "logit_bias", "invalid_value"),
    (CHAT_PATH, {"logit_bias": [1]}, 400, "logit_bias", "invalid_type"),
    (CHAT_PATH, {"min_tokens": 5, "max_tokens": 4}, 400, "min_tokens", "invalid_value"),
    (CHAT_PATH, {"min_tokens": LENGTH}, 400, "min_tokens", "invalid_value"),
    (CHAT_PATH, {"priority": 101}, 400, "priority", "invalid_value"),
    (CHAT_PATH, {"priority": 1, "service_tier": "flex"}, 400, "priority", "invalid_value"),
    (CHAT_PATH, {"service_tier": "gold"}, 400, "service_tier", "invalid_value"),
    (CHAT_PATH, {"timeout_s": 0}, 400, "timeout_s", "invalid_value"),
    (CHAT_PATH, {"timeout_s": float("inf")}, 400, "timeout_s", "invalid_value"),
    (CHAT_PATH, {"ttft_target_ms": 0}, 400, "ttft_target_ms", "invalid_value"),
    (CHAT_PATH, {"ttft_target_ms": "fast"}, 400, "ttft_target_ms", "invalid_type"),
    (COMPLETION_PATH, {"itl_target_ms": -1}, 400, "itl_target_ms", "invalid_value"),
    (RESPONSE_PATH, {"itl_target_ms": float("nan")}, 400, "itl_target_ms", "invalid_value"),
    (RESPONSE_PATH, {"ttft_target_ms": 86_400_001}, 400, "ttft_target_ms", "invalid_value"),
    (CHAT_PATH, {"reasoning_effort": "high"}, 400, "reasoning_effort", "unsupported_parameter"),
    (CHAT_PATH, {"response_format": {"type": "json_schema"}}, 400, "response_format", "invalid_value"),
    (CHAT_PATH, {"response_format": {"type": "json_schema", "json_schema": 7}}, 400, "response_format.json_schema", "invalid_type"),
    (CHAT_PATH, {"response_format": {"type": "xml"}}, 400, "response_format.type", "invalid_value"),
    (CHAT_PATH, {"response_format": SCHEMA_OF_CHAT}, 400, "response_format", "invalid_schema"),
    (CHAT_PATH, {"tools": [{"type": "function"}]}, 400, "tools[0].function", "missing_required_parameter"),
    (CHAT_PATH, {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, 400, "tools[0].type", "invalid_value"),
    (CHAT_PATH, {"tools": [TOOL, TOOL]}, 400, "tools", "invalid_value"),
    (CHAT_PATH, {"tools": [STRANGE_TOOL]}, 400, "tools[0].function.parameters", "invalid_schema"),
    (CHAT_PATH, {"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
    (CHAT_PATH, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, 400, "tool_choice", "invalid_value"),
    (CHAT_PATH, {"tools": [TOOL], "tool_choice": "required", "ignore_eos": True}, 400, "ignore_eos", "invalid_value"),
    (CHAT_PATH, {"messages": [{"role": "tool", "content": "4"}]}, 400, "messages[0]", "invalid_value"),
    (CHAT_PATH, {"beam_width": 5}, 400, "beam_width", "unknown_parameter"),
    (CHAT_PATH, {"metadata": {"k": 1}}, 400, "metadata.k", "invalid_type"),
    (CHAT_PATH, {"metadata": {"k" * 65: "v"}}, 400, f"metadata.{'k' * 65}", "invalid_value"),
    (CHAT_PATH, {"metadata": {str(index): "v" for index in range(17)}}, 400, "metadata", "invalid_value"),
    (CHAT_PATH, {"model": "other"}, 404, "model", "model_not_found"),
    (CHAT_PATH, {"model": 7}, 400, "model", "invalid_type"),
    (COMPLETION_PATH, {"prompt": ""}, 400, "prompt", "invalid_value"),
    (COMPLETION_PATH, {"prompt": []}, 400, "prompt", "invalid_type"),
    (COMPLETION_PATH, {"prompt": ["a", ""]}, 400, "prompt", "invalid_value"),
    (COMPLETION_PATH, {"prompt": ["a"] * 129}, 400, "prompt", "invalid_value"),
    (COMPLETION_PATH, {"prompt": ["a"] * 64, "n": 3}, 400, "n", "invalid_value"),
    (COMPLETION_PATH, {"prompt": ["a", "x" * LENGTH]}, 400, "prompt[1]", "context_length_exceeded"),
    (COMPLETION_PATH, {"prompt": [[1], [2, 10**9]]}, 400, "prompt[1][1]", "invalid_value"),
    (COMPLETION_PATH, {"prompt": [1, "b"]}, 400, "prompt", "invalid_type"),
    (COMPLETION_PATH, {"prompt": [1, -1]}, 400, "prompt[1]", "invalid_value"),
    (COMPLETION_PATH, {"prompt": [10**9]}, 400, "prompt[0]", "invalid_value"),
    (COMPLETION_PATH, {"prompt": "\ud800"}, 400, "prompt", "invalid_value"),
    (COMPLETION_PATH, {"prompt": "x" * LENGTH}, 400, "prompt", "context_length_exceeded"),
    (COMPLETION_PATH, {"echo": True, "logprobs": 1}, 400, "logprobs", "unsupported_parameter"),
    (COMPLETION_PATH, {"echo": "yes"}, 400, "echo", "invalid_type"),
    (COMPLETION_PATH, {"logprobs": True}, 400, "logprobs", "invalid_type"),
    (COMPLETION_PATH, {"best_of": 2}, 400, "best_of", "unsupported_parameter"),
    (COMPLETION_PATH, {"suffix": "!"}, 400, "suffix", "unsupported_parameter"),
    (RESPONSE_PATH, {"input": []}, 400, "input", "invalid_value"),
    (RESPONSE_PATH, {"input": 7}, 400, "input", "invalid_type"),
    (RESPONSE_PATH, {"max_output_tokens": LENGTH}, 400, "max_output_tokens", "context_length_exceeded"),
    (RESPONSE_PATH, {"max_tokens": 5}, 400, "max_tokens", "unknown_parameter"),
    (RESPONSE_PATH, {"include": ["reasoning.encrypted_content"]}, 400, "include[0]", "invalid_value"),
    (RESPONSE_PATH, {"top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
    (RESPONSE_PATH, {"n": 2}, 400, "n", "unknown_parameter"),
    (RESPONSE_PATH, {"truncation": "middle"}, 400, "truncation", "invalid_value"),
    (RESPONSE_PATH, {"truncation": "auto", "input": "x" * LENGTH}, 400, "input", "context_length_exceeded"),
    (RESPONSE_PATH, {"conversation": "conv_1"}, 400, "conversation", "unsupported_parameter"),
    (RESPONSE_PATH, {"model": "other", "previous_response_id": "resp_1"}, 404, "model", "model_not_found"),
    (RESPONSE_PATH, {"text": {"format": {"type": "json_schema"}}}, 400, "text.format", "invalid_value"),
    (RESPONSE_PATH, {"text": {"format": SCHEMA_OF_RESPONSES}}, 400, "text.format", "invalid_schema"),
    (RESPONSE_PATH, {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, 400, "input[0]", "invalid_value"),
    (RESPONSE_PATH, {"background": 1}, 400, "background", "invalid_type"),
]


@pytest.mark.parametrize(("path", "change", "status", "param", "code"), BAD, ids=lambda value: str(value)[:40])
async def test_refused_by_name(
    client: httpx2.AsyncClient, fabric: ModelFabric, path: str, change: dict[str, Any], status: int, param: str, code: str
) -> None:
    body = json.dumps({**PATHS[path], **change})
    answer = await client.post(path, content=body, headers={"content-type": "application/json"})
    error = error_of(answer)
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
    assert param.split("[")[0].split(".")[0] in error["message"] or "model" in error["message"]
    assert fabric.calls == []


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, body in PATHS.items() for name in body])
async def test_what_is_missing_is_named(client: httpx2.AsyncClient, path: str, name: str) -> None:
    body = {key: value for key, value in PATHS[path].items() if key != name}
    error = error_of(await client.post(path, json=body))
    assert (error["param"], error["code"]) == (name, "missing_required_parameter")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "ti',
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe{}",
        b'{"model": "\xff"}',
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "brace", "cut", "list", "text", "null", "utf-16", "latin-1", "deep", "long number"],
)
async def test_what_is_no_json_object_is_a_400(client: httpx2.AsyncClient, fabric: ModelFabric, path: str, body: bytes) -> None:
    answer = await client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert error_of(answer)["message"]
    assert fabric.calls == []


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_beyond_the_limit_is_a_413(client: httpx2.AsyncClient, path: str) -> None:
    answer = await client.post(path, content=b" " * (MAX_BODY_BYTES + 1), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert error_of(answer)["type"] == "invalid_request_error"


NEUTRAL = {
    CHAT_PATH: {
        "n": 1,
        "top_k": -1,
        "service_tier": "auto",
        "timeout_s": 5,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logprobs": False,
        "tools": [],
        "stop": None,
        "user": "u",
        "store": True,
    },
    COMPLETION_PATH: {"n": 1, "best_of": 1, "echo": False, "logit_bias": {}, "suffix": None, "user": "u"},
    RESPONSE_PATH: {
        "tools": [],
        "truncation": "disabled",
        "text": {"format": {"type": "text"}},
        "store": False,
        "include": [],
        "user": "u",
    },
}


@pytest.mark.parametrize("path", PATHS)
async def test_neutral_values_of_what_is_not_served_pass(client: httpx2.AsyncClient, fabric: ModelFabric, path: str) -> None:
    fabric.model.publish_load(0, 1, 0, 10_000.0)
    answer = await client.post(path, json={**PATHS[path], **NEUTRAL[path]})
    assert (answer.status_code, error_of(answer)["code"]) == (429, "too_many_requests")
    assert "submit" in fabric.calls


async def test_busy_says_when_to_come_back_in_a_range_that_clients_obey(client: httpx2.AsyncClient, fabric: ModelFabric) -> None:
    fabric.model.publish_load(0, 1, 0, 10_000.0)
    answer = await client.post(CHAT_PATH, json=CHAT)
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert error_of(answer)["type"] == "rate_limit_error"


async def test_no_memory_is_a_503_that_says_when_to_come_back(
    tokenizer: tuple[Path, Tokenizer], fabric: ModelFabric, client: httpx2.AsyncClient
) -> None:
    fabric.model._memory_bytes = 0
    answer = await client.post(RESPONSE_PATH, json={**RESPONSE, "background": True})
    assert (answer.status_code, error_of(answer)["code"]) == (503, "no_memory")
    assert 1 <= int(answer.headers["retry-after"]) <= 120


async def test_a_leader_of_another_release_is_a_503_that_names_it(
    fabric: ModelFabric, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = SubmitAnswer(SubmitStatus.OTHER_VERSION, RequestId("r"), 0.0)
    monkeypatch.setattr(fabric.model, "submit", lambda *_, **__: refusal)
    answer = await client.post(CHAT_PATH, json=CHAT)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "other_version")
    assert 1 <= int(answer.headers["retry-after"]) <= 120


async def test_an_unreachable_server_is_a_503(fabric: ModelFabric, client: httpx2.AsyncClient) -> None:
    fabric.down = True
    answer = await client.post(CHAT_PATH, json=CHAT)
    assert (answer.status_code, error_of(answer)["code"]) == (503, "unavailable")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/responses/resp_x", 404),
        ("GET", "/v1/responses/resp_x?stream=true", 404),
        ("POST", "/v1/responses/resp_x/cancel", 404),
        ("GET", "/v1/requests/x/stream", 404),
        ("GET", "/v1/requests/x/explain", 404),
        ("GET", "/v1/responses/resp_x/input_items", 404),
        ("GET", "/v1/responses/resp_x/input_items?limit=0", 400),
        ("GET", "/v1/responses/resp_x/input_items?order=up", 400),
        ("DELETE", "/v1/responses/resp_x", 404),
        ("POST", "/v1/requests/x/cancel", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/v1/responses/resp_x?stream=perhaps", 400),
        ("GET", "/v1/responses/resp_x?stream=true&starting_after=x", 400),
        ("GET", "/v1/requests/x/stream?starting_after=-2", 400),
    ],
)
async def test_other_routes_use_the_same_shape(client: httpx2.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert error_of(answer)["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": ""}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, "model"),
        ("/detokenize", {"tokens": [10**6]}, "tokens[0]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
    ],
)
async def test_the_tokenizers_routes_refuse_alike(client: httpx2.AsyncClient, path: str, body: dict[str, Any], param: str) -> None:
    answer = await client.post(path, json=body)
    assert answer.status_code in (400, 404)
    assert error_of(answer)["param"] == param


async def test_a_prompt_beyond_the_largest_workers_kv_memory(tokenizer: tuple[Path, Tokenizer], fabric: ModelFabric) -> None:
    settings = GatewaySettings(redis_url="", model=tokenizer[0], served_model_name="tiny")
    app = create_app(settings, fabric.as_fabric(), tokenizer[1])
    pool = app.state.gateway.default
    pool.members = (replace(MEMBER, total_blocks=4), replace(MEMBER, total_blocks=2))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        for change, param in (({"prompt": "x" * 64}, "prompt"), ({"max_tokens": 63}, "max_tokens")):
            answer = await client.post(COMPLETION_PATH, json={**COMPLETION, **change})
            assert (answer.status_code, error_of(answer)["param"]) == (400, param)
            assert "worker" in error_of(answer)["message"]
    assert fabric.calls == []


async def test_several_prompts_of_which_one_is_refused_leave_nothing_that_runs(client: httpx2.AsyncClient, fabric: ModelFabric) -> None:
    fabric.model.publish_load(0, 1, 1, 0.0)
    answer = await client.post(COMPLETION_PATH, json={**COMPLETION, "prompt": ["a", "b", "c"]})
    assert answer.status_code == 429
    records = [held.record for held in fabric.model._state.held.values()]
    assert [record.cancel_asked for record in records] == [True]


async def test_the_openapi_page_is_there(client: httpx2.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert "messages" in json.dumps((await client.get("/openapi.json")).json()["components"])
    assert set(PATHS) <= set(paths)
