"""`headstart profile` and the worker after it: measured once, found in the pool, on the host, or where the command line says."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cli.profile import ProfileSettings, run_profile
from shared.errors import ConfigError
from shared.profile_document import ProfileDocument
from shared.redis_fabric import RedisFabric
from shared.redis_profiles import ProfileRegistry
from tests.support.tiny_models import save_tiny
from workers import profile_finder
from workers.engine import Engine
from workers.fake_engine import FakeEngine
from workers.loopback_transport import LoopbackHub, LoopbackTransport
from workers.process import WorkerProcessSettings, build_engine
from workers.processor import processor_quota
from workers.profile_files import file_of, find_file, keep_file, read_profile
from workers.profile_finder import find_or_measure
from workers.profile_key import profile_key
from workers.profile_link import GIVER, TAKER, measure_pulls

MEASURED_AGAIN = "it measured again"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_PROFILES", str(tmp_path / "profiles"))


@pytest.fixture
def settings(model: Path, valkey_url: str) -> WorkerProcessSettings:
    return WorkerProcessSettings(valkey_url, model, kv_bytes=4 << 20, staging_bytes=1 << 20, token_budget=64, max_sequences=4, threads=1)


@pytest.fixture
def engine(settings: WorkerProcessSettings) -> Iterator[Engine]:
    engine = build_engine(settings)
    yield engine
    engine.close()


def forbid_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_now(*_: object, **__: object) -> None:
        raise AssertionError(MEASURED_AGAIN)

    monkeypatch.setattr(profile_finder, "measure_now", measure_now)


async def test_what_was_measured_once_is_found_by_every_worker_of_its_kind(
    settings: WorkerProcessSettings, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    document = await run_profile(ProfileSettings(settings, 1.0, tmp_path / "out.json"), Console(file=shown, width=200))
    assert read_profile(tmp_path / "out.json") == document
    assert set(document.held_out_errors) == {"prefill", "decode", "mixed", "link"}
    assert document.fitted_steps > document.held_out_steps > 5
    assert document.kv_tokens == engine.total_blocks * engine.block_tokens
    assert all(kind in shown.getvalue() for kind in ("prefill", "decode", "mixed", "KV transfer", "KV cache"))

    forbid_measuring(monkeypatch)
    fabric = await RedisFabric.connect(settings.redis_url)
    registry = ProfileRegistry.of(fabric)
    file_of(document.key).unlink()
    assert await find_or_measure(settings, engine, registry) == document.profile
    assert find_file(document.key) == document, "what the pool knew is kept on this host too"
    await fabric.connection.command("DEL", fabric.keys.profile(document.key.digest))
    assert await find_or_measure(settings, engine, registry) == document.profile
    assert await registry.find(document.key) == document, "what this host knew is told to the pool"
    forced = replace(settings, profile=tmp_path / "out.json", token_budget=128)
    assert await find_or_measure(forced, engine, registry) == document.profile
    with pytest.raises(AssertionError, match=MEASURED_AGAIN):
        await find_or_measure(replace(settings, token_budget=128), engine, registry)
    await fabric.disconnect()


async def test_documents_of_other_versions_are_refused_by_name_and_measured_anew(
    settings: WorkerProcessSettings, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fabric = await RedisFabric.connect(settings.redis_url)
    registry, key = ProfileRegistry.of(fabric), profile_key(settings, engine)
    newer = json.dumps({"schema": 7})
    await fabric.connection.command("SET", fabric.keys.profile(key.digest), newer, "EX", 60)
    file_of(key).parent.mkdir(parents=True)
    file_of(key).write_text(newer)
    monkeypatch.setattr(profile_finder, "START_S", 0.0)
    with caplog.at_level(logging.WARNING):
        measured = await find_or_measure(settings, engine, registry)
    told = [record.message for record in caplog.records if "profile schema 7 is unknown" in record.message]
    assert len(told) == 3, "once of the pool's, twice of this host's"
    assert measured.prefill_tokens_per_s() > 0
    found = await registry.find(key)
    assert found is not None
    assert found.profile == measured
    file = tmp_path / "given.json"
    file.write_text(newer)
    with pytest.raises(ConfigError, match=r"given\.json: profile schema 7 is unknown"):
        await find_or_measure(replace(settings, profile=file), engine, registry)
    with pytest.raises(ConfigError, match=r"absent\.json: No such file"):
        await find_or_measure(replace(settings, profile=tmp_path / "absent.json"), engine, registry)
    await fabric.disconnect()


def test_a_host_where_nothing_can_be_kept_only_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADSTART_PROFILES", str(tmp_path / "file"))
    from tests.unit.shared.test_profile_document import DOCUMENT

    keep_file(DOCUMENT)
    assert find_file(DOCUMENT.key) is None
    assert isinstance(DOCUMENT, ProfileDocument)


def test_pulls_are_measured_by_the_code_that_serves_them() -> None:
    engine, hub = FakeEngine(total_blocks=64), LoopbackHub(immediate=True)
    link = measure_pulls(engine, LoopbackTransport(hub, GIVER), LoopbackTransport(hub, TAKER), 1 << 20)
    assert [nbytes // (64 * engine.kv.bytes_per_token) for nbytes, _ in link] == [2, 4, 8]
    assert all(seconds > 0 for _, seconds in link)


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 0.5),
        ("0::/a/b", {"a/b/cpu.max": "20000 10000", "a/cpu.max": "30000 10000"}, 2.0),
        ("3:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "2500", "cpu/a/cpu.cfs_period_us": "10000"}, 0.25),
        ("3:cpu:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "10000"}, None),
        ("4:memory:/a", {"cpu/a/cpu.cfs_quota_us": "2500", "cpu/a/cpu.cfs_period_us": "10000"}, None),
    ],
)
def test_a_quota_is_part_of_the_device(tmp_path: Path, group: str, files: dict[str, str], quota: float | None) -> None:
    own = tmp_path / "cgroup"
    own.write_text(group + "\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processor_quota(tmp_path, own) == quota
