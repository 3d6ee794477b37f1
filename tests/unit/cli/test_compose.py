"""compose.yaml says the same as `headstart up`: every command, option and reference in it exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from cli.main import app

ROOT = Path(__file__).parents[3]
ROLES = ("gateway", "scheduler", "worker-low", "worker-high", "agent")
KNOWN_KEYS = {
    *("image", "build", "command", "environment", "volumes", "depends_on", "healthcheck", "ports", "restart", "ipc", "deploy"),
    *("stop_grace_period", "profiles"),
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert isinstance(document, dict)
    return document


def test_it_has_the_server_and_every_role(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"valkey", *ROLES}


@pytest.mark.parametrize("role", ROLES)
def test_every_command_is_one_of_ours_with_options_it_knows(compose: dict[str, Any], role: str) -> None:
    name, *options = compose["services"][role]["command"]
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known


@pytest.mark.parametrize("role", ROLES)
def test_required_settings_come_from_the_environment(compose: dict[str, Any], role: str) -> None:
    service = compose["services"][role]
    command = get_command(app).commands[service["command"][0]]  # type: ignore[attr-defined]
    for parameter in command.params:
        if parameter.required:
            assert parameter.envvar in service["environment"] or parameter.opts[0] in service["command"]


def test_services_use_known_keys_and_wait_for_services_that_exist(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service) <= KNOWN_KEYS
        for name, condition in service.get("depends_on", {}).items():
            assert "healthcheck" in compose["services"][name]
            assert condition == {"condition": "service_healthy"}


def test_named_volumes_are_declared(compose: dict[str, Any]) -> None:
    used = {volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])}
    assert {name for name in used if not name.startswith((".", "/", "$"))} == set(compose["volumes"])


def test_the_server_never_evicts_and_keeps_a_log(compose: dict[str, Any]) -> None:
    command = compose["services"]["valkey"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert command[command.index("--appendonly") + 1] == "yes"


def test_only_the_gateway_is_reachable_and_only_from_this_machine(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports == {"gateway": ["127.0.0.1:8000:8000"]}


def test_the_gateway_listens_to_all_with_keys_from_the_environment_and_nobody_else_gets_them(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["gateway"]["command"][1:3] == ["--host", "0.0.0.0"]
    assert services["gateway"]["environment"]["HEADSTART_API_KEYS"].startswith("${HEADSTART_API_KEYS:?"), "refuses to start without"
    assert [name for name in services if "HEADSTART_API_KEYS" in services[name]["environment"]] == ["gateway"]


def test_the_image_copies_every_package() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]}
    assert {"shared", "workers", "scheduler", "gateway", "cli", "pyproject.toml", "constraints.txt"} <= copied
