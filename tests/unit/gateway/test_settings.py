"""Settings fail loudly: the option and the remedy are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.__main__ import main, parse
from gateway.server import listen
from gateway.settings import GatewaySettings
from shared.errors import ConfigError


def settings(directory: Path, **changes: Any) -> GatewaySettings:
    return GatewaySettings(**{"redis_url": "redis://x", "model": directory, "served_model_name": "m", **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"served_model_name": ""}, "--served-model-name"),
        ({"model": Path("/nowhere")}, "--model"),
        ({"port": 70_000}, "--port"),
        ({"max_model_tokens": -1}, "--max-model-tokens"),
        ({"ping_s": 0.0}, "--ping-s"),
        ({"buffer_entries": 0}, "--buffer-entries"),
    ],
)
def test_a_bad_option_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        settings(tmp_path, **changes)


@pytest.mark.parametrize(("config", "length"), [({"max_position_embeddings": 64}, 64), ({"n_positions": 32}, 32)])
def test_the_models_length_is_read_from_its_config(tmp_path: Path, config: dict[str, int], length: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert settings(tmp_path).model_tokens == length
    assert settings(tmp_path, max_model_tokens=7).model_tokens == 7


@pytest.mark.parametrize("config", [None, "{", "{}", '{"max_position_embeddings": "long"}'])
def test_a_model_without_a_length_needs_the_option(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ConfigError, match="--max-model-tokens"):
        _ = settings(tmp_path).model_tokens


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_API_KEYS", "a,b")
    parsed, (level, _) = parse(["--redis-url", "redis://h", "--model", str(tmp_path), "--port", "9", "--log-level", "debug"])
    assert (parsed.port, parsed.served_model_name, parsed.api_keys, level) == (9, tmp_path.name, ("a", "b"), "debug")
    assert "'a'" not in repr(parsed)


def test_a_bad_setting_ends_the_command_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--redis-url", "redis://h", "--model", str(tmp_path / "none")]) == 2
    assert "--model" in capsys.readouterr().err


def test_a_taken_port_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match="choose another port"):
            listen("127.0.0.1", taken.getsockname()[1])
