"""How workers of each kind are launched: from a small TOML file and from options, checked before anybody is asked."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from cli.roles import worker
from cli.scale_plan import Kind
from shared.errors import ConfigError
from workers.agent.settings import RESERVED

KINDS = ("low", "high")


def kinds_of(file: Path | None, more: Mapping[str, str]) -> dict[str, Kind]:
    """The file's tables `[low]` and `[high]`, then `more` options of a kind as typed. Raises `ConfigError` naming table and key."""
    tables = _read(file) if file else {}
    kinds = {name: _kind(name, tables.get(name, {}), file) for name in KINDS}
    for name, text in more.items():
        kinds[name] = replace(kinds[name], options=(*kinds[name].options, *shlex.split(text)))
    for kind in kinds.values():
        _check(kind)
    return kinds


def _read(file: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--kinds {file} cannot be read ({error}): give a TOML file with tables [low] and [high]") from error
    if unknown := [name for name in tables if name not in KINDS or not isinstance(tables[name], dict)]:
        raise ConfigError(f"--kinds {file}: {unknown[0]!r} is no kind: write tables [low] and [high]")
    return tables


def _kind(name: str, table: Mapping[str, Any], file: Path | None) -> Kind:
    """`devices`, `hosts` and `model` are ours; every other key is an option of `headstart worker`."""
    options: list[str] = []
    for key, value in table.items():
        if key in ("devices", "hosts"):
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ConfigError(f"--kinds {file}: [{name}] {key} must be a list of texts")
        elif key != "model":
            options += _option(key, value, f"--kinds {file}: [{name}] {key}")
    return Kind(name, tuple(options), tuple(table.get("devices", ())), tuple(table.get("hosts", ())), str(table.get("model", "")))


def _option(key: str, value: object, where: str) -> list[str]:
    option = f"--{key.replace('_', '-')}"
    if isinstance(value, bool):
        return [option] if value else []
    if not isinstance(value, str | int | float):
        raise ConfigError(f"{where} must be a text or a number")
    return [option, str(value)]


def _check(kind: Kind) -> None:
    """The worker's own command line says what is wrong, before a process is started for it."""
    if taken := [option for option in kind.options if option.split("=")[0] in RESERVED]:
        raise ConfigError(f"kind {kind.name}: {taken[0]} is said by the agent; leave it out (a kind's model is `model` in --kinds)")
    command = typer.Typer(add_completion=False)
    command.command()(worker)
    arguments = [*kind.options, *(f"--device={device}" for device in kind.devices[:1])]
    try:
        get_command(command).make_context("worker", ["--redis-url", "redis://", "--model", ".", *arguments])
    except Exception as error:
        # typer keeps its usage errors to itself; this is the one thing they share.
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        option = (getattr(getattr(error, "param", None), "opts", None) or [""])[0]
        said = format_message()
        raise ConfigError(f"kind {kind.name}: {'' if option in said else f'{option}: '}{said} (see `headstart worker --help`)") from error
