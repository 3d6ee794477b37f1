"""What an agent is told, and what it is asked to launch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from shared.addresses import addresses_of
from shared.errors import BadRequest, ConfigError
from workers.agent.backoff import BackOffSettings

NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
RESERVED = ("--name", "--pool", "--redis-url", "--model")
"""Options of a worker that are the agent's to say."""


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent process."""

    redis_url: str
    host: str
    celery_url: str = ""
    """The broker; empty: the message server itself."""
    model: Path | None = None
    """For workers whose launcher names none."""
    pool: str = "default"
    log_level: str = "info"
    log_format: str = ""
    lease_s: float = 10.0
    renew_s: float = 2.0
    drain_s: float = 30.0
    """How long its workers may drain when the agent itself is told to leave."""
    back_off: BackOffSettings = field(default_factory=BackOffSettings)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.host):
            raise ConfigError(f"--host-name {self.host!r}: choose 1 to 128 letters, digits, '.', '_' or '-'")
        if self.model is not None and not self.model.is_dir():
            raise ConfigError(f"--model {self.model}: no such directory on this host; give the directory of a transformers model")

    @property
    def queue(self) -> str:
        """One for each host of a pool."""
        return f"{self.pool}.{self.host}"


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """One worker to keep running."""

    name: str
    kind: str
    options: tuple[str, ...] = ()
    """Of `headstart worker`, without those in `RESERVED`."""
    model: str = ""
    drain_s: float = 30.0

    @classmethod
    def of_json(cls, raw: Mapping[str, object]) -> LaunchSpec:
        """From a task's arguments. Raises `BadRequest` that names the field."""
        name, kind, model = (_text(raw, field) for field in ("name", "kind", "model"))
        for field_name, value in (("name", name), ("kind", kind)):
            if not NAME.fullmatch(value):
                raise BadRequest(f"'{field_name}' is {value!r}: choose 1 to 128 letters, digits, '.', '_' or '-'.", field_name)
        return cls(name, kind, _options(raw.get("options", [])), model, _seconds(raw.get("drain_s", 30.0)))

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "kind": self.kind, "options": list(self.options), "model": self.model, "drain_s": self.drain_s}


def _text(raw: Mapping[str, object], name: str) -> str:
    value = raw.get(name, "")
    if not isinstance(value, str):
        raise BadRequest(f"'{name}' must be a text.", name)
    return value


def _options(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadRequest("'options' must be a list of texts: the options of `headstart worker`.", "options")
    if taken := [option for option in value if option.split("=")[0] in RESERVED]:
        raise BadRequest(f"'options' has {taken[0]}, which the agent itself says: leave it out.", "options")
    return tuple(value)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise BadRequest("'drain_s' must be a number of seconds, at least 0.", "drain_s")
    return float(value)


def broker_url(redis_url: str, celery_url: str) -> str:
    """The broker's address as Celery writes it: `HEADSTART_CELERY_URL`, else the message server's own.

    Raises `ConfigError` for a cluster, which Celery's transport does not speak to, and for a list of addresses.
    """
    url = celery_url or redis_url
    if urlsplit(url).scheme.endswith("+cluster"):
        raise cluster_refused()
    if len(addresses_of(url)) > 1:
        raise ConfigError("HEADSTART_CELERY_URL is needed: Celery does not ask several addresses for the primary; give it one server")
    if not url.startswith("unix://"):
        return url
    parts = urlsplit(url)
    return f"redis+socket://{parts.netloc}{parts.path}?virtual_host=0"


def cluster_refused() -> ConfigError:
    return ConfigError("HEADSTART_CELERY_URL is needed: Celery cannot use a cluster as its broker; give it a single Redis or Valkey server")
