"""The Lua scripts by name: each is one atomic, repeatable step on keys of one hash tag (see the header of its file)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files

Arg = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua file; the server knows it by its digest."""

    name: str
    text: bytes
    sha: str
    repeatable: bool
    durable: bool
    """Somebody is told of its effect: in a mode that waits, only once a crash could not undo it."""

    def __call__(self, keys: list[str], *args: Arg) -> Call:
        return Call(self, keys, args)

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


@dataclass(frozen=True, slots=True)
class Call:
    """A script with its keys, all of one hash tag, and arguments."""

    script: Script
    keys: list[str]
    args: tuple[Arg, ...]

    def by_digest(self) -> tuple[Arg, ...]:
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def by_text(self) -> tuple[Arg, ...]:
        """For a server that does not know the script (yet, or any more)."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.args)


def load(name: str, *, repeatable: bool = True, durable: bool = False) -> Script:
    text = files("shared").joinpath("lua", f"{name}.lua").read_bytes()
    return Script(name, text, sha1(text, usedforsecurity=False).hexdigest(), repeatable, durable)


CREATE_LOG = load("create_log", durable=True)
APPEND = load("append", durable=True)
RAISE_FENCE = load("raise_fence")
TELL_STORY = load("tell_story")

SUBMIT = load("submit", durable=True)
CANCEL = load("cancel", durable=True)
SET_LISTENER = load("set_listener", repeatable=False)
CLOSE = load("close")
SWEEP = load("sweep")
RATE = load("rate", repeatable=False)

LEAD = load("lead")
RESIGN = load("resign")
ASSIGN = load("assign")
ASSIST = load("assist")
COMMAND = load("command", repeatable=False)
BEGIN_MOVE = load("begin_move")
REQUEUE = load("requeue")
PUBLISH_LOAD = load("publish_load")

TELL = load("tell", repeatable=False)
REPORT = load("report", repeatable=False)
JOIN = load("join")
LEAVE = load("leave")
MEMBERS = load("members")
LEASE_AGENT = load("lease_agent")

MARK = load("mark")
