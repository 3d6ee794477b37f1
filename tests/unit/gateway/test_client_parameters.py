"""No parameter of the official client is unknown to us: each is served, or refused by its own declaration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from pydantic import ValidationError

from gateway.api_types import ChatRequest, CompletionRequest, ResponseRequest, Sampling

ROOT = Path(__file__).parents[3]
CLIENT = OpenAI(api_key="none", base_url="http://127.0.0.1:1")
TRANSPORT = {"extra_headers", "extra_query", "extra_body", "timeout"}
CASES: list[tuple[Callable[..., object], type[Sampling], dict[str, Any]]] = [
    (CLIENT.chat.completions.create, ChatRequest, {"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
    (CLIENT.completions.create, CompletionRequest, {"model": "m", "prompt": "hi"}),
    (CLIENT.responses.create, ResponseRequest, {"model": "m", "input": "hi"}),
]
NOT_SERVED = [
    (ChatRequest, "moderation", {"model": "x"}),
    (ChatRequest, "prompt_cache_retention", "24h"),
    (ChatRequest, "prompt_cache_options", {"mode": "explicit"}),
    (ResponseRequest, "context_management", [{"type": "compaction"}]),
    (ResponseRequest, "image", {"detail": "low"}),
    (ResponseRequest, "access_programs", ["x"]),
]


@pytest.mark.parametrize(("create", "body", "least"), CASES, ids=["chat", "completions", "responses"])
def test_every_parameter_of_the_client_is_declared_and_may_be_null(
    create: Callable[..., object], body: type[Sampling], least: dict[str, Any]
) -> None:
    parameters = set(inspect.signature(create).parameters) - TRANSPORT
    assert len(parameters) > 15
    assert parameters <= set(body.model_fields)
    body.model_validate({**dict.fromkeys(parameters), **least})


@pytest.mark.parametrize(("body", "name", "value"), NOT_SERVED, ids=[f"{body.__name__}-{name}" for body, name, _ in NOT_SERVED])
def test_what_is_not_served_is_refused_by_name(body: type[Sampling], name: str, value: object) -> None:
    least = next(fields for _, one, fields in CASES if one is body)
    with pytest.raises(ValidationError) as caught:
        body.model_validate({**least, name: value})
    (error,) = caught.value.errors()
    assert (error["type"], error["loc"]) == ("unsupported_parameter", (name,))


def test_the_table_of_clients_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    named = set(re.findall(r"`((?:test_|Test)\w+)`", page))
    there = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"^\s*(?:async def|def|class) ((?:test_|Test)\w+)", file.read_text(), re.MULTILINE))
    assert len(named) > 40
    assert named <= there
