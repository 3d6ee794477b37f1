"""What a profile is of, the worker that uses it says with the same options."""

from __future__ import annotations

import inspect

import pytest

from cli.main import profile
from cli.options import ENGINE
from cli.roles import worker
from workers.process import WorkerProcessSettings


@pytest.mark.parametrize("name", ENGINE._fields)
def test_profile_and_worker_have_the_same_option_and_default(name: str) -> None:
    one, other = (inspect.signature(command).parameters[name] for command in (profile, worker))
    assert (one.annotation, one.default) == (other.annotation, other.default)
    assert one.default == getattr(ENGINE, name)


def test_the_settings_of_a_worker_have_the_same_defaults() -> None:
    fields = {name: value.default for name, value in WorkerProcessSettings.__dataclass_fields__.items()}
    known = {name: value for name, value in ENGINE._asdict().items() if name in fields}
    assert known == {name: fields[name] for name in known}
    assert (ENGINE.kv_mib << 20, ENGINE.staging_mib << 20) == (fields["kv_bytes"], fields["staging_bytes"])
