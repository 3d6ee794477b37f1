"""The table is complete, and its page is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.keys import CELERY_PREFIX, LOG_SHARDS, TABLE, Keys, log_shard, markdown, row_of
from shared.types import PoolId, RequestId, WorkerId, WorkerRef

KEYS = Keys(PoolId("p"))
WORKER = WorkerRef(WorkerId("w#1"), "i")
ROOT = Path(__file__).parents[3]


def every_key() -> list[str]:
    log = KEYS.log(RequestId("r:{x}"))
    of_pool = [
        KEYS.epoch,
        KEYS.leader,
        KEYS.load,
        KEYS.submit,
        KEYS.waiting,
        KEYS.reserved,
        KEYS.promised,
        KEYS.dead,
        KEYS.events,
        KEYS.members,
        KEYS.wake,
    ]
    of_worker = [
        KEYS.member(WORKER),
        KEYS.jobs(WORKER),
        KEYS.control(WORKER),
        KEYS.agents,
        KEYS.agent("h"),
        KEYS.profile("d"),
        KEYS.rate("c"),
    ]
    return [
        *of_pool,
        *of_worker,
        CELERY_PREFIX + "queue",
        KEYS.request(RequestId("r:{x}")),
        KEYS.idempotency("k" * 999),
        KEYS.rate("everybody"),
        log.head,
        log.entries,
        log.story,
    ]


def tag_of(key: str) -> str:
    """What a cluster hashes: between the first '{' and the next '}'."""
    return key[key.index("{") + 1 : key.index("}")]


def test_each_key_has_one_row_and_each_row_a_key() -> None:
    rows = [[row for row in TABLE if row.matches(key)] for key in every_key()]
    assert all(len(found) == 1 for found in rows)
    assert {found[0].pattern for found in rows} == {row.pattern for row in TABLE}
    assert row_of("somebody:elses") is None


def test_only_the_epoch_and_the_bindings_of_celery_are_for_ever() -> None:
    assert [row.pattern for row in TABLE if row.permanent] == ["hs:{<pool>}:epoch", "hs:{celery}:<name>"]


def test_a_pool_has_one_tag_and_a_log_the_tag_of_its_shard() -> None:
    shard = log_shard(RequestId("r:{x}"))
    assert {tag_of(key) for key in every_key()} == {"p", f"p:l{shard}", "celery"}


def test_a_log_is_found_again_by_any_release() -> None:
    assert [log_shard(RequestId(name)) for name in ("", "r", "resp_0123456789")] == [0, 29, 50]
    shards = {log_shard(RequestId(f"req-{number}")) for number in range(2000)}
    assert shards == set(range(LOG_SHARDS))


@pytest.mark.parametrize("name", ["", "a{b", "a}b", "a b", "ä", "x" * 65])
def test_a_pool_that_would_break_its_tag_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="pool"):
        Keys(PoolId(name))


def test_idempotency_keys_are_told_apart_and_take_no_room() -> None:
    assert KEYS.idempotency("a") != KEYS.idempotency("b")
    assert len(KEYS.idempotency("\ud800" * 10_000)) < 80


def test_the_page_is_generated_from_the_table() -> None:
    assert (ROOT / "docs" / "keys.md").read_text() == markdown()


def test_no_other_file_spells_a_key() -> None:
    spelled = re.compile(r"hs:\{")
    others = [path for path in (ROOT / "shared").rglob("*") if path.suffix in (".py", ".lua") and path.name != "keys.py"]
    assert others
    assert not [path.name for path in others if spelled.search(path.read_text())]
