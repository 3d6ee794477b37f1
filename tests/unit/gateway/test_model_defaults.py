"""What a model recommends is what a client that says nothing gets; what the client says wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.api_types import ChatRequest, CompletionRequest
from gateway.asks import ask_chat, ask_completion
from gateway.model_defaults import ModelDefaults
from shared.errors import ConfigError


def folder(path: Path, content: object) -> Path:
    (path / "generation_config.json").write_text(json.dumps(content))
    return path


def chat(**sent: object) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "hi"}], **sent})


def test_absent_and_null_are_filled_and_sent_values_stay(tmp_path: Path) -> None:
    defaults = ModelDefaults.read(folder(tmp_path, {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "eos_token_id": [1, 2]}))
    asked = ask_chat(defaults.fill(chat(temperature=None))).sampling
    assert (asked.temperature, asked.top_p) == (0.6, 0.9)
    asked = ask_chat(defaults.fill(chat(temperature=0.0, top_p=0.5))).sampling
    assert (asked.temperature, asked.top_p) == (0.0, 0.5)


def test_every_post_is_filled(tmp_path: Path) -> None:
    defaults = ModelDefaults.read(folder(tmp_path, {"temperature": 1}))
    assert ask_completion(defaults.fill(CompletionRequest.model_validate({"model": "m", "prompt": "a"}))).sampling.temperature == 1.0
    assert defaults.values == {"temperature": 1.0}


def test_without_a_file_nothing_changes(tmp_path: Path) -> None:
    body = chat()
    assert ModelDefaults.read(tmp_path).fill(body) is body


@pytest.mark.parametrize("content", [{"temperature": 5.0}, {"top_p": 0.0}, {"temperature": None}, {"temperature": "hot"}, {"novelty": 1}])
def test_what_the_api_would_refuse_is_left_out(content: dict[str, object], tmp_path: Path) -> None:
    body = chat()
    assert ModelDefaults.read(folder(tmp_path, content)).fill(body) == body


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_file_stops_the_start(text: str, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        ModelDefaults.read(tmp_path)


def test_every_parameter_is_filled_where_the_api_has_it(tmp_path: Path) -> None:
    recommended = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
    filled = ModelDefaults.read(folder(tmp_path, recommended)).fill(chat(top_k=5))
    assert filled.model_dump(include=set(recommended)) == recommended | {"top_k": 5}
