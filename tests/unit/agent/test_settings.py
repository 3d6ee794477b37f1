"""What an agent accepts, and how a refusal names what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.errors import BadRequest, ConfigError
from workers.agent.control import make_app
from workers.agent.settings import AgentSettings, LaunchSpec, broker_url

GOOD: dict[str, Any] = {"name": "h-low-1", "kind": "low", "options": ["--device", "cpu"], "model": "/m", "drain_s": 5}


def test_a_spec_survives_json() -> None:
    spec = LaunchSpec.of_json(GOOD)
    assert spec == LaunchSpec("h-low-1", "low", ("--device", "cpu"), "/m", 5.0)
    assert LaunchSpec.of_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": "a b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": 7}, "name"),
        ({"kind": "../x"}, "kind"),
        ({"options": "--device cpu"}, "options"),
        ({"options": ["--device", 3]}, "options"),
        ({"options": ["--redis-url", "redis://elsewhere"]}, "options"),
        ({"options": ["--name=other"]}, "options"),
        ({"drain_s": -1}, "drain_s"),
        ({"drain_s": True}, "drain_s"),
    ],
)
def test_a_bad_spec_is_refused_by_field(change: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        LaunchSpec.of_json({**GOOD, **change})
    assert refusal.value.param == param


@pytest.mark.parametrize(
    ("redis_url", "celery_url", "broker"),
    [
        ("redis://:p@h:6379/0", "", "redis://:p@h:6379/0"),
        ("unix://:p@/tmp/s.sock", "", "redis+socket://:p@/tmp/s.sock?virtual_host=0"),
        ("redis+cluster://:p@h:7000", "redis://b:6379/1", "redis://b:6379/1"),
    ],
)
def test_the_broker_is_the_message_server_unless_told_otherwise(redis_url: str, celery_url: str, broker: str) -> None:
    assert broker_url(redis_url, celery_url) == broker


def test_a_cluster_is_no_broker() -> None:
    with pytest.raises(ConfigError, match="HEADSTART_CELERY_URL"):
        broker_url("redis+cluster://h:7000", "")


def test_json_alone_goes_in_and_out() -> None:
    conf = make_app("redis://localhost").conf
    assert (conf.accept_content, conf.result_accept_content) == (["json"], ["json"])
    assert (conf.task_serializer, conf.result_serializer) == ("json", "json")


def test_bad_settings_name_their_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--host-name"):
        AgentSettings("redis://", "a host")
    with pytest.raises(ConfigError, match="--model"):
        AgentSettings("redis://", "h", model=tmp_path / "nowhere")
