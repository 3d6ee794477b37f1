"""What must have happened to a write before anybody is told of it: the one choice between speed and safety against a server's loss.

| mode | a request is accepted, a token visible, when the server has |
|---|---|
| `default` | taken it: what its append-only file loses in a crash is lost |
| `fsync` | it on its disk (`appendfsync always`) |
| `waitaof`, `waitaof=N` | it on its disk, and on those of N replicas, as `WAITAOF` says |
| `wait-replicas=N` | it in N replicas' memory, as `WAIT` says |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from shared.errors import ConfigError
from shared.scripts import Arg

FORMS = "default, fsync, waitaof, waitaof=N or wait-replicas=N"


class Mode(StrEnum):
    DEFAULT = "default"
    FSYNC = "fsync"
    WAITAOF = "waitaof"
    WAIT = "wait-replicas"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What decides whether a server can keep a promise."""

    version: tuple[int, ...]
    """Of Redis, or the one that Valkey says it is compatible with."""
    has_aof: bool
    fsync: str
    """`appendfsync`; empty where the server does not tell."""
    replicas: int
    in_cluster: bool = False


@dataclass(frozen=True, slots=True)
class Durability:
    mode: Mode = Mode.DEFAULT
    replicas: int = 0
    """That must have a write, too."""

    @classmethod
    def parse(cls, text: str) -> Durability:
        """Raises `ConfigError` for words that name no mode."""
        name, _, number = text.strip().partition("=")
        if name in (Mode.DEFAULT, Mode.FSYNC) and not number:
            return cls(Mode(name))
        if name == Mode.WAITAOF and (number.isdecimal() or not number):
            return cls(Mode.WAITAOF, int(number or 0))
        if name == Mode.WAIT and number.isdecimal() and int(number) > 0:
            return cls(Mode.WAIT, int(number))
        raise ConfigError(f"--durability {text!r}: choose {FORMS} (HEADSTART_DURABILITY)")

    def __str__(self) -> str:
        return f"{self.mode}={self.replicas}" if self.replicas else self.mode.value

    @property
    def waits(self) -> bool:
        """Whether each group of writes is followed by a command that waits."""
        return self.mode in (Mode.WAITAOF, Mode.WAIT)

    def command(self, timeout_ms: int) -> tuple[Arg, ...]:
        """What waits until all that this connection has written before is durable."""
        if self.mode is Mode.WAITAOF:
            return ("WAITAOF", 1, self.replicas, timeout_ms)
        return ("WAIT", self.replicas, timeout_ms)

    def shortfall(self, answer: Any) -> str:
        """What is missing, by the answer of `command`; empty: nothing."""
        if isinstance(answer, Exception):
            return str(answer)
        local, replicas = answer if isinstance(answer, list) else (1, answer)
        if not local:
            return "not on the server's disk yet"
        return "" if int(replicas) >= self.replicas else f"{replicas} of {self.replicas} replicas have it"

    def complaint(self, server: ServerFacts) -> str:
        """Why a server cannot keep the promise, and the remedy; empty: it can."""
        asked = f"--durability {self} cannot be kept"
        if self.mode in (Mode.FSYNC, Mode.WAITAOF) and not server.has_aof:
            return f"{asked}: the message server has no append-only file; set `appendonly yes` there"
        if self.mode is Mode.FSYNC and server.fsync != "always":
            found = f"`appendfsync {server.fsync}`" if server.fsync else "an `appendfsync` that it does not tell"
            return f"{asked}: the message server has {found}; set `appendfsync always` there, or choose --durability waitaof"
        if self.waits and server.in_cluster:
            return f"{asked} on a cluster; set `appendfsync always` on each of its nodes and choose --durability fsync"
        if self.mode is Mode.WAITAOF and server.version < (7, 2):
            found = ".".join(map(str, server.version))
            return f"{asked}: Redis {found} has no WAITAOF; use Redis 7.2 or Valkey, or `appendfsync always` with --durability fsync"
        if server.replicas < self.replicas:
            return f"{asked}: the message server has {server.replicas} of {self.replicas} replicas; attach more, or ask for fewer"
        return ""


NOT_WAITING = Durability()


def facts(info: Mapping[str, object], fsync: str) -> ServerFacts:
    """From the answers of INFO and CONFIG GET appendfsync."""
    version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
    online = [one for name, one in info.items() if name.startswith("slave") and isinstance(one, dict) and one.get("state") == "online"]
    return ServerFacts(version, bool(info.get("aof_enabled")), fsync, len(online), bool(info.get("cluster_enabled")))
