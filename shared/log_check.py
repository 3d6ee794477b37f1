"""What a server in default mode can do to a log that was delivered: come back with less of it. Pure; gateways and the simulator ask it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from shared.fabric import LoggedEntry, Record
from shared.messages import LogEnd
from shared.request import TERMINAL


class Loss(StrEnum):
    SHORTENED = "log_shortened"
    """Tokens that were delivered are gone, or others stand in their place."""
    VANISHED = "request_lost"
    """Nobody will ever end it."""


def loss_of(entries: Sequence[LoggedEntry], count: int, position: str, record: Record | None) -> Loss | None:
    """What is wrong with a log of which `count` entries up to `position` were delivered. The record must have been read first: it closes
    after the log has ended, so a closed record and an open log cannot both be true."""
    if len(entries) < count or (count and entries[count - 1].entry_id != position):
        return Loss.SHORTENED
    if entries and isinstance(entries[-1].entry, LogEnd):
        return None
    return Loss.VANISHED if record is None or record.phase in TERMINAL else None
