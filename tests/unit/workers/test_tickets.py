"""A pull opens exactly what it names, for its pool alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.clock import ManualClock
from shared.codec import CONTROL, decode, encode
from shared.errors import ConfigError
from shared.messages import Pull
from shared.types import AssistId, RequestId, TokenSpan, TransferId, WorkerId, WorkerRef
from workers.tickets import TICKET_MS, Tickets, pool_secret_of

LOW, HIGH = (WorkerRef(WorkerId(name), "1") for name in ("low", "high"))
PULL = Pull(TransferId(7), AssistId("a"), RequestId("r"), 1, TokenSpan(0, 64), HIGH, b"address", b"layout")
URL = "redis://:a%40password@host/0"


def of(secret: str = "of the pool, long enough", pool: str = "p", url: str = URL, clock: ManualClock | None = None) -> Tickets:
    return replace(Tickets.of_pool(pool, secret, url), wall_ms=(clock or ManualClock(10)).wall_ms)


def test_a_signed_pull_passes_and_survives_the_wire() -> None:
    signed = of().signed(PULL, LOW)
    assert of().complaint(decode(encode(signed), *CONTROL), LOW) == ""
    assert of().complaint(PULL, LOW) == "no ticket"


OTHER: list[dict[str, Any]] = [
    {"transfer": TransferId(8)},
    {"assist": AssistId("b")},
    {"request_id": RequestId("s")},
    {"attempt": 2},
    {"span": TokenSpan(0, 128)},
    {"span": TokenSpan(64, 128)},
    {"requester": LOW},
    {"address": b"elsewhere"},
    {"fingerprint": b"other"},
    {"expires_ms": 10**15},
    {"ticket": b"x" * 32},
    {"address": b"addressl", "fingerprint": b"ayout"},
]


@pytest.mark.parametrize("changed", OTHER, ids=lambda changed: "+".join(changed))
def test_a_ticket_is_good_for_nothing_else(changed: dict[str, Any]) -> None:
    assert "no valid ticket" in of().complaint(replace(of().signed(PULL, LOW), **changed), LOW)


def test_nor_for_another_sender_or_life() -> None:
    signed = of().signed(PULL, LOW)
    for sender in (HIGH, WorkerRef(LOW.worker, "2")):
        assert "no valid ticket" in of().complaint(signed, sender)


def test_pools_and_secrets_do_not_open_each_other() -> None:
    signed = of().signed(PULL, LOW)
    for other in (of("another secret, as long"), of(pool="q"), of("")):
        assert "HEADSTART_POOL_SECRET" in other.complaint(signed, LOW)


def test_without_a_secret_the_servers_password_stands_in(caplog: pytest.LogCaptureFixture) -> None:
    signed = of("").signed(PULL, LOW)
    assert of("", url="rediss://user:a%40password@other:1/0").complaint(signed, LOW) == ""
    assert not caplog.records
    assert of("", url="redis://host").complaint(signed, LOW)
    assert "HEADSTART_POOL_SECRET" in caplog.text


def test_it_expires_but_not_for_a_clock_that_is_an_hour_off() -> None:
    clock = ManualClock(1_000_000)
    tickets = of(clock=clock)
    signed = tickets.signed(PULL, LOW)
    for step in (3600.0, -7200.0):
        clock.advance(step)
        assert tickets.complaint(signed, LOW) == ""
    clock.now = 1_000_000 + TICKET_MS / 1000 + 1
    assert tickets.complaint(signed, LOW) == "the ticket has expired"


def test_the_secret_is_read_but_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("  a secret of the pool\n")
    assert pool_secret_of(file, "") == pool_secret_of(None, "a secret of the pool") == "a secret of the pool"
    assert pool_secret_of(None, "") == ""
    assert "key" not in repr(of())
    file.write_text("short")
    for bad in ((file, ""), (None, "short"), (tmp_path / "none", "")):
        with pytest.raises(ConfigError, match="secret") as refused:
            pool_secret_of(*bad)
        assert "short" not in str(refused.value).replace("pool-secret", "")
