"""Sampling parameters that a model's `generation_config.json` recommends, for clients that send none."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from gateway.api_types import Sampling
from shared.errors import ConfigError

Body = TypeVar("Body", bound=Sampling)

SAMPLING: dict[str, type[int] | type[float]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
}
"""What is taken over. Lengths are the gateway's, ends the worker's; `do_sample` is not read: who wants greedy says temperature 0."""


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """Values by parameter name; empty where the model recommends none."""

    values: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, model_dir: Path) -> ModelDefaults:
        """Raises `ConfigError` for a file that is no JSON object."""
        file = model_dir / "generation_config.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {file} ({error}): mend it, or take it out") from error
        if not isinstance(found, dict):
            raise ConfigError(f"{file} holds no JSON object: mend it, or take it out")
        return cls({name: kind(found[name]) for name, kind in SAMPLING.items() if isinstance(found.get(name), int | float)})

    def fill(self, body: Body) -> Body:
        """`body` with the recommended values where the client sent nothing, or null, and the API has the parameter.

        A recommendation that the API itself would refuse (a temperature of 5) is left out, one by one.
        """
        for name, value in self.values.items():
            if name in type(body).model_fields and getattr(body, name) is None:
                body = _with(body, name, value)
        return body


NO_DEFAULTS = ModelDefaults()


def _with(body: Body, name: str, value: float) -> Body:
    try:
        type(body).__pydantic_validator__.validate_assignment(body.model_copy(), name, value)
    except ValidationError:
        return body
    return body.model_copy(update={name: value})
