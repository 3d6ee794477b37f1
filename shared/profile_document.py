"""A measured profile as it is kept: what it is of, how good it is, when it was taken. JSON in files and in the server alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import blake2b
from typing import Any, TypeVar, get_type_hints

from shared.errors import ConfigError
from shared.profile import Profile

SCHEMA = 1
"""Of the document and of what the profile's terms mean: a measurement under another one is not used."""
AGAIN = "measure again with `headstart profile`"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProfileKey:
    """What a profile is of. Where any of it differs, it is of something else."""

    device: str
    """With what bounds it: threads, a quota, a slowdown."""
    model: str
    weights: str
    """Fingerprint of the model's weights and KV layout, in hexadecimal digits."""
    dtype: str
    engine: str
    """Versions of what computes, kernels included."""
    token_budget: int
    max_sequences: int
    block_tokens: int

    @property
    def digest(self) -> str:
        """Names files and keys."""
        return blake2b(json.dumps([SCHEMA, *asdict(self).values()]).encode(), digest_size=12).hexdigest()

    def differences(self, other: ProfileKey) -> str:
        """In words, empty if there are none."""
        mine, theirs = asdict(self), asdict(other)
        return ", ".join(f"{name} {theirs[name]!r} instead of {mine[name]!r}" for name in mine if mine[name] != theirs[name])


@dataclass(frozen=True, slots=True)
class ProfileDocument:
    """Everything that is known of one measurement."""

    key: ProfileKey
    profile: Profile
    fitted_steps: int
    """Shapes that the profile was fitted to."""
    held_out_steps: int
    held_out_errors: Mapping[str, float] = field(default_factory=dict)
    """Median relative error of each class of steps over shapes that were not fitted to."""
    kv_tokens: int = 0
    """Tokens of the KV cache that was measured with."""
    free_kv_tokens: int = 0
    """Tokens of KV that the device's memory had room for beside it."""
    link: str = ""
    """How the KV link was measured; empty: it was not, and the profile has a default."""
    seconds: float = 0.0
    """That the measurement took."""
    measured_at: str = ""
    """UTC, ISO 8601."""

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> ProfileDocument:
        """Raises `ConfigError` that names `where` and the version or the field that is unknown or wrong."""
        try:
            told = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{where}: no profile, it is not JSON: {error}") from error
        if not isinstance(told, dict) or "schema" not in told:
            raise ConfigError(f"{where}: no profile, it has no `schema`: {AGAIN}")
        if (version := told.pop("schema")) != SCHEMA:
            raise ConfigError(f"{where}: profile schema {version!r} is unknown, this release knows {SCHEMA}: {AGAIN}")
        return _made(cls, told, where)


def _made(kind: type[T], told: Any, where: str) -> T:
    """A dataclass from what JSON has; fields of later releases are refused like any other that is unknown."""
    if not isinstance(told, dict):
        raise ConfigError(f"{where}: {kind.__name__} must be an object, not {told!r}: {AGAIN}")
    hints, known = get_type_hints(kind), {one.name for one in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(told) - known):
        raise ConfigError(f"{where}: unknown field {unknown[0]!r}: {AGAIN}")
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in told.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}: {AGAIN}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """Numbers are finite and not negative: a profile with others would place everything wrongly."""
    if hint in (ProfileKey, Profile):
        return _made(hint, value, where)
    if hint is str and isinstance(value, str):
        return value
    if hint in (int, float) and _is_number(value, hint):
        return hint(value)
    if hint not in (str, int, float) and isinstance(value, dict) and all(_is_number(one, float) for one in value.values()):
        return {str(name): float(one) for name, one in value.items()}
    raise ConfigError(f"{where} is {value!r}, which cannot be: {AGAIN}")


def _is_number(value: object, kind: type) -> bool:
    right = isinstance(value, int) if kind is int else isinstance(value, int | float)
    return right and not isinstance(value, bool) and 0 <= float(value) < float("inf")  # type: ignore[arg-type]
