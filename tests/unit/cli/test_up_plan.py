"""Who runs where, and with which options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.system import System
from cli.up import UpSettings, plan_up


def settings(folder: Path, **changes: Any) -> UpSettings:
    values = {"low": 2, "high": 1, "host": "127.0.0.1", "port": 8000, "redis_url": "redis://h", "pool": "p", "served_model_name": "m"}
    return UpSettings(folder, **{**values, "dtype": "float32", "low_slowdown": 3.0, "log_level": "info", **changes})


def options(folder: Path, devices: list[str], **changes: Any) -> dict[str, dict[str, str]]:
    """Of each worker: its options by name."""
    plan = plan_up(settings(folder, **changes), devices)
    return {worker.name: dict(zip(worker.options[::2], worker.options[1::2], strict=True)) for worker in plan.workers}


def test_high_ends_get_the_accelerators_and_low_ends_the_cpu_at_its_own_speed(tmp_path: Path) -> None:
    workers = options(tmp_path, ["cuda:1"])
    assert {name: worker["--device"] for name, worker in workers.items()} == {"high-1": "cuda:1", "low-1": "cpu", "low-2": "cpu"}
    assert not any("--slowdown" in worker for worker in workers.values())


@pytest.mark.parametrize("devices", [[], ["cuda:0", "cuda:1", "cuda:2"]])
def test_on_one_kind_of_device_the_low_ends_are_slowed_down(tmp_path: Path, devices: list[str]) -> None:
    workers = options(tmp_path, devices)
    assert {name: worker.get("--slowdown") for name, worker in workers.items()} == {"high-1": None, "low-1": "3.0", "low-2": "3.0"}


def test_keys_reach_the_gateway_alone_and_on_no_command_line(tmp_path: Path) -> None:
    plan = plan_up(settings(tmp_path, host="0.0.0.0", api_keys=("secret", "other")), [])
    assert "secret" not in repr(plan)
    children = System(plan)._plan_children()
    assert [child.env.get("HEADSTART_API_KEYS") for child in children if child.args[0] == "gateway"] == ["secret,other"]
    assert not [child for child in children if child.args[0] != "gateway" and "HEADSTART_API_KEYS" in child.env]
    assert not [child for child in children if any("secret" in argument for argument in child.args)]


def test_no_auth_is_passed_on_and_all_addresses_are_called_by_loopback(tmp_path: Path) -> None:
    system = System(plan_up(settings(tmp_path, host="0.0.0.0", no_auth=True), []))
    (gateway,) = (child for child in system._plan_children() if child.args[0] == "gateway")
    assert "--no-auth" in gateway.args
    assert gateway.args[gateway.args.index("--host") + 1] == "0.0.0.0"
    assert system.urls == ("http://127.0.0.1:8000",)
    assert System(plan_up(settings(tmp_path, host="::1"), [])).urls == ("http://[::1]:8000",)
