"""The error tree. Foreign exceptions are translated at the adapter that meets them.

HeadstartError
├── BadRequest            the caller's fault: names the parameter and the remedy
│   └── NotFound
├── Refused               not now: too much work or no memory; says when to retry
├── FabricError
│   ├── FabricUnavailable the server cannot be reached; retry
│   │   └── NotDurable    a write took effect and a crash could still undo it; repeat it
│   └── DecodeError       bytes that are no message of a version we speak; keeps the bytes
│       └── UnknownVersion  written by a release that is more than one version away
├── TransportError        a KV transfer did not arrive whole; recompute
├── EngineError           a step failed
├── ModelRefused          a model that would not be served right; says why
├── InvalidTransition     a state machine was asked for an impossible step (a bug)
└── ConfigError           a bad option: names it and the remedy
"""

from __future__ import annotations

from typing import ClassVar


class HeadstartError(Exception):
    """Base of all errors raised by this project."""

    retryable: ClassVar[bool] = False


class BadRequest(HeadstartError):
    """The request cannot be served as asked. `param` is the JSON field at fault, if one is."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class NotFound(BadRequest):
    """No such thing, or not yours: the two cannot be told apart."""


class Refused(HeadstartError):
    """Not accepted now. `retry_after_s` is in 1..120 (beyond, common clients stop retrying)."""

    retryable = True

    def __init__(self, message: str, retry_after_s: float, *, memory: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = min(120.0, max(1.0, retry_after_s))
        self.memory = memory


class FabricError(HeadstartError):
    """Something about the message server."""


class FabricUnavailable(FabricError):
    """The message server cannot be reached or is loading."""

    retryable = True


class NotDurable(FabricUnavailable):
    """The write has taken effect, and a crash could still undo it: nobody may be told; repeat it."""


class DecodeError(FabricError):
    """Bytes that are not a message this version understands."""

    def __init__(self, message: str, raw: bytes) -> None:
        super().__init__(message)
        self.raw = raw


class UnknownVersion(DecodeError):
    """A message of a version that is no neighbour of ours: names both and the remedy."""

    def __init__(self, message: str, raw: bytes, version: int) -> None:
        super().__init__(message, raw)
        self.version = version


class TransportError(HeadstartError):
    """A transfer failed; the KV it carried must be recomputed."""

    retryable = True


class EngineError(HeadstartError):
    """The model could not run a step."""


class ModelRefused(HeadstartError):
    """The model failed a load-time proof and would be served wrong."""


class InvalidTransition(HeadstartError):
    """A request was asked to change phase in a way the table does not know."""


class ConfigError(HeadstartError):
    """A setting is missing or wrong; the message names it and the remedy."""
